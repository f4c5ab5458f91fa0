# SPDX-License-Identifier: Apache-2.0
"""Tells systemd how the service is doing, when systemd asked to be told."""

import os
import socket


def notify(state: str) -> None:
    """Send e.g. READY=1 to the service manager; without one, or without luck, do nothing."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as channel:
        try:
            channel.sendto(state.encode("ascii"), address)
        except OSError:
            return  # a service manager that does not listen is no reason to stop the heartbeat
