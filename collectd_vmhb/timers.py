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
from collections.abc import Iterator
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
        drawer = self._drawers.get(number)
        if drawer is not None:
            drawer.append(item)
        elif number <= self._opened:
            heapq.heappush(self._sorted, (at, next(self._order), item))
        else:
            self._drawers[number] = [item]
            heapq.heappush(self._numbers, number)

    def deadline(self) -> float:
        """Returns when the next one is due, NEVER if nobody is planned."""
        while True:
            while self._sorted:
                at, _, item = self._sorted[0]
                if at == item.scheduled:
                    return at
                heapq.heappop(self._sorted)
            if not self._numbers:
                return NEVER
            self._open_next()

    def due(self, now: float) -> Iterator[T]:
        """Gives all who are due, the one that was planned first before the others.

        The time of each is over as he comes; he may be planned anew meanwhile, as may others.
        """
        while self.deadline() <= now:
            while self._sorted and self._sorted[0][0] <= now:
                at, _, item = heapq.heappop(self._sorted)
                if at == item.scheduled:
                    item.scheduled = NEVER
                    yield item

    def _open_next(self) -> None:
        """Sorts what is still planned of the next drawer, for which nothing else may be sorted."""
        self._opened = number = heapq.heappop(self._numbers)
        self._sorted = [
            (item.scheduled, order, item)
            for item, order in zip(self._drawers.pop(number), self._order)
            if item.scheduled / GRAIN < number + 1
        ]
        # A list in order is a heap.
        self._sorted.sort()
