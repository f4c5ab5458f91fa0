# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from collectd_vmhb.publish import Note
from collectd_vmhb.reporter import QUIET_SAVE, SAVE_MAX, SAVE_WAIT, Reporter
from collectd_vmhb.state import State
from collectd_vmhb.verdict import BAD_POLICY, FaultCleared, FaultRaised, Severity

LOST = "heartbeat-lost"


class World:
    """A reporter with a disk that saves when told, and an ear for what leaves."""

    def __init__(self, hold_down: float = 0.0, reporting: bool = True) -> None:
        self.saves: list[tuple[int, State]] = []
        self.heard: list[Note] = []
        self.wall = 1e9
        self.reporter = Reporter(
            hold_down,
            lambda number, state: self.saves.append((number, state)),
            self.heard.append,
            lambda: self.wall,
            silent=not reporting,
        )

    def raised(self, uuid: str = "vm", name: str = LOST, now: float = 0.0, **more: Any) -> None:
        fault = FaultRaised(uuid, name, Severity.FAILURE, "silent", now, "no-answer", **more)
        self.reporter.report(fault, "web", "p-1", now)

    def cleared(self, uuid: str = "vm", name: str = LOST, now: float = 0.0) -> None:
        self.reporter.report(FaultCleared(uuid, name, "recovered"), "web", "p-1", now)

    def turn(self, now: float = 0.0) -> None:
        self.reporter.turn(now)

    def disk_is_done(self) -> None:
        self.reporter.saved(self.saves[-1][0])

    def said(self) -> list[tuple[str, str]]:
        return [(note.type_instance, note.severity) for note in self.heard]


def test_nothing_leaves_before_it_is_on_disk() -> None:
    world = World()
    world.raised()
    assert world.saves == []
    world.turn()
    assert world.heard == []
    ((_, state),) = world.saves
    world.disk_is_done()
    (note,) = world.heard
    assert [entry["id"] for entry in state.incidents] == [note.meta["incident"]]


def test_what_came_during_a_save_waits_for_its_own() -> None:
    world = World()
    world.raised("a")
    world.turn()
    world.raised("b")
    world.disk_is_done()
    assert [note.plugin_instance for note in world.heard] == ["a"]
    world.turn()
    assert len(world.heard) == 1
    world.disk_is_done()
    assert [note.plugin_instance for note in world.heard] == ["a", "b"]


def test_a_slow_disk_delays_an_alarm_by_no_more_than_the_wait() -> None:
    world = World()
    world.raised("a", now=10.0)
    world.turn(10.0)
    assert world.reporter.deadline == 10.0 + SAVE_WAIT
    world.raised("b", now=10.0 + SAVE_WAIT / 2)
    world.turn(10.0 + SAVE_WAIT / 2)
    assert world.heard == []
    world.turn(10.0 + SAVE_WAIT)
    assert [note.plugin_instance for note in world.heard] == ["a"]
    world.turn(10.0 + SAVE_WAIT / 2 + SAVE_WAIT)
    assert [note.plugin_instance for note in world.heard] == ["a", "b"]
    world.cleared("a", now=11.0)
    world.turn(11.0)
    assert len(world.heard) == 2, "the next one waits as well"
    world.turn(11.0 + SAVE_WAIT)
    world.disk_is_done()
    assert [note.plugin_instance for note in world.heard] == ["a", "b", "a"], "each leaves once"
    world.turn(11.1)
    assert world.reporter.deadline is None


def test_a_disk_that_hangs_is_noticed_and_after_that_nothing_waits() -> None:
    world = World()
    world.raised("a", now=10.0)
    world.turn(10.0)
    world.turn(10.0 + SAVE_WAIT)
    assert world.reporter.deadline == world.reporter.save_by == 10.0 + SAVE_MAX
    world.raised("b", now=12.0)
    world.turn(12.0)
    assert world.reporter.save_by == 10.0 + SAVE_MAX, "one that hangs is no newer for the next"
    world.raised("c", now=15.0)
    world.reporter.give_up_waiting(15.0)
    assert [note.plugin_instance for note in world.heard] == ["a", "b", "c"]
    world.turn(16.0)
    assert world.reporter.deadline is None


