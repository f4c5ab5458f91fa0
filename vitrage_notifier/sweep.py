# SPDX-License-Identifier: Apache-2.0
"""`vmhb-vitrage sweep`: the service that clears in Vitrage what no host can clear any more.

It listens to what the notifiers send and keeps it as leases. It sends OK for an alarm whose host
does not renew it, and an alarm of its own against a host that fell silent. While it cannot hear,
or Vitrage does not read and the notifiers therefore hold back, it gives everybody the benefit of
the doubt.
"""

from __future__ import annotations

import logging
import queue
import signal
import socket
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Callable

from vitrage_notifier.hearing import ECHO, Hearing
from vitrage_notifier.leases import RETIRED, Leases
from vitrage_notifier.sender import ADVICE, BACKOFF_LAST, NotSentError, Transport
from vitrage_notifier.settings import Settings

#: Seconds between two words to ourselves.
ECHO_INTERVAL = 5.0
#: Seconds between two looks at what is due.
TICK = 1.0
#: When we can hear again, so many seconds may pass until a notifier tries to speak again.
GRACE = BACKOFF_LAST
#: How long the broker may take to answer, in seconds.
SEND_TIMEOUT = 10.0
#: What is remembered, in the directory that the operator names.
FILE = "sweep.sqlite"
#: Events that are taken up between two such looks.
BATCH = 1000
#: What is sent in one turn, and for how many seconds: our own echo must not wait longer.
MOST_SENT = 1000
LONGEST_SPEECH = 2.0

_LOG = logging.getLogger("vmhb-vitrage sweep")


class Sweep:
    """Hears, waits and speaks; one `turn` after the other."""

    def __init__(
        self,
        leases: Leases,
        hearing: Hearing,
        heard: queue.Queue[tuple[str, object]],
        transport: Transport,
        grace: float = GRACE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._leases = leases
        self._hearing = hearing
        self._heard = heard
        self._transport = transport
        self._grace = grace
        self._clock = clock
        self._read = True
        self._attentive = False
        #: Whether there was more to send than one turn has room for.
        self._interrupted = False
        self._trouble = ""
        self._counts = (0, 0, 0)

    def turn(self, wait: float = TICK) -> None:
        """Take up what was heard, for `wait` seconds at most, then send what is due."""
        self._listen(0.0 if self._interrupted else wait)
        self._interrupted = False
        try:
            attentive, why = self._pay_attention()
            if attentive:
                self._speak()
        except NotSentError as problem:
            attentive, why = False, f"cannot send ({problem.kind}): {problem}"
            why += f"; {ADVICE[problem.kind]}"
        self._note(attentive, why)

    def _listen(self, wait: float) -> None:
        try:
            event = self._heard.get(timeout=wait)
            for _ in range(BATCH):
                self._hear(*event)
                event = self._heard.get_nowait()
            self._hear(*event)
        except queue.Empty:
            return

    def _hear(self, event_type: str, payload: object) -> None:
        now = self._clock()
        if event_type == ECHO:
            self._hearing.hear(payload, now)
        else:
            self._leases.hear(event_type, payload, now)

    def _pay_attention(self) -> tuple[bool, str]:
        """Say a word to ourselves if it is time; return whether we hear, and why not."""
        word = self._hearing.word(self._clock())
        if word is not None:
            # Whom nobody reads should not fill the broker, and neither do the notifiers.
            self._read = self._transport.has_listeners() is not False
            if self._read:
                self._transport.send(*word)
                self._hearing.said(self._clock())
        if not self._read:
            return False, "nobody reads Vitrage's topic: does vitrage-graph run?"
        now = self._clock()
        return self._hearing.hears(now), self._hearing.obstacle(now)

    def _speak(self) -> None:
        now = self._clock()
        if not self._attentive:
            self._leases.vouch_for_all(now, self._grace)
        for number, standing in enumerate(self._leases.due(now)):
            if number == MOST_SENT or self._clock() - now >= LONGEST_SPEECH:
                self._interrupted = True
                return
            event_type, payload = standing.event
            self._transport.send(event_type, payload)
            if not standing.told:
                _LOG.info(
                    "%s: %s on %s, %s",
                    event_type,
                    payload.get("message"),
                    payload.get("host"),
                    standing.id,
                )
            self._leases.sent(standing, self._clock())

    def _note(self, attentive: bool, why: str) -> None:
        if attentive and not self._attentive:
            _LOG.warning("hears the notifiers: every lease counts anew from now on")
            why = ""
        elif why and why != self._trouble:
            _LOG.warning("does not count the time: %s", why)
        self._attentive, self._trouble = attentive, why
        counts = self._leases.counts()
        if counts != self._counts:
            self._counts = counts
            _LOG.info("%d alarms are vouched for, %d hosts speak, %d are silent", *counts)


@dataclass(frozen=True)
class Options:
    """What the operator decides; durations are seconds."""

    url: str
    topic: str
    pool: str
    state_dir: Path
    #: Period in which OKs and our own alarms are sent again, and how long OKs are.
    repeat: float
    repeat_for: float
    grace: float


def run(options: Options) -> int:
    """Serve until SIGTERM; return the exit status."""
    with warnings.catch_warnings():
        # oslo.messaging brings eventlet along, which warns of itself.
        warnings.simplefilter("ignore")
        from vitrage_notifier.listener import Listener
        from vitrage_notifier.transport import OsloTransport

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    for name in ("oslo.messaging", "oslo_messaging", "amqp", "kombu"):
        # Lines per attempt while the broker is away; we say it once.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    stopping: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    path = options.state_dir / FILE
    try:
        listener = Listener(options.url, options.topic, options.pool)
    except Exception as problem:
        # Whatever oslo.messaging makes of a URL that it does not like.
        redacted = Settings(options.url).redact(str(problem))
        _LOG.critical("--transport-url-file: %s", redacted)
        return 1
    leases = Leases(path, time.monotonic(), options.repeat, options.repeat_for, time.time)
    listener.start()
    transport = OsloTransport(options.url, options.topic, SEND_TIMEOUT)
    hearing = Hearing(ECHO_INTERVAL, options.pool)
    sweep = Sweep(leases, hearing, listener.heard, transport, options.grace)
    while not stopping:
        sweep.turn()
    leases.close()
    return 0


def retire(transport: Transport, host: str) -> None:
    """Tell the running service that a host is gone for good."""
    transport.send(RETIRED, {"vmhb": {"version": 1, "host": host}, "from": socket.gethostname()})
