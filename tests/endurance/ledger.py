# SPDX-License-Identifier: Apache-2.0
"""Compares what was true of each VM with what was told of it; no I/O, monotonic seconds.

The truth is what the stand-in guests did: `began` and `ended`. What was told is each notification:
`heard`. A fault that was not true is false; one that was not told within its bound is missed. So is
the end of one that is not told in time.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass

INTERVAL, TIMEOUT, MISSES, RECOVERY = 1.0, 0.9, 3, 2
LOST, SICK = "heartbeat-lost", "check.app"
#: Health of a VM for how many of its faults are true.
_HEALTH = {LOST: "failed", SICK: "unhealthy"}


@dataclass
class _Page:
    """One fault of one VM."""

    true: bool = False
    told: bool = False
    #: When that became so, and whether the telling is still awaited.
    since: float = 0.0
    owed: bool = False


def told_within(fault: str, score: float = 0.0) -> float:
    """Returns the bound of docs/operations.md#timing; a host that is late has a score above 0."""
    timeout = TIMEOUT * (1 + score)
    period = max(INTERVAL, timeout)
    return MISSES * period + timeout if fault == LOST else period + timeout


def ended_within(fault: str, score: float = 0.0) -> float:
    """Returns within what time the end of a fault is told, but for HoldDown."""
    timeout = TIMEOUT * (1 + score)
    period = max(INTERVAL, timeout)
    return (RECOVERY if fault == LOST else 1) * period + timeout


class Ledger:
    """Keeps the pages of all VMs of one host; ``room`` is what a noisy machine may add."""

    def __init__(self, room: float) -> None:
        self.room = room
        self.counts: Counter[str] = Counter()
        self.false: list[str] = []
        self.missed: list[str] = []
        #: What was told of the host itself, as (time, is it bad, message).
        self.host: list[tuple[float, bool, str]] = []
        #: Seconds from a beginning to its telling, by fault.
        self.delays: dict[str, list[float]] = {LOST: [], SICK: []}
        #: Seconds that the host was late: when, and its score.
        self._late: deque[tuple[float, float]] = deque(maxlen=4096)
        #: When the guests were last kept from answering in time.
        self._starved = -math.inf
        self._pages: dict[tuple[str, str], _Page] = {}

    # -- the truth --------------------------------------------------------------------------

    def began(self, uuid: str, fault: str, at: float) -> None:
        """A fault is true from now on."""
        self.counts[fault] += 1
        page = self._page(uuid, fault)
        page.true, page.since, page.owed = True, at, True

    def ended(self, uuid: str, fault: str, at: float) -> None:
        """A fault is true no longer."""
        page = self._page(uuid, fault)
        page.true, page.since, page.owed = False, at, page.told

    def gone(self, uuid: str, at: float) -> None:
        """The VM was destroyed: nothing is true of it."""
        self.counts["left"] += 1
        for fault in (LOST, SICK):
            self.ended(uuid, fault, at)

    def late(self, score: float, at: float) -> None:
        """The host says how late it is itself."""
        if score:
            self.counts["looks late"] += 1
            self._late.append((at, score))

    def slow(self, seconds: float, at: float) -> None:
        """Some guest could not answer for so long, whatever it was to do."""
        if seconds > TIMEOUT / 2:
            self.counts["guests starved"] += 1
            self._starved = at

    # -- what was told ----------------------------------------------------------------------

    def heard(self, uuid: str, fault: str, bad: bool, text: str, at: float) -> None:
        """A notification came."""
        if not uuid:
            self.host.append((at, bad, text))
            return
        page = self._page(uuid, fault)
        if bad and page.told:
            # Said again under its old incident, as after a disk was full.
            return
        page.told = bad
        early = page.true and fault == LOST and at - page.since < (MISSES - 1) * INTERVAL
        if fault == LOST and at - self._starved < told_within(LOST) and bad is not page.true:
            self.counts["not judged"] += 1
        elif bad is not page.true or (bad and early):
            # An end that was not owed any more is told of a VM that has gone meanwhile.
            self.false.append(f"{at:.1f} {uuid} {fault} {'raised' if bad else 'ended'}: {text}")
        elif page.owed and bad and fault in self.delays:
            self.delays[fault].append(at - page.since)
        page.owed = False

    def turn(self, now: float) -> None:
        """Finds what should have been told by now."""
        for (uuid, fault), page in self._pages.items():
            if page.owed and now > page.since + self._bound(fault, page):
                page.owed = False
                what = "not raised" if page.true else "not ended"
                self.missed.append(f"{page.since:.1f} {uuid} {fault} {what} by {now:.1f}")

    def settled(self, uuid: str) -> bool:
        """Whether all that is true of a VM has been told, or has been missed."""
        return not any(self._page(uuid, fault).owed for fault in (LOST, SICK))

    def health(self, uuid: str) -> str:
        """Returns the health that `vmhb status` is to show of a VM that is settled."""
        for fault, health in _HEALTH.items():
            if self._page(uuid, fault).true:
                return health
        return "healthy"

    def shown(self, uuid: str, health: str, at: float) -> None:
        """`vmhb status` shows a VM whose truth has not changed for a while."""
        if health != self.health(uuid):
            self.false.append(f"{at:.1f} {uuid} shown as {health}, is {self.health(uuid)}")

    def verdict(self) -> str:
        """Returns a line on what was found."""
        faults = ", ".join(f"{self.counts[fault]} {fault}" for fault in self.delays)
        return (
            f"{faults}, {self.counts['left']} left: "
            f"{len(self.false)} false, {len(self.missed)} missed, "
            f"{self.counts['not judged']} not judged"
        )

    def _bound(self, fault: str, page: _Page) -> float:
        score = max((score for at, score in self._late if at >= page.since - 1.0), default=0.0)
        within = told_within if page.true else ended_within
        return within(fault, score) + self.room

    def _page(self, uuid: str, fault: str) -> _Page:
        return self._pages.setdefault((uuid, fault), _Page())
