# SPDX-License-Identifier: Apache-2.0
"""Virtual time for whole nodes: it jumps to whatever is due next, on any node or in any VM."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from typing import Callable, Protocol

#: What is due in one run, at most: with more, something is due again and again at one moment.
TURNS_MAX = 2_000_000


class Actor(Protocol):
    """What wants a turn at a time that it can say."""

    @property
    def due(self) -> float:
        """When `turn` is to be called."""

    def turn(self) -> None:
        """Does what is due."""


class Cloud:
    """A clock, what is to happen when, and the one source of chance."""

    def __init__(self, seed: int | str) -> None:
        self.now = 1000.0
        self.rng = random.Random(seed)
        self.actors: list[Actor] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Has something happen later."""
        heapq.heappush(self._events, (self.now + seconds, next(self._order), action))

    def run(self, seconds: float) -> None:
        """Lets time pass; everything due happens at its time."""
        end = self.now + seconds
        events = self._events
        for _ in range(TURNS_MAX):
            at, actor = events[0][0] if events else math.inf, None
            for each in self.actors:
                due = each.due
                if due < at:
                    at, actor = due, each
            if at > end:
                break
            self.now = max(self.now, at)
            if actor is None:
                heapq.heappop(events)[2]()
            else:
                actor.turn()
        else:
            raise RuntimeError(f"time stands still at {self.now}")
        self.now = end
