# SPDX-License-Identifier: Apache-2.0
"""Leases: what nobody vouches for any more is cleared, and nothing else."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vitrage_notifier import lease_file
from vitrage_notifier import leases as leases_module
from vitrage_notifier.alarm import Alarm, Event, Subject, sign_of_life
from vitrage_notifier.lease_file import LeaseFile, knows_host
from vitrage_notifier.leases import MAX_TERM, RETIRED, Leases

VM = "6ba7b810-9dad-41d1-80b4-00c04fd430c8"
TERM, PERIOD, REPEAT, REPEAT_FOR = 120.0, 60.0, 30.0, 100.0
LOST = Alarm("i", 1, Subject("compute-1", VM, "heartbeat-lost"), "FAILURE", 1000.0)


class Scene:
    """Leases on a disk that survives `restart`; time stands still unless told."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = 5000.0
        self.leases = self._open()

    def _open(self) -> Leases:
        return Leases(self.path, self.now, REPEAT, REPEAT_FOR, wall=lambda: 1790000000.0)

    def restart(self) -> None:
        self.leases.close()
        self.now = 7.0  # the machine was restarted as well: another monotonic clock
        self.leases = self._open()

    def hear(self, event: Event) -> None:
        self.leases.hear(*event, self.now)

    def send(self) -> list[tuple[str, str]]:
        """Send what is due; return event types and ids."""
        due = self.leases.due(self.now)
        for each in due:
            self.leases.sent(each, self.now)
        return [(each.event[0], each.id) for each in due]


@pytest.fixture(name="scene")
def _scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path / "sweep.sqlite")
    yield scene
    scene.leases.close()


def alive(host: str = "compute-1") -> Event:
    return sign_of_life(host, PERIOD, 0, 1000.0)


def test_an_alarm_that_nobody_renews_is_cleared_as_it_was_raised(scene: Scene) -> None:
    scene.hear(LOST.event(True, TERM))
    scene.now += TERM - 1
    assert scene.send() == []
    scene.now += 1
    (standing,) = scene.leases.due(scene.now)
    assert standing.event == LOST.event(False, TERM)


def test_an_alarm_that_is_renewed_or_cleared_by_its_host_is_left_alone(scene: Scene) -> None:
    for _ in range(5):
        scene.hear(LOST.event(True, TERM))
        scene.now += TERM - 1
        assert scene.send() == []
    scene.hear(LOST.event(False, TERM))
    scene.now += 10 * TERM
    assert scene.send() == []


def test_an_ok_is_repeated_for_a_while_and_then_forgotten(scene: Scene) -> None:
    scene.hear(LOST.event(True, TERM))
    scene.now += TERM
    sent = 0
    for _ in range(20):
        sent += len(scene.send())
        assert scene.send() == []
        scene.now += REPEAT
    assert sent == 1 + REPEAT_FOR // REPEAT


def test_a_host_that_vouches_again_is_not_contradicted_any_more(scene: Scene) -> None:
    scene.hear(LOST.event(True, TERM))
    scene.now += TERM
    assert scene.send() == [("collectd.alarm.ok", "i.1")]
    scene.hear(LOST.event(True, TERM))
    scene.now += REPEAT
    assert scene.send() == []
    scene.now += TERM
    assert scene.send() == [("collectd.alarm.ok", "i.1")]


def test_a_host_is_silent_after_three_periods_and_is_not_when_it_speaks(scene: Scene) -> None:
    scene.hear(alive())
    scene.now += 3 * PERIOD - 1
    assert scene.send() == []
    scene.now += 1
    (standing,) = scene.leases.due(scene.now)
    event_type, payload = standing.event
    assert event_type == "collectd.alarm.failure"
    assert (payload["host"], payload["message"]) == ("compute-1", "VM heartbeat engine silent")
    assert payload["graph_query_result"] == [{"id": "compute-1", "vitrage_type": "nova.host"}]
    for _ in range(10):  # Vitrage forgets, hence again and again
        assert len(scene.send()) == 1
        scene.now += REPEAT
    scene.hear(alive())
    assert scene.send() == [("collectd.alarm.ok", standing.id)]
    assert scene.leases.counts() == (0, 1, 0)


def test_each_silence_is_an_incident_of_its_own(scene: Scene) -> None:
    ids = set()
    for _ in range(3):
        scene.hear(alive())
        scene.now += 3 * PERIOD
        ids |= {id_ for kind, id_ in scene.send() if kind.endswith("failure")}
    assert len(ids) == 3


