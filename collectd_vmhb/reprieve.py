# SPDX-License-Identifier: Apache-2.0
"""A loss waits until libvirt has said whether the VM is meant to run; pure.

Of a VM that is being destroyed or paused libvirt speaks only afterwards: it may have fallen silent
before. The caller asks libvirt at the first miss. A loss that is found before the answer is held;
it goes out with the answer, or without one after LOOK_MAX, unless it is over by then.
"""

from __future__ import annotations

import math

from collectd_vmhb.verdict import HEARTBEAT_LOST, FaultCleared, FaultEvent, FaultRaised

#: Seconds that libvirt has from the first miss (2 s were seen).
LOOK_MAX = 2.0


class Reprieve:
    """Holds the loss of one VM; monotonic seconds."""

    __slots__ = ("_held", "_until")

    def __init__(self) -> None:
        self._held: FaultRaised | None = None
        #: Until then libvirt may still answer.
        self._until = -math.inf

    def begin(self, now: float) -> None:
        """Libvirt has just been asked."""
        self._until = now + LOOK_MAX

    def answered(self, now: float) -> bool:
        """Libvirt has answered; True if that was waited for."""
        waited = now < self._until
        self._until = min(now, self._until)
        return waited

    def holds(self, event: FaultEvent, now: float) -> bool:
        """Keeps a loss while libvirt may answer, or forgets it as it is over; True if it did."""
        if event.name != HEARTBEAT_LOST:
            return False
        held, self._held = self._held, None
        if isinstance(event, FaultCleared):
            return held is not None
        if now < self._until:
            self._held = event
        return self._held is not None

    @property
    def deadline(self) -> float:
        """When `due` has something to return, inf if nothing is held."""
        return math.inf if self._held is None else self._until

    def due(self, now: float) -> FaultRaised | None:
        """Returns the loss that was held long enough and still lasts, once."""
        if now < self.deadline:
            return None
        held, self._held = self._held, None
        return held
