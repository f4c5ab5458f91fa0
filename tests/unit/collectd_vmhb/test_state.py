# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
import weakref
from pathlib import Path

import pytest

from collectd_vmhb import state as state_module
from collectd_vmhb.state import State, StateError, StateFile, StateLock, StateSaver

WORK = {"begun": 1e9, "until": 1e9 + 60, "reason": "a new disk"}
SOME = State([{"id": "i-1", "uuid": "vm", "text": "é"}], {"vm": 7}, {"vm": WORK})


def test_what_was_saved_is_loaded_by_the_next_engine(tmp_path: Path) -> None:
    StateFile(tmp_path).save(SOME)
    assert StateFile(tmp_path).load() == SOME
    assert (tmp_path / "engine.json").stat().st_mode & 0o777 == 0o600


def test_a_first_start_has_no_state(tmp_path: Path) -> None:
    assert StateFile(tmp_path).load() == State()


def test_a_file_from_before_there_was_maintenance_is_read(tmp_path: Path) -> None:
    text = '{"format": 1, "incidents": [{"id": "i-1"}], "established": {"vm": 7}}'
    (tmp_path / "engine.json").write_text(text)
    assert StateFile(tmp_path).load() == State([{"id": "i-1"}], {}, {}, other_boot=True)


def test_until_when_a_boot_is_forgiven_survives(tmp_path: Path) -> None:
    state = State(established={"vm": 7}, forgiven={"vm": 1_800_000_000.5})
    StateFile(tmp_path).save(state)
    assert StateFile(tmp_path).load() == state


def test_after_a_boot_of_the_host_no_vm_is_in_the_run_it_was_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    StateFile(tmp_path).save(SOME)
    monkeypatch.setattr(state_module, "_boot_id", lambda: "another boot")
    loaded = StateFile(tmp_path).load()
    assert loaded.other_boot
    assert loaded.established == {}
    assert loaded.incidents == SOME.incidents


def test_a_save_replaces_the_file_and_never_writes_into_it(tmp_path: Path) -> None:
    file = StateFile(tmp_path)
    file.save(SOME)
    with (tmp_path / "engine.json").open() as old:
        file.save(State())
        assert "i-1" in old.read()
    assert file.load() == State()
    assert [path.name for path in tmp_path.iterdir()] == ["engine.json"]


def test_a_save_that_fails_leaves_the_old_state_whole(tmp_path: Path) -> None:
    file = StateFile(tmp_path)
    file.save(SOME)
    (tmp_path / "engine.json.new").mkdir()
    with pytest.raises(OSError, match="directory"):
        file.save(State())
    assert file.load() == SOME


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"format": 1, "inci',
        b"[]",
        b"null",
        b'{"format": 2, "incidents": [], "established": {}}',
        b'{"format": 1, "incidents": 3, "established": {}}',
        b'{"format": 1, "incidents": [], "established": []}',
        b'{"format": 1, "incidents": [], "established": {"vm": "x"}}',
        b'{"format": 1, "incidents": []}',
        b'{"format": 1, "incidents": [], "established": {}, "maintenance": 3}',
        b'{"format": 1, "incidents": [], "established": {}, "forgiven": {"vm": "x"}}',
        b"\xff\xfe",
    ],
)
def test_what_is_no_state_is_set_aside_and_said(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "engine.json"
    path.write_bytes(content)
    with pytest.raises(StateError, match=r"engine\.json cannot be read .*unreadable"):
        StateFile(tmp_path).load()
    assert (tmp_path / "engine.json.unreadable").read_bytes() == content
    StateFile(tmp_path).save(SOME)
    assert StateFile(tmp_path).load() == SOME


def test_a_directory_in_the_files_place_is_set_aside_too(tmp_path: Path) -> None:
    (tmp_path / "engine.json").mkdir()
    with pytest.raises(StateError, match=r"engine\.json\.unreadable"):
        StateFile(tmp_path).load()
    assert StateFile(tmp_path).load() == State()


def test_a_second_engine_is_refused_until_the_first_has_gone(tmp_path: Path) -> None:
    first = StateLock(tmp_path)
    with pytest.raises(StateError, match=r"another engine holds .*/lock.*collectd -T"):
        StateLock(tmp_path)
    first.release()
    StateLock(tmp_path).release()


def test_the_state_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    StateLock(tmp_path / "a/b").release()
    assert (tmp_path / "a/b").stat().st_mode & 0o777 == 0o700


def test_a_directory_that_cannot_be_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match=r"StateDir .*/file/state: Not a directory; make it"):
        StateLock(tmp_path / "file/state")
    with pytest.raises(StateError, match=r"StateDir .*/file: File exists; make it a directory"):
        StateLock(tmp_path / "file")


class SlowFile(StateFile):
    """Begins its first save and ends it when told; remembers what it was given."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.saves: list[State] = []

    def save(self, state: State) -> None:
        self.saves.append(state)
        self.begun.set()
        assert self.go_on.wait(10)
        super().save(state)


def numbered(number: int) -> State:
    return State(established={"vm": number})


def test_while_the_disk_is_slow_only_the_newest_state_waits(tmp_path: Path) -> None:
    file, told = SlowFile(tmp_path), list[tuple[int, "str | None"]]()
    saver = StateSaver(file, lambda number, error: told.append((number, error)))
    saver.start()
    saver.save(1, numbered(1))
    assert file.begun.wait(10)
    for number in (2, 3, 4):
        saver.save(number, numbered(number))
    assert told == []
    file.go_on.set()
    saver.stop(10)
    assert told == [(1, None), (4, None)]
    assert file.saves == [numbered(1), numbered(4)]
    assert file.load() == numbered(4)


def test_while_the_disk_hangs_no_memory_is_filled(tmp_path: Path) -> None:
    file = SlowFile(tmp_path)
    saver = StateSaver(file, lambda number, error: None)
    saver.start()
    saver.save(1, numbered(1))
    assert file.begun.wait(10)
    superseded = numbered(2)
    left = weakref.ref(superseded)
    saver.save(2, superseded)
    del superseded
    saver.save(3, numbered(3))
    assert left() is None
    file.go_on.set()
    saver.stop(10)


def test_stopping_saves_what_was_handed_over(tmp_path: Path) -> None:
    file, told = StateFile(tmp_path), list[tuple[int, "str | None"]]()
    saver = StateSaver(file, lambda number, error: told.append((number, error)))
    saver.save(1, numbered(1))
    saver.start()
    saver.stop(10)
    assert told == [(1, None)]
    assert file.load() == numbered(1)


def test_a_save_that_fails_is_told_and_the_next_one_is_tried(tmp_path: Path) -> None:
    obstacle = tmp_path / "engine.json.new"
    obstacle.mkdir()
    told, done = list[tuple[int, "str | None"]](), threading.Semaphore(0)

    def saved(number: int, error: str | None) -> None:
        told.append((number, error))
        done.release()

    saver = StateSaver(StateFile(tmp_path), saved)
    saver.start()
    saver.save(1, numbered(1))
    assert done.acquire(timeout=10)
    obstacle.rmdir()
    saver.save(2, numbered(2))
    saver.stop(10)
    (first, error), second = told
    assert first == 1
    assert error is not None
    assert "Is a directory" in error
    assert "engine.json" in error
    assert second == (2, None)
