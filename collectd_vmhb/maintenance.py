# SPDX-License-Identifier: Apache-2.0
"""The operator's word that work goes on: until its end, no fault of that VM or host counts; pure.

Theory of operation
    A window has an end and a reason, and covers one VM or, under "", the host with all its VMs.
    What is found meanwhile is withheld here, and goes as it would have gone anyway; what is still
    withheld when nothing covers its VM any more comes out, to be raised anew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from collectd_vmhb.verdict import FaultCleared, FaultRaised, Severity

#: The window of the host with all its VMs.
HOST = ""
#: Longest window in seconds: who forgets one is without monitoring.
LONGEST = 30 * 86400.0


@dataclass(frozen=True)
class Window:
    """A time of work; ``begun`` and ``until`` are Unix time, ``ends`` is monotonic."""

    begun: float
    until: float
    reason: str
    ends: float


@dataclass(frozen=True)
class Withheld:
    """A fault that would be raised, and what is to be said of its VM."""

    fault: FaultRaised
    instance: str
    project: str


class Maintenance:
    """Holds the windows, and the faults that they cover."""

    def __init__(self) -> None:
        self._windows: dict[str, Window] = {}
        self._withheld: dict[tuple[str, str], Withheld] = {}
        #: When `due` has something to return; monotonic.
        self.deadline = math.inf

    def window(self, uuid: str) -> Window | None:
        """Returns what covers an instance, its own window before the host's."""
        return self._windows.get(uuid) or self._windows.get(HOST)

    def own_window(self, uuid: str) -> Window | None:
        """Returns the window of this very instance, whatever covers the host."""
        return self._windows.get(uuid)

    def begin(self, uuid: str, seconds: float, reason: str, now: float, wall: float) -> Window:
        """Opens a window, in the place of an earlier one."""
        window = Window(wall, wall + seconds, reason, now + seconds)
        self._windows[uuid] = window
        self._plan()
        return window

    def end(self, uuid: str) -> bool:
        """Closes a window before its time; False if there is none."""
        ended = self._windows.pop(uuid, None)
        self._plan()
        return ended is not None

    def due(self, now: float) -> list[str]:
        """Closes the windows whose time is over and returns whose they were."""
        over = [uuid for uuid, window in self._windows.items() if window.ends <= now]
        for uuid in over:
            self.end(uuid)
        return over

    def withhold(self, fault: FaultRaised, instance: str, project: str) -> bool:
        """Keeps a fault to itself if a window covers it, and tells whether it did."""
        if self.window(fault.uuid) is None:
            return False
        self._withheld[fault.uuid, fault.name] = Withheld(fault, instance, project)
        return True

    def cleared(self, event: FaultCleared) -> None:
        """Drops a fault that is over before it was raised."""
        self._withheld.pop((event.uuid, event.name), None)

    def close(self, uuid: str, keep: frozenset[str]) -> None:
        """Drops the faults of an instance that is not watched any more, but for ``keep``."""
        for key in [key for key in self._withheld if key[0] == uuid and key[1] not in keep]:
            del self._withheld[key]

    def released(self) -> list[Withheld]:
        """Returns the faults that nothing covers any more, and forgets them."""
        keys = [key for key in self._withheld if self.window(key[0]) is None]
        return [self._withheld.pop(key) for key in keys]

    def withheld(self) -> list[Withheld]:
        """Returns every fault that is withheld."""
        return list(self._withheld.values())

    def of(self, uuid: str) -> dict[str, Severity]:
        """Returns the withheld faults of one instance, by name."""
        return {
            name: withheld.fault.severity
            for (owner, name), withheld in self._withheld.items()
            if owner == uuid
        }

    def dump(self) -> dict[str, dict[str, Any]]:
        """Returns the windows as JSON values, for `load` in a later process."""
        return {
            uuid: {"begun": window.begun, "until": window.until, "reason": window.reason}
            for uuid, window in self._windows.items()
        }

    def load(self, dumped: Mapping[str, Mapping[str, Any]], now: float, wall: float) -> None:
        """Takes over the windows that are not over; raises ValueError for what is no dump."""
        try:
            for uuid, entry in dumped.items():
                begun, until = float(entry["begun"]), float(entry["until"])
                # A clock that was set back must not make a window longer than it was.
                left = min(until - wall, until - begun)
                if left > 0:
                    self._windows[uuid] = Window(begun, until, str(entry["reason"]), now + left)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not the windows of a maintenance: {error}") from None
        self._plan()

    def _plan(self) -> None:
        self.deadline = min((window.ends for window in self._windows.values()), default=math.inf)
