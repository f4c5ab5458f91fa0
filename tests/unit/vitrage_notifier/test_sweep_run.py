# SPDX-License-Identifier: Apache-2.0
"""The sweep as a process: what it is made of, how it ends, and what it says of a bad URL."""

from __future__ import annotations

import logging
import queue
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from vitrage_notifier import sweep as sweep_module
from vitrage_notifier.alarm import Alarm, Subject, sign_of_life
from vitrage_notifier.hearing import ECHO
from vitrage_notifier.lease_file import knows_host
from vitrage_notifier.sweep import FILE, Options, run

LOST = Alarm("i", 1, Subject("compute-1", "", "engine-impaired"), "FAILURE", 1000.0)


class Bus:
    """A broker that gives each word back, and sends SIGTERM with the second."""

    def __init__(self, url: str, topic: str, timeout: float) -> None:
        assert (url, topic) == ("rabbit://vmhb:s3cret@127.0.0.1/", "vitrage_notifications")
        self.words = 0

    def has_listeners(self) -> bool:
        return True

    def send(self, event_type: str, payload: Mapping[str, object]) -> None:
        Ear.heard.put((event_type, payload))
        if event_type == ECHO:
            self.words += 1
        if self.words == 2:
            signal.raise_signal(signal.SIGTERM)


class Ear:
    """The listener; it hears what was said before the sweep began, too."""

    heard: queue.Queue[tuple[str, object]]

    def __init__(self, url: str, topic: str, pool: str) -> None:
        if url.startswith("pigeon"):
            raise ValueError(f"no driver for {url}")
        assert pool == "vmhb-sweep"

    def start(self) -> None: ...


@pytest.fixture(autouse=True)
def _process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Broker and listener without oslo.messaging, and a process that stays as it was."""
    Ear.heard = queue.Queue()
    modules = {"listener": SimpleNamespace(Listener=Ear)}
    modules["transport"] = SimpleNamespace(OsloTransport=Bus)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, f"vitrage_notifier.{name}", module)
    monkeypatch.setattr(sweep_module, "ECHO_INTERVAL", 0.0)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    levels = {name: logging.getLogger(name).level for name in ("", "oslo.messaging", "amqp")}
    yield
    for number, action in before.items():
        signal.signal(number, action)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def options(state_dir: Path, url: str = "rabbit://vmhb:s3cret@127.0.0.1/") -> Options:
    return Options(url, "vitrage_notifications", "vmhb-sweep", state_dir, 60.0, 900.0, 60.0)


def test_it_serves_until_it_is_told_to_end_and_keeps_what_it_heard(tmp_path: Path) -> None:
    Ear.heard.put(LOST.event(True, 120.0))
    Ear.heard.put(sign_of_life("compute-1", 60.0, 1, 1000.0))
    assert run(options(tmp_path / "state")) == 0
    assert knows_host(tmp_path / "state" / FILE, "compute-1")


def test_a_url_that_cannot_be_used_is_said_without_its_password(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert run(options(tmp_path, "pigeon://vmhb:s3cret@nest/")) == 1
    assert "--transport-url-file: no driver for pigeon://vmhb:" in caplog.text
    assert "s3cret" not in caplog.text
