# SPDX-License-Identifier: Apache-2.0
"""A loss waits until libvirt has said whether the VM is meant to run; pure.

Of a VM that is being destroyed or paused libvirt speaks only afterwards: it may have fallen silent
before. The caller asks libvirt at the first miss. A loss that is found before the answer is held;
it goes out with the answer, or without one after LOOK_MAX, unless it is over by then. Before that
the VM does not count among many that fall silent together, either.
"""

from __future__ import annotations

import math

from collectd_vmhb.verdict import HEARTBEAT_LOST, FaultCleared, FaultEvent, FaultRaised

#: Seconds that libvirt has from the first miss (2 s were seen).
LOOK_MAX = 2.0


class Reprieve:
    """Holds the loss of one VM; monotonic seconds."""

    __slots__ = ("_asked", "_held", "_until")

    def __init__(self) -> None:
        self._held: FaultRaised | None = None
        #: Until then libvirt may still answer.
        self._until = -math.inf
        #: It was asked, and `heard` has not told the end of that.
        self._asked = False

    def begin(self, now: float) -> None:
        """Libvirt has just been asked."""
        self._until = now + LOOK_MAX
        self._asked = True

    def answered(self, now: float) -> bool:
        """Libvirt has answered; True if that was waited for."""
        waited = now < self._until
        self._until = min(now, self._until)
        return waited

    def heard(self, now: float) -> bool:
        """Tells once that libvirt has answered or has had its time."""
        if not self._asked or now < self._until:
            return False
        self._asked = False
        return True

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
        """When `heard` or `due` has something to tell, inf if neither will."""
        return self._until if self._asked or self._held is not None else math.inf

    def due(self, now: float) -> FaultRaised | None:
        """Returns the loss that was held long enough and still lasts, once."""
        if now < self._until:
            return None
        held, self._held = self._held, None
        return held
