# SPDX-License-Identifier: Apache-2.0
"""Whatever the engine says, in whatever order, Vitrage ends up showing what the engine means."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vitrage_notifier import outbox as outbox_module
from vitrage_notifier.alarm import Cleared, OpenFaults, Raised, Subject
from vitrage_notifier.outbox import Outbox, OutboxFullError, open_outbox

VM = "6ba7b810-9dad-41d1-80b4-00c04fd430c8"
LOST = Subject("compute-1", VM, "heartbeat-lost")
CHECK = Subject("compute-1", VM, "check.db")
RESEND = 60.0


@pytest.fixture(name="outbox")
def _outbox(tmp_path: Path) -> Iterator[Outbox]:
    outbox = Outbox(tmp_path / "state" / "outbox.sqlite")
    yield outbox
    outbox.close()


def send_all(outbox: Outbox, now: float = 0.0) -> list[tuple[str, str]]:
    """Deliver all that is due; return (id, severity) as Vitrage got them."""
    sent: list[tuple[str, str]] = []
    while True:
        errand = outbox.next_errand(now, RESEND)
        if errand is None:
            return sent
        _, payload = errand.alarm.event(errand.wanted, 120.0)
        sent.append((str(payload["id"]), str(payload["severity"])))
        outbox.done(errand, now)


def test_a_fault_is_sent_once_however_often_the_engine_repeats_it(outbox: Outbox) -> None:
    assert outbox.take(Raised(LOST, "FAILURE", 1.0, "i"))
    assert not outbox.take(Raised(LOST, "FAILURE", 2.0, "i"))
    assert send_all(outbox) == [("i.1", "FAILURE")]
    assert send_all(outbox) == []


def test_a_change_of_severity_clears_the_old_generation_first(outbox: Outbox) -> None:
    outbox.take(Raised(CHECK, "WARNING", 1.0, "i"))
    send_all(outbox)
    outbox.take(Raised(CHECK, "FAILURE", 2.0, "i"))
    assert send_all(outbox) == [("i.1", "OK"), ("i.2", "FAILURE")]
    outbox.take(Cleared(CHECK, 3.0, "i"))
    assert send_all(outbox) == [("i.2", "OK")]


def test_an_id_is_never_used_again(outbox: Outbox) -> None:
    outbox.take(Raised(CHECK, "WARNING", 1.0, "i"))
    send_all(outbox)
    outbox.take(Raised(CHECK, "FAILURE", 2.0, "i"))
    clearing = outbox.next_errand(2.0, RESEND)
    assert clearing is not None
    outbox.done(clearing, 2.0)
    outbox.take(Raised(CHECK, "WARNING", 3.0, "i"))
    assert send_all(outbox) == [("i.3", "WARNING")]
    outbox.take(Cleared(CHECK, 4.0, "i"))
    outbox.take(Raised(CHECK, "WARNING", 5.0, "i"))
    assert send_all(outbox) == [("i.3", "OK"), ("i.4", "WARNING")]


def test_what_came_and_went_unsent_is_never_sent(outbox: Outbox) -> None:
    outbox.take(Raised(LOST, "FAILURE", 1.0, "i"))
    outbox.take(Cleared(LOST, 2.0, "i"))
    assert send_all(outbox) == []


def test_what_may_have_been_delivered_is_cleared(outbox: Outbox) -> None:
    outbox.take(Raised(LOST, "FAILURE", 1.0, "i"))
    assert outbox.next_errand(1.0, RESEND) is not None  # the attempt whose end nobody knows
    outbox.take(Cleared(LOST, 2.0, "i"))
    assert send_all(outbox) == [("i.1", "OK")]


def test_changes_leave_in_the_order_in_which_they_came(outbox: Outbox) -> None:
    outbox.take(Raised(LOST, "FAILURE", 1.0, "a"))
    send_all(outbox)
    outbox.take(Raised(CHECK, "WARNING", 2.0, "b"))
    outbox.take(Cleared(LOST, 3.0, "a"))
    outbox.take(Raised(LOST, "FAILURE", 4.0, "c"))
    assert send_all(outbox) == [("b.1", "WARNING"), ("a.1", "OK"), ("c.1", "FAILURE")]


def test_open_alarms_are_sent_again_after_the_interval(outbox: Outbox) -> None:
    outbox.take(Raised(LOST, "FAILURE", 1.0, "i"))
    send_all(outbox, now=100.0)
    assert send_all(outbox, now=159.0) == []
    assert send_all(outbox, now=160.0) == [("i.1", "FAILURE")]
    assert send_all(outbox, now=161.0) == []


def test_a_clock_that_is_set_back_does_not_stop_the_sending_again(outbox: Outbox) -> None:
    outbox.take(Raised(LOST, "FAILURE", 1.0, "i"))
    send_all(outbox, now=1_000_000.0)
    assert send_all(outbox, now=1000.0) == []
    assert send_all(outbox, now=1060.0) == [("i.1", "FAILURE")]


def test_without_meta_each_edge_to_bad_is_an_incident(outbox: Outbox) -> None:
    outbox.take(Raised(LOST, "FAILURE", 1.0, None))
    outbox.take(Raised(LOST, "FAILURE", 2.0, None))
    (first,) = send_all(outbox)
    outbox.take(Cleared(LOST, 3.0, None))
    outbox.take(Raised(LOST, "FAILURE", 4.0, None))
    cleared, second = send_all(outbox)
    assert cleared == (first[0], "OK")
    assert second[0] != first[0]


def test_a_new_incident_takes_the_place_of_one_whose_end_got_lost(outbox: Outbox) -> None:
    outbox.take(Raised(LOST, "FAILURE", 1.0, "old"))
    send_all(outbox)
    outbox.take(Raised(LOST, "FAILURE", 2.0, "new"))
    assert send_all(outbox) == [("old.1", "OK"), ("new.1", "FAILURE")]


def test_okay_of_an_incident_that_was_replaced_changes_nothing(outbox: Outbox) -> None:
    outbox.take(Raised(LOST, "FAILURE", 1.0, "new"))
    assert not outbox.take(Cleared(LOST, 2.0, "old"))
    assert [alarm.incident for alarm in outbox.open_alarms()] == ["new"]


def handshake(
    *incidents: str, part: int = 1, parts: int = 1, host: str = "compute-1", name: str = "h"
) -> OpenFaults:
    return OpenFaults(host, 9.0, name, part, parts, frozenset(incidents))


def test_a_handshake_closes_what_it_does_not_list(outbox: Outbox) -> None:
    outbox.take(Raised(LOST, "FAILURE", 1.0, "a"))
    outbox.take(Raised(CHECK, "FAILURE", 1.0, "b"))
    send_all(outbox)
    assert outbox.take(handshake("b"))
    assert send_all(outbox) == [("a.1", "OK")]


def test_a_handshake_counts_only_when_all_its_parts_are_there(outbox: Outbox) -> None:
    outbox.take(Raised(LOST, "FAILURE", 1.0, "a"))
    outbox.take(Raised(CHECK, "FAILURE", 1.0, "b"))
    send_all(outbox)
    assert not outbox.take(handshake("a", part=1, parts=2))
    assert not outbox.take(handshake("a", part=1, parts=2))
    assert send_all(outbox) == []
    assert not outbox.take(handshake("b", part=2, parts=2))
    assert send_all(outbox) == []


def test_parts_of_two_handshakes_are_not_put_together(outbox: Outbox) -> None:
    outbox.take(Raised(LOST, "FAILURE", 1.0, "a"))
    outbox.take(handshake(part=2, parts=2, name="of an engine that died"))
    assert not outbox.take(handshake(part=1, parts=2, name="of the next"))
    assert not outbox.take(handshake("a", part=2, parts=2, name="of the next"))
    assert [alarm.incident for alarm in outbox.open_alarms()] == ["a"]


def test_a_handshake_concerns_its_own_host_alone(outbox: Outbox) -> None:
    outbox.take(Raised(LOST, "FAILURE", 1.0, "a"))
    send_all(outbox)
    assert not outbox.take(handshake(host="compute-2"))
    assert outbox.take(handshake())


def test_handshakes_that_never_end_are_bounded(outbox: Outbox) -> None:
    for number in range(outbox_module.MAX_HANDSHAKES + 5):
        outbox.take(handshake(host=f"compute-{number}", parts=2))
    assert len(outbox._handshakes) == outbox_module.MAX_HANDSHAKES


def test_too_many_alarms_are_refused_and_room_is_found_again(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "MAX_WANTED", 1)
    outbox.take(Raised(LOST, "FAILURE", 1.0, "a"))
    with pytest.raises(OutboxFullError):
        outbox.take(Raised(CHECK, "FAILURE", 1.0, "b"))
    outbox.take(Cleared(LOST, 2.0, "a"))
    outbox.take(Raised(CHECK, "FAILURE", 3.0, "b"))
    assert send_all(outbox) == [("b.1", "FAILURE")]


def test_the_files_are_for_the_owner_alone(outbox: Outbox, tmp_path: Path) -> None:
    outbox.take(Raised(LOST, "FAILURE", 1.0, "a"))
    directory = tmp_path / "state"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    files = list(directory.iterdir())
    assert len(files) > 1
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_an_unreadable_outbox_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite"
    path.write_bytes(b"this is no database" * 1000)
    outbox, said = open_outbox(path)
    assert said is not None
    assert "outbox.sqlite.unreadable" in said
    outbox.take(Raised(LOST, "FAILURE", 1.0, "a"))
    assert send_all(outbox) == [("a.1", "FAILURE")]
    outbox.close()


def test_the_outbox_of_another_version_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite"
    other = sqlite3.connect(str(path))
    other.execute("PRAGMA user_version = 99")
    other.close()
    outbox, said = open_outbox(path)
    outbox.close()
    assert said is not None
    assert "version is 99" in said


class Vitrage:
    """Vitrage's rules: keyed by id, what was seen first stays, OK deletes, snapshots drop all."""

    def __init__(self) -> None:
        self.alarms: dict[str, tuple[str, str]] = {}

    def receive(self, payload: dict[str, object]) -> None:
        key = str(payload["id"])
        if payload["severity"] == "OK":
            self.alarms.pop(key, None)
        else:
            what = (str(payload["host"]), str(payload["type_instance"]))
            self.alarms.setdefault(key, ("/".join(what), str(payload["severity"])))

    def shows(self) -> list[tuple[str, str]]:
        return sorted(self.alarms.values())


