# SPDX-License-Identifier: Apache-2.0
"""Is the channel there? If not: may it be attached, or why can it not be; pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath
from typing import Union
from xml.sax.saxutils import quoteattr

from collectd_vmhb.domain import SERIAL, Address, ChannelDevice, Domain
from collectd_vmhb.settings import Mode
from collectd_vmhb.wording import Refusal, shown


@dataclass(frozen=True)
class Connect:
    """The channel is there; QEMU listens at this address, as libvirt names it."""

    address: Address


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
            return _way_in(present)
    if channel.startswith(SERIAL):
        return Impossible(
            "no-serial-port",
            f"it has no serial port {channel[len(SERIAL) :]}, and a running VM gets none: with "
            f"[serial_console] enabled in nova.conf, resize it to a flavor with more of "
            f"hw:serial_port_count",
        )
    if not domain.has_virtio_serial:
        # libvirt cannot plug a virtio-serial controller into a running domain.
        return Impossible(
            "no-controller",
            "it has no virtio-serial controller; set hw_qemu_guest_agent=yes on its image and "
            "rebuild it, or stop it and use nova-manage image_property set",
        )
    return Leave() if mode is Mode.OBSERVE else Attach(channel)


def _way_in(present: ChannelDevice) -> Step:
    if present.address is not None:
        return Connect(present.address)
    # It belongs to somebody else: a second one of the same name would only hide the mistake.
    return Impossible(
        "occupied",
        f"its {present.name} is {present.host_end}, where QEMU does not listen for us: take that "
        f"device out of the domain, or choose another vmhb:channel",
    )


def seen_from_here(address: Address, paths: Iterable[tuple[PurePath, PurePath]]) -> Address:
    """Returns where this process finds what libvirt names; of several prefixes the longest counts.

    ``paths`` are pairs of a directory as libvirt sees it and as this process does.
    """
    if not isinstance(address, str):
        return address
    path = PurePath(address)
    fitting = [pair for pair in paths if pair[0] == path or pair[0] in path.parents]
    if not fitting:
        return address
    theirs, ours = max(fitting, key=lambda pair: len(pair[0].parts))
    return str(ours / path.relative_to(theirs))


@dataclass(frozen=True)
class Detach:
    """A channel that was attached without a path, and the path that libvirt gave it."""

    channel: str
    path: str


def to_detach(domain: Domain, allowed: Iterable[str]) -> Detach:
    """Returns the channel that was attached to a running domain under one of our names.

    Raises Refusal if there is none, or if it is not of our making.
    """
    if domain.domain_id is None:
        raise Refusal("it is shut off, and what was attached went with its last run")
    names = set(allowed)
    ours = [present for present in domain.channels if present.name in names]
    for present in ours:
        path = present.address if isinstance(present.address, str) else ""
        if re.search(rf"/(domain-)?{domain.domain_id}-[^/]*/{re.escape(present.name)}$", path):
            return Detach(present.name, path)
    if ours:
        raise Refusal(
            f"its {ours[0].name} was made by somebody else: {ours[0].host_end} "
            f"{shown(str(ours[0].address or ''))}".rstrip()
        )
    raise Refusal(f"it has no channel of ours ({', '.join(sorted(names))})")


def channel_xml(channel: str, path: str = "") -> str:
    """Returns the device to attach, or with its path the one to detach.

    What is attached names no path, so that libvirt makes one for each run and a migration takes
    none along.
    """
    source = f" path={quoteattr(path)}" if path else ""
    return (
        f"<channel type='unix'><source mode='bind'{source}/>"
        f"<target type='virtio' name='{channel}'/></channel>"
    )
