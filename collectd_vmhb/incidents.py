# SPDX-License-Identifier: Apache-2.0
"""Faults of one host that are open now, each with its incident; pure.

An incident is one stretch of one fault, from raise to clear, under an id of its own: that is what
lets a receiver tell a repeated message from a new failure. A recovery is held back until its
fault has been open for the hold-down time, so that a flapping VM makes one alarm, not twenty.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from collectd_vmhb.verdict import FaultCleared, FaultRaised, Severity

#: The reason for a clear that flapping may take back; any other clear is final at once.
RECOVERED = "recovered"


@dataclass(frozen=True)
class Incident:
    """One open fault; ``since`` is Unix time, ``raised`` the monotonic time we learned of it."""

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


class Incidents:
    """Holds the open incidents and says which of the monitors' events are news."""

    def __init__(self, hold_down: float, new_id: Callable[[], str]) -> None:
        self._hold_down = hold_down
        self._new_id = new_id
        self._open: dict[tuple[str, str], Incident] = {}
        #: Recoveries that are held back: when they are due.
        self._held: dict[tuple[str, str], float] = {}

    def open(self) -> list[Incident]:
        """Returns every open incident."""
        return list(self._open.values())

    def of(self, uuid: str) -> dict[str, Severity]:
        """Returns the open faults of one instance, by name, without recoveries held back."""
        return {
            name: incident.severity
            for (owner, name), incident in self._open.items()
            if owner == uuid and (owner, name) not in self._held
        }

    def instances(self) -> set[str]:
        """Returns the instances that have open faults; "" stands for the host."""
        return {incident.uuid for incident in self._open.values()}

    def raised(
        self, event: FaultRaised, instance: str, project: str, now: float, wall: float
    ) -> Incident | None:
        """Opens an incident, or changes its severity or reason; None if that says nothing new."""
        key = event.uuid, event.name
        self._held.pop(key, None)
        known = self._open.get(key)
        if known is None:
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
        elif (known.severity, known.reason) != (event.severity, event.reason):
            incident = replace(known, severity=event.severity, text=event.text, reason=event.reason)
        else:
            return None
        self._open[key] = incident
        return incident

    def cleared(self, event: FaultCleared, now: float) -> Ended | None:
        """Ends an incident; None if there is none, or if the recovery is held back."""
        key = event.uuid, event.name
        incident = self._open.get(key)
        if incident is None:
            return None
        due = incident.raised + self._hold_down
        if event.reason == RECOVERED and now < due:
            self._held[key] = due
            return None
        self._held.pop(key, None)
        return Ended(self._open.pop(key), event.reason)

    def close(self, uuid: str, reason: str, keep: frozenset[str]) -> list[Ended]:
        """Ends everything of an instance that is not watched any more, but for ``keep``."""
        keys = [key for key in self._open if key[0] == uuid and key[1] not in keep]
        for key in keys:
            self._held.pop(key, None)
        return [Ended(self._open.pop(key), reason) for key in keys]

    @property
    def deadline(self) -> float | None:
        """When `due` has something to return."""
        return min(self._held.values(), default=None)

    def due(self, now: float) -> list[Ended]:
        """Ends the incidents whose held recovery has lasted."""
        keys = [key for key, at in self._held.items() if at <= now]
        for key in keys:
            del self._held[key]
        return [Ended(self._open.pop(key), RECOVERED) for key in keys]

    def dump(self) -> list[dict[str, Any]]:
        """Returns the open incidents as JSON values, for `load` in a later process."""
        return [
            {
                "id": i.id,
                "uuid": i.uuid,
                "name": i.name,
                "severity": i.severity.value,
                "text": i.text,
                "since": i.since,
                "reason": i.reason,
                "details": dict(i.details),
                "instance": i.instance,
                "project": i.project,
            }
            for i in self._open.values()
        ]

    def load(self, dumped: list[dict[str, Any]], now: float) -> None:
        """Takes over what an earlier process left; raises ValueError for what is no dump."""
        try:
            incidents = [
                Incident(**{**entry, "severity": Severity(entry["severity"]), "raised": now})
                for entry in dumped
            ]
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a list of incidents: {error}") from None
        self._open = {(i.uuid, i.name): i for i in incidents}
