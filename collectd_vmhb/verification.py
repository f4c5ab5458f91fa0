# SPDX-License-Identifier: Apache-2.0
"""Faults that an operator raises to see them arrive; each ends by itself; pure.

They go the way of every fault, from the incident on disk to the receivers. Times are monotonic.
"""

from __future__ import annotations

from collectd_vmhb.verdict import VERIFICATION, FaultRaised, Severity

#: Longest verification in seconds: nobody should see one tomorrow.
LONGEST = 600.0


class Verifications:
    """Holds who is being verified, the host as "", and until when."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def begin(self, uuid: str, until: float) -> None:
        """Note one, or let it last longer."""
        self._until[uuid] = until

    def end(self, uuid: str) -> None:
        """Forget one."""
        self._until.pop(uuid, None)

    @property
    def deadline(self) -> float | None:
        """When `due` has something to return."""
        return min(self._until.values(), default=None)

    def due(self, now: float) -> list[str]:
        """Return whose time is over."""
        return [uuid for uuid, until in self._until.items() if until <= now]


def synthetic_fault(uuid: str, now: float) -> FaultRaised:
    """Return the fault that nothing is wrong with."""
    text = "verification of the way to Vitrage, nothing is wrong"
    return FaultRaised(uuid, VERIFICATION, Severity.WARNING, text, now, "verification")
