# SPDX-License-Identifier: Apache-2.0
"""One VM that is being monitored, and the host end of its channel; monotonic seconds."""

from __future__ import annotations

from collectd_vmhb.channel import Channel
from collectd_vmhb.domain import Domain
from collectd_vmhb.evidence import Doubt, attach, of_exchanges
from collectd_vmhb.monitor import Monitor
from collectd_vmhb.policy import Policy
from collectd_vmhb.reprieve import Reprieve
from collectd_vmhb.settings import EvidenceText
from collectd_vmhb.timers import NEVER
from collectd_vmhb.usage import Usage
from collectd_vmhb.verdict import FaultEvent, FaultRaised


class Watch:
    """What the engine keeps of a VM; its monitor says how the VM is."""

    __slots__ = (
        "accepted",
        "aside",
        "channel",
        "connect_at",
        "domain",
        "doubt",
        "doubted",
        "established",
        "failures",
        "forgiven",
        "had_channel",
        "interest",
        "look_at",
        "looked",
        "monitor",
        "policy",
        "reprieve",
        "scheduled",
        "unbooted_until",
    )

    def __init__(self, domain: Domain, policy: Policy, monitor: Monitor) -> None:
        self.domain = domain
        self.policy = policy
        self.monitor = monitor
        self.channel: Channel | None = None
        #: When to try the channel again, and how often that failed in a row.
        self.connect_at = NEVER
        self.failures = 0
        #: When to look again whether the guest has its port open.
        self.look_at = NEVER
        self.looked = False
        #: Until when silence is forgiven if the guest did not boot while nobody looked; None where
        #: that is no question.
        self.unbooted_until: float | None = None
        #: A VM that just started does not wait for those that were found running.
        self.had_channel = False
        #: QEMU has accepted the connection, or nobody tells.
        self.accepted = False
        #: What `plan` said last.
        self.aside = NEVER
        #: When it is due, as `Timers` has it.
        self.scheduled = NEVER
        #: What was told to others: poll, reporter, libvirt.
        self.interest = 0
        self.established = False
        self.forgiven = 0.0
        self.doubted = False
        #: Made as it is needed: most never are.
        self.doubt: Doubt | None = None
        self.reprieve: Reprieve | None = None

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
            self.doubt.at if self.doubt else NEVER,
            self.reprieve.deadline if self.reprieve else NEVER,
            muted_until if muted_until > now else NEVER,
        )

    def take(self, usage: Usage) -> None:
        """Takes a measurement of its domain, which comes too late if nothing is in doubt now."""
        if self.doubt is not None:
            self.doubt.take(usage)

    def events(self, text: EvidenceText, now: float) -> list[FaultEvent]:
        """Returns the monitor's news; with each fault what is known of exchanges and domain."""
        news = self.monitor.events()
        if not news:
            return []
        exchanges = of_exchanges(self.monitor.history.exchanges(), now)
        state, finding = self.domain.state.value, (self.doubt or Doubt()).finding(now)
        return [
            attach(event, exchanges, state, finding, text)
            if isinstance(event, FaultRaised)
            else event
            for event in news
        ]
