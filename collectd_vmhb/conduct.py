# SPDX-License-Identifier: Apache-2.0
"""Does a guest keep within what it may send, and when is it a fault that it does not; pure."""

from __future__ import annotations

import math
from collections.abc import Collection

#: What one guest may send: messages and bytes per second, and how many seconds' worth at once.
MESSAGES_PER_SECOND = 50.0
BYTES_PER_SECOND = 64 * 1024.0
BURST_SECONDS = 4.0
#: Changes of its checks that are told: twenty at once, the rest of more in the seconds after.
NEWS_PER_SECOND = 5.0
#: For so long a guest that overdrew its budget is not read.
MUTED = 1.0
#: Complaints (malformed, wrong or excessive messages), counted at most once a second, that
#: become a fault; how long without one ends it, and how soon it may come again.
COMPLAINT_SPACING = 1.0
COMPLAINTS_MAX = 20
COMPLAINT_PEACE = 600.0
COMPLAINT_PERIOD = 3600.0
#: An agent's leave is logged once in so many seconds.
LEAVE_LOGGED = 600.0


class Budget:
    """Lets through ``rate`` units per second, saved up for at most BURST_SECONDS."""

    __slots__ = ("_at", "_left", "_rate")

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._left = rate * BURST_SECONDS
        self._at = 0.0

    def has(self, units: float, now: float) -> bool:
        """Tells whether so many units are there."""
        self._left = min(self._rate * BURST_SECONDS, self._left + (now - self._at) * self._rate)
        self._at = now
        return self._left >= units

    def spend(self, units: float, now: float) -> bool:
        """Takes units and tells whether they were there."""
        self.has(units, now)
        # What one burst overdraws costs a second, not minutes.
        self._left = max(self._left - units, -self._rate)
        return self._left >= 0


class Conduct:
    """Holds one guest to its budget and counts the complaints about it."""

    __slots__ = (
        "_accused",
        "_bytes",
        "_complained",
        "_complaints",
        "_left",
        "_messages",
        "_misbehaves",
        "_news",
        "_untold",
        "muted_until",
        "news_at",
    )

    def __init__(self) -> None:
        #: Until then the channel is not to be read: the guest spent its budget.
        self.muted_until = 0.0
        #: When more may be told of its checks; inf if nothing waits for that.
        self.news_at = math.inf
        self._news = Budget(NEWS_PER_SECOND)
        #: Changes that wait to be told, in the order in which they came.
        self._untold: dict[str, None] = {}
        self._messages = Budget(MESSAGES_PER_SECOND)
        self._bytes = Budget(BYTES_PER_SECOND)
        self._complaints = 0
        self._complained = -math.inf
        self._accused = -math.inf
        self._misbehaves = False
        self._left = -math.inf

    def sent(self, size: int, messages: int, now: float) -> None:
        """The guest sent so many bytes, with so many messages in them."""
        within = self._bytes.spend(size, now)
        if not self._messages.spend(messages, now) or not within:
            self.muted_until = now + MUTED
            self.complain(now)

    def tellable(self, changed: Collection[str], now: float) -> set[str]:
        """Returns which of the checks that changed may be told now; come back at `news_at`.

        Those that have waited longest come first, so that none hides behind others that flap.
        """
        waiting = [name for name in self._untold if name in changed]
        fresh = [name for name in changed if name not in self._untold]
        told = set()
        self._untold = {}
        for name in waiting + fresh:
            if self._news.has(1, now) and self._news.spend(1, now):
                told.add(name)
            else:
                self._untold[name] = None
                self.news_at = now + 1
        return told

    def complain(self, now: float) -> None:
        """The guest sent what it should not.

        One burst is one complaint: an agent that comes back answers all that was queued, even what
        an earlier engine asked.
        """
        if now - self._complained < COMPLAINT_SPACING:
            return
        if now - self._complained > COMPLAINT_PEACE:
            self._complaints = 0
        self._complained = now
        self._complaints += 1
        if self._complaints > COMPLAINTS_MAX and now - self._accused > COMPLAINT_PERIOD:
            self._accused = now
            self._misbehaves = True

    def misbehaves(self, now: float) -> bool:
        """True from too many complaints until COMPLAINT_PEACE seconds without one."""
        if self._misbehaves and now - self._complained > COMPLAINT_PEACE:
            self._misbehaves = False
        return self._misbehaves

    def left(self, now: float) -> bool:
        """The agent says that it leaves; True if that is worth a line in the log again."""
        again = now - self._left > LEAVE_LOGGED
        if again:
            self._left = now
        return again
