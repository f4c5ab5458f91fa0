# SPDX-License-Identifier: Apache-2.0
"""The plugin in a collectd that has all its traps: it never raises, and says what is wrong."""

from __future__ import annotations

import builtins
import errno
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

    def has_listeners(self) -> bool | None:
        return None

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
    """What lies in the outbox, once the disk has everything: (incident, fault)."""
    store = sys.modules["vitrage_notifier.plugin"]._notifier._store
    if store is not None:
        store.settle()
    database = sqlite3.connect(str(state_dir / "outbox.sqlite"))
    rows = database.execute("SELECT incident, fault FROM alarm WHERE wanted ORDER BY turn")
    try:
        return rows.fetchall()
    finally:
        database.close()


def errors(daemon: collectd.Daemon) -> list[str]:
    return daemon.lines(collectd.LOG_ERR)


def test_a_notification_of_ours_goes_to_disk(daemon: collectd.Daemon, tmp_path: Path) -> None:
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


def values(daemon: collectd.Daemon) -> dict[str, float]:
    daemon.values.clear()
    daemon.read()
    assert {each.plugin for each in daemon.values} == {"vitrage_notifier"}
    return {each.type_instance: each.values[0] for each in daemon.values}


def test_how_it_stands_is_told_in_values(daemon: collectd.Daemon, tmp_path: Path) -> None:
    start(daemon, tmp_path)
    notify()
    notify(type_instance="mystery")
    seen = values(daemon)
    assert (seen["open"], seen["queued"], seen["ignored"], seen["sent"]) == (1, 1, 1, 0)
    assert seen["on-disk"] == 1
    assert seen["oldest"] >= 0
    assert 0 < seen["callback"] < 5
    assert values(daemon)["callback"] == 0
    assert {name for name in seen if name.startswith("failed-")} == {
        "failed-403",
        "failed-406",
        "failed-no-consumer",
        "failed-other",
        "failed-tls",
        "failed-unconfirmed",
        "failed-unreachable",
    }


def test_before_init_and_without_a_stanza_there_are_no_values(daemon: collectd.Daemon) -> None:
    daemon.read()
    assert daemon.values == []
    assert errors(daemon) == []


def test_a_full_outbox_is_said_once_and_what_it_drops_is_counted(
    daemon: collectd.Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitrage_notifier.outbox.MAX_WANTED", 1)
    start(daemon, tmp_path)
    for name in ("a", "b", "c"):
        notify(type_instance=f"check.{name}", meta={"incident": name})
    assert values(daemon)["dropped"] == 2
    (line,) = errors(daemon)
    assert "new ones are not sent" in line
    assert kept(tmp_path) == [("a", "check.a")]


def test_a_disk_that_fails_is_told_as_a_notification_and_so_is_its_return(
    daemon: collectd.Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitrage_notifier.store.PATIENCE", 0.1)
    monkeypatch.setattr("vitrage_notifier.store.RETRY", 0.02)
    start(daemon, tmp_path)
    notify()
    kept(tmp_path)
    other = sqlite3.connect(str(tmp_path / "outbox.sqlite"), isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    notify(type_instance="check.db", meta={"incident": "i-2"})
    sys.modules["vitrage_notifier.plugin"]._notifier._store.settle()
    daemon.notifications.clear()
    assert values(daemon)["on-disk"] == 0
    assert values(daemon)["on-disk"] == 0
    other.execute("ROLLBACK")
    other.close()
    while not daemon.lines(collectd.LOG_NOTICE):
        pass
    assert values(daemon)["on-disk"] == 1
    bad, good = daemon.notifications
    told = ("vitrage_notifier", "", "outbox-not-on-disk")
    for each in (bad, good):
        assert (each.plugin, each.plugin_instance, each.type_instance) == told
    assert (bad.severity, good.severity) == (collectd.NOTIF_WARNING, collectd.NOTIF_OKAY)
    assert "database is locked" in bad.message
    assert kept(tmp_path) == [("i-1", "heartbeat-lost"), ("i-2", "check.db")]


def test_a_disk_that_is_read_only_from_the_start_does_not_stop_it(
    daemon: collectd.Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Any, flags: int, *mode: int) -> int:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(os, "open", refuse)
    start(daemon, tmp_path)
    notify()
    assert values(daemon)["open"] == 1
    (line,) = errors(daemon)
    assert "alarms are kept in memory: OSError: [Errno 30] Read-only file system" in line


def test_the_url_can_come_from_a_file(daemon: collectd.Daemon, tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.touch(0o600)
    file.write_text("bad://vmhb:s3cret@127.0.0.1/")
    keys = (Config("TransportUrlFile", [str(file)]), Config("StateDir", [str(tmp_path)]))
    daemon.configure("vitrage_notifier", *keys)
    daemon.init()
    (line,) = errors(daemon)
    assert "cannot load a driver for bad://vmhb:***@127.0.0.1/" in line


def test_tls_that_checks_nothing_is_said(daemon: collectd.Daemon, tmp_path: Path) -> None:
    start(daemon, tmp_path, TransportUrl=URL + "?ssl=true")
    (line,) = [each for each in daemon.lines(collectd.LOG_WARNING) if "TransportUrl" in each]
    assert "without ssl_ca_file anybody may pose as the broker" in line


def test_a_url_file_that_others_can_read_leaves_it_off(
    daemon: collectd.Daemon, tmp_path: Path
) -> None:
    file = tmp_path / "url"
    file.write_text(URL)
    file.chmod(0o644)
    daemon.configure("vitrage_notifier", Config("TransportUrlFile", [str(file)]))
    daemon.init()
    (line,) = errors(daemon)
    assert line.startswith("vitrage_notifier: stays off: TransportUrlFile: ")
    assert "chmod 0600" in line
