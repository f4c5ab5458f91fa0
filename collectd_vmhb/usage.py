# SPDX-License-Identifier: Apache-2.0
"""What libvirt has counted of one domain, up to one moment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Vcpu:
    """One vCPU's thread since it began; seconds.

    ``waited`` is the time for which it could have run and another had the processor: what the
    guest sees as steal. ``halts`` counts how often the guest let go of the vCPU; None: QEMU does
    not count them (it does under KVM, from 7.1 on, for libvirt 8.9 or later).
    """

    ran: float
    waited: float
    halts: int | None = None


@dataclass(frozen=True)
class Disks:
    """All disks of a domain: requests that were done, and the seconds that these took in sum."""

    requests: int
    seconds: float


@dataclass(frozen=True)
class Usage:
    """The counters of one domain at one moment, as far as libvirt has told them yet.

    The first three and the vCPUs come from libvirt alone, the rest from QEMU.
    """

    #: Monotonic seconds.
    at: float
    #: The state in words, with libvirt's reason where it matters.
    state: str
    stopped: bool
    vcpus: tuple[Vcpu, ...] = ()
    #: QEMU has answered, be it with nothing.
    answered: bool = False
    disks: Disks | None = None
    #: Packets that the guest sent; None: it has no interface that the host counts.
    packets: int | None = None
