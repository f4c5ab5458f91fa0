# SPDX-License-Identifier: Apache-2.0
"""The sweep's ear: a broker that refuses it today may take it tomorrow."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import pytest

from vitrage_notifier.sender import BACKOFF_LAST

with warnings.catch_warnings():
    # oslo.messaging brings eventlet along, which warns of itself.
    warnings.simplefilter("ignore")
    from vitrage_notifier import listener

URL = "rabbit://vmhb:s3cret@127.0.0.1:1/"


class FakeServer:
    """Refuses as long as it is told, and starts once only."""

    refusals: list[Exception]

    def __init__(self, *_: Any, **__: Any) -> None:
        self.used = False

    def start(self) -> None:
        assert not self.used
        self.used = True
        if self.refusals:
            raise self.refusals.pop(0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_broker_that_refuses_is_said_once_and_asked_again_until_it_agrees(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refused = [OSError("(403) ACCESS_REFUSED: login vmhb:s3cret refused") for _ in range(8)]
    monkeypatch.setattr(FakeServer, "refusals", refused, raising=False)
    monkeypatch.setattr("oslo_messaging.get_notification_listener", FakeServer)
    slept: list[float] = []
    listener.Listener(URL, "topic", "pool", slept.append)._start()
    assert slept == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, BACKOFF_LAST, BACKOFF_LAST]
    (said,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert "cannot listen (403)" in said.getMessage()
    assert "rights of the broker's user" in said.getMessage()
    assert "s3cret" not in said.getMessage()
    assert said.exc_info is None
