# SPDX-License-Identifier: Apache-2.0
"""Hears everything on Vitrage's topic, in a queue of our own: Vitrage keeps its copies.

A pool is, with RabbitMQ, a queue of that name bound to the same exchange and topic. It outlives
us, so that nothing is missed over a restart; who ends the service for good removes the queue.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Mapping
from typing import Callable

import oslo_messaging
from oslo_config import cfg

from vitrage_notifier.sender import ADVICE, BACKOFF_FIRST, BACKOFF_LAST
from vitrage_notifier.settings import Settings
from vitrage_notifier.transport import diagnose

#: Events that may wait for the reader; beyond this they wait in the broker.
MAX_WAITING = 1_000

_LOG = logging.getLogger(__name__)

Heard = tuple[str, object]


class Listener:
    """Puts (event type, payload) into `heard`, through restarts of the broker."""

    def __init__(
        self, url: str, topic: str, pool: str, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.heard: queue.Queue[Heard] = queue.Queue(MAX_WAITING)
        self._url = url
        self._topic = topic
        self._pool = pool
        self._sleep = sleep
        #: The kind of failure that was said last; empty while all is well.
        self._trouble = ""
        self._prepare()

    def start(self) -> None:
        """Begin to listen; returns at once, also while the broker is away."""
        threading.Thread(target=self._start, name="listener", daemon=True).start()

    def info(
        self,
        context: Mapping[str, object],
        publisher_id: str,
        event_type: str,
        payload: object,
        metadata: Mapping[str, object],
    ) -> None:
        """Take an event of priority info; oslo.messaging calls this."""
        self._trouble = ""
        self.heard.put((event_type, payload))

    def _start(self) -> None:
        """Listen; again and again where the broker refuses, as it does before our user is there."""
        # Where the broker refuses later on, the library tries on by itself, and says it here.
        logging.getLogger("oslo_utils.excutils").addFilter(self._overhear)
        backoff = BACKOFF_FIRST
        while True:
            try:
                # Tries until there is a broker.
                self._listener.start()
                return
            except Exception as problem:
                self._complain(problem)
            self._sleep(backoff)
            backoff = min(BACKOFF_LAST, 2 * backoff)
            # What has failed to start cannot be started again.
            self._transport.cleanup()
            self._prepare()

    def _overhear(self, record: logging.LogRecord) -> bool:
        """Say in one line, and once, what the library says with a traceback each minute."""
        problem = record.exc_info and record.exc_info[1]
        if not isinstance(problem, Exception):
            return True
        self._complain(problem)
        return False

    def _complain(self, problem: Exception) -> None:
        kind, text = diagnose(problem)
        if kind != self._trouble:
            self._trouble, text = kind, Settings(self._url).redact(text)
            _LOG.warning("cannot listen (%s), tries on: %s; %s", kind, text, ADVICE[kind])

    def _prepare(self) -> None:
        """Make a listener; raises when the URL cannot be used. Connects nowhere."""
        conf = cfg.ConfigOpts()
        conf([], default_config_files=[], default_config_dirs=[])
        self._transport = oslo_messaging.get_notification_transport(conf, url=self._url)
        if "oslo_messaging_rabbit" in conf:
            conf.set_override("rabbit_qos_prefetch_count", 100, group="oslo_messaging_rabbit")
        self._listener = oslo_messaging.get_notification_listener(
            self._transport,
            [oslo_messaging.Target(topic=self._topic)],
            [self],
            executor="threading",
            pool=self._pool,
        )
