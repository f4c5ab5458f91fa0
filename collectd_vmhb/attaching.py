# SPDX-License-Identifier: Apache-2.0
"""Who waits for a channel, whose turn it is, and what came of it; pure.

VMs that are found running are served at the operator's rate, so that a restart of the engine is
no burst for libvirt; one that has just started does not stand in that queue.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from collectd_vmhb.domain import Domain, DomainState
from collectd_vmhb.provision import Attach, Connect, Impossible, next_step
from collectd_vmhb.settings import Mode

#: Attaches that may fail before a VM is reported: a start or a migration can be in the way.
FAILURES_MAX = 3


@dataclass(eq=False)
class _Case:
    """One VM as it was last seen, and how far its channel is."""

    domain: Domain
    channel: str
    #: It stands in the queue, or libvirt has been asked.
    waiting: bool = False
    failures: int = 0


class Attaching:
    """Sees to the channels of this host's VMs; ``attach`` asks libvirt for one (UUID, name).

    Call `turn` at `deadline`, and `answered` when libvirt has done what it was asked for, or not.
    """

    def __init__(self, mode: Mode, rate: float, attach: Callable[[str, str], None]) -> None:
        self.deadline = math.inf
        self._mode = mode
        self._pause = 1.0 / rate
        self._attach = attach
        self._cases: dict[str, _Case] = {}
        self._queue: deque[_Case] = deque()

    def provide(
        self, domain: Domain, channel: str, now: float, fresh: bool
    ) -> Connect | Impossible | None:
        """Returns where to connect, or why there is no way in; None while there is to wait.

        ``fresh``: the VM has just started.
        """
        case = self._cases.setdefault(domain.uuid, _Case(domain, channel))
        case.domain = domain
        if domain.state is not DomainState.RUNNING:
            return None
        step = next_step(domain, channel, self._mode)
        if isinstance(step, Attach):
            self._want(case, now, fresh)
        return step if isinstance(step, (Connect, Impossible)) else None

    def forget(self, uuid: str) -> None:
        """Ends a case: the VM is gone, runs anew, or is to have another channel."""
        self._cases.pop(uuid, None)

    def turn(self, now: float) -> None:
        """Serves the next VM in the queue, at most one each time."""
        while self._queue and self._cases.get(self._queue[0].domain.uuid) is not self._queue[0]:
            self._queue.popleft()
        if not self._queue:
            self.deadline = math.inf
            return
        case = self._queue.popleft()
        step = next_step(case.domain, case.channel, self._mode)
        if case.domain.state is DomainState.RUNNING and isinstance(step, Attach):
            self._attach(case.domain.uuid, case.channel)
        else:
            case.waiting = False
        self.deadline = now + self._pause

    def answered(self, uuid: str, error: str | None) -> Impossible | None:
        """Takes what libvirt says of an attach; returns what is to be told when it fails on."""
        case = self._cases.get(uuid)
        if case is None:
            return None
        case.waiting = False
        case.failures = 0 if error is None else case.failures + 1
        if case.failures < FAILURES_MAX:
            return None
        return Impossible("attach-failed", f"libvirt does not attach its channel: {error}")

    def _want(self, case: _Case, now: float, fresh: bool) -> None:
        if case.waiting:
            return
        case.waiting = True
        if fresh:
            self._attach(case.domain.uuid, case.channel)
            return
        self._queue.append(case)
        if self.deadline == math.inf:
            self.deadline = now
