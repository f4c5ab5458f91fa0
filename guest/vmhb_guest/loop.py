# SPDX-License-Identifier: Apache-2.0
"""The agent's only loop: waits for port, parts, signals and time, and moves what they bring."""

import math
import selectors
import signal
import time
from typing import Callable, List, Optional, Sequence

from . import log
from .directory import CHECKS_MAX
from .part import Part
from .port import PACE, Port
from .session import Session
from .signals import SignalPipe, known

#: Seconds that the farewell may take to leave.
FAREWELL = 1.0
STOP_SIGNALS = known("SIGTERM", "SIGINT")
RELOAD_SIGNALS = known("SIGHUP")
WAKE_SIGNALS = STOP_SIGNALS + RELOAD_SIGNALS + known("SIGCHLD")
#: Not epoll: what is waited for changes from one time to the next.
_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)


class Loop:
    """Wires port, session and parts; `clock` returns monotonic seconds.

    The host takes CHECKS_MAX checks of a VM: those of the first parts come first.
    """

    def __init__(
        self,
        port: Port,
        session: Session,
        parts: Sequence[Part],
        clock: Callable[[], float],
        reload: Callable[[], None] = lambda: None,
        give_up: float = math.inf,
    ) -> None:
        """Take what to call on SIGHUP, and when to end if no port has been found until then."""
        self._port = port
        self._session = session
        self._parts = parts
        self._clock = clock
        self._reload = reload
        self._give_up = give_up
        self._said_too_many = False
        #: Whether something could be read or written when the last wait ended.
        self._woken = True

    def run(self, signals: SignalPipe) -> bool:
        """Work until a stop signal comes, then say goodbye; False if there was never a port."""
        while not self._is_vain(self._clock()):
            self._step(self._clock())
            self._wait(signals, self._deadline())
            arrived = signals.take()
            for number in arrived:
                if number in STOP_SIGNALS:
                    self._stop("stopped by %s" % signal.Signals(number).name)
                    return True
            if not set(arrived).isdisjoint(RELOAD_SIGNALS):
                self._reload()
        self._stop("no port")
        return False

    def _is_vain(self, now: float) -> bool:
        return now >= self._give_up and not self._port.found

    def _step(self, now: float) -> None:
        # The port first: an agent that was held up must see a waiting challenge before it
        # concludes that none came. The checks last: starting one takes milliseconds.
        self._read(now)
        self._session.tick(now)
        self._write()
        # To look for a host that is away is done often, and shall cost next to nothing.
        if self._port.connected or self._woken or now >= self._parts_deadline():
            self._tick_parts(now)

    def _tick_parts(self, now: float) -> None:
        results = [result for part in self._parts for result in part.tick(now)]
        self._session.expect_checks(self._names(), now)
        for result in results:
            self._session.check_result(result)
        self._write()

    def _names(self) -> List[str]:
        names = [name for part in self._parts for name in sorted(part.names)]
        if len(names) > CHECKS_MAX and not self._said_too_many:
            log.warning(
                "%d checks: the host takes %d, the last are left out", len(names), CHECKS_MAX
            )
            self._said_too_many = True
        return names[:CHECKS_MAX]

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

    def _deadline(self) -> float:
        deadlines = [self._port.deadline, self._session.deadline]
        if not self._port.found:
            deadlines.append(self._give_up)
        times = [deadline for deadline in deadlines if deadline is not None]
        return min([self._parts_deadline(), *times])

    def _parts_deadline(self) -> float:
        return min([part.deadline for part in self._parts], default=math.inf)

    def _wait(self, signals: SignalPipe, deadline: float) -> None:
        with _Selector() as selector:
            selector.register(signals.fileno(), selectors.EVENT_READ)
            for part in self._parts:
                for fileno in part.filenos():
                    selector.register(fileno, selectors.EVENT_READ)
            port = self._port.fileno()
            if port is not None:
                writes = selectors.EVENT_WRITE if self._port.unwritten else 0
                selector.register(port, selectors.EVENT_READ | writes)
            self._woken = bool(selector.select(self._timeout(deadline)))

    def _wait_for_port(self, deadline: float) -> None:
        port = self._port.fileno()
        if port is None:
            # There is nothing to poll, as of a COM port.
            time.sleep(min(PACE, max(0.0, deadline - self._clock())))
            return
        with _Selector() as selector:
            selector.register(port, selectors.EVENT_WRITE)
            selector.select(self._timeout(deadline))

    def _timeout(self, deadline: float) -> Optional[float]:
        """Return the seconds to wait, None for ever."""
        return None if deadline == math.inf else max(0.0, deadline - self._clock())

    def _stop(self, reason: str) -> None:
        self._session.stop(reason)
        give_up = self._clock() + FAREWELL
        self._write()
        while self._port.unwritten and self._clock() < give_up:
            self._wait_for_port(give_up)
            self._write()
        for part in self._parts:
            part.stop()
        self._port.close()
