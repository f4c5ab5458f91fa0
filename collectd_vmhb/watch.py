# SPDX-License-Identifier: Apache-2.0
"""One VM that is being monitored, and the host end of its channel; monotonic seconds."""

from __future__ import annotations

from dataclasses import dataclass, field

from collectd_vmhb.channel import Channel
from collectd_vmhb.domain import Domain
from collectd_vmhb.evidence import Doubt, attach
from collectd_vmhb.monitor import Monitor
from collectd_vmhb.policy import Policy
from collectd_vmhb.reprieve import Reprieve
from collectd_vmhb.settings import EvidenceText
from collectd_vmhb.timers import NEVER
from collectd_vmhb.verdict import FaultRaised


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
    #: QEMU has accepted the connection, or nobody tells.
    accepted: bool = False
    #: What `plan` said last.
    aside: float = NEVER
    #: When it is due, as `Timers` has it.
    scheduled: float = NEVER
    #: What was told to others: selector, reporter, libvirt.
    interest: int = 0
    established: tuple[bool, float] = (False, 0.0)
    doubted: bool = False
    doubt: Doubt = field(default_factory=Doubt)
    reprieve: Reprieve = field(default_factory=Reprieve)

    @property
    def uuid(self) -> str:
        """The instance's UUID."""
        return self.domain.uuid

    def plan(self, now: float) -> float:
        """Returns when there is something to do for it by itself, besides what its monitor has."""
        muted_until = self.monitor.conduct.muted_until
        return min(
            self.connect_at,
            self.look_at,
            self.doubt.at,
            self.reprieve.deadline,
            muted_until if muted_until > now else NEVER,
        )

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
