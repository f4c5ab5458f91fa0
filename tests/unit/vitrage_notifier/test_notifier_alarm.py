# SPDX-License-Identifier: Apache-2.0
"""What a notification means, and what Vitrage gets to see of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import collectd
from vitrage_notifier.alarm import (
    Alarm,
    Cleared,
    NotOursError,
    OpenFaults,
    Raised,
    Subject,
    name_of,
    read,
    sign_of_life,
)

VM = "6ba7b810-9dad-41d1-80b4-00c04fd430c8"
INCIDENT = "0b0c0e1e-0000-4000-8000-000000000001"


def notification(**changes: Any) -> collectd.Notification:
    fields: dict[str, Any] = {
        "type": "gauge",
        "host": "compute-1",
        "plugin": "vmhb",
        "plugin_instance": VM,
        "type_instance": "heartbeat-lost",
        "severity": collectd.NOTIF_FAILURE,
        "time": 1000.0,
        "meta": {"incident": INCIDENT, "since": 990.0},
    }
    return collectd.Notification(**{**fields, **changes})


SUBJECT = Subject("compute-1", VM, "heartbeat-lost")


def test_a_failure_is_raised_with_the_engines_incident() -> None:
    assert read(notification()) == Raised(SUBJECT, "FAILURE", 1000.0, INCIDENT)


def test_okay_clears() -> None:
    news = read(notification(severity=collectd.NOTIF_OKAY))
    assert news == Cleared(SUBJECT, 1000.0, INCIDENT)


def test_meta_data_that_a_carrier_dropped_leaves_the_incident_open() -> None:
    assert read(notification(meta={})) == Raised(SUBJECT, "FAILURE", 1000.0, None)


@pytest.mark.parametrize("part", [2, 2.0, "2"])
def test_a_handshake_is_read_however_the_carrier_writes_numbers(part: object) -> None:
    meta = {"handshake": "h1", "part": part, "parts": 3, "incidents": '["a", "b"]'}
    news = read(
        notification(
            plugin_instance="", type_instance="open-faults", severity=collectd.NOTIF_OKAY, meta=meta
        )
    )
    assert news == OpenFaults("compute-1", 1000.0, "h1", 2, 3, frozenset({"a", "b"}))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"type_instance": "heartbeat"}, "type_instance 'heartbeat' is no fault"),
        ({"type_instance": "check."}, "type_instance 'check.' is no fault"),
        ({"type_instance": "check.a b"}, "is no fault"),
        ({"plugin_instance": "vm-1"}, "plugin_instance 'vm-1' is no instance UUID"),
        ({"plugin_instance": VM.upper()}, "is no instance UUID"),
        ({"plugin_instance": VM + "\n"}, "is no instance UUID"),
        ({"severity": 0}, "severity 0 is unknown"),
        ({"host": ""}, "host is empty"),
        ({"host": "x" * 126 + "é"}, "host is no text"),
        ({"meta": {"incident": 7}}, "meta incident 7 is no identifier"),
        ({"meta": {"incident": "a.b"}}, "meta incident 'a.b' is no identifier"),
    ],
)
def test_nonsense_is_refused_with_its_reason(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(NotOursError, match=complaint):
        read(notification(**changes))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"part": "x"}, "meta part is no whole number"),
        ({"part": float("inf")}, "meta part is no whole number"),
        ({"part": 0}, "meta part 0 of 1 is out of range"),
        ({"parts": 10**6}, "out of range"),
        ({"incidents": "{}"}, "meta incidents is no JSON list"),
        ({"incidents": "[1]"}, "meta incidents is no JSON list"),
        ({"incidents": "[" * 100_000}, "meta incidents is no JSON list"),
        ({"handshake": 1}, "meta handshake is no text"),
    ],
)
def test_a_broken_handshake_is_refused(changes: dict[str, Any], complaint: str) -> None:
    meta = {"handshake": "h", "part": 1, "parts": 1, "incidents": "[]", **changes}
    with pytest.raises(NotOursError, match=complaint):
        read(notification(type_instance="open-faults", plugin_instance="", meta=meta))


@given(
    text=st.text(max_size=200).filter(lambda t: "\0" not in t),
    severity=st.integers(-1, 9),
    meta=st.dictionaries(st.text(max_size=9), st.one_of(st.text(), st.floats(), st.booleans())),
)
def test_garbage_is_understood_or_refused_and_nothing_else(
    text: str, severity: int, meta: dict[str, Any]
) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    for field in ("host", "plugin_instance", "type_instance"):
        for fault in ("open-faults", "heartbeat-lost"):
            changes = {"type_instance": fault, field: text, "severity": severity, "meta": meta}
            try:
                read(notification(**changes))
            except NotOursError as problem:
                assert str(problem)  # noqa: PT017


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        ("heartbeat-lost", "VM heartbeat lost"),
        ("check.postgres_9.6-main", "VM health check failed: postgres_9.6-main"),
        ("not-established", "VM heartbeat not established"),
        ("cannot-monitor", "VM heartbeat impossible"),
        ("bad-policy", "VM heartbeat policy invalid"),
        ("guest-misbehaves", "VM heartbeat agent misbehaves"),
        ("engine-impaired", "VM heartbeat engine impaired"),
    ],
)
def test_every_fault_has_its_stable_name(fault: str, name: str) -> None:
    assert name_of(fault) == name


def test_an_alarm_on_a_vm_points_at_the_instance_by_its_uuid() -> None:
    event_type, payload = Alarm(INCIDENT, 2, SUBJECT, "WARNING", 1000.0).event(True, 120.0)
    assert event_type == "collectd.alarm.warning"
    assert payload == {
        "host": VM,
        "plugin": "vmhb",
        "plugin_instance": INCIDENT,
        "collectd_type": "gauge",
        "type_instance": "heartbeat-lost",
        "message": "VM heartbeat lost",
        "severity": "WARNING",
        "time": 1000.0,
        "id": f"{INCIDENT}.2",
        "graph_query_result": [{"id": VM, "vitrage_type": "nova.instance"}],
        "vmhb": {
            "version": 1,
            "host": "compute-1",
            "incident": INCIDENT,
            "generation": 2,
            "lease": 120.0,
        },
    }
    assert json.loads(json.dumps(payload)) == payload


def test_an_alarm_on_a_host_points_at_the_host_by_its_name() -> None:
    subject = Subject("compute-1", "", "engine-impaired")
    event_type, payload = Alarm(INCIDENT, 1, subject, "FAILURE", 1000.0).event(True, 120.0)
    assert event_type == "collectd.alarm.failure"
    assert payload["host"] == "compute-1"
    assert payload["graph_query_result"] == [{"id": "compute-1", "vitrage_type": "nova.host"}]


def test_clearing_says_ok_under_the_same_id_and_ends_the_lease() -> None:
    alarm = Alarm(INCIDENT, 1, SUBJECT, "FAILURE", 1000.0)
    raised: dict[str, Any] = alarm.event(True, 120.0)[1]
    event_type, payload = alarm.event(False, 120.0)
    assert event_type == "collectd.alarm.ok"
    ended = {**raised["vmhb"], "lease": 0.0}
    assert payload == {**raised, "severity": "OK", "vmhb": ended}


def test_a_sign_of_life_is_no_event_of_vitrages_collectd_datasource() -> None:
    event_type, payload = sign_of_life("compute-1", 60.0, 3, 1000.0)
    assert not event_type.startswith("collectd.")
    assert payload == {
        "time": 1000.0,
        "vmhb": {"version": 1, "host": "compute-1", "period": 60.0, "open": 3},
    }
