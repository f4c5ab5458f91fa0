# SPDX-License-Identifier: Apache-2.0
"""The plugin in a collectd that has all its traps: it never raises, and says what is wrong."""

from __future__ import annotations

import builtins
import fcntl
import importlib
import os
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.fakes import collectd
from tests.fakes.collectd import Config

VM = "6ba7b810-9dad-41d1-80b4-00c04fd430c8"
URL = "rabbit://vmhb:s3cret@127.0.0.1:1/"


class DeafTransport:
    """Takes any URL but "bad"; its broker is away for good."""

    def __init__(self, url: str, topic: str, timeout: float) -> None:
        self.url = url

    def open(self) -> None:
        if "bad" in self.url:
            raise ValueError(f"cannot load a driver for {self.url}")

    def send(self, event_type: str, payload: Mapping[str, object]) -> None:
        raise ConnectionError("away")

    def close(self) -> None:
        pass


@pytest.fixture(name="daemon")
def _daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[collectd.Daemon]:
    """collectd that has just imported the plugin."""
    daemon = collectd.reset()
    monkeypatch.setitem(sys.modules, "collectd", collectd)
    transport = ModuleType("vitrage_notifier.transport")
    vars(transport)["OsloTransport"] = DeafTransport
    monkeypatch.setitem(sys.modules, transport.__name__, transport)
    monkeypatch.delitem(sys.modules, "vitrage_notifier.plugin", raising=False)
    importlib.import_module("vitrage_notifier.plugin")
    yield daemon
    daemon.shutdown()
    monkeypatch.delitem(sys.modules, "vitrage_notifier.plugin", raising=False)
    collectd.reset()


def start(daemon: collectd.Daemon, state_dir: Path, **keys: Any) -> None:
    given = {"TransportUrl": URL, "StateDir": str(state_dir), **keys}
    daemon.configure("vitrage_notifier", *(Config(k, [v]) for k, v in given.items()))
    daemon.init()


def notify(**changes: Any) -> None:
    fields: dict[str, Any] = {
        "type": "gauge",
        "plugin": "vmhb",
        "plugin_instance": VM,
        "type_instance": "heartbeat-lost",
        "severity": collectd.NOTIF_FAILURE,
        "message": "no answer to 5 challenges",
        "meta": {"incident": "i-1"},
    }
    collectd.Notification(**{**fields, **changes}).dispatch()


def kept(state_dir: Path) -> list[tuple[str, str]]:
    """What lies in the outbox: (incident, fault)."""
    database = sqlite3.connect(str(state_dir / "outbox.sqlite"))
    rows = database.execute("SELECT incident, fault FROM alarm WHERE wanted ORDER BY turn")
    try:
        return rows.fetchall()
    finally:
        database.close()


def errors(daemon: collectd.Daemon) -> list[str]:
    return daemon.lines(collectd.LOG_ERR)


def test_a_notification_of_ours_is_on_disk_when_dispatch_returns(
    daemon: collectd.Daemon, tmp_path: Path
) -> None:
    start(daemon, tmp_path)
    notify()
    assert kept(tmp_path) == [("i-1", "heartbeat-lost")]
    assert errors(daemon) == []


def test_everybody_elses_notifications_are_ignored(daemon: collectd.Daemon, tmp_path: Path) -> None:
    start(daemon, tmp_path)
    notify(plugin="cpu")
    notify(plugin="vmhb2")
    assert kept(tmp_path) == []
    assert errors(daemon) == []


def test_nonsense_is_said_once_and_stops_nothing(daemon: collectd.Daemon, tmp_path: Path) -> None:
    start(daemon, tmp_path)
    for _ in range(3):
        notify(type_instance="mystery")
    notify(plugin_instance="vm-1")
    notify(type_instance="é" * 70)
    notify()
    mystery, uuid, cut = errors(daemon)
    assert "vitrage_notifier: notification ignored: type_instance 'mystery'" in mystery
    assert "plugin_instance 'vm-1'" in uuid
    assert "type_instance is no text" in cut
    assert kept(tmp_path) == [("i-1", "heartbeat-lost")]


def test_a_flood_of_nonsense_does_not_flood_the_log(
    daemon: collectd.Daemon, tmp_path: Path
) -> None:
    start(daemon, tmp_path)
    for number in range(500):
        notify(type_instance=f"mystery-{number}")
    assert len(errors(daemon)) == 50