def test_a_disk_is_not_blamed_for_the_time_in_which_the_engine_stood_still() -> None:
    world = World()
    world.raised("a", now=10.0)
    world.turn(10.0)
    world.reporter.stood_still(8.0)
    world.turn(19.0)
    assert world.reporter.save_by == 10.0 + SAVE_MAX + 8.0


def test_a_slow_disk_that_gets_on_does_not_hang() -> None:
    world = World()
    for second in range(20):
        world.raised(f"vm-{second}", now=second)
        world.turn(second)
        assert world.reporter.save_by > second
        if second >= 4:
            world.reporter.saved(second - 3)
            world.turn(second)
    for number, _ in world.saves[-4:]:
        world.reporter.saved(number)
        world.turn(20.0)
    assert world.reporter.deadline is None


def test_a_later_save_confirms_the_earlier_ones_in_their_order() -> None:
    world = World()
    world.raised("a")
    world.turn()
    world.cleared("a")
    world.turn()
    world.raised("b")
    world.turn()
    world.reporter.saved(world.saves[1][0])
    assert world.said() == [(LOST, "failure"), (LOST, "okay")]
    world.disk_is_done()
    assert [note.plugin_instance for note in world.heard] == ["a", "a", "b"]


def test_an_end_is_on_disk_before_it_is_told() -> None:
    world = World()
    world.raised()
    world.turn()
    world.disk_is_done()
    world.cleared()
    world.turn()
    assert not list(world.saves[-1][1].incidents)
    assert len(world.heard) == 1
    world.disk_is_done()
    assert world.said() == [(LOST, "failure"), (LOST, "okay")]


def test_nothing_new_is_not_saved_again() -> None:
    world = World()
    world.raised()
    world.turn()
    world.raised()
    world.turn()
    assert len(world.saves) == 1


def test_a_recovery_within_the_hold_down_is_told_when_it_has_lasted() -> None:
    world = World(hold_down=30.0)
    world.raised(now=0.0)
    world.cleared(now=10.0)
    world.turn(10.0)
    world.disk_is_done()
    assert world.reporter.deadline == 30.0
    world.turn(30.0)
    world.disk_is_done()
    assert world.said() == [(LOST, "failure"), (LOST, "okay")]
    assert world.reporter.deadline is None


def test_a_handshake_repeats_and_lists_what_an_earlier_engine_left_open() -> None:
    before = World()
    before.raised("a")
    before.raised("b", BAD_POLICY)
    before.turn()
    state = State(json.loads(json.dumps(list(before.saves[-1][1].incidents))))
    after = World()
    after.reporter.load(state, 0.0)
    assert after.reporter.instances() == {"a", "b"}
    after.reporter.handshake()
    after.turn()
    assert after.heard == []
    after.disk_is_done()
    assert after.said() == [(LOST, "failure"), (BAD_POLICY, "failure"), ("open-faults", "okay")]
    ids = [entry["id"] for entry in state.incidents]
    assert [note.meta.get("incident") for note in after.heard[:2]] == ids
    assert json.loads(str(after.heard[2].meta["incidents"])) == ids


def test_a_handshake_says_a_fault_that_was_just_raised_only_once() -> None:
    world = World()
    world.raised()
    world.reporter.handshake()
    world.turn()
    world.disk_is_done()
    assert world.said() == [(LOST, "failure"), ("open-faults", "okay")]


def test_without_faults_the_handshake_lists_nothing() -> None:
    world = World()
    world.reporter.handshake()
    world.turn()
    world.disk_is_done()
    assert world.said() == [("open-faults", "okay")]
    assert world.heard[0].meta["incidents"] == "[]"


def test_at_the_end_who_has_waited_longest_is_saved_first() -> None:
    world = World()
    for run, uuid in enumerate("abc"):
        world.reporter.established(uuid, run, 0.0)
    world.reporter.finish(0.0, first=["c", "never established", "a"])
    assert list(world.saves[-1][1].established.items()) == [("c", 2), ("a", 0), ("b", 1)]


