# SPDX-License-Identifier: Apache-2.0
"""What one VM's monitor remembers for people: its last exchanges, and since when its health is so.

Kept for every VM of a host and written with every beat, hence small and cheap; pure.
"""

from __future__ import annotations

import math
from array import array

from collectd_vmhb.verdict import Health

#: Exchanges kept for each VM.
EXCHANGES_MAX = 10
_NONE = array("d", [math.nan] * 2 * EXCHANGES_MAX)


class History:
    """The last exchanges and the last change of health; times are monotonic seconds."""

    __slots__ = ("_exchanges", "_oldest", "health", "since")

    def __init__(self) -> None:
        self.health = Health.UNKNOWN
        #: When the health became what it is; NaN before the first.
        self.since = math.nan
        # A ring of machine numbers in pairs: 240 bytes, where a deque of tuples takes 1.7 KiB.
        self._exchanges = array("d", _NONE)
        self._oldest = 0

    def turned(self, health: Health, now: float) -> None:
        """The VM has another health from now on."""
        self.health = health
        self.since = now

    def exchanged(self, sent: float, rtt: float) -> None:
        """A challenge sent then was answered after ``rtt`` seconds, or not in time: NaN."""
        at = self._oldest
        self._exchanges[at] = sent
        self._exchanges[at + 1] = rtt
        self._oldest = (at + 2) % len(_NONE)

    def exchanges(self) -> list[tuple[float, float]]:
        """Returns when each of the last challenges was sent, and its round trip; oldest first."""
        numbers = self._exchanges[self._oldest :] + self._exchanges[: self._oldest]
        pairs = zip(numbers[::2], numbers[1::2])
        return [(sent, rtt) for sent, rtt in pairs if not math.isnan(sent)]
