# SPDX-License-Identifier: Apache-2.0
"""Does a guest keep within what it may send, and when is it a fault that it does not; pure."""

from __future__ import annotations

import math
from collections.abc import Collection

#: What one guest may send: messages and bytes per second, and how many seconds' worth at once.
MESSAGES_PER_SECOND = 50.0
BYTES_PER_SECOND = 64 * 1024.0
BURST_SECONDS = 4.0
#: Seconds by which sums of parts of a budget may miss its whole.
ROUNDING = 1e-6
#: Changes of its checks that are told: twenty at once, the rest of more in the seconds after.
NEWS_PER_SECOND = 5.0
#: Checks whose faults are told at a time; that of another waits until one of them is over.
TOLD_MAX = 24
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
#: Long before any time; one object for all.
_NEVER = -math.inf


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
        #: Changes that wait to be told, in the order in which they came.
        self._untold: Collection[str] = ()
        #: When each budget is saved up again; one number each, as every VM of a host has them.
        self._news = self._messages = self._bytes = _NEVER
        self._complaints = 0
        self._complained = _NEVER
        self._accused = _NEVER
        self._misbehaves = False
        self._left = _NEVER

    def sent(self, size: int, messages: int, now: float) -> None:
        """The guest sent so many bytes, with so many messages in them."""
        self._bytes = _spent(self._bytes, size / BYTES_PER_SECOND, now)
        self._messages = _spent(self._messages, messages / MESSAGES_PER_SECOND, now)
        if _overdrawn(self._bytes, now) or _overdrawn(self._messages, now):
            self.muted_until = now + MUTED
            self.complain(now)

    def tellable(
        self, changed: Collection[str], begun: Collection[str], room: int, now: float
    ) -> set[str]:
        """Returns which of the checks that changed may be told now; come back at `news_at`.

        Of those that have ``begun`` to fail there is ``room`` for so many. Who has waited longest
        comes first, so that none hides behind others that flap.
        """
        order = [name for name in self._untold if name in changed]
        order += [name for name in changed if name not in self._untold]
        told = set()
        for name in order:
            if name in begun and room <= 0:
                continue
            spent = _spent(self._news, 1 / NEWS_PER_SECOND, now)
            if _overdrawn(spent, now):
                self.news_at = now + 1
                break
            self._news = spent
            room -= name in begun
            told.add(name)
        self._untold = tuple(name for name in order if name not in told)
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


def _spent(saved_up_at: float, seconds: float, now: float) -> float:
    """Returns when a budget is saved up again after so many seconds' worth of it are spent."""
    # What one burst overdraws costs a second, not minutes.
    return min(max(saved_up_at, now) + seconds, now + BURST_SECONDS + 1)


def _overdrawn(saved_up_at: float, now: float) -> bool:
    return saved_up_at > now + BURST_SECONDS + ROUNDING
