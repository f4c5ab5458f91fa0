# SPDX-License-Identifier: Apache-2.0
"""Whether the engine's loop still turns, felt from another thread: one that is stuck says nothing.

At each look the loop is asked for a word. It is stuck when the same question waited for a while
and for several looks: after a standstill of the whole process, time alone would accuse it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from concurrent.futures import Future

#: A question that waited so many seconds, and was looked at so often, is one too many.
STUCK_AFTER = 30.0
STUCK_LOOKS = 3


class Beat(enum.Enum):
    """What a look found."""

    NOTHING_NEW = enum.auto()
    STUCK = enum.auto()
    BACK = enum.auto()


class Pulse:
    """``ask`` hands the loop a question without waiting; its result is there once it turned."""

    def __init__(self, ask: Callable[[], Future[None]]) -> None:
        self._ask = ask
        self._asked: Future[None] | None = None
        self._asked_at = 0.0
        self._looks = 0
        self._stuck = False

    def look(self, now: float) -> Beat:
        """Returns what has changed; call it now and then, with the monotonic time."""
        if self._asked is None or self._asked.done():
            self._asked, self._asked_at, self._looks = self._ask(), now, 0
            was_stuck, self._stuck = self._stuck, False
            return Beat.BACK if was_stuck else Beat.NOTHING_NEW
        self._looks += 1
        waited = now - self._asked_at
        if self._stuck or waited < STUCK_AFTER or self._looks < STUCK_LOOKS:
            return Beat.NOTHING_NEW
        self._stuck = True
        return Beat.STUCK
