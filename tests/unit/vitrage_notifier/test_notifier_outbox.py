# SPDX-License-Identifier: Apache-2.0
"""Whatever the engine says, in whatever order, Vitrage ends up showing what the engine means."""

from __future__ import annotations

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vitrage_notifier import outbox as outbox_module
from vitrage_notifier.alarm import Alarm, Cleared, OpenFaults, Raised, Subject
from vitrage_notifier.outbox import SETTLE, SETTLE_MOST, Entry, Errand, Key, Outbox, OutboxFullError

VM = "6ba7b810-9dad-41d1-80b4-00c04fd430c8"
LOST = Subject("compute-1", VM, "heartbeat-lost")
CHECK = Subject("compute-1", VM, "check.db")
RESEND = 60.0
REPEAT_OK = 150.0


class Clock:
    """Stands still unless told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(name="clock")
def _clock() -> Clock:
    return Clock()


@pytest.fixture(name="outbox")
def _outbox(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Outbox:
    """One whose alarms settle at once."""
    monkeypatch.setattr(outbox_module, "SETTLE", 0.0)
    return Outbox(RESEND, REPEAT_OK, clock)


def send_all(outbox: Outbox) -> list[tuple[str, str]]:
    """Deliver all that is due; return (id, severity) as Vitrage got them."""
    sent: list[tuple[str, str]] = []
    while True:
        errand = outbox.next_errand()
        if errand is None:
            return sent
        sent.append(told(errand))
        outbox.done(errand)


def told(errand: Errand | None) -> tuple[str, str]:
    assert errand is not None
    _, payload = errand.alarm.event(errand.wanted, 120.0)
    return str(payload["id"]), str(payload["severity"])


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


def test_an_alarm_settles_before_it_is_cleared(clock: Clock) -> None:
    outbox = Outbox(RESEND, REPEAT_OK, clock)
    outbox.take(Raised(LOST, "FAILURE", 1.0, "i"))
    clock.now += 0.5
    send_all(outbox)
    outbox.take(Cleared(LOST, 2.0, "i"))
    assert send_all(outbox) == []
    assert outbox.next_repeat() == SETTLE
    clock.now += SETTLE
    assert send_all(outbox) == [("i.1", "OK")]


@pytest.mark.parametrize(("away", "settles"), [(8.0, 8.0), (100.0, SETTLE_MOST)])
@pytest.mark.parametrize("sent", ["first", "again"])
def test_an_alarm_that_had_to_wait_settles_for_as_long(
    clock: Clock, sent: str, away: float, settles: float
) -> None:
    outbox = Outbox(RESEND, REPEAT_OK, clock)
    outbox.take(Raised(LOST, "FAILURE", 1.0, "i"))
    if sent == "again":
        send_all(outbox)
        clock.now += outbox.next_repeat()
    clock.now += away
    assert send_all(outbox) == [("i.1", "FAILURE")]
    outbox.take(Cleared(LOST, 2.0, "i"))
    assert send_all(outbox) == []
    assert outbox.next_repeat() == pytest.approx(settles)


def test_an_alarm_that_was_sent_again_settles_as_well(clock: Clock) -> None:
    outbox = Outbox(RESEND, REPEAT_OK, clock)
    outbox.take(Raised(LOST, "FAILURE", 1.0, "i"))
    send_all(outbox)
    clock.now += outbox.next_repeat()
    assert send_all(outbox) == [("i.1", "FAILURE")]
    outbox.take(Cleared(LOST, 2.0, "i"))
    assert send_all(outbox) == []
    clock.now += SETTLE
    assert send_all(outbox) == [("i.1", "OK")]


def test_an_alarm_that_ends_on_its_way_settles_as_well(clock: Clock) -> None:
    outbox = Outbox(RESEND, REPEAT_OK, clock)
    outbox.take(Raised(LOST, "FAILURE", 1.0, "i"))
    raising = outbox.next_errand()
    assert raising is not None
    outbox.take(Cleared(LOST, 2.0, "i"))
    outbox.done(raising)
    assert send_all(outbox) == []
    clock.now += SETTLE
    assert send_all(outbox) == [("i.1", "OK")]
    clock.now += RESEND
    assert send_all(outbox) == [("i.1", "OK")]


def test_an_id_is_never_used_again(outbox: Outbox) -> None:
    outbox.take(Raised(CHECK, "WARNING", 1.0, "i"))
    send_all(outbox)
    outbox.take(Raised(CHECK, "FAILURE", 2.0, "i"))
    clearing = outbox.next_errand()
    assert clearing is not None
    outbox.done(clearing)
    outbox.take(Raised(CHECK, "WARNING", 3.0, "i"))
    assert send_all(outbox) == [("i.2", "WARNING")]  # it was not used yet
    outbox.take(Cleared(CHECK, 4.0, "i"))
    outbox.take(Raised(CHECK, "WARNING", 5.0, "i"))
    assert send_all(outbox) == [("i.2", "OK"), ("i.3", "WARNING")]


def test_what_came_and_went_unsent_is_never_sent(outbox: Outbox) -> None:
    outbox.take(Raised(LOST, "FAILURE", 1.0, "i"))
    outbox.take(Cleared(LOST, 2.0, "i"))
    assert send_all(outbox) == []


def test_what_may_have_been_delivered_is_cleared(outbox: Outbox) -> None:
    outbox.take(Raised(LOST, "FAILURE", 1.0, "i"))
    assert outbox.next_errand() is not None  # the attempt whose end nobody knows
    outbox.take(Cleared(LOST, 2.0, "i"))
    assert send_all(outbox) == [("i.1", "OK")]


def test_changes_leave_in_the_order_in_which_they_came(outbox: Outbox) -> None:
    outbox.take(Raised(LOST, "FAILURE", 1.0, "a"))
    send_all(outbox)
    outbox.take(Raised(CHECK, "WARNING", 2.0, "b"))
    outbox.take(Cleared(LOST, 3.0, "a"))
    outbox.take(Raised(LOST, "FAILURE", 4.0, "c"))
    assert send_all(outbox) == [("b.1", "WARNING"), ("a.1", "OK"), ("c.1", "FAILURE")]


def test_open_alarms_are_sent_again_within_the_interval(outbox: Outbox, clock: Clock) -> None:
    outbox.take(Raised(LOST, "FAILURE", 1.0, "i"))
    send_all(outbox)
    clock.now = RESEND * 0.74
    assert send_all(outbox) == []
    for _ in range(5):
        clock.now += RESEND
        assert send_all(outbox) == [("i.1", "FAILURE")]
        assert 0 < outbox.next_repeat() <= RESEND


def test_alarms_that_were_sent_together_are_not_sent_again_together(
    outbox: Outbox, clock: Clock
) -> None:
    for number in range(100):
        outbox.take(Raised(Subject("compute-1", VM, f"check.{number}"), "FAILURE", 1.0, None))
    assert len(send_all(outbox)) == 100
    clock.now = RESEND * 0.875
    assert 20 < len(send_all(outbox)) < 80
    clock.now = RESEND
    assert send_all(outbox)


def test_an_ok_is_repeated_for_a_while_then_forgotten(outbox: Outbox, clock: Clock) -> None:
    outbox.take(Raised(LOST, "FAILURE", 1.0, "i"))
    send_all(outbox)
    outbox.take(Cleared(LOST, 2.0, "i"))
    heard = send_all(outbox)
    while clock.now < 2 * REPEAT_OK:
        clock.now += 1.0
        heard += send_all(outbox)
    assert heard[:2] == [("i.1", "OK")] * 2
    assert len(heard) in (3, 4)
    assert outbox.unsaved(everything=True).entries == {}


def test_the_oks_of_a_flapping_vm_are_bounded(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "MAX_REPEATED_OKS", 3)
    for number in range(10):
        outbox.take(Raised(LOST, "FAILURE", 1.0, f"i-{number}"))
        send_all(outbox)
        outbox.take(Cleared(LOST, 2.0, f"i-{number}"))
        send_all(outbox)
    left = [incident for incident, _ in outbox.unsaved(everything=True).entries]
    assert left == ["i-7", "i-8", "i-9"]


def test_a_vm_that_flaps_while_the_broker_is_away_leaves_nothing_behind(outbox: Outbox) -> None:
    for number in range(1000):
        outbox.take(Raised(LOST, "FAILURE", 1.0, f"i-{number}"))
        outbox.next_errand()  # an attempt that fails
        outbox.take(Cleared(LOST, 2.0, f"i-{number}"))
    assert len(outbox.unsaved(everything=True).entries) == 1
    assert outbox.backlog() == (1, 0.0)


def test_repeats_wait_when_only_news_is_asked_for(outbox: Outbox, clock: Clock) -> None:
    outbox.take(Raised(LOST, "FAILURE", 1.0, "i"))
    send_all(outbox)
    clock.now = RESEND
    assert outbox.next_errand(repeats=False) is None
    assert outbox.next_repeat() <= 0
    assert told(outbox.next_errand()) == ("i.1", "FAILURE")


def test_the_backlog_tells_how_many_wait_and_how_long(outbox: Outbox, clock: Clock) -> None:
    outbox.take(Raised(LOST, "FAILURE", 1.0, "i"))
    clock.now = 40.0
    outbox.take(Raised(CHECK, "FAILURE", 1.0, "j"))
    assert outbox.backlog() == (2, 40.0)
    send_all(outbox)
    assert outbox.backlog() == (0, 0.0)


def test_open_alarms_are_counted_by_host_and_in_all(outbox: Outbox) -> None:
    for host in ("compute-1", "compute-1", "compute-2"):
        for fault in ("check.a", "check.b"):
            outbox.take(Raised(Subject(host, VM, fault), "FAILURE", 1.0, None))
    outbox.take(Cleared(Subject("compute-2", VM, "check.a"), 2.0, None))
    assert [outbox.count_open(each) for each in ("compute-1", "compute-2", None)] == [2, 1, 3]


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
    outbox.take(handshake("b", part=2, parts=2))
    assert send_all(outbox) == []


def test_parts_of_two_handshakes_are_not_put_together(outbox: Outbox) -> None:
    outbox.take(Raised(LOST, "FAILURE", 1.0, "a"))
    outbox.take(handshake(part=2, parts=2, name="of an engine that died"))
    assert not outbox.take(handshake(part=1, parts=2, name="of the next"))
    outbox.take(handshake("a", part=2, parts=2, name="of the next"))
    outbox.next_errand()
    assert [alarm.incident for alarm in outbox.open_alarms()] == ["a"]


def test_a_handshake_concerns_its_own_host_alone(outbox: Outbox) -> None:
    outbox.take(Raised(LOST, "FAILURE", 1.0, "a"))
    send_all(outbox)
    outbox.take(handshake(host="compute-2"))
    assert send_all(outbox) == []
    outbox.take(handshake())
    assert send_all(outbox) == [("a.1", "OK")]


def test_what_comes_after_the_list_is_not_measured_by_it(outbox: Outbox) -> None:
    outbox.take(Raised(LOST, "FAILURE", 1.0, "a"))
    send_all(outbox)
    outbox.take(handshake())
    outbox.take(Raised(CHECK, "FAILURE", 2.0, "b"))
    assert sorted(send_all(outbox)) == [("a.1", "OK"), ("b.1", "FAILURE")]


def test_a_long_list_is_compared_bit_by_bit(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "AT_ONCE", 2)
    for number in range(7):
        outbox.take(
            Raised(Subject("compute-1", VM, f"check.{number}"), "FAILURE", 1.0, f"i{number}")
        )
    send_all(outbox)
    outbox.take(handshake("i3"))
    assert sorted(send_all(outbox)) == [(f"i{n}.1", "OK") for n in range(7) if n != 3]


def test_handshakes_that_never_end_cost_the_oldest_its_parts(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "MAX_HOSTS", 2)
    outbox.take(Raised(LOST, "FAILURE", 1.0, "a"))
    for host in ("compute-1", "compute-2", "compute-3"):
        outbox.take(handshake(host=host, part=1, parts=2))
    assert not outbox.take(handshake(part=2, parts=2))
    outbox.next_errand()
    assert [alarm.incident for alarm in outbox.open_alarms()] == ["a"]


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


def entry(
    subject: Subject, incident: str, wanted: bool = True, severity: str = "FAILURE", turn: int = 1
) -> Entry:
    return Entry(Alarm(incident, 1, subject, severity, 1.0), wanted, told=True, turn=turn)


def test_what_an_earlier_process_left_is_sent_in_its_order(outbox: Outbox) -> None:
    outbox.restore([entry(LOST, "b", turn=9), entry(CHECK, "a", wanted=False, turn=4)])
    assert send_all(outbox) == [("a.1", "OK"), ("b.1", "FAILURE")]


def test_what_a_disk_that_came_late_brings_gives_way_to_what_is_known(outbox: Outbox) -> None:
    outbox.take(Raised(LOST, "FAILURE", 2.0, "new"))
    outbox.take(Raised(CHECK, "FAILURE", 2.0, "i"))
    outbox.restore([entry(LOST, "old"), entry(CHECK, "i", severity="WARNING")])
    assert [alarm.id for alarm in outbox.open_alarms()] == ["new.1", "i.2"]
    assert sorted(send_all(outbox)) == [
        ("i.1", "OK"),
        ("i.2", "FAILURE"),
        ("new.1", "FAILURE"),
        ("old.1", "OK"),
    ]


def test_what_the_engine_did_not_list_is_not_wanted_from_a_late_disk_either(
    outbox: Outbox,
) -> None:
    outbox.take(handshake())
    outbox.restore([entry(LOST, "over")])
    assert outbox.open_alarms() == []
    assert send_all(outbox) == [("over.1", "OK")]


RENAMED = Subject("compute-1.example.org", VM, "heartbeat-lost")


def test_an_incident_that_comes_back_under_another_host_name_leaves_the_old_one(
    outbox: Outbox, clock: Clock
) -> None:
    outbox.restore([entry(LOST, "i")])
    send_all(outbox)
    outbox.take(Raised(RENAMED, "FAILURE", 2.0, "i"))
    outbox.take(handshake("i", host=RENAMED.host))
    assert send_all(outbox) == [("i.1", "OK"), ("i.2", "FAILURE")]
    clock.now += 2 * REPEAT_OK
    send_all(outbox)
    clock.now += RESEND
    assert send_all(outbox) == [("i.2", "FAILURE")]


def test_what_ended_while_the_host_was_renamed_is_cleared(outbox: Outbox) -> None:
    outbox.restore([entry(LOST, "over")])
    send_all(outbox)
    outbox.take(handshake(host=RENAMED.host))
    assert send_all(outbox) == [("over.1", "OK")]


def test_a_disk_that_comes_late_brings_no_old_host_name_back(outbox: Outbox) -> None:
    outbox.take(Raised(RENAMED, "FAILURE", 2.0, "i"))
    outbox.take(handshake("i", host=RENAMED.host))
    outbox.restore([entry(LOST, "i"), entry(CHECK, "over")])
    assert [alarm.subject for alarm in outbox.open_alarms()] == [RENAMED]
    assert sorted(send_all(outbox)) == [("i.1", "OK"), ("i.2", "FAILURE"), ("over.1", "OK")]


def test_what_another_collectd_said_is_not_measured_by_our_engines_list(clock: Clock) -> None:
    before, after = Outbox(RESEND, REPEAT_OK, clock), Outbox(RESEND, REPEAT_OK, clock)
    before.take(Raised(Subject("compute-2", VM, "check.db"), "FAILURE", 1.0, None))
    send_all(before)
    held = before.unsaved(everything=True).entries.values()
    after.restore([each for each in held if each is not None])
    after.take(handshake(host="compute-1"))
    assert [severity for _, severity in send_all(after)] == ["FAILURE"]


def test_changes_beyond_count_are_handed_over_as_a_whole(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "MAX_UNSAVED", 3)
    for number in range(9):
        outbox.take(Raised(LOST, "FAILURE", 1.0, f"i-{number}"))
        outbox.take(Cleared(LOST, 1.0, f"i-{number}"))
    outbox.take(Raised(LOST, "FAILURE", 1.0, "last"))
    unsaved = outbox.unsaved()
    assert unsaved.everything
    assert list(unsaved.entries) == [("last", 1)]
    assert outbox.unsaved().entries == {}


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
        self.clock = Clock()
        self.outbox = Outbox(RESEND, REPEAT_OK, self.clock)
        self.disk: dict[Key, Entry] = {}
        self.vitrage = Vitrage()
        #: What the engines hold open, and what the notifier was told of it.
        self.truth: dict[Subject, tuple[str, str]] = {}
        self.numbers = 0

    def next_errand(self) -> Errand | None:
        """Return what is sent next; the sender waits until the disk knows of it."""
        errand = self.outbox.next_errand()
        for key, entry in self.outbox.unsaved().entries.items():
            self.disk.pop(key, None)
            if entry is not None:
                self.disk[key] = entry
        return errand

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
            self.outbox.take(Raised(subject, severity, self.clock.now, incident if meta else None))

    @rule(subject=st.sampled_from(SUBJECTS), heard=st.booleans(), meta=st.booleans())
    def the_engine_clears(self, subject: Subject, heard: bool, meta: bool) -> None:
        incident, _ = self.truth.pop(subject, ("never-was", ""))
        if heard:
            self.outbox.take(Cleared(subject, self.clock.now, incident if meta else None))

    @rule(host=st.sampled_from(["compute-1", "compute-2"]), parts=st.integers(1, 3))
    def the_engine_starts_again(self, host: str, parts: int) -> None:
        mine = {s: known for s, known in self.truth.items() if s.host == host}
        for subject, (incident, severity) in mine.items():
            self.outbox.take(Raised(subject, severity, self.clock.now, incident))
        incidents = [incident for incident, _ in mine.values()]
        self.numbers += 1
        for part in range(parts):
            listed = frozenset(incidents[part::parts])
            name = f"handshake-{self.numbers}"
            self.outbox.take(OpenFaults(host, self.clock.now, name, part + 1, parts, listed))

    @rule(delivered=st.booleans())
    def the_broker_fails(self, delivered: bool) -> None:
        errand = self.next_errand()
        if errand is not None and delivered:
            self.vitrage.receive(errand.alarm.event(errand.wanted, 120.0)[1])

    @rule()
    def the_broker_loses_what_it_has_confirmed(self) -> None:
        errand = self.next_errand()
        if errand is not None:
            self.outbox.done(errand)

    @rule(count=st.integers(1, 4))
    def the_sender_works(self, count: int) -> None:
        for _ in range(count):
            errand = self.next_errand()
            if errand is None:
                return
            self.vitrage.receive(errand.alarm.event(errand.wanted, 120.0)[1])
            self.outbox.done(errand)

    @rule(subject=st.sampled_from(SUBJECTS), severity=st.sampled_from(["WARNING", "FAILURE"]))
    def news_comes_while_the_sender_sends(self, subject: Subject, severity: str) -> None:
        errand = self.next_errand()
        self.the_engine_raises(subject, severity, heard=True, meta=True)
        if errand is not None:
            self.vitrage.receive(errand.alarm.event(errand.wanted, 120.0)[1])
            self.outbox.done(errand)

    @rule()
    def vitrage_takes_a_snapshot(self) -> None:
        self.vitrage.alarms.clear()

    @rule()
    def collectd_is_killed(self) -> None:
        self.outbox = Outbox(RESEND, REPEAT_OK, self.clock)
        self.outbox.restore(self.disk.values())

    @rule(seconds=st.floats(0.0, REPEAT_OK))
    def time_passes_and_the_sender_does_its_duty(self, seconds: float) -> None:
        self.the_sender_works(100)
        self.clock.now += seconds
        self.the_sender_works(100)

    @invariant()
    def what_waits_is_bounded(self) -> None:
        assert len(self.outbox.open_alarms()) <= len(SUBJECTS)

    @precondition(lambda self: self.numbers)
    @rule()
    def all_agree_in_the_end(self) -> None:
        for host in ("compute-1", "compute-2"):
            self.the_engine_starts_again(host, 1)
        self.the_sender_works(100)
        self.clock.now += RESEND
        self.the_sender_works(100)
        means = sorted(
            (f"{subject.instance or subject.host}/{subject.fault}", severity)
            for subject, (_, severity) in self.truth.items()
        )
        assert self.vitrage.shows() == means


TestStory = Story.TestCase
TestStory.settings = hypothesis_settings(max_examples=60, stateful_step_count=30, deadline=None)
