# SPDX-License-Identifier: Apache-2.0
"""Does libvirt answer? It may be away for a while before the host is reported; pure."""

from __future__ import annotations

import math

from collectd_vmhb.impairments import LIBVIRT, Impairments

#: Seconds that libvirt may be away, as for its own restart.
AWAY_MAX = 60.0


class Contact:
    """Knows whether libvirt answers; monotonic seconds. Call `turn` at `deadline`."""

    def __init__(self, impairments: Impairments) -> None:
        self._impairments = impairments
        #: When it has been away for too long, inf while it is not known to be away.
        self.deadline = math.inf
        #: All domains of this host have been read once, and followed.
        self.complete = False

    @property
    def state(self) -> str:
        """The word for people (any thread)."""
        if self.deadline < math.inf or LIBVIRT in self._impairments:
            return "away"
        return "connected" if self.complete else "not read yet"

    def suspect(self, now: float) -> None:
        """Libvirt may be away: it said so, or was asked and can be silent."""
        if self.deadline == math.inf and LIBVIRT not in self._impairments:
            self.deadline = now + AWAY_MAX

    def answered(self, now: float) -> None:
        """Libvirt has told of all domains."""
        self.deadline = math.inf
        self._impairments.mend(LIBVIRT, now)

    def turn(self, now: float) -> None:
        """Reports the host once libvirt has been away for too long."""
        if now >= self.deadline:
            self.deadline = math.inf
            self._impairments.impair(
                LIBVIRT, "libvirt has not answered for a minute: VMs cannot be found", now
            )
