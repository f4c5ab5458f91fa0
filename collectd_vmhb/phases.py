# SPDX-License-Identifier: Apache-2.0
"""When in its interval each VM is challenged; pure.

A wake-up costs more than a challenge, so VMs share them also where they are few: a moment is shared
by GROUP of them before another is used, and by more only once all are.
"""

from __future__ import annotations

#: Moments of an interval; those of a second lie on the grid of sends. With more, a thousand VMs
#: cost more; with fewer, the last of those that share one are late.
MOMENTS = 25
#: VMs that share a moment. If this host stands still just then, all of these miss: together they
#: must not look like a mass (`correlation.MASS_MIN`).
GROUP = 4
#: Each moment lies so far behind the one that was used before, so that few spread well.
_STEP = 11
_IN_ORDER = [number * _STEP % MOMENTS for number in range(MOMENTS)]


class Phases:
    """Gives each VM its part of the interval, 0 ... 1, for as long as it is watched."""

    def __init__(self) -> None:
        self._moments: dict[str, int] = {}
        self._members = [0] * MOMENTS

    def of(self, uuid: str) -> float:
        """Returns the VM's part; the same one until it is forgotten."""
        moment = self._moments.get(uuid)
        if moment is None:
            moment = self._moments[uuid] = self._free()
            self._members[moment] += 1
        return moment / MOMENTS

    def forget(self, uuid: str) -> None:
        """Leaves the VM's part to another."""
        moment = self._moments.pop(uuid, None)
        if moment is not None:
            self._members[moment] -= 1

    def _free(self) -> int:
        for moment in _IN_ORDER:
            if self._members[moment] < GROUP:
                return moment
        return self._members.index(min(self._members))