def test_what_comes_before_init_is_kept_in_order(daemon: collectd.Daemon, tmp_path: Path) -> None:
    notify(meta={"incident": "old"})
    notify(meta={"incident": "old"}, severity=collectd.NOTIF_OKAY)
    notify(meta={"incident": "new"})
    start(daemon, tmp_path)
    assert kept(tmp_path) == [("new", "heartbeat-lost")]


def test_errors_of_the_stanza_name_their_keys_and_leave_it_off(
    daemon: collectd.Daemon, tmp_path: Path
) -> None:
    start(daemon, tmp_path, TransportUrl="nonsense", ResendInterval="often")
    notify()
    assert [line.split(": ")[1] for line in errors(daemon)] == ["TransportUrl", "ResendInterval"]
    assert list(tmp_path.iterdir()) == []


def test_a_stanza_that_is_missing_is_said(daemon: collectd.Daemon) -> None:
    daemon.init()
    notify()
    assert "no <Module vitrage_notifier> block" in errors(daemon)[0]


def test_a_stanza_that_is_there_twice_is_said(daemon: collectd.Daemon, tmp_path: Path) -> None:
    daemon.configure("vitrage_notifier", Config("TransportUrl", [URL]))
    start(daemon, tmp_path)
    assert "the block is there twice" in errors(daemon)[0]
    assert list(tmp_path.iterdir()) == []


def test_a_config_that_breaks_the_parser_does_not_raise(daemon: collectd.Daemon) -> None:
    (callback,) = daemon.callbacks["config"].values()
    callback.function(SimpleNamespace(children=None))
    assert "Module vitrage_notifier: TypeError" in errors(daemon)[0]


def test_a_missing_library_is_said_with_what_to_install(
    daemon: collectd.Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_import = builtins.__import__

    def without_oslo(name: str, *arguments: Any) -> Any:
        if name == "vitrage_notifier.transport":
            raise ModuleNotFoundError("No module named 'oslo_messaging'")
        return real_import(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without_oslo)
    start(daemon, tmp_path)
    notify()
    (line,) = errors(daemon)
    assert "No module named 'oslo_messaging'" in line
    assert "install python3-oslo.messaging" in line


def test_a_url_that_the_library_refuses_is_said_without_its_password(
    daemon: collectd.Daemon, tmp_path: Path
) -> None:
    start(daemon, tmp_path, TransportUrl="bad://vmhb:s3cret@127.0.0.1/")
    (line,) = errors(daemon)
    assert "TransportUrl: cannot load a driver for bad://vmhb:***@127.0.0.1/" in line


def test_the_password_reaches_no_log_line(daemon: collectd.Daemon, tmp_path: Path) -> None:
    start(daemon, tmp_path, ResendInterval="x")
    assert not any("s3cret" in text for _, text in daemon.log)


def test_a_second_collectd_says_so_and_does_nothing(
    daemon: collectd.Daemon, tmp_path: Path
) -> None:
    holder = os.open(tmp_path / "notifier.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(holder, fcntl.LOCK_EX)
    start(daemon, tmp_path)
    notify()
    daemon.shutdown()
    os.close(holder)
    (line,) = daemon.lines(collectd.LOG_NOTICE)
    assert "another collectd serves" in line
    assert [each.name for each in tmp_path.iterdir()] == ["notifier.lock"]


def test_after_shutdown_the_lock_is_free_and_the_outbox_has_what_waits(
    daemon: collectd.Daemon, tmp_path: Path
) -> None:
    start(daemon, tmp_path)
    notify()
    daemon.shutdown()
    notify(type_instance="check.db", meta={"incident": "late"})
    descriptor = os.open(tmp_path / "notifier.lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)
    assert kept(tmp_path) == [("i-1", "heartbeat-lost")]
    assert errors(daemon) == []


def test_a_state_directory_that_cannot_be_made_is_said(
    daemon: collectd.Daemon, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    start(daemon, tmp_path / "file" / "state")
    notify()
    (line,) = errors(daemon)
    assert "stays off: NotADirectoryError" in line


def test_an_outbox_that_cannot_be_written_is_said_once(
    daemon: collectd.Daemon, tmp_path: Path
) -> None:
    start(daemon, tmp_path)
    other = sqlite3.connect(str(tmp_path / "outbox.sqlite"))
    other.execute("DROP TABLE alarm")
    other.close()
    notify()
    notify()
    (line,) = errors(daemon)
    assert "cannot write the outbox: no such table" in line
