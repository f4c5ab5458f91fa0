# SPDX-License-Identifier: Apache-2.0
"""The real monitor against the real agent core, on a clock that jumps and a wire that errs."""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass, replace
from functools import partial
from typing import Callable

from collectd_vmhb.monitor import Monitor
from collectd_vmhb.policy import Policy
from collectd_vmhb.settings import Settings
from collectd_vmhb.verdict import FaultCleared, FaultEvent, FaultRaised, Health, Severity
from vmhb_guest.session import Session
from vmhb_guest.status import CheckResult, Status

UUID = "11111111-2222-3333-4444-555555555555"
POLICY = Policy(
    interval=1.0,
    timeout=0.9,
    miss_threshold=5,
    recovery_threshold=3,
    grace_period=60.0,
    required=False,
    channel="org.openstack.vmhb.0",
)


@dataclass
class Wire:
    """How the channel treats a line: seconds of delay, shares of lines lost and doubled."""

    delay: float = 0.001
    loss: float = 0.0
    doubled: float = 0.0


class World:
    """One VM, its host and its guest; `run` lets virtual time pass from event to event."""

    def __init__(self, policy: Policy = POLICY, seed: int = 0, **settings: object) -> None:
        self.now = 1000.0
        self.rng = random.Random(seed)
        self.wire = Wire()
        self.settings = replace(Settings(), **settings)  # type: ignore[arg-type]
        self.policy = policy
        self.health: list[tuple[float, Health]] = []
        self.faults: list[tuple[float, FaultEvent]] = []
        self.began = self.now
        self.host_runs = True
        self.guest_runs = True
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._held: list[bytes] = []
        self.monitor = self._new_monitor()
        self.guest = Session("guest")
        self.connected = False

    # -- the story --------------------------------------------------------------------------

    def start(self, expected: bool = False) -> None:
        """The VM runs, the host watches and connects."""
        grace = self.settings.grace_after_resume if expected else self.policy.grace_period
        self.monitor.start(self.now, grace, expected)
        self.connect()

    def connect(self) -> None:
        self.connected = True
        self.monitor.connected(self.now)
        self._settle()

    def boot(self) -> None:
        """The agent starts and finds its port."""
        self.guest = Session("guest", draw=lambda: self.rng.randint(1, 2**31 - 1))
        self.guest.port_opened(self.now)
        self.guest_runs = True
        self._settle()

    def check(self, name: str, status: Status, text: str = "") -> None:
        """A health check in the guest has this hard result."""
        self.guest.check_result(
            CheckResult(
                name=name, status=status, text=text, perfdata="", since=self.now, duration=0.0
            )
        )

    def freeze(self) -> None:
        """The guest stops: nothing answers, lines to it queue up."""
        self.guest_runs = False

    def thaw(self) -> None:
        self.guest_runs = True
        held, self._held = self._held, []
        for data in held:
            self._to_guest(data)
        self._settle()

    def restart_host(self) -> None:
        """The engine is killed and starts again: what was on disk is all it knows."""
        faults = self.open_faults()
        expected = self.monitor.established
        self.monitor = self._new_monitor(faults)
        self.start(expected)

    def run(self, seconds: float) -> None:
        """Lets time pass; everything due happens at its time."""
        end = self.now + seconds
        while True:
            at = min(self._next(), end)
            if at >= end:
                break
            self.now = max(self.now, at)
            self._step()
        self.now = end

    # -- what came of it --------------------------------------------------------------------

    def at(self) -> float:
        """Seconds since the world began."""
        return self.now - self.began

    def open_faults(self) -> dict[str, Severity]:
        open_: dict[str, Severity] = {}
        for _, event in self.faults:
            if isinstance(event, FaultRaised):
                open_[event.name] = event.severity
            else:
                open_.pop(event.name, None)
        return open_

    def raised(self, name: str) -> list[float]:
        """When the fault was raised, in seconds since the world began."""
        return [t for t, e in self.faults if isinstance(e, FaultRaised) and e.name == name]

    def cleared(self, name: str) -> list[str]:
        """The reasons for which the fault was cleared."""
        return [e.reason for _, e in self.faults if isinstance(e, FaultCleared) and e.name == name]

    # -- the machinery ----------------------------------------------------------------------

    def _new_monitor(self, faults: dict[str, Severity] | None = None) -> Monitor:
        return Monitor(
            UUID, self.policy, self.settings, lambda: self.rng.randint(1, 2**31 - 1), 0.0, faults
        )

    def _next(self) -> float:
        times = [self._queue[0][0]] if self._queue else []
        if self.host_runs:
            times.append(self.monitor.deadline)
        if self.guest_runs and self.guest.deadline is not None:
            times.append(self.guest.deadline)
        return min(times, default=float("inf"))

    def _step(self) -> None:
        while self._queue and self._queue[0][0] <= self.now:
            heapq.heappop(self._queue)[2]()
        if self.host_runs and self.monitor.deadline <= self.now:
            self.monitor.tick(self.now)
        if self.guest_runs and self.guest.deadline is not None and self.guest.deadline <= self.now:
            self.guest.tick(self.now)
        self._settle()

    def _settle(self) -> None:
        """Does both callers' duties: send, publish."""
        if self.host_runs:
            self._carry(self.monitor.data_to_send(), self._to_guest)
        if self.guest_runs:
            self._carry(self.guest.data_to_send(), self._to_host)
        for event in self.monitor.events():
            self.faults.append((self.at(), event))
        if not self.health or self.health[-1][1] is not self.monitor.health:
            self.health.append((self.at(), self.monitor.health))

    def _carry(self, data: bytes, deliver: Callable[[bytes], None]) -> None:
        for line in data.split(b"\n"):
            if not line or self.rng.random() < self.wire.loss:
                continue
            copies = 2 if self.rng.random() < self.wire.doubled else 1
            for _ in range(copies):
                self._later(self.wire.delay, partial(deliver, b"\n" + line + b"\n"))

    def _later(self, delay: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now + delay, next(self._order), action))

    def _to_guest(self, data: bytes) -> None:
        if not self.guest_runs:
            self._held.append(data)
            return
        self.guest.receive(data, self.now)
        self._settle()

    def _to_host(self, data: bytes) -> None:
        if not self.host_runs:
            self._later(0.05, lambda: self._to_host(data))
            return
        if self.connected:
            self.monitor.receive(data, self.now)
        self._settle()
