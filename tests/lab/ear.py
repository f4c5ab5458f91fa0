# SPDX-License-Identifier: Apache-2.0
"""Hears what arrives on Vitrage's topic, as Vitrage does: with oslo.messaging's listener."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from oslo_config import cfg

# Its import brings eventlet along, which warns of itself; tests take warnings for errors.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import oslo_messaging


@dataclass(frozen=True)
class Heard:
    """One event of the bus."""

    publisher_id: str
    event_type: str
    payload: Mapping[str, Any]


class Ear:
    """Listens from `with` to its end, through restarts of the broker."""

    def __init__(self, url: str, topic: str = "vitrage_notifications") -> None:
        conf = cfg.ConfigOpts()
        conf([], default_config_files=[], default_config_dirs=[])
        self._transport = oslo_messaging.get_notification_transport(conf, url=url)
        self._listener = oslo_messaging.get_notification_listener(
            self._transport, [oslo_messaging.Target(topic=topic)], [self], executor="threading"
        )
        self._news = threading.Condition()
        self._heard: list[Heard] = []

    def info(
        self,
        context: Mapping[str, Any],
        publisher_id: str,
        event_type: str,
        payload: Mapping[str, Any],
        metadata: Mapping[str, Any],
    ) -> None:
        """Take an event of priority info; the listener calls this."""
        with self._news:
            self._heard.append(Heard(publisher_id, event_type, payload))
            self._news.notify_all()

    def wait_for(self, count: int, timeout: float) -> list[Heard]:
        """Return all that was heard, once that is `count` events or `timeout` seconds are over."""
        deadline = time.monotonic() + timeout
        with self._news:
            while len(self._heard) < count and time.monotonic() < deadline:
                self._news.wait(deadline - time.monotonic())
            return list(self._heard)

    def __enter__(self) -> Ear:
        self._listener.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.stop()
        self._listener.wait()
        self._transport.cleanup()
