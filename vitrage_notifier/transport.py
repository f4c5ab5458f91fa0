# SPDX-License-Identifier: Apache-2.0
"""oslo.messaging's notification bus, used so that a failure to send is seen.

oslo.messaging's own ``Notifier`` logs what goes wrong and returns normally: the message is lost
and nobody knows. What lies below it raises; nothing public does, hence `_send_notification`.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from datetime import datetime, timezone

import oslo_messaging
from oslo_config import cfg

PUBLISHER_ID = "collectd"
PRIORITY = "info"

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
        self._target = oslo_messaging.Target(topic=f"{topic}.{PRIORITY}")
        self._timeout = timeout
        self._transport: oslo_messaging.NotificationTransport | None = None
        self._retry = 0

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
        """Return when the broker has confirmed the message; raise whatever went wrong."""
        message = {
            "message_id": str(uuid.uuid4()),
            "publisher_id": PUBLISHER_ID,
            "event_type": event_type,
            "priority": PRIORITY.upper(),
            "payload": payload,
            "timestamp": str(datetime.now(timezone.utc).replace(tzinfo=None)),
        }
        try:
            self.open()._send_notification(
                self._target, {}, message, version=2.0, retry=self._retry
            )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Drop the connection; raises nothing, because nothing is left to lose."""
        transport, self._transport = self._transport, None
        if transport is not None:
            try:
                transport.cleanup()
            except Exception:
                _LOG.debug("closing the connection failed", exc_info=True)


def _be_prompt(conf: cfg.ConfigOpts, timeout: float) -> None:
    """Limit how long one attempt may take; options in the URL's query still win."""
    group = "oslo_messaging_rabbit"
    # oslo.messaging has one limit for a broker that does not answer: that of its heartbeat.
    conf.set_override("heartbeat_timeout_threshold", round(timeout), group=group)
    conf.set_override("kombu_reconnect_delay", 0.0, group=group)
