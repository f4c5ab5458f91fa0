# SPDX-License-Identifier: Apache-2.0
"""Is the channel there? If not: may it be attached, or why can it not be; pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union

from collectd_vmhb.domain import Domain
from collectd_vmhb.settings import Mode


@dataclass(frozen=True)
class Connect:
    """The channel is there, with its host end at this path."""

    path: str


@dataclass(frozen=True)
class Attach:
    """The channel is missing and can be attached while the VM runs."""

    channel: str


@dataclass(frozen=True)
class Impossible:
    """There is no way in; ``text`` says why and what to do, ``reason`` is one word for it."""

    reason: str
    text: str


@dataclass(frozen=True)
class Leave:
    """The channel is missing, and the mode says to leave the VM as it is."""


Step = Union[Connect, Attach, Impossible, Leave]


def next_step(domain: Domain, channel: str, mode: Mode) -> Step:
    """Says what leads to a connected channel of that name in a domain that runs."""
    for present in domain.channels:
        if present.name == channel:
            if present.path:
                return Connect(present.path)
            return Impossible(
                "no-path",
                f"its channel {channel} has no unix socket on the host; remove it from the domain",
            )
    if not domain.has_virtio_serial:
        # libvirt cannot plug a virtio-serial controller into a running domain.
        return Impossible(
            "no-controller",
            "it has no virtio-serial controller; set hw_qemu_guest_agent=yes on its image and "
            "rebuild it, or stop it and use nova-manage image_property set",
        )
    return Leave() if mode is Mode.OBSERVE else Attach(channel)


def channel_xml(channel: str) -> str:
    """Returns the device to attach.

    It names no path, so that libvirt makes one for each run and a migration takes none along.
    """
    return (
        "<channel type='unix'><source mode='bind'/>"
        f"<target type='virtio' name='{channel}'/></channel>"
    )
