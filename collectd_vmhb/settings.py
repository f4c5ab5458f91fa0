# SPDX-License-Identifier: Apache-2.0
"""What the operator decides for the whole host; the defaults of the ``<Module vmhb>`` stanza.

Durations are seconds as float. ``config`` builds a Settings from collectd's configuration and
checks it; whoever holds a Settings may rely on its values being consistent.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


@enum.unique
class Mode(enum.Enum):
    """How far the engine may go; a first rollout walks through them in this order."""

    #: Watch VMs that have a channel already; attach nothing, report nothing.
    OBSERVE = "observe"
    #: Attach channels as well; still report nothing.
    ATTACH = "attach"
    #: Attach channels and send notifications.
    REPORT = "report"


@enum.unique
class EvidenceText(enum.Enum):
    """What of a guest's own words goes out with a fault."""

    #: Nothing: the name of a check and its status say it.
    NONE = "none"
    #: The words that are letters alone; all others are masked.
    REDACTED = "redacted"
    #: All of them, as far as they are printable.
    FULL = "full"


class FlavorPolicy(NamedTuple):
    """Extra specs for flavors whose name matches ``pattern``, a shell pattern such as ``hb.*``."""

    pattern: str
    extra_specs: Mapping[str, str]


@enum.unique
class VmValues(enum.Enum):
    """Which of its counters are values of a VM; the words are the stanza's (docs/adr/0021)."""

    BASIC = "basic"
    ALL = "all"


@dataclass(frozen=True)
class Settings:
    """Holds the host-wide settings and the bounds within which a flavor may choose."""

    libvirt_uri: str = "qemu:///system"
    mode: Mode = Mode.REPORT
    state_dir: Path = Path("/var/lib/vmhb")
    #: Where the command `vmhb` finds the engine.
    control_socket: Path = Path("/run/vmhb/control.sock")
    #: Directories as libvirt sees them, and as this process does, which may be in a container.
    socket_path_map: tuple[tuple[Path, Path], ...] = ()

    #: Port name used when the flavor names none, and the names a flavor may choose from.
    channel_name: str = "org.openstack.vmhb.0"
    channels_allowed: tuple[str, ...] = ("org.openstack.vmhb.0", "cgcs.heartbeat")

    #: Period of the challenges, and how long an answer may take; None: 0.9 of the interval.
    interval: float = 1.0
    interval_min: float = 0.1
    interval_max: float = 60.0
    timeout: float | None = None
    timeout_min: float = 0.05
    timeout_max: float = 60.0

    #: Misses in a row that make a VM FAILED, and answers in a row that make it well again.
    miss_threshold: int = 5
    miss_threshold_min: int = 2
    miss_threshold_max: int = 100
    recovery_threshold: int = 3
    recovery_threshold_max: int = 100

    #: Silence that is forgiven after a boot, a reboot, and a resume, restore or migration.
    grace_period: float = 300.0
    grace_period_max: float = 3600.0
    grace_after_reboot: float = 120.0
    grace_after_resume: float = 30.0

    #: Whether a VM that never establishes a session is a fault, where the flavor is silent.
    required: bool = False
    #: A fault stays raised at least this long, against flapping.
    hold_down: float = 30.0
    #: What of a guest's own words leaves this host.
    evidence_text: EvidenceText = EvidenceText.NONE
    #: Channels attached per second to VMs that are found running; a starting VM does not wait.
    attach_rate: float = 1.0
    #: How long a guest may say that it is slow on purpose, in all (collectd_vmhb.busy); 0: never.
    #: Ten minutes let a package update or a file system check end; what takes longer is planned,
    #: and the operator's to announce.
    busy_max: float = 600.0
    #: How long an audit may take if nobody says, the least time between two audits of one VM, and
    #: whether a check that fails has the detailed one done.
    audit_timeout: float = 30.0
    audit_pace: float = 5.0
    audit_on_fault: bool = True
    #: How much is published of each VM.
    values: VmValues = VmValues.BASIC
    #: Figures of health checks that are published of one VM.
    perfdata_max: int = 16
    #: Period of the full comparison with libvirt, which catches what events did not tell.
    reconcile_interval: float = 30.0

    #: Policies by flavor name, the first match wins, for VMs whose extra specs nobody tells.
    flavor_policy: tuple[FlavorPolicy, ...] = ()
