# SPDX-License-Identifier: Apache-2.0
"""Why a VM is silent, as far as the host can tell; pure."""

from __future__ import annotations

import enum


@enum.unique
class Silence(enum.Enum):
    """What is known of the way to a guest; the name is a fault's ``reason``, the value its text."""

    NOT_CONNECTED = "the channel is not connected"
    NOT_ACCEPTED = (
        "QEMU has not accepted the connection: another program on this host holds the channel, or "
        "QEMU hangs"
    )
    BOOTING = "it may still be booting"
    UNANSWERED = "its agent opens sessions and answers no challenge"
    REFUSED = "what it sends is not the protocol: another program has the port, or another version"
    PORT_CLOSED = (
        "no process in the guest has the port open: is the agent installed, does it run, "
        "and does it wait for this port's name?"
    )
    MUTE = "a process in the guest has the port open and says nothing"
    SILENT = "nothing comes from the guest"

    @property
    def reason(self) -> str:
        """The word for machines."""
        return self.name.lower().replace("_", "-")


def why_silent(
    connected: bool,
    refused: bool,
    session: bool,
    guest_open: bool | None,
    booting: bool,
    accepted: bool = True,
) -> Silence:
    """Returns the first thing that is in the way, seen from the host.

    ``refused``: something came that was no message; ``session``: the guest opened one;
    ``guest_open``: as libvirt says of the port, None where it does not; ``accepted``: QEMU has
    taken the connection, as far as the kernel tells.
    """
    if not connected:
        return Silence.NOT_CONNECTED
    if not accepted:
        return Silence.NOT_ACCEPTED
    if guest_open is False and not booting:
        return Silence.PORT_CLOSED
    if session:
        return Silence.UNANSWERED
    if refused:
        return Silence.REFUSED
    if booting:
        return Silence.BOOTING
    return Silence.SILENT if guest_open is None else Silence.MUTE
