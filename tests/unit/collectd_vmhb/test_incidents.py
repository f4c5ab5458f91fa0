# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectd_vmhb.incidents import PER_INSTANCE_MAX, RECOVERED, Ended, Incident, Incidents
from collectd_vmhb.verdict import FaultCleared, FaultRaised, Severity

HOLD = 30.0
FAILURE, WARNING = Severity.FAILURE, Severity.WARNING


def incidents(hold_down: float = HOLD) -> Incidents:
    numbers = itertools.count(1)
    return Incidents(hold_down, lambda: f"incident-{next(numbers)}")


def raised(
    uuid: str = "vm", name: str = "heartbeat-lost", severity: Severity = FAILURE, **more: Any
) -> FaultRaised:
    fields = {"text": "silent", "since": 0.0, "reason": "no-answer", **more}
    return FaultRaised(uuid, name, severity, **fields)


def cleared(
    uuid: str = "vm", name: str = "heartbeat-lost", reason: str = RECOVERED
) -> FaultCleared:
    return FaultCleared(uuid, name, reason)


def test_a_fault_is_an_incident_with_its_begin_as_a_date() -> None:
    table = incidents()
    incident = table.raised(raised(since=90.0), "web", "p-1", now=100.0, wall=1e9)
    assert incident is not None
    assert (incident.id, incident.since, incident.instance) == ("incident-1", 1e9 - 10, "web")
    assert table.open() == [incident]
    assert table.instances() == {"vm"}
    assert table.of("vm") == {"heartbeat-lost": FAILURE}


def test_the_same_fault_again_is_no_news() -> None:
    table = incidents()
    table.raised(raised(), "", "", 0.0, 0.0)
    assert table.raised(raised(text="still silent"), "", "", 1.0, 1.0) is None


def test_another_severity_is_news_of_the_same_incident() -> None:
    table = incidents()
    first = table.raised(raised(severity=WARNING), "", "", 0.0, 0.0)
    worse = raised(severity=FAILURE, text="worse", details={"seen": "more"})
    second = table.raised(worse, "", "", 1.0, 1.0)
    assert first is not None
    assert second is not None
    assert second.details == {"seen": "more"}
    assert (second.id, second.since, second.text) == (first.id, first.since, "worse")
    assert table.open() == [second]


def test_a_recovery_within_the_hold_down_is_held_back_until_it_has_lasted() -> None:
    table = incidents()
    table.raised(raised(), "", "", 100.0, 0.0)
    assert table.cleared(cleared(), 110.0) is None
    assert table.deadline == 130.0
    assert table.due(129.9) == []
    (ended,) = table.due(130.0)
    assert isinstance(ended, Ended)
    assert (ended.incident.id, ended.reason) == ("incident-1", RECOVERED)
    assert table.open() == []
    assert table.deadline is None


def test_a_fault_that_flaps_stays_one_incident() -> None:
    table = incidents()
    table.raised(raised(), "", "", 0.0, 0.0)
    for second in range(1, 29, 2):
        assert table.cleared(cleared(), second) is None
        assert table.raised(raised(), "", "", second + 1, 0.0) is None
    assert table.due(HOLD) == []
    assert [incident.id for incident in table.open()] == ["incident-1"]


def test_a_recovery_after_the_hold_down_ends_at_once() -> None:
    table = incidents()
    table.raised(raised(), "", "", 0.0, 0.0)
    ended = table.cleared(cleared(), HOLD)
    assert ended is not None
    assert table.raised(raised(), "", "", HOLD + 1, 0.0) is not None
    assert [incident.id for incident in table.open()] == ["incident-2"]


def test_only_a_recovery_is_held_back() -> None:
    table = incidents()
    table.raised(raised(), "", "", 0.0, 0.0)
    assert table.cleared(cleared(), 1.0) is None
    ended = table.cleared(cleared(reason="paused"), 2.0)
    assert ended is not None
    assert ended.reason == "paused"
    assert table.due(1000.0) == []


def test_what_was_never_raised_does_not_end() -> None:
    assert incidents().cleared(cleared(), 0.0) is None


def test_closing_an_instance_keeps_what_is_to_be_kept_and_the_others() -> None:
    table = incidents()
    for event in (raised(), raised(name="bad-policy"), raised("other"), raised("")):
        table.raised(event, "", "", 0.0, 0.0)
    (ended,) = table.close("vm", "deleted", frozenset({"bad-policy"}))
    assert (ended.incident.name, ended.reason) == ("heartbeat-lost", "deleted")
    assert sorted((i.uuid, i.name) for i in table.open()) == [
        ("", "heartbeat-lost"),
        ("other", "heartbeat-lost"),
        ("vm", "bad-policy"),
    ]


def test_a_monitor_that_begins_anew_does_not_hear_of_held_recoveries() -> None:
    # It would take the VM for failed, and a failure after the hold-down would never be told.
    table = incidents()
    table.raised(raised(), "", "", 0.0, 0.0)
    table.cleared(cleared(), 1.0)
    assert table.of("vm") == {}
    assert len(table.open()) == 1


