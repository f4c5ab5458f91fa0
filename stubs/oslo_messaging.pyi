# SPDX-License-Identifier: Apache-2.0
"""The few names of oslo.messaging that the notifier uses, as versions 14 to 18 have them.

The listener is for `vmhb-vitrage sweep`, and for the tests, which hear what Vitrage would hear.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from oslo_config.cfg import ConfigOpts

class Target:
    def __init__(self, exchange: str | None = ..., topic: str | None = ...) -> None: ...

class TransportHost:
    hostname: str | None

class TransportURL:
    hosts: list[TransportHost]
    @classmethod
    def parse(cls, conf: ConfigOpts, url: str | None = ...) -> TransportURL: ...

class NotificationTransport:
    # Nothing public lets one bound the time that a broker may take.
    _driver: Any
    def _send_notification(
        self,
        target: Target,
        ctxt: Mapping[str, Any],
        message: Mapping[str, Any],
        version: float,
        retry: int | None = ...,
    ) -> None: ...
    def cleanup(self) -> None: ...

def get_notification_transport(
    conf: ConfigOpts, url: str | None = ...
) -> NotificationTransport: ...

class NotificationListener:
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def wait(self) -> None: ...

def get_notification_listener(
    transport: NotificationTransport,
    targets: Sequence[Target],
    endpoints: Sequence[object],
    executor: str = ...,
    pool: str | None = ...,
) -> NotificationListener: ...
