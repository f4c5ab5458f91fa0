# SPDX-License-Identifier: Apache-2.0
"""The copy on disk survives a kill; a disk that fails costs nobody time, and loses nothing."""

from __future__ import annotations

import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vitrage_notifier import store as store_module
from vitrage_notifier.alarm import Cleared, Raised, Subject
from vitrage_notifier.outbox import Outbox
from vitrage_notifier.store import Store

LOST = Subject("compute-1", "6ba7b810-9dad-41d1-80b4-00c04fd430c8", "heartbeat-lost")
CHECK = Subject("compute-1", "6ba7b810-9dad-41d1-80b4-00c04fd430c8", "check.db")


class Log:
    def __init__(self) -> None:
        self.errors: list[str] = []
        self.notices: list[str] = []
        self.well_again = threading.Event()

    def error(self, text: str) -> None:
        self.errors.append(text)

    def notice(self, text: str) -> None:
        self.notices.append(text)
        self.well_again.set()


class Scene:
    """An outbox, its store and where that writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = Log()
        self.outbox = Outbox(60.0, 900.0)
        self.store = Store(self.outbox, path, self.log)

    def start(self) -> Scene:
        self.store.start()
        return self

    def on_disk(self) -> list[str]:
        """What a process finds that starts now."""
        database = sqlite3.connect(str(self.path))
        try:
            rows = database.execute("SELECT incident FROM alarm WHERE wanted ORDER BY turn")
            return [incident for (incident,) in rows]
        finally:
            database.close()


@pytest.fixture(name="scene")
def _scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(store_module, "PATIENCE", 0.1)
    monkeypatch.setattr(store_module, "RETRY", 0.02)
    scene = Scene(tmp_path / "state" / "outbox.sqlite")
    yield scene
    assert scene.store.stop()


def test_what_is_settled_is_on_disk(scene: Scene) -> None:
    scene.start()
    scene.outbox.take(Raised(LOST, "FAILURE", 1.0, "a"))
    scene.store.settle()
    assert scene.on_disk() == ["a"]
    scene.outbox.take(Cleared(LOST, 2.0, "a"))
    scene.store.settle()
    assert scene.on_disk() == []
    assert scene.log.errors == []


def test_a_process_that_was_killed_is_continued_where_it_stood(scene: Scene) -> None:
    scene.start()
    scene.outbox.take(Raised(LOST, "FAILURE", 1.5, "a"))
    assert scene.outbox.next_errand() is not None
    scene.outbox.take(Cleared(LOST, 2.0, "a"))
    scene.outbox.take(Raised(LOST, "WARNING", 3.0, "b"))
    scene.store.settle()

    after = Scene(scene.path).start()
    clearing, raising = after.outbox.next_errand(), None
    assert clearing is not None
    assert (clearing.alarm.id, clearing.wanted) == ("a.1", False)
    after.outbox.done(clearing)
    raising = after.outbox.next_errand()
    assert raising is not None
    assert (raising.alarm, raising.wanted) == (scene.outbox.open_alarms()[0], True)
    assert after.store.stop()


def test_re_sends_cost_the_disk_nothing(scene: Scene) -> None:
    scene.start()
    scene.outbox.take(Raised(LOST, "FAILURE", 1.0, "a"))
    errand = scene.outbox.next_errand()
    assert errand is not None
    before = scene.outbox.changes
    scene.outbox.done(errand)
    assert scene.outbox.changes == before


def test_a_disk_that_somebody_else_holds_costs_no_time_and_loses_nothing(scene: Scene) -> None:
    scene.start()
    scene.outbox.take(Raised(LOST, "FAILURE", 1.0, "a"))
    scene.store.settle()
    other = sqlite3.connect(str(scene.path), isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    taking = []
    for number in range(200):
        began = time.monotonic()
        scene.outbox.take(Raised(CHECK, "FAILURE", 2.0, f"b-{number}"))
        scene.store.wake()
        taking.append(time.monotonic() - began)
    scene.store.settle()
    # Half of them: this machine may stop us anywhere.
    assert sorted(taking)[100] < 0.005
    assert "locked" in scene.store.trouble
    other.execute("ROLLBACK")
    other.close()
    assert scene.log.well_again.wait(5)
    assert scene.store.trouble == ""
    assert scene.on_disk() == ["a", "b-199"]
    (error,) = scene.log.errors
    assert "cannot be written, alarms are kept in memory: OperationalError" in error


def test_a_disk_that_hangs_is_waited_for_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang, put = threading.Event(), store_module._put

    def hang_first(*given: Any) -> None:
        hang.wait()
        put(*given)

    monkeypatch.setattr(store_module, "_put", hang_first)
    scene.outbox.take(Raised(LOST, "FAILURE", 1.0, "a"))
    scene.start()
    assert scene.store.trouble == "the disk does not answer"
    began = time.monotonic()
    for _ in range(50):
        scene.store.settle()
    assert time.monotonic() - began < 50 * store_module.PATIENCE / 2
    hang.set()
    assert scene.store.stop()
    assert scene.on_disk() == ["a"]


def test_a_disk_that_hangs_does_not_hold_the_shutdown(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang = threading.Event()
    monkeypatch.setattr(store_module, "_put", lambda *_: hang.wait())
    scene.outbox.take(Raised(LOST, "FAILURE", 1.0, "a"))
    scene.start()
    assert not scene.store.stop()
    hang.set()


def test_what_is_left_is_written_at_the_end(scene: Scene) -> None:
    scene.start()
    scene.outbox.take(Raised(LOST, "FAILURE", 1.0, "a"))
    assert scene.store.stop()
    assert scene.on_disk() == ["a"]


def test_a_full_disk_is_said_once_and_gets_everything_when_there_is_room(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    put: Any = store_module._put
    full = True

    def put_if_there_is_room(db: sqlite3.Connection, *given: Any) -> None:
        db.execute(f"PRAGMA max_page_count = {1 if full else 1000}")
        db.executescript("") if full else None
        put(db, *given)
        if full:
            db.execute("CREATE TABLE more AS SELECT zeroblob(1000000)")

    monkeypatch.setattr(store_module, "_put", put_if_there_is_room)
    scene.outbox.take(Raised(LOST, "FAILURE", 1.0, "a"))
    scene.start()
    assert "full" in scene.store.trouble
    scene.outbox.take(Raised(CHECK, "FAILURE", 1.0, "b"))
    scene.store.settle()
    full = False
    assert scene.log.well_again.wait(5)
    assert scene.on_disk() == ["a", "b"]
    assert len(scene.log.errors) == 1


def test_the_files_are_for_the_owner_alone(scene: Scene) -> None:
    scene.start()
    scene.outbox.take(Raised(LOST, "FAILURE", 1.0, "a"))
    scene.store.settle()
    assert stat.S_IMODE(scene.path.parent.stat().st_mode) == 0o700
    files = list(scene.path.parent.iterdir())
    assert len(files) > 1
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_an_outbox_that_cannot_be_read_is_set_aside(scene: Scene) -> None:
    scene.path.parent.mkdir()
    scene.path.write_bytes(b"this is no database" * 1000)
    scene.outbox.take(Raised(LOST, "FAILURE", 1.0, "a"))
    scene.start()
    assert scene.on_disk() == ["a"]
    (error,) = scene.log.errors
    assert "set aside as outbox.sqlite.unreadable" in error


def test_an_outbox_of_another_version_is_set_aside(scene: Scene) -> None:
    scene.path.parent.mkdir()
    other = sqlite3.connect(str(scene.path))
    other.execute("PRAGMA user_version = 99")
    other.close()
    scene.outbox.take(Raised(LOST, "FAILURE", 1.0, "a"))
    scene.start()
    assert scene.on_disk() == ["a"]
    assert "its version is 99" in scene.log.errors[0]


def test_a_table_that_somebody_dropped_is_made_again(scene: Scene) -> None:
    scene.start()
    other = sqlite3.connect(str(scene.path))
    other.execute("DROP TABLE alarm")
    other.close()
    scene.outbox.take(Raised(LOST, "FAILURE", 1.0, "a"))
    scene.store.settle()
    assert scene.log.well_again.wait(5)
    assert scene.on_disk() == ["a"]