def test_a_dump_survives_json_and_goes_on_as_the_same_incidents() -> None:
    before, after = incidents(), incidents()
    before.raised(raised(details={"beats": "3"}), "wéb", "p-1", 0.0, 1e9)
    before.raised(raised("", "engine-impaired", WARNING), "", "", 0.0, 1e9)
    after.load(json.loads(json.dumps(list(before.dump()))), now=500.0, wall=1e9)
    assert list(after.dump()) == list(before.dump())
    assert after.raised(raised(), "wéb", "p-1", 501.0, 2e9) is None
    ended = after.cleared(cleared(), 500.0 + HOLD)
    assert ended is not None
    assert ended.incident.id == "incident-1"


@pytest.mark.parametrize(
    "dumped",
    [[{}], [{"severity": "failure"}], ["x"], [None], [{"id": "1", "severity": "dreadful"}], [3]],
)
def test_what_is_no_dump_is_a_value_error(dumped: list[Any]) -> None:
    table = incidents()
    with pytest.raises(ValueError, match=r"."):
        table.load(dumped, 0.0, 0.0)
    assert table.open() == []


_KEYS = st.sampled_from([("a", "x"), ("a", "y"), ("b", "x")])
_STEPS = st.one_of(
    st.tuples(st.just("raise"), _KEYS, st.sampled_from(Severity)),
    st.tuples(st.just("clear"), _KEYS, st.sampled_from([RECOVERED, "paused"])),
    st.tuples(st.just("close"), _KEYS, st.just("")),
    st.tuples(st.just("due"), _KEYS, st.just("")),
    st.tuples(st.just("reload"), _KEYS, st.just("")),
)


@given(st.lists(st.tuples(_STEPS, st.floats(0, 40))), st.sampled_from([0.0, HOLD]))
def test_whatever_happens_each_fault_has_at_most_one_incident_that_begins_and_ends_once(
    story: list[tuple[tuple[str, tuple[str, str], Any], float]], hold_down: float
) -> None:
    table, now = incidents(hold_down), 0.0
    told: dict[tuple[str, str], str] = {}
    used: set[str] = set()
    for (step, (uuid, name), extra), passed in story:
        now += passed
        ends = [news for news in table.due(now) if isinstance(news, Ended)]
        if step == "raise":
            incident = table.raised(raised(uuid, name, extra), "", "", now, now)
            if incident is not None and (uuid, name) not in told:
                # due() came first: what ended in the same turn is out of the way.
                for ended in ends:
                    told.pop((ended.incident.uuid, ended.incident.name), None)
                ends = []
                assert incident.id not in used
                used.add(incident.id)
                told[uuid, name] = incident.id
        elif step == "clear":
            end = table.cleared(cleared(uuid, name, extra), now)
            ends += [end] if end else []
        elif step == "close":
            ends += table.close(uuid, "deleted", frozenset())
        elif step == "reload":
            dumped = table.dump()
            fresh = Incidents(hold_down, table._new_id)
            fresh.load(dumped, now, now)
            table = fresh
        for ended in ends:
            assert (
                told.pop((ended.incident.uuid, ended.incident.name), ended.incident.id)
                == ended.incident.id
            )
        for incident in table.open():
            told.setdefault((incident.uuid, incident.name), incident.id)
        assert {(i.uuid, i.name): i.id for i in table.open()} == told
        assert table.deadline is None or table.deadline > now - 1e-9


def test_a_lower_severity_waits_for_the_hold_down_and_a_higher_one_does_not() -> None:
    table = incidents(30.0)
    table.raised(raised("vm", "check.app", Severity.WARNING), "", "", 0.0, 0.0)
    up = table.raised(raised("vm", "check.app", Severity.FAILURE), "", "", 1.0, 1.0)
    assert up is not None
    for at in range(2, 30):
        assert table.raised(raised("vm", "check.app", Severity.WARNING), "", "", at, at) is None
        assert table.raised(raised("vm", "check.app", Severity.FAILURE), "", "", at, at) is None
    table.raised(raised("vm", "check.app", Severity.WARNING), "", "", 30.0, 30.0)
    (down,) = table.due(31.0)
    assert isinstance(down, Incident)
    assert down.severity is Severity.WARNING
    assert table.deadline is None


def test_one_instance_cannot_have_faults_without_end() -> None:
    table = incidents(30.0)
    for number in range(1000):
        table.raised(raised("vm", f"check.{number}", Severity.FAILURE), "", "", 0.0, 0.0)
        table.cleared(cleared("vm", f"check.{number}", "recovered"), 0.0)
    assert len(table.open()) == PER_INSTANCE_MAX
    assert table.raised(raised("other", "check.a", Severity.FAILURE), "", "", 0.0, 0.0)
    table.due(100.0)
    assert table.raised(raised("vm", "check.new", Severity.FAILURE), "", "", 100.0, 100.0)


def test_no_number_of_failing_checks_hides_a_lost_heartbeat() -> None:
    table = incidents()
    for number in range(PER_INSTANCE_MAX):
        table.raised(raised("vm", f"check.{number}", FAILURE), "", "", 0.0, 0.0)
    assert table.raised(raised("vm", "check.more", FAILURE), "", "", 1.0, 1.0) is None
    assert table.raised(raised("vm", "heartbeat-lost", FAILURE), "", "", 1.0, 1.0)
