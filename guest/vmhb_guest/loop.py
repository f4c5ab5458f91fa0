# SPDX-License-Identifier: Apache-2.0
"""The agent's only loop: waits for port, checks, signals and time, and moves what they bring."""

import math
import select
import signal
from typing import Callable, Optional

from .checks import Checks
from .port import Port
from .session import Session
from .signals import SignalPipe

#: Seconds that the farewell may take to leave.
FAREWELL = 1.0
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
WAKE_SIGNALS = (*STOP_SIGNALS, signal.SIGCHLD)


class Loop:
    """Wires port, session and checks; `clock` returns monotonic seconds."""

    def __init__(
        self, port: Port, session: Session, checks: Checks, clock: Callable[[], float]
    ) -> None:
        self._port = port
        self._session = session
        self._checks = checks
        self._clock = clock

    def run(self, signals: SignalPipe) -> None:
        """Work until a stop signal comes, then say goodbye."""
        while True:
            self._step(self._clock())
            self._wait(signals, self._timeout(self._deadline()))
            for number in signals.take():
                if number in STOP_SIGNALS:
                    self._stop("stopped by %s" % signal.Signals(number).name)
                    return

    def _step(self, now: float) -> None:
        # The port first: an agent that was held up must see a waiting challenge before it
        # concludes that none came. The checks last: starting one takes milliseconds.
        self._read(now)
        self._session.tick(now)
        self._write()
        results = self._checks.tick(now)
        self._session.expect_checks(self._checks.names, now)
        for result in results:
            self._session.check_result(result)
        self._write()

    def _read(self, now: float) -> None:
        was_connected = self._port.connected
        data = self._port.read(now)
        if self._port.connected and not was_connected:
            self._session.port_opened(now)
        if data:
            self._session.receive(data, now)
        if was_connected and not self._port.connected:
            self._session.port_closed()

    def _write(self) -> None:
        if not self._port.connected:
            return
        self._port.write(b"")
        if not self._port.unwritten:
            self._port.write(self._session.data_to_send())
        if not self._port.connected:
            self._session.port_closed()

    def _deadline(self) -> Optional[float]:
        deadlines = [self._port.deadline, self._session.deadline, self._checks.deadline]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def _timeout(self, deadline: Optional[float]) -> Optional[int]:
        """Return the milliseconds to wait, rounded up: waking too early would spin."""
        if deadline is None:
            return None
        return math.ceil(max(0.0, (deadline - self._clock()) * 1000))

    def _wait(self, signals: SignalPipe, timeout_ms: Optional[int]) -> None:
        poller = select.poll()
        poller.register(signals.fileno(), select.POLLIN)
        for fileno in self._checks.filenos():
            poller.register(fileno, select.POLLIN)
        port = self._port.fileno()
        if port is not None:
            poller.register(port, select.POLLIN | (select.POLLOUT if self._port.unwritten else 0))
        poller.poll(timeout_ms)

    def _wait_for_port(self, deadline: float) -> None:
        port = self._port.fileno()
        if port is not None:
            poller = select.poll()
            poller.register(port, select.POLLOUT)
            poller.poll(self._timeout(deadline))

    def _stop(self, reason: str) -> None:
        self._session.stop(reason)
        give_up = self._clock() + FAREWELL
        self._write()
        while self._port.unwritten and self._clock() < give_up:
            self._wait_for_port(give_up)
            self._write()
        self._checks.stop()
        self._port.close()
