# SPDX-License-Identifier: Apache-2.0
"""Who waits for a channel, whose turn it is, and what came of it; pure.

VMs that are found running are served at the operator's rate, so that a restart of the engine is
no burst for libvirt; one that has just started does not stand in that queue. Whoever takes the
channel away again and again has his reasons: he is given in to, and told of.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from collectd_vmhb.domain import Domain, DomainState
from collectd_vmhb.provision import Attach, Connect, Impossible, next_step
from collectd_vmhb.settings import Mode

#: Attaches that may fail before a VM is reported: a start or a migration can be in the way.
FAILURES_MAX = 3
#: Seconds from one attach to the next of the same run, by the number of those in the last HOUR;
#: whose channel went as often as there are entries is left without until one of them is older.
PAUSES = (0.0, 0.0, 0.0, 0.0, 60.0, 300.0)
HOUR = 3600.0
#: Seconds that libvirt may take: while another operation has the VM it gives up after 30.
ANSWER_MAX = 60.0


@dataclass(eq=False)
class _Case:
    """One VM as it was last seen, and how far its channel is."""

    domain: Domain
    channel: str
    #: It stands in the queue, or libvirt has been asked.
    waiting: bool = False
    #: When libvirt was asked, if it has not answered.
    asked: float = math.inf
    failures: int = 0
    #: When its channel was attached, within the last hour.
    attached: list[float] = field(default_factory=list)


class Attaching:
    """Sees to the channels of this host's VMs; ``attach`` asks libvirt for one (UUID, name).

    Call `turn` at `deadline`, and `answered` when libvirt has done what it was asked for, or not.
    """

    def __init__(self, mode: Mode, rate: float, attach: Callable[[str, str], None]) -> None:
        self._mode = mode
        self._pause = 1.0 / rate
        self._attach = attach
        self._cases: dict[str, _Case] = {}
        self._queue: list[tuple[float, int, _Case]] = []
        self._order = itertools.count()
        #: No VM of the queue is served before.
        self._next_turn = -math.inf

    @property
    def deadline(self) -> float:
        """When `turn` has something to do."""
        while self._queue and not self._is_open(self._queue[0][2]):
            heapq.heappop(self._queue)
        return max(self._queue[0][0], self._next_turn) if self._queue else math.inf

    def provide(
        self, domain: Domain, channel: str, now: float, fresh: bool
    ) -> Connect | Impossible | None:
        """Returns where to connect, or why there is no way in; None while there is to wait.

        ``fresh``: the VM has just started.
        """
        case = self._cases.get(domain.uuid)
        if case is not None:
            case.domain = domain
        if domain.state is not DomainState.RUNNING:
            return None
        step = next_step(domain, channel, self._mode)
        if isinstance(step, Attach):
            if case is None:
                case = self._cases[domain.uuid] = _Case(domain, channel)
            return self._want(case, now, fresh)
        return step if isinstance(step, (Connect, Impossible)) else None

    def forget(self, uuid: str) -> None:
        """Ends a case: the VM is gone, runs anew, or is to have another channel."""
        self._cases.pop(uuid, None)

    def turn(self, now: float) -> None:
        """Serves the next VM in the queue, at most one each time."""
        if now < self.deadline:
            return
        _, _, case = heapq.heappop(self._queue)
        step = next_step(case.domain, case.channel, self._mode)
        if case.domain.state is DomainState.RUNNING and isinstance(step, Attach):
            self._ask(case, now)
        else:
            case.waiting = False
        self._next_turn = now + self._pause

    def answered(self, uuid: str, error: str | None, now: float) -> Impossible | None:
        """Takes what libvirt says of an attach; returns what is to be told when it fails on."""
        case = self._cases.get(uuid)
        if case is None:
            return None
        case.waiting, case.asked = False, math.inf
        case.failures = 0 if error is None else case.failures + 1
        if error is None:
            case.attached.append(now)
        if case.failures < FAILURES_MAX:
            return None
        return Impossible("attach-failed", f"libvirt does not attach its channel: {error}")

    def _want(self, case: _Case, now: float, fresh: bool) -> Impossible | None:
        if now - case.asked > ANSWER_MAX:
            return Impossible(
                "attach-held",
                "libvirt has not attached its channel for a minute: another operation has the VM "
                "(see virsh domjobinfo), its QEMU does not answer, or those of other VMs hold up "
                "all attaching",
            )
        case.attached = [at for at in case.attached if at > now - HOUR]
        times = len(case.attached)
        at = now
        if times >= len(PAUSES):
            at = case.attached[0] + HOUR
        elif times:
            at = max(now, case.attached[-1] + PAUSES[times])
        if not case.waiting:
            case.waiting = True
            if fresh:
                self._ask(case, now)
            else:
                heapq.heappush(self._queue, (at, next(self._order), case))
        if at <= now:
            return None
        return Impossible(
            "detached",
            f"something has detached its channel {times} times within an hour: find out what, or "
            f"switch its monitoring off; it is attached again later, ever more rarely",
        )

    def _ask(self, case: _Case, now: float) -> None:
        case.asked = now
        self._attach(case.domain.uuid, case.channel)

    def _is_open(self, case: _Case) -> bool:
        return self._cases.get(case.domain.uuid) is case
