# SPDX-License-Identifier: Apache-2.0
"""What an operator is shown of a VM, as JSON values; times are Unix time, durations seconds; pure.

What stands for "none" is null: JSON has no NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from collectd_vmhb.audits import Audit, Audits
from collectd_vmhb.domain import Domain, DomainState
from collectd_vmhb.evidence import MEANINGS, Finding
from collectd_vmhb.incidents import Incident
from collectd_vmhb.maintenance import Window, Withheld
from collectd_vmhb.monitor import ANSWERING, Monitor
from collectd_vmhb.silence import Silence
from collectd_vmhb.sources import NO_POLICIES, NOBODY, PoliciesRead, Told
from collectd_vmhb.verdict import CHECK_PREFIX
from collectd_vmhb.wording import shown

Values = dict[str, Any]


class Eyes:
    """Looks at VMs in one moment: ``now`` is the monotonic clock's, ``wall`` is Unix time."""

    def __init__(self, now: float, wall: float) -> None:
        self._now = now
        self._wall = wall

    def row(
        self, domain: Domain, monitor: Monitor, faults: list[Values], window: Window | None
    ) -> Values:
        """Returns what the table of all VMs has of one."""
        return {
            "uuid": domain.uuid,
            "name": display_name(domain),
            "health": monitor.health.value,
            "since": self._date(monitor.history.since),
            "maintenance": window and window_values(window),
            "busy": self._busy(monitor),
            "rtt": _number(monitor.current_rtt),
            "misses": monitor.counters.misses,
            "faults": faults,
        }

    def account(
        self,
        domain: Domain,
        monitor: Monitor,
        faults: list[Values],
        window: Window | None,
        source: str,
        finding: Finding | None = None,
    ) -> Values:
        """Returns all that is known of one VM; ``source`` told its policy."""
        policy, audits = monitor.policy, monitor.audits
        last = audits.last if audits is not None else None
        return {
            **self.row(domain, monitor, self._with_audits(faults, audits), window),
            "domain": {
                "name": domain.name,
                "state": domain.state.value,
                "id": domain.domain_id,
                "project": domain.project,
                "flavor": domain.instance.flavor if domain.instance else "",
            },
            "channel": {
                "name": policy.channel,
                "state": monitor.way,
                "obstacle": _obstacle(domain, monitor, self._now),
            },
            "measured": finding and _finding(finding),
            "policy": {**asdict(policy), "source": source},
            "established": monitor.established,
            "misses_in_a_row": monitor.misses_in_a_row,
            "grace_until": self._date(monitor.grace_until),
            "counters": asdict(monitor.counters),
            "exchanges": [
                {"at": self._date(sent), "rtt": _number(rtt)}
                for sent, rtt in monitor.history.exchanges()
            ],
            "checks": [
                {"name": check.name, "status": check.status.value, "text": check.text}
                for check in sorted(monitor.checks.results.values(), key=lambda check: check.name)
            ],
            "audit": last and self.audit(last),
        }

    def audit(self, audit: Audit) -> Values:
        """Returns an audit, asked for or over."""
        return {
            "id": audit.id,
            "at": self._date(audit.asked),
            "check": audit.check,
            "level": "detailed" if audit.detailed else "quick",
            "timeout": audit.timeout,
            "outcome": audit.outcome.value,
            "took": _number(audit.took),
            "text": audit.text,
            "checks": [
                {
                    "name": check.name,
                    "status": check.status.value,
                    "text": check.text,
                    "perfdata": check.perfdata,
                    "duration": check.duration,
                }
                for check in sorted(audit.checks.values(), key=lambda check: check.name)
            ],
        }

    def faults(
        self, incidents: Iterable[Incident], withheld: Iterable[Withheld]
    ) -> dict[str, list[Values]]:
        """Returns the faults of each instance, raised ones with their incident."""
        faults: dict[str, list[Values]] = {}
        for incident in incidents:
            values = _fault(incident.name, incident.severity.value, incident.text)
            values.update(since=incident.since, incident=incident.id)
            values.update(evidence=dict(incident.details))
            faults.setdefault(incident.uuid, []).append(values)
        for kept in withheld:
            fault = kept.fault
            values = _fault(fault.name, fault.severity.value, fault.text)
            values.update(since=self._date(fault.since), incident=None)
            values.update(evidence=dict(fault.details))
            faults.setdefault(fault.uuid, []).append(values)
        return faults

    def _with_audits(self, faults: list[Values], audits: Audits | None) -> list[Values]:
        """Returns the faults, each with the audit that it asked for, if it did."""
        of_faults = audits.of_faults if audits is not None else {}
        found = {CHECK_PREFIX + check: self.audit(audit) for check, audit in of_faults.items()}
        return [{**fault, "audit": found.get(fault["name"])} for fault in faults]

    def _busy(self, monitor: Monitor) -> Values | None:
        if monitor.busy is None or not monitor.is_busy(self._now):
            return None
        return {"until": self._date(monitor.busy.until), "reason": monitor.busy.reason}

    def _date(self, moment: float) -> float | None:
        return _number(self._wall - (self._now - moment))


def display_name(domain: Domain) -> str:
    """Returns what the VM is called: by its user, or by libvirt where Nova is silent."""
    return domain.instance.name if domain.instance else domain.name


def bystander(domain: Domain, window: Window | None, told: Told) -> Values:
    """Returns what is shown of a VM that is not monitored; ``window`` is its own."""
    return {
        "uuid": domain.uuid,
        "name": display_name(domain),
        "maintenance": window and window_values(window),
        "why": _why_not(domain, told),
    }


def _why_not(domain: Domain, told: Told) -> str:
    if domain.domain_id is None or domain.state is DomainState.SHUT_OFF:
        return "it is shut off"
    if domain.instance is None:
        return "Nova did not make it, and the policy file does not ask for it"
    flavor = shown(domain.instance.flavor) or "(none)"
    if told.source == NOBODY:
        return (
            f"its domain XML tells no extra specs (Nova before 32), the policy file does not name "
            f"it, and no FlavorPolicy matches its flavor {flavor}"
        )
    return f"its flavor {flavor} does not ask for it; so says {told.source}"


def policy_file(read: PoliciesRead) -> Values | None:
    """Returns what is shown of the policy file, None if there is none."""
    if read == NO_POLICIES:
        return None
    return {"vms": len(read.policies), "written": read.written, "error": read.error}


def window_values(window: Window) -> Values:
    """Returns a maintenance as JSON values."""
    return {"until": window.until, "reason": window.reason}


def _finding(finding: Finding) -> Values:
    reading = finding.reading
    return {"what": finding.measured, "reading": reading.value, "meaning": MEANINGS[reading]}


def _obstacle(domain: Domain, monitor: Monitor, now: float) -> str | None:
    """Says why nothing comes from a VM, as far as that is known."""
    if monitor.connected_now:
        why = monitor.silence(now)
        # That an agent which answered before does not now is what its health says.
        said = monitor.health in ANSWERING or (why is Silence.UNANSWERED and monitor.established)
        return None if said else why.value
    if all(channel.name != monitor.policy.channel for channel in domain.channels):
        return "the domain has no such channel"
    return monitor.obstacle


def _fault(name: str, severity: str, text: str) -> Values:
    return {"name": name, "severity": severity, "text": text}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
