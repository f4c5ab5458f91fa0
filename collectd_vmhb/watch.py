# SPDX-License-Identifier: Apache-2.0
"""One VM that is being monitored, and the host end of its channel; monotonic seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from collectd_vmhb.channel import Channel
from collectd_vmhb.domain import Domain
from collectd_vmhb.evidence import Doubt, attach
from collectd_vmhb.monitor import Monitor
from collectd_vmhb.policy import Policy
from collectd_vmhb.settings import EvidenceText
from collectd_vmhb.verdict import FaultRaised

NEVER = math.inf


@dataclass(eq=False)
class Watch:
    """What the engine keeps of a VM; its monitor says how the VM is."""

    domain: Domain
    policy: Policy
    monitor: Monitor
    channel: Channel | None = None
    #: When to try the channel again, and how often that failed in a row.
    connect_at: float = NEVER
    failures: int = 0
    #: When to look again whether a guest that arrived has its port open.
    look_at: float = NEVER
    looked: bool = False
    #: A VM that just started does not wait for those that were found running.
    had_channel: bool = False
    #: The one entry of the heap that counts for this VM.
    scheduled: float = NEVER
    #: What was told to others: selector, reporter, libvirt.
    interest: int = 0
    established: tuple[bool, float] = (False, 0.0)
    doubted: bool = False
    doubt: Doubt = field(default_factory=Doubt)
    #: Until then libvirt may still say that it is not meant to run, and this is not told before.
    asked_until: float = -NEVER
    unsaid: FaultRaised | None = None

    @property
    def uuid(self) -> str:
        """The instance's UUID."""
        return self.domain.uuid

    def deadline(self, now: float) -> float:
        """Returns when there is something to do for it by itself."""
        at = min(self.monitor.deadline, self.connect_at, self.look_at, self.doubt.at)
        if self.unsaid is not None:
            at = min(at, self.asked_until)
        if self.monitor.conduct.muted_until > now:
            at = min(at, self.monitor.conduct.muted_until)
        return at

    def with_evidence(self, fault: FaultRaised, text: EvidenceText, now: float) -> FaultRaised:
        """Adds to a fault what is known of the VM's last exchanges and of its domain."""
        return attach(
            fault,
            self.monitor.history.exchanges(),
            self.domain.state.value,
            self.doubt.finding(now),
            text,
            now,
        )
