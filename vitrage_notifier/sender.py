# SPDX-License-Identifier: Apache-2.0
"""One thread that carries errands from the outbox to the broker, until told to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Callable, Protocol

from vitrage_notifier.alarm import LEASE_PERIODS, sign_of_life
from vitrage_notifier.outbox import Errand, Outbox

#: Seconds between two attempts while the broker is away: doubled from the first to the last.
BACKOFF_FIRST = 1.0
BACKOFF_LAST = 60.0
#: Seconds after which it is said again that the broker is away, with the reason of that moment.
REMINDER = 3600.0
#: Longest sleep while there is nothing to do; bounds how late an open alarm is sent again.
IDLE = 5.0


class Transport(Protocol):
    """Where errands go."""

    def send(self, event_type: str, payload: Mapping[str, object]) -> None:
        """Return once the broker has the message; raise when that is not certain."""

    def close(self) -> None:
        """Drop the connection."""


class Log(Protocol):
    """Where the sender says what an operator should know."""

    def warning(self, text: str) -> None:
        """Say that something is wrong."""

    def notice(self, text: str) -> None:
        """Say that it is well again."""


class Sender:
    """Sends one errand per step; says once that the broker is away, and once that it is back."""

    def __init__(
        self,
        outbox: Outbox,
        transport: Transport,
        log: Log,
        resend_interval: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._outbox = outbox
        self._transport = transport
        self._log = log
        self._resend_interval = resend_interval
        self._clock = clock
        self._backoff = 0.0
        self._silent_for = 0.0
        #: Hosts -> when their next sign of life is due.
        self._signs: dict[str, float] = {}
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        # Should the broker's library hang in spite of all timeouts, collectd must still end.
        self._thread = threading.Thread(target=self._run, name="vitrage_notifier", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Let the thread look into the outbox now."""
        self._wake.set()

    def stop(self, patience: float) -> bool:
        """End the thread; False when it still runs after `patience` seconds."""
        self._stop.set()
        self._wake.set()
        if self._thread is None:
            return True
        self._thread.join(patience)
        return not self._thread.is_alive()

    def step(self) -> float:
        """Send what is due next; return the seconds to wait before the next step."""
        try:
            self._send_signs_of_life(self._clock())
        except Exception as problem:
            return self._failed(problem)
        errand = self._outbox.next_errand(self._clock(), self._resend_interval)
        if errand is None:
            return min(IDLE, self._resend_interval)
        try:
            lease = LEASE_PERIODS * self._resend_interval
            self._transport.send(*errand.alarm.event(errand.wanted, lease))
        except Exception as problem:
            return self._failed(problem)
        self._outbox.done(errand, self._clock())
        self._succeeded(errand)
        return 0.0

    def _send_signs_of_life(self, now: float) -> None:
        period = self._resend_interval
        for host, open_alarms in self._outbox.engines().items():
            # A clock that was set back must not silence us until it has caught up.
            if now < self._signs.get(host, now) <= now + period:
                continue
            self._transport.send(*sign_of_life(host, period, open_alarms, now))
            self._signs[host] = now + period

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            try:
                wait = self.step()
            except Exception as problem:
                # The outbox's disk: there may be room for it later.
                wait = self._failed(problem)
            if wait:
                # While the broker is away, news is no reason to try earlier.
                (self._stop if self._backoff else self._wake).wait(wait)
        self._transport.close()

    def _failed(self, problem: Exception) -> float:
        if not self._backoff or self._silent_for >= REMINDER:
            self._silent_for = 0.0
            self._log.warning(
                f"cannot send to the broker, alarms wait on disk: {type(problem).__name__}: "
                f"{problem}"
            )
        self._backoff = min(BACKOFF_LAST, max(BACKOFF_FIRST, self._backoff * 2))
        self._silent_for += self._backoff
        return self._backoff

    def _succeeded(self, errand: Errand) -> None:
        if self._backoff:
            self._backoff = 0.0
            self._log.notice(f"the broker is back, {errand.alarm.id} was sent first")
