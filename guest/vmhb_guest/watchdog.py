# SPDX-License-Identifier: Apache-2.0
"""Tells systemd that the loop goes round, as often as WatchdogSec= in the unit asks."""

import math
import os
from typing import List, Mapping

from .notify import notify
from .part import Part
from .status import CheckResult


def period(environment: Mapping[str, str]) -> float:
    """Return the seconds between two signs of life, infinite if systemd wants none of us.

    Half of what systemd waits, as sd_watchdog_enabled(3) says.
    """
    of_whom = environment.get("WATCHDOG_PID", str(os.getpid()))
    wanted = environment.get("WATCHDOG_USEC", "")
    if of_whom != str(os.getpid()) or not wanted.isdigit() or int(wanted) == 0:
        return math.inf
    return int(wanted) / 2e6


class Watchdog(Part):
    """Gives a sign of life every `period` seconds."""

    def __init__(self, period: float) -> None:
        self._period = period
        self._due = -math.inf if period < math.inf else math.inf

    @property
    def deadline(self) -> float:
        """When the next sign is due."""
        return self._due

    def tick(self, now: float) -> List[CheckResult]:
        """Give the sign when it is due."""
        if now >= self._due:
            self._due = now + self._period
            notify("WATCHDOG=1")
        return []
