# SPDX-License-Identifier: Apache-2.0
"""Many VMs fall silent at once: suspect the host before them, but do not keep it quiet; pure.

When MASS_MIN VMs and MASS_SHARE of those watched start to miss within two of their intervals, it
is most likely one cause: this host, its storage, the observer. The caller reports that as one
fault of the host, and each VM's lost heartbeat is held for HELD_ROUNDS of its intervals: who
answers meanwhile is never blamed. Then it goes out, marked as correlated: a real mass failure is
delayed, not hidden. The fault of the host lasts while as many of these VMs are still lost.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from dataclasses import replace

from collectd_vmhb.verdict import HEARTBEAT_LOST, FaultEvent, FaultRaised

MASS_MIN = 5
MASS_SHARE = 0.3
WINDOW_ROUNDS = 2
HELD_ROUNDS = 2
#: Seconds after which a mass that lasts is looked at again.
REVIEW = 1.0
#: The detail of a loss that belongs to a mass.
CORRELATED = "correlated"


class Correlation:
    """Sees which VMs start to miss together, and holds their faults back for a while."""

    def __init__(self) -> None:
        #: Who began to miss, until that is too old to have the same cause as a new miss; and the
        #: same in this order, with what has been overtaken since.
        self._missing: dict[str, float] = {}
        self._ends: list[tuple[float, str]] = []
        self._held: dict[str, tuple[float, FaultRaised]] = {}
        #: Until then new losses belong to the mass that was seen.
        self.mass_until = -math.inf
        #: When `is_over` is to be asked, if there is a mass.
        self.review_at = -math.inf

    def missing(self, uuid: str, interval: float, now: float, watched: int) -> int:
        """Notes that a VM starts to miss; returns how many did together if they are a mass, or 0.

        ``interval`` is the VM's own, in seconds; ``watched`` how many VMs are watched in all.
        """
        while self._ends and self._ends[0][0] <= now:
            until, other = heapq.heappop(self._ends)
            if self._missing.get(other) == until:
                del self._missing[other]
        self._missing[uuid] = until = now + WINDOW_ROUNDS * interval
        heapq.heappush(self._ends, (until, uuid))
        together = len(self._missing)
        return together if _are_many(together, watched) else 0

    def begin(self, until: float) -> None:
        """A mass was reported: losses found until then are held back."""
        self.mass_until = self.review_at = max(self.mass_until, until)

    def is_over(self, lost: int, watched: int, now: float) -> bool:
        """Whether few VMs of a mass are still lost; of ``lost`` that has been told."""
        self.review_at = now + REVIEW
        return not _are_many(lost + len(self._held), watched)

    def holds(self, event: FaultEvent, interval: float, now: float) -> bool:
        """Keeps a lost heartbeat of a mass, or forgets it as the VM answers; True if it did."""
        if event.name != HEARTBEAT_LOST:
            return False
        if not isinstance(event, FaultRaised):
            return self._held.pop(event.uuid, None) is not None
        if now >= self.mass_until:
            return False
        details: Mapping[str, str] = {**event.details, CORRELATED: "true"}
        marked = replace(event, text=f"{event.text}, with many others", details=details)
        self._held[event.uuid] = now + HELD_ROUNDS * interval, marked
        return True

    def forget(self, uuid: str) -> None:
        """The VM is not watched any more."""
        self._held.pop(uuid, None)
        self._missing.pop(uuid, None)

    @property
    def deadline(self) -> float | None:
        """When `due` has something to return."""
        return min((at for at, _ in self._held.values()), default=None)

    def due(self, now: float) -> list[FaultRaised]:
        """Returns the losses that were held long enough and still last."""
        ready = [uuid for uuid, (at, _) in self._held.items() if at <= now]
        return [self._held.pop(uuid)[1] for uuid in ready]


def _are_many(silent: int, watched: int) -> bool:
    return silent >= MASS_MIN and silent >= MASS_SHARE * watched