SUBJECTS = [
    Subject(host, instance, fault)
    for host, instance, fault in [
        ("compute-1", VM, "heartbeat-lost"),
        ("compute-1", VM, "check.db"),
        ("compute-1", "", "engine-impaired"),
        ("compute-2", VM[:-1] + "9", "heartbeat-lost"),
    ]
]


class Story(RuleBasedStateMachine):
    """An engine per host, the outbox, a broker that fails now and then, and Vitrage."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = TemporaryDirectory()
        self.path = Path(self.directory.name) / "outbox.sqlite"
        self.outbox = Outbox(self.path)
        self.vitrage = Vitrage()
        self.now = 1000.0
        #: What the engines hold open, and what the notifier was told of it.
        self.truth: dict[Subject, tuple[str, str]] = {}
        self.numbers = 0

    def teardown(self) -> None:
        self.outbox.close()
        self.directory.cleanup()

    @rule(
        subject=st.sampled_from(SUBJECTS),
        severity=st.sampled_from(["WARNING", "FAILURE"]),
        heard=st.booleans(),
        meta=st.booleans(),
    )
    def the_engine_raises(self, subject: Subject, severity: str, heard: bool, meta: bool) -> None:
        self.numbers += 1
        incident = self.truth.get(subject, (f"incident-{self.numbers}", ""))[0]
        self.truth[subject] = (incident, severity)
        if heard:
            self.outbox.take(Raised(subject, severity, self.now, incident if meta else None))

    @rule(subject=st.sampled_from(SUBJECTS), heard=st.booleans(), meta=st.booleans())
    def the_engine_clears(self, subject: Subject, heard: bool, meta: bool) -> None:
        incident, _ = self.truth.pop(subject, ("never-was", ""))
        if heard:
            self.outbox.take(Cleared(subject, self.now, incident if meta else None))

    @rule(host=st.sampled_from(["compute-1", "compute-2"]), parts=st.integers(1, 3))
    def the_engine_starts_again(self, host: str, parts: int) -> None:
        mine = {s: known for s, known in self.truth.items() if s.host == host}
        for subject, (incident, severity) in mine.items():
            self.outbox.take(Raised(subject, severity, self.now, incident))
        incidents = [incident for incident, _ in mine.values()]
        self.numbers += 1
        for part in range(parts):
            listed = frozenset(incidents[part::parts])
            name = f"handshake-{self.numbers}"
            self.outbox.take(OpenFaults(host, self.now, name, part + 1, parts, listed))

    @rule(delivered=st.booleans())
    def the_broker_fails(self, delivered: bool) -> None:
        errand = self.outbox.next_errand(self.now, RESEND)
        if errand is not None and delivered:
            self.vitrage.receive(errand.alarm.event(errand.wanted, 120.0)[1])

    @rule(count=st.integers(1, 4))
    def the_sender_works(self, count: int) -> None:
        for _ in range(count):
            errand = self.outbox.next_errand(self.now, RESEND)
            if errand is None:
                return
            self.vitrage.receive(errand.alarm.event(errand.wanted, 120.0)[1])
            self.outbox.done(errand, self.now)

    @rule(subject=st.sampled_from(SUBJECTS), severity=st.sampled_from(["WARNING", "FAILURE"]))
    def news_comes_while_the_sender_sends(self, subject: Subject, severity: str) -> None:
        errand = self.outbox.next_errand(self.now, RESEND)
        self.the_engine_raises(subject, severity, heard=True, meta=True)
        if errand is not None:
            self.vitrage.receive(errand.alarm.event(errand.wanted, 120.0)[1])
            self.outbox.done(errand, self.now)

    @rule()
    def vitrage_takes_a_snapshot(self) -> None:
        self.vitrage.alarms.clear()

    @rule()
    def collectd_starts_again(self) -> None:
        self.outbox.close()
        self.outbox = Outbox(self.path)

    @rule(seconds=st.floats(-500.0, 500.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def what_waits_is_bounded(self) -> None:
        rows = self.outbox._db.execute("SELECT count(*) FROM alarm WHERE NOT told").fetchone()
        assert rows[0] <= len(SUBJECTS)

    @precondition(lambda self: self.numbers)
    @rule()
    def all_agree_in_the_end(self) -> None:
        for host in ("compute-1", "compute-2"):
            self.the_engine_starts_again(host, 1)
        self.the_sender_works(100)
        self.now += RESEND + 1.0
        self.the_sender_works(100)
        means = sorted(
            (f"{subject.instance or subject.host}/{subject.fault}", severity)
            for subject, (_, severity) in self.truth.items()
        )
        assert self.vitrage.shows() == means


TestStory = Story.TestCase
TestStory.settings = hypothesis_settings(max_examples=60, stateful_step_count=30, deadline=None)
