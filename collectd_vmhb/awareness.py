# SPDX-License-Identifier: Apache-2.0
"""Is this host itself late? Then its VMs get more time before they are blamed.

The idea is Lifeguard's local health (Dadgar, Phillips, Currey, 2017, as in HashiCorp's
memberlist): a monitor that cannot keep its own schedule is a bad witness.
"""

from __future__ import annotations

#: memberlist's default bound of the score, DefaultLANConfig.AwarenessMaxMultiplier.
SCORE_MAX = 8
#: A wake-up this many seconds late speaks against us: ten times what a busy host shows
#: (p99 of 14 ms beside a Python plugin that spins), far below the smallest usual timeout.
LATE = 0.15
#: One point is forgotten after this many seconds without a late wake-up.
FORGET = 5.0


class Awareness:
    """Scores the engine's own lateness, from 0 (on time) to SCORE_MAX."""

    def __init__(self) -> None:
        self.score = 0
        #: Largest lateness seen since `worst` was last taken, in seconds.
        self._worst = 0.0
        self._changed = 0.0

    def woke(self, lateness: float, now: float) -> None:
        """Takes how many seconds after its deadline the loop woke up."""
        self._worst = max(self._worst, lateness)
        if lateness > LATE:
            self.score = min(SCORE_MAX, self.score + 1)
            self._changed = now
        elif self.score and now - self._changed > FORGET:
            self.score -= 1
            self._changed = now

    @property
    def stretch(self) -> float:
        """Factor for timeouts: 1 while this host keeps its schedule."""
        return 1.0 + self.score

    def take_worst(self) -> float:
        """Returns the largest lateness since the last call, in seconds."""
        worst, self._worst = self._worst, 0.0
        return worst
