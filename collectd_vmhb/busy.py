# SPDX-License-Identifier: Apache-2.0
"""For how long a guest may say that it is slow on purpose: silence then counts for nothing; pure.

A guest is untrusted, and one that hangs after it said so would never be found. So the time is a
budget: spent while the VM is busy, given back more slowly while it is not. It stands still while
the VM is paused.
"""

from __future__ import annotations

import logging
import math

from collectd_vmhb.protocol import BusyClaim

log = logging.getLogger(__name__)

#: Seconds of budget given back for each second in which the VM is not busy: in the long run a VM
#: is busy for a sixth of the time at most.
GIVEN_BACK = 0.2
#: With less budget than that, and less than it asks for or could have, a VM has to wait.
LEAST = 10.0
#: One line in so many seconds about one VM.
LOGGED = 600.0


class Busy:
    """Grants one guest its time; ``longest`` is the whole budget, times are monotonic seconds.

    ``uuid`` is the instance's, for the log.
    """

    __slots__ = ("_limit", "_logged", "_longest", "_stood", "_uuid", "reason", "until")

    def __init__(self, uuid: str, longest: float) -> None:
        #: When the present stretch ends, or the last one ended.
        self.until = -math.inf
        self.reason = ""
        self._uuid = uuid
        self._longest = longest
        #: When the budget of that stretch ends.
        self._limit = 0.0
        self._logged = -math.inf
        #: Since when the VM is paused, inf while it runs.
        self._stood = math.inf

    def stand_still(self, now: float) -> None:
        """The VM is paused from now on, if it is not already."""
        self._stood = min(self._stood, now)

    def go_on(self, now: float) -> None:
        """The VM runs: what was left of its time is left now."""
        paused = max(0.0, now - self._stood)
        self._stood = math.inf
        self.until += paused
        self._limit += paused

    def lasts(self, now: float) -> bool:
        """True while the VM is busy."""
        return min(now, self._stood) < self.until

    def claim(self, claim: BusyClaim, now: float) -> None:
        """The guest says that it will be busy for a while; that is granted as far as it goes."""
        now = min(now, self._stood)
        if not self.lasts(now):
            left = self._left(now)
            refused = left < min(claim.seconds, LEAST, self._longest)
            self._log(claim, refused, now)
            if refused:
                return
            self._limit = now + left
        self.until = min(now + claim.seconds, self._limit)
        self.reason = claim.reason

    def over(self, now: float) -> None:
        """The guest is not busy any more."""
        self.until = min(self.until, now, self._stood)

    def _left(self, now: float) -> float:
        return min(self._longest, self._limit - self.until + (now - self.until) * GIVEN_BACK)

    def _log(self, claim: BusyClaim, refused: bool, now: float) -> None:
        if now - self._logged > LOGGED:
            self._logged = now
            granted = (
                "it has been so for too long (BusyMax)" if refused else "its silence is let be"
            )
            log.info(
                "VM %s: busy for %g s: %s; %s", self._uuid, claim.seconds, claim.reason, granted
            )