def test_the_oks_of_what_a_forger_invents_are_bounded(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases_module, "MAX_REPEATED_OKS", 3)
    scene.hear(alive())
    scene.now += 3 * PERIOD
    for number in range(10):
        scene.hear(Alarm(f"i{number}", 1, LOST.subject, "FAILURE", 1.0).event(True, 1.0))
        scene.now += 1.0
        scene.send()
    scene.now += REPEAT
    ok = [id_ for kind, id_ in scene.send() if kind == "collectd.alarm.ok"]
    assert ok == ["i7.1", "i8.1", "i9.1"]
    assert scene.leases.counts() == (0, 0, 1)


def test_the_longest_due_is_sent_first(scene: Scene) -> None:
    scene.hear(Alarm("a", 1, LOST.subject, "FAILURE", 1.0).event(True, 2.0))
    scene.hear(Alarm("b", 1, LOST.subject, "FAILURE", 1.0).event(True, 1.0))
    scene.now += 1.0
    scene.leases.due(scene.now)
    scene.now += 1.0
    assert [id_ for _, id_ in scene.send()] == ["b.1", "a.1"]


def test_all_that_may_be_remembered_fits_into_the_units_memory() -> None:
    unit = Path(leases_module.__file__).parent / "systemd/vmhb-vitrage-sweep.service"
    (megabytes,) = re.findall(r"^MemoryMax=(\d+)M$", unit.read_text(), re.MULTILINE)
    entries = leases_module.MAX_LEASES + leases_module.MAX_REPEATED_OKS + leases_module.MAX_HOSTS
    # Some 700 bytes are the objects around a payload; the libraries need a hundred megabytes.
    assert entries * (leases_module.MAX_PAYLOAD + 1024) < (int(megabytes) - 150) << 20


def wait_for_disk(scene: Scene) -> None:
    """Return when the disk has everything."""
    file = scene.leases._file
    with file._news:
        assert file._news.wait_for(lambda: file._unsaved == set() and not file._busy_since, 20)


def test_a_disk_that_fails_is_said_once_and_gets_everything_when_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_file, "RETRY", 0.02)
    monkeypatch.setattr(lease_file, "PACE", 0.0)
    path = tmp_path / "sweep.sqlite"
    path.write_text("this is no database, " * 100)
    scene = Scene(path)
    scene.hear(LOST.event(True, TERM))
    scene.hear(alive("compute-2"))
    for _ in range(3):
        assert scene.send() == []
    (failing,) = caplog.records
    assert "goes on in memory" in failing.getMessage()

    path.unlink()
    read(scene)
    wait_for_disk(scene)
    assert scene.send() == []
    assert "has everything" in caplog.records[-1].getMessage()
    assert (knows_host(path, "compute-2"), knows_host(path, "compute-9")) == (True, False)
    scene.restart()
    assert scene.leases.counts() == (1, 1, 0)
    scene.leases.close()


def read(scene: Scene) -> None:
    """Return when the disk has said what is there, and that was taken over."""
    file = scene.leases._file
    with file._news:
        assert file._news.wait_for(lambda: file._loaded, 20)
    assert scene.send() == []


def test_a_disk_that_hangs_holds_up_nobody_and_is_heard_when_it_answers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Scene(tmp_path / "sweep.sqlite")
    before.hear(alive("compute-9"))
    before.leases.close()
    answers = threading.Event()
    open_ = lease_file._open

    def hang(path: Path) -> sqlite3.Connection:
        answers.wait()
        return open_(path)

    monkeypatch.setattr(lease_file, "_open", hang)
    monkeypatch.setattr(lease_file, "PATIENCE", 0.01)
    monkeypatch.setattr(lease_file, "PACE", 0.0)
    scene = Scene(tmp_path / "sweep.sqlite")
    scene.hear(LOST.event(True, TERM))
    scene.now += TERM
    assert scene.send() == [("collectd.alarm.ok", "i.1")]
    scene.send()
    (failing,) = caplog.records
    assert "the disk does not answer; goes on in memory" in failing.getMessage()
    assert scene.leases.counts() == (0, 0, 0)

    monkeypatch.setattr(lease_file, "PATIENCE", 20.0)
    answers.set()
    read(scene)
    wait_for_disk(scene)
    scene.send()
    assert "has everything" in caplog.records[-1].getMessage()
    assert scene.leases.counts() == (0, 1, 0), "what an earlier sweep left is known as well"
    scene.restart()
    assert [id_ for _, id_ in scene.send()] == ["i.1"]
    scene.leases.close()


def test_what_comes_and_goes_while_the_disk_hangs_does_not_pile_up(tmp_path: Path) -> None:
    file = LeaseFile(tmp_path / "sweep.sqlite")
    file._unsaved = set()
    for number in range(5000):
        file.put("host", f"compute-{number}", 60.0)
        file.remove("host", f"compute-{number}")
    assert len(file._unsaved or ()) <= 1001
    assert file._rows == {}


