# SPDX-License-Identifier: Apache-2.0
"""oslo.messaging's notification bus, used so that a failure to send is seen.

oslo.messaging's own ``Notifier`` logs what goes wrong and returns normally: the message is lost
and nobody knows. What lies below it raises; nothing public does, hence `_send_notification`. Its
driver for RabbitMQ asks for publisher confirms and returns when the broker has confirmed; but it
waits for that for as long as the broker sends heartbeats, hence `_cut_after`.
"""

from __future__ import annotations

import logging
import re
import socket
import ssl
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

import oslo_messaging
from oslo_config import cfg

from vitrage_notifier.sender import NotSentError
from vitrage_notifier.settings import Settings

PUBLISHER_ID = "collectd"
PRIORITY = "info"
#: Seconds that a connection's orderly end may take before it is left to itself.
CLOSING_PATIENCE = 1.0

_LOG = logging.getLogger(__name__)

# Without this, Python prints oslo.messaging's errors where no one has configured logging: some
# lines per attempt, for as long as the broker is away. The sender says it once.
for _name in ("oslo.messaging", "oslo_messaging"):
    logging.getLogger(_name).addHandler(logging.NullHandler())


class OsloTransport:
    """Sends notifications; an attempt is over in a few times `timeout` seconds.

    The connection is made by the first send and dropped by the first failure: one that broke
    would try to reconnect for ever when used again. For one thread.
    """

    def __init__(self, url: str, topic: str, timeout: float) -> None:
        self._url = url
        self._queue = f"{topic}.{PRIORITY}"
        self._target = oslo_messaging.Target(topic=self._queue)
        self._timeout = timeout
        self._transport: oslo_messaging.NotificationTransport | None = None
        self._retry = 0
        #: Whether a broker has let us in: what it does not answer before was never sent.
        self._connected = False

    def open(self) -> oslo_messaging.NotificationTransport:
        """Make ready to connect; raises when the URL cannot be used. Connects nowhere."""
        if self._transport is not None:
            return self._transport
        conf = cfg.ConfigOpts()
        conf([], default_config_files=[], default_config_dirs=[])
        self._transport = oslo_messaging.get_notification_transport(conf, url=self._url)
        # Each broker of the list once, then we are told.
        hosts = oslo_messaging.TransportURL.parse(conf, self._url).hosts
        self._retry = max(0, len(hosts) - 1)
        if "oslo_messaging_rabbit" in conf:
            _be_prompt(conf, self._timeout)
        return self._transport

    def send(self, event_type: str, payload: Mapping[str, object]) -> None:
        """Return when the broker has confirmed the message; NotSentError otherwise."""
        message = {
            "message_id": str(uuid.uuid4()),
            "publisher_id": PUBLISHER_ID,
            "event_type": event_type,
            "priority": PRIORITY.upper(),
            "payload": payload,
            "timestamp": str(datetime.now(timezone.utc).replace(tzinfo=None)),
        }
        with self._failing_once() as transport, _cut_after(self._timeout, self._connection()):
            transport._send_notification(self._target, {}, message, version=2.0, retry=self._retry)

    def has_listeners(self) -> bool | None:
        """Whether anybody reads the queue; None when the broker, or its driver, does not tell."""
        with self._failing_once():
            connection = self._connection()
            if connection is None:
                return None
            with _cut_after(self._timeout, connection), connection._connection_lock:
                return self._is_consumed(connection)

    def close(self) -> None:
        """Drop the connection; raises nothing, because nothing is left to lose."""
        transport, self._transport, self._connected = self._transport, None, False
        if transport is None:
            return
        # It waits for the library's heartbeat thread, which may be waiting for a broker that
        # stands still: some twenty seconds, in which we need not wait along.
        closing = threading.Thread(target=_clean_up, args=(transport,), daemon=True)
        closing.start()
        closing.join(CLOSING_PATIENCE)

    @contextmanager
    def _failing_once(self) -> Iterator[oslo_messaging.NotificationTransport]:
        """Drop the connection whatever goes wrong, and say what it was."""
        try:
            yield self.open()
        except Exception as problem:
            connected = self._connected
            self.close()
            kind, text = diagnose(problem)
            if kind == "unconfirmed" and not connected:
                kind = "unreachable"
            raise NotSentError(kind, Settings(self._url).redact(text)) from problem
        except BaseException:
            self.close()
            raise

    def _connection(self) -> Any:
        """Return the connection that the next send takes from the pool; None: not RabbitMQ."""
        driver = self.open()._driver
        if not hasattr(driver, "_connection_pool"):
            self._connected = True
            return None
        with driver._get_connection(retry=self._retry) as borrowed:
            self._connected = True
            return borrowed.connection

    def _is_consumed(self, connection: Any) -> bool:
        # On a channel of its own: the broker closes it when there is no such queue.
        with connection.connection.channel() as channel:
            try:
                # Passive: looks at the queue, and is an error when there is none.
                queue = channel.queue_declare(queue=self._queue, passive=True)
            except Exception as problem:
                if getattr(problem, "code", None) != 404:
                    raise
                # The library believes that it is still there; the next send makes it again.
                connection._declared_queues.clear()
                return False
        return bool(queue.consumer_count)


def _clean_up(transport: oslo_messaging.NotificationTransport) -> None:
    try:
        transport.cleanup()
    except Exception:
        _LOG.debug("closing the connection failed", exc_info=True)


@contextmanager
def _cut_after(seconds: float, connection: Any) -> Iterator[None]:
    """Close the connection's socket under whoever waits for it, if that takes too long."""
    if connection is None:
        yield
        return
    cut = threading.Event()

    def close() -> None:
        cut.set()
        try:
            connection.channel.connection.sock.shutdown(socket.SHUT_RDWR)
        except (AttributeError, OSError):
            _LOG.debug("the connection is closed already", exc_info=True)

    timer = threading.Timer(seconds, close)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception as problem:
        if cut.is_set():
            raise _UnconfirmedError(f"no confirmation within {seconds:g} s") from problem
        raise
    finally:
        timer.cancel()


class _UnconfirmedError(Exception):
    """The broker took the message, and nobody knows what it did with it."""


def diagnose(problem: BaseException) -> tuple[str, str]:
    """Return the kind of a failure, one of `ADVICE`, and its text."""
    text = f"{type(problem).__name__}: {problem}"
    cause: BaseException | None = problem
    while cause is not None:
        kind = _kind(cause)
        if kind:
            return kind, text
        cause = cause.__cause__ or cause.__context__
    return "other", text


def _kind(problem: BaseException) -> str:
    if isinstance(problem, (_UnconfirmedError, socket.timeout)):
        return "unconfirmed"
    if isinstance(problem, ssl.SSLError):
        return "tls"
    # The broker's answer, by its number; the library often leaves only its text.
    code = re.search(r"\((403|406|530)\)|(ACCESS_REFUSED|PRECONDITION_FAILED)", str(problem))
    if code:
        return "406" if code.group(1) == "406" or code.group(2) == "PRECONDITION_FAILED" else "403"
    return "unreachable" if isinstance(problem, OSError) else ""


def _be_prompt(conf: cfg.ConfigOpts, timeout: float) -> None:
    """Limit how long one attempt may take; options in the URL's query still win."""
    group = "oslo_messaging_rabbit"
    # oslo.messaging has one limit for a broker that does not answer: that of its heartbeat.
    conf.set_override("heartbeat_timeout_threshold", round(timeout), group=group)
    conf.set_override("kombu_reconnect_delay", 0.0, group=group)
