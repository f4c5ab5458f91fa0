# SPDX-License-Identifier: Apache-2.0
"""Faults of one host that are open now, each with its incident; pure.

An incident is one stretch of one fault, from raise to clear, under an id of its own: that is what
lets a receiver tell a repeated message from a new failure. A recovery is held back until its
fault has been open for the hold-down time, so that a flapping VM makes one alarm, not twenty.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from collectd_vmhb.verdict import CHECK_PREFIX, FaultCleared, FaultEvent, FaultRaised, Severity

#: The reason for a clear that flapping may take back; any other clear is final at once.
RECOVERED = "recovered"


class Incident(NamedTuple):
    """One open fault; ``since`` is Unix time, ``raised`` the monotonic time we learned of it.

    A tuple, as a hostile guest opens as many as it may.
    """

    id: str
    uuid: str
    name: str
    severity: Severity
    text: str
    since: float
    reason: str
    details: Mapping[str, str]
    instance: str
    project: str
    raised: float


@dataclass(frozen=True)
class Ended:
    """An incident that is over, and why."""

    incident: Incident
    reason: str


class Dump:
    """Incidents as JSON values, each made as it is come to: hostile guests make very many."""

    def __init__(self, incidents: list[Incident]) -> None:
        self._incidents = incidents

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for incident in self._incidents:
            fields = incident._asdict()
            del fields["raised"]
            yield {**fields, "severity": incident.severity.value, "details": dict(incident.details)}


#: With so many open incidents, the held ones included, no check of an instance makes another: a
#: guest chooses its checks' names. More than the checks that are kept of a VM: what is over is held
#: for a while, and no check that fails meanwhile may be lost. What is found of the VM itself is
#: told all the same.
PER_INSTANCE_MAX = 80


class Incidents:
    """Holds the open incidents and says which of the monitors' events are news.

    Good news, a recovery or a lower severity, is held back until the incident has been as it is
    for the hold-down time. So no guest makes more than two notifications of a fault in that time.
    """

    def __init__(self, hold_down: float, new_id: Callable[[], str]) -> None:
        self._hold_down = hold_down
        self._new_id = new_id
        self._open: dict[tuple[str, str], Incident] = {}
        self._count: Counter[str] = Counter()
        #: Good news that is held back, and when it is due.
        self._held: dict[tuple[str, str], tuple[float, FaultEvent]] = {}

    def open(self) -> list[Incident]:
        """Returns every open incident."""
        return list(self._open.values())

    def of(self, uuid: str) -> dict[str, Severity]:
        """Returns the open faults of one instance, by name, without recoveries held back."""
        return {
            name: incident.severity
            for (owner, name), incident in self._open.items()
            if owner == uuid and not self._recovers((owner, name))
        }

    def recovering(self, incident: Incident) -> bool:
        """True while the recovery of an open incident is held back."""
        return self._recovers((incident.uuid, incident.name))

    def easing(self, incident: Incident) -> FaultRaised | None:
        """Returns the lower severity of an open incident that is held back, if there is one."""
        _, event = self._held.get((incident.uuid, incident.name), (0.0, None))
        return event if isinstance(event, FaultRaised) else None

    def _recovers(self, key: tuple[str, str]) -> bool:
        return key in self._held and isinstance(self._held[key][1], FaultCleared)

    def instances(self) -> set[str]:
        """Returns the instances that have open faults; "" stands for the host."""
        return {incident.uuid for incident in self._open.values()}

    def raised(
        self, event: FaultRaised, instance: str, project: str, now: float, wall: float
    ) -> Incident | None:
        """Opens an incident or changes its severity or reason; None if that is no news, or not yet.

        None as well for a check where the instance has PER_INSTANCE_MAX incidents already.
        """
        key = event.uuid, event.name
        self._held.pop(key, None)
        known = self._open.get(key)
        if known is None:
            return self._begin(event, instance, project, now, wall)
        if (known.severity, known.reason) == (event.severity, event.reason):
            return None
        due = known.raised + self._hold_down
        if known.severity is Severity.FAILURE is not event.severity and now < due:
            self._held[key] = due, event
            return None
        return self._change(known, event, now)

    def _begin(
        self, event: FaultRaised, instance: str, project: str, now: float, wall: float
    ) -> Incident | None:
        is_check = event.name.startswith(CHECK_PREFIX)
        if is_check and self._count[event.uuid] >= PER_INSTANCE_MAX:
            return None
        incident = Incident(
            id=self._new_id(),
            uuid=event.uuid,
            name=event.name,
            severity=event.severity,
            text=event.text,
            since=wall - (now - event.since),
            reason=event.reason,
            details=event.details,
            instance=instance,
            project=project,
            raised=now,
        )
        self._count[event.uuid] += 1
        self._open[event.uuid, event.name] = incident
        return incident

    def _change(self, known: Incident, event: FaultRaised, now: float) -> Incident:
        incident = known._replace(
            severity=event.severity,
            text=event.text,
            reason=event.reason,
            details=event.details,
            raised=now,
        )
        self._open[event.uuid, event.name] = incident
        return incident

    def cleared(self, event: FaultCleared, now: float) -> Ended | None:
        """Ends an incident; None if there is none, or if the recovery is held back."""
        key = event.uuid, event.name
        incident = self._open.get(key)
        if incident is None:
            return None
        due = incident.raised + self._hold_down
        if event.reason == RECOVERED and now < due:
            self._held[key] = due, event
            return None
        return self._end(key, event.reason)

    def _end(self, key: tuple[str, str], reason: str) -> Ended:
        self._held.pop(key, None)
        self._count[key[0]] -= 1
        return Ended(self._open.pop(key), reason)

    def close(self, uuid: str, reason: str, keep: frozenset[str]) -> list[Ended]:
        """Ends everything of an instance that is not watched any more, but for ``keep``."""
        keys = [key for key in self._open if key[0] == uuid and key[1] not in keep]
        return [self._end(key, reason) for key in keys]

    @property
    def deadline(self) -> float | None:
        """When `due` has something to return."""
        return min((at for at, _ in self._held.values()), default=None)

    def due(self, now: float) -> list[Ended | Incident]:
        """Lets the good news out that has lasted: what ended, and what is less severe now."""
        if not self._held:
            return []
        ready = [(key, event) for key, (at, event) in self._held.items() if at <= now]
        return [self._release(key, event, now) for key, event in ready]

    def _release(self, key: tuple[str, str], event: FaultEvent, now: float) -> Ended | Incident:
        if isinstance(event, FaultCleared):
            return self._end(key, RECOVERED)
        del self._held[key]
        return self._change(self._open[key], event, now)

    def dump(self) -> Dump:
        """Returns the open incidents as JSON values, for `load` in a later process."""
        return Dump(self.open())

    def load(self, dumped: Iterable[dict[str, Any]], now: float, wall: float) -> None:
        """Takes over what an earlier process left; raises ValueError for what is no dump."""
        try:
            incidents = [
                Incident(
                    **{
                        **entry,
                        "severity": Severity(entry["severity"]),
                        "raised": now - max(0.0, wall - entry["since"]),
                    }
                )
                for entry in dumped
            ]
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a list of incidents: {error}") from None
        self._open = {(i.uuid, i.name): i for i in incidents}
        self._count = Counter(i.uuid for i in incidents)
