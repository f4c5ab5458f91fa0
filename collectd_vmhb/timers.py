# SPDX-License-Identifier: Apache-2.0
"""Who is due when; pure. Costs the same for each, however many there are.

Most are planned twice a second and few of these times are kept: a challenge is followed by its
timeout, and the answer puts that off to the next challenge. So a time goes into a drawer of GRAIN
seconds unsorted, and into a sorted list only when its drawer is the next one.
"""

from __future__ import annotations

import heapq
import itertools
import math
from typing import Generic, Protocol, TypeVar

NEVER = math.inf
GRAIN = 0.01


class Planned(Protocol):
    """Somebody with one time at which he is due, set by `Timers` alone; at first NEVER."""

    scheduled: float


T = TypeVar("T", bound=Planned)


class Timers(Generic[T]):
    """Holds for each the one time that was planned last; in seconds of any clock."""

    def __init__(self) -> None:
        self._drawers: dict[int, list[T]] = {}
        self._numbers: list[int] = []
        #: The drawers up to this one are empty: all in them is sorted.
        self._opened = -1
        self._sorted: list[tuple[float, int, T]] = []
        self._order = itertools.count()

    def plan(self, item: T, at: float) -> None:
        """Plans a time instead of the one that was planned before; NEVER for none."""
        if at == item.scheduled:
            return
        item.scheduled = at
        if at == NEVER:
            return
        number = int(at / GRAIN)
        if number <= self._opened:
            heapq.heappush(self._sorted, (at, next(self._order), item))
        elif number in self._drawers:
            self._drawers[number].append(item)
        else:
            self._drawers[number] = [item]
            heapq.heappush(self._numbers, number)

    @property
    def deadline(self) -> float:
        """When the next one is due, NEVER if nobody is planned."""
        while True:
            while self._sorted and self._sorted[0][0] != self._sorted[0][2].scheduled:
                heapq.heappop(self._sorted)
            if self._sorted:
                return self._sorted[0][0]
            if not self._numbers:
                return NEVER
            self._open_next()

    def due(self, now: float) -> T | None:
        """Returns who is due, the one that was planned first; his time is over then."""
        if self.deadline > now:
            return None
        item = heapq.heappop(self._sorted)[2]
        item.scheduled = NEVER
        return item

    def _open_next(self) -> None:
        self._opened = number = heapq.heappop(self._numbers)
        for item in self._drawers.pop(number):
            at = item.scheduled
            if at != NEVER and int(at / GRAIN) <= number:
                heapq.heappush(self._sorted, (at, next(self._order), item))