def test_a_disk_that_fails_on_the_way_ends_nothing(scene: Scene) -> None:
    with sqlite3.connect(scene.path) as other:
        other.executescript("DROP TABLE lease")
    other.close()
    scene.hear(LOST.event(True, TERM))
    scene.now += TERM
    assert scene.send() == [("collectd.alarm.ok", "i.1")]


def test_our_own_alarm_is_nobodys_lease_and_no_sign_of_life(scene: Scene) -> None:
    scene.hear(alive())
    scene.now += 3 * PERIOD
    (standing,) = scene.leases.due(scene.now)
    scene.hear(standing.event)
    assert scene.leases.counts() == (0, 0, 1)


def test_a_host_that_is_retired_is_silent_no_more_and_never_again(scene: Scene) -> None:
    scene.hear(alive())
    scene.now += 3 * PERIOD
    ((_, id_),) = scene.send()
    scene.hear((RETIRED, {"vmhb": {"version": 1, "host": "compute-1"}}))
    assert scene.send() == [("collectd.alarm.ok", id_)]
    scene.now += 100 * PERIOD
    scene.send()
    assert scene.leases.counts() == (0, 0, 0)
    assert scene.send() == []


def test_after_a_restart_everybody_has_a_full_term_and_nothing_is_forgotten(scene: Scene) -> None:
    scene.hear(LOST.event(True, TERM))
    scene.hear(alive())
    scene.hear(alive("compute-2"))
    scene.restart()
    assert scene.send() == []
    scene.now += TERM - 1
    assert scene.send() == []
    scene.now += 1
    assert scene.send() == [("collectd.alarm.ok", "i.1")]
    scene.hear(alive("compute-2"))
    scene.now += PERIOD
    assert scene.leases.counts() == (0, 2, 0)
    scene.send()
    assert scene.leases.counts() == (0, 1, 1)
    scene.restart()
    kinds = sorted(kind for kind, _ in scene.send())
    assert kinds == ["collectd.alarm.failure", "collectd.alarm.ok"]


def test_time_in_which_we_could_not_hear_does_not_count(scene: Scene) -> None:
    scene.hear(LOST.event(True, TERM))
    scene.hear(alive())
    scene.now += 100 * TERM
    scene.leases.vouch_for_all(scene.now, 10.0)
    assert scene.send() == []
    scene.now += 10.0 + TERM - 1
    assert scene.send() == []
    scene.now += 1
    assert scene.send() == [("collectd.alarm.ok", "i.1")]


@pytest.mark.parametrize(
    "change",
    [
        {"vmhb": None},
        {"vmhb": {"version": 2, "host": "compute-1", "lease": 1.0}},
        {"vmhb": {"version": 1, "host": 7, "lease": 1.0}},
        {"vmhb": {"version": 1, "host": "compute-1", "lease": float("nan")}},
        {"vmhb": {"version": 1, "host": "compute-1", "lease": -1.0}},
        {"vmhb": {"version": 1, "host": "compute-1", "lease": 2 * MAX_TERM}},
        {"vmhb": {"version": 1, "host": "compute-1", "lease": True}},
        {"vmhb": {"version": 1, "host": "compute-1"}},
        {"id": None},
        {"id": "x" * 300},
        {"filler": "x" * 10_000},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_passed_over(scene: Scene, change: dict[str, Any]) -> None:
    event_type, payload = LOST.event(True, TERM)
    scene.hear((event_type, {**payload, **change}))
    assert scene.leases.counts() == (0, 0, 0)


@pytest.mark.parametrize("depth", [9, 300, 900, 100_000])
def test_what_is_nested_too_deeply_is_passed_over(scene: Scene, depth: int) -> None:
    nested: list[object] = []
    for _ in range(depth):
        nested = [nested]
    event_type, payload = LOST.event(True, TERM)
    scene.hear((event_type, {**payload, "filler": nested}))
    scene.now += TERM
    assert scene.send() == []
    assert scene.leases.counts() == (0, 0, 0)


def test_other_traffic_of_the_bus_is_passed_over(scene: Scene) -> None:
    payloads: list[object] = [None, [], "text", {}, {"nova_object.data": {}}, {"vmhb": "x"}]
    for payload in payloads:
        scene.leases.hear("instance.create.end", payload, scene.now)
    scene.leases.hear("instance.create.end", LOST.event(True, TERM)[1], scene.now)
    assert scene.leases.counts() == (0, 0, 0)
