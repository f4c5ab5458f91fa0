# SPDX-License-Identifier: Apache-2.0
"""What the loop keeps going beside the heartbeat, seen from the loop."""

import math
from typing import List, Set

from .status import CheckResult


class Part:
    """Something with a deadline, and perhaps with descriptors to poll and checks to report.

    The loop calls `tick` when one of `filenos` can be read, and no later than `deadline`.
    """

    @property
    def names(self) -> Set[str]:
        """The names of the checks that results will come for."""
        return set()

    @property
    def results(self) -> List[CheckResult]:
        """How those of them stand that have a result."""
        return []

    @property
    def deadline(self) -> float:
        """When `tick` has something to do, in seconds of the monotonic clock."""
        return math.inf

    def filenos(self) -> List[int]:
        """Return the descriptors that may have something to read."""
        return []

    def tick(self, now: float) -> List[CheckResult]:
        """Do all that is due, without waiting; return the results that came of it."""
        raise NotImplementedError

    def stop(self) -> None:
        """Let go of everything; the agent ends."""
