# SPDX-License-Identifier: Apache-2.0
"""One thread that carries errands from the outbox to the broker, until told to stop."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Callable, Protocol

from vitrage_notifier.alarm import LEASE_PERIODS, Event, sign_of_life
from vitrage_notifier.outbox import EARLIEST_RESEND, Errand, Outbox

#: Seconds between two attempts while the broker is away: doubled from the first to the last,
#: and shortened at random to this part at most, lest a thousand nodes come at one moment.
BACKOFF_FIRST = 1.0
BACKOFF_LAST = 60.0
BACKOFF_LEAST_PART = 0.5
#: Seconds after which it is said again that the broker is away, with the reason of that moment.
REMINDER = 3600.0
#: Longest sleep while there is nothing to do, or nobody who reads it.
IDLE = 5.0

#: Kinds of failure -> what an operator can do about it.
ADVICE = {
    "unreachable": "check the hosts and ports of the transport URL",
    "403": "check user, password, virtual host and rights of the broker's user",
    "406": (
        "the other services declare exchange or queue otherwise: put rabbit_quorum_queue or "
        "amqp_durable_queues into the URL's query as they have it"
    ),
    "unconfirmed": "see `rabbitmqctl status` for an alarm of memory or disk",
    "tls": "check ssl, ssl_ca_file and the host names of the transport URL",
    "other": "the text is the broker's, or its library's",
}


class NotSentError(Exception):
    """The broker has not confirmed the message; `kind` is one of `ADVICE`."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Transport(Protocol):
    """Where errands go."""

    def send(self, event_type: str, payload: Mapping[str, object]) -> None:
        """Return once the broker has the message; NotSentError when that is not certain."""

    def has_listeners(self) -> bool | None:
        """Whether anybody reads what is sent; None when nobody can tell."""

    def close(self) -> None:
        """Drop the connection."""


class Log(Protocol):
    """Where the sender says what an operator should know."""

    def warning(self, text: str) -> None:
        """Say that something is wrong."""

    def notice(self, text: str) -> None:
        """Say that it is well again."""


@dataclass
class Counters:
    """What happened since the start; written by the sender's thread alone."""

    #: Confirmed by the broker.
    sent: int = 0
    #: Attempts that followed a failed one.
    retried: int = 0
    #: Times that re-sends were held back because nobody reads them.
    unread: int = 0
    failed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ADVICE, 0))


class Sender:
    """Sends one errand per step; says once that the broker is away, and once that it is back.

    `before_sending` is called before each attempt: what Vitrage may hear of must be on disk.
    """

    def __init__(
        self,
        outbox: Outbox,
        transport: Transport,
        log: Log,
        resend_interval: float,
        before_sending: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counters = Counters()
        self._outbox = outbox
        self._transport = transport
        self._log = log
        self._resend_interval = resend_interval
        self._before_sending = before_sending
        self._clock = clock
        self._backoff = 0.0
        self._trouble = ""
        self._silent_for = 0.0
        self._unread = False
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
            return self._send_next()
        except Exception as problem:
            return self._failed(problem)

    def _send_next(self) -> float:
        errand = self._outbox.next_errand(repeats=False)
        if errand is not None:
            self._carry(errand)
            return 0.0
        host, sign_due = self._next_sign_of_life()
        wait = min(IDLE, sign_due, self._outbox.next_repeat())
        if wait > 0:
            return wait
        if not self._is_read():
            return IDLE
        if sign_due <= 0:
            self._give_sign_of_life(host)
        errand = self._outbox.next_errand()
        if errand is not None:
            self._carry(errand)
        return 0.0

    def _carry(self, errand: Errand) -> None:
        self._before_sending()
        self._send(errand.alarm.event(errand.wanted, LEASE_PERIODS * self._resend_interval))
        self._outbox.done(errand)

    def _give_sign_of_life(self, host: str) -> None:
        period = self._resend_interval
        open_alarms = self._outbox.count_open(host)
        self._send(sign_of_life(host, period, open_alarms, time.time()))
        self._signs[host] = self._clock() + period * random.uniform(EARLIEST_RESEND, 1.0)  # noqa: S311

    def _next_sign_of_life(self) -> tuple[str, float]:
        """Return the host whose sign of life is due next, and in how many seconds."""
        now = self._clock()
        hosts = self._outbox.engines()
        self._signs = {host: self._signs.get(host, now) for host in hosts}
        host = min(self._signs, key=self._signs.__getitem__, default="")
        return host, self._signs.get(host, math.inf) - now

    def _is_read(self) -> bool:
        """Whether it makes sense to repeat what was said; what nobody reads fills the broker."""
        read = self._transport.has_listeners() is not False
        if not read:
            self.counters.unread += 1
        if read is self._unread:
            self._unread = not read
            if read:
                self._log.notice("what we send is read again: open alarms are repeated")
            else:
                self._log.warning(
                    "nobody reads what we send: is vitrage-graph running, on this broker and on "
                    "this topic? Open alarms are repeated as soon as it is"
                )
        return read

    def _send(self, event: Event) -> None:
        if self._backoff:
            self.counters.retried += 1
        self._transport.send(*event)
        self.counters.sent += 1
        if self._backoff:
            self._backoff = 0.0
            self._trouble = ""
            self._log.notice("the broker is back, what waited goes out")

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            wait = self.step()
            if wait:
                # While the broker is away, news is no reason to try earlier.
                (self._stop if self._backoff else self._wake).wait(wait)
        self._transport.close()

    def _failed(self, problem: Exception) -> float:
        kind = problem.kind if isinstance(problem, NotSentError) else "other"
        self.counters.failed[kind] += 1
        if kind != self._trouble or self._silent_for >= REMINDER:
            self._trouble = kind
            self._silent_for = 0.0
            self._log.warning(
                f"cannot send to the broker, alarms wait ({kind}): {problem}; {ADVICE[kind]}"
            )
        # Within a period from its return the broker has everything.
        last = min(BACKOFF_LAST, self._resend_interval)
        self._backoff = min(last, max(BACKOFF_FIRST, self._backoff * 2))
        wait = self._backoff * random.uniform(BACKOFF_LEAST_PART, 1.0)  # noqa: S311
        self._silent_for += wait
        return wait
