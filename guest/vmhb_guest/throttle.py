# SPDX-License-Identifier: Apache-2.0
"""Keeps a log line that a peer can provoke from filling the log."""

from typing import Optional


class Throttle:
    """Lets one line through in every `period` seconds."""

    def __init__(self, period: float) -> None:
        self._period = period
        self._last: Optional[float] = None

    def allows(self, now: float) -> bool:
        """Tell whether to speak now."""
        if self._last is not None and now - self._last < self._period:
            return False
        self._last = now
        return True