def test_what_is_no_state_is_refused() -> None:
    with pytest.raises(ValueError, match="not a list of incidents"):
        World().reporter.load(State([{"id": "x"}]), 0.0)


def test_a_mode_that_reports_nothing_only_has_what_an_earlier_one_told_closed() -> None:
    world = World(reporting=False)
    world.raised()
    world.reporter.handshake()
    world.turn()
    world.disk_is_done()
    assert world.said() == [("open-faults", "okay")]
    assert world.heard[0].meta["incidents"] == "[]"
    assert world.reporter.of("vm") == {LOST: Severity.FAILURE}


def test_closing_an_instance_ends_what_is_open_but_for_what_is_kept() -> None:
    world = World(hold_down=30.0)
    world.raised()
    world.raised(name=BAD_POLICY)
    world.raised("", "engine-impaired")
    world.reporter.close("vm", "deleted", frozenset({BAD_POLICY}))
    world.turn()
    world.disk_is_done()
    (ended,) = (note for note in world.heard if note.severity == "okay")
    assert (ended.type_instance, ended.meta["reason"]) == (LOST, "deleted")
    assert world.reporter.of("vm") == {BAD_POLICY: Severity.FAILURE}
    assert world.reporter.instances() == {"vm"}


def test_who_is_established_is_saved_together_and_a_little_later() -> None:
    world = World()
    world.reporter.established("a", 1, now=5.0)
    world.reporter.established("b", 2, now=5.5)
    world.turn(5.5)
    assert world.saves == []
    assert world.reporter.deadline == 5.0 + QUIET_SAVE
    world.turn(5.0 + QUIET_SAVE)
    assert [state.established for _, state in world.saves] == [{"a": 1, "b": 2}]
    world.reporter.established("a", None, now=9.0)
    world.turn(20.0)
    world.disk_is_done()
    assert world.saves[-1][1].established == {"b": 2}
    assert world.reporter.deadline is None


def test_until_when_a_boot_is_forgiven_is_saved_as_unix_time_and_goes_with_the_answer() -> None:
    world = World()
    world.reporter.established("a", 1, now=5.0, forgiven_until=65.0)
    world.turn(20.0)
    assert world.saves[-1][1].forgiven == {"a": world.wall + 60.0}
    world.reporter.established("a", 1, now=30.0, forgiven_until=0.0)
    world.turn(40.0)
    assert world.saves[-1][1].forgiven == {}


def test_a_save_before_the_first_reconcile_forgets_nobody() -> None:
    # libvirt may be away for longer than the engine lives.
    world = World()
    world.reporter.load(State([], {"vm": 7}), 0.0)
    world.raised("", "engine-impaired")
    world.turn()
    assert world.saves[-1][1].established == {"vm": 7}


def test_what_the_guest_says_is_logged_and_does_not_leave_the_host(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    with caplog.at_level(logging.WARNING, "collectd_vmhb"):
        world.raised(name="check.db", guest_text="password is hunter2")
    world.turn()
    world.disk_is_done()
    assert "(the guest says: password is hunter2)" in caplog.text
    assert "hunter2" not in repr(world.heard)
    assert "hunter2" not in repr(world.saves)


# -- maintenance ----------------------------------------------------------------------------


def told(world: World) -> list[tuple[str, str]]:
    world.turn()
    if world.saves:
        world.disk_is_done()
    return world.said()


@pytest.mark.parametrize("whose", ["vm", ""])
def test_maintenance_closes_what_is_open_and_raises_nothing(whose: str) -> None:
    world = World(hold_down=30.0)
    world.raised()
    assert told(world) == [(LOST, "failure")]
    world.reporter.pause(whose, 60.0, "a new disk", 1.0)
    world.raised(name="check.app", now=2.0)
    assert told(world) == [(LOST, "failure"), (LOST, "okay")]
    assert world.heard[-1].meta["reason"] == "maintenance"
    assert world.saves[-1][1].maintenance[whose]["reason"] == "a new disk"
    assert set(world.reporter.of("vm")) == {LOST, "check.app"}


def test_maintenance_of_one_vm_leaves_the_others_alone() -> None:
    world = World()
    world.raised("other")
    world.reporter.pause("vm", 60.0, "a new disk", 1.0)
    world.raised("another", now=2.0)
    assert told(world) == [(LOST, "failure"), (LOST, "failure")]


def test_what_still_holds_at_the_end_of_maintenance_is_raised_anew_and_once() -> None:
    world = World()
    world.raised()
    world.raised(name="check.app")
    told(world)
    world.heard.clear()
    world.wall += 1.0
    world.reporter.pause("vm", 60.0, "a new disk", 1.0)
    world.cleared(name="check.app", now=10.0)
    told(world)
    first = {note.meta["incident"] for note in world.heard}
    world.heard.clear()
    assert world.reporter.deadline == 61.0
    world.turn(60.9)
    assert not list(world.saves[-1][1].incidents)
    world.wall += 60.0
    world.turn(61.0)
    world.disk_is_done()
    (note,) = world.heard
    assert (note.type_instance, note.severity) == (LOST, "failure")
    assert note.meta["incident"] not in first
    assert note.meta["since"] == 1e9
    assert world.saves[-1][1].maintenance == {}
    world.turn(200.0)
    world.raised(now=200.0)
    world.disk_is_done()
    assert len(world.heard) == 1


def test_the_end_of_one_window_does_not_end_the_other() -> None:
    world = World()
    world.reporter.pause("", 100.0, "new firmware", 0.0)
    world.reporter.pause("vm", 60.0, "a new disk", 0.0)
    world.raised(now=1.0)
    world.turn(61.0)
    world.disk_is_done()
    assert world.said() == []
    assert world.reporter.resume("", 62.0)
    world.turn(62.0)
    world.disk_is_done()
    assert world.said() == [(LOST, "failure")]


def test_a_recovery_that_was_held_back_does_not_come_back_after_maintenance() -> None:
    world = World(hold_down=30.0)
    world.raised()
    world.cleared(now=1.0)
    world.reporter.pause("vm", 60.0, "a new disk", 2.0)
    assert world.reporter.resume("vm", 3.0)
    assert told(world) == [(LOST, "failure"), (LOST, "okay")]
    assert not world.reporter.resume("vm", 4.0)


def test_a_fault_that_had_become_less_severe_comes_back_as_that_after_maintenance() -> None:
    world = World(hold_down=30.0)
    for severity, now in ((Severity.FAILURE, 0.0), (Severity.WARNING, 5.0)):
        fault = FaultRaised("vm", "check.disk", severity, "", now, severity.value)
        world.reporter.report(fault, "web", "p-1", now)
    world.reporter.pause("vm", 60.0, "a new disk", 10.0)
    assert world.reporter.resume("vm", 20.0)
    said = [("check.disk", severity) for severity in ("failure", "okay", "warning")]
    assert told(world) == said


def test_a_vm_that_goes_in_maintenance_leaves_nothing_behind() -> None:
    world = World()
    world.reporter.pause("vm", 60.0, "a new host", 0.0)
    world.raised()
    world.reporter.close("vm", "gone from this host")
    world.turn(61.0)
    assert told(world) == []


def test_maintenance_outlives_a_restart_but_not_its_end() -> None:
    before = World()
    before.reporter.pause("vm", 60.0, "a new disk", 0.0)
    before.turn()
    state = State(maintenance=json.loads(json.dumps(before.saves[-1][1].maintenance)))
    after = World()
    after.reporter.load(state, 500.0)
    after.raised(now=501.0)
    after.turn(559.9)
    assert after.saves == []
    after.turn(560.0)
    after.disk_is_done()
    assert after.said() == [(LOST, "failure")]


def test_what_is_no_maintenance_is_said() -> None:
    with pytest.raises(ValueError, match="maintenance"):
        World().reporter.load(State(maintenance={"vm": {}}), 0.0)
