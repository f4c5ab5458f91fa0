# SPDX-License-Identifier: Apache-2.0
"""The two sides are compared by incident, and what differs is marked."""

from __future__ import annotations

from typing import Any

from vitrage_notifier.reconcile import Line, compare, table

VM, OTHER = "6ba7b810-9dad-41d1-80b4-000000000001", "6ba7b810-9dad-41d1-80b4-000000000002"
HOST = "compute-1"


def fault(incident: str | None, name: str = "heartbeat-lost") -> dict[str, Any]:
    return {"name": name, "severity": "failure", "text": "x", "incident": incident}


def status(*vm: dict[str, Any], host: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    return {
        "engine": {"faults": list(host)},
        "vms": [{"uuid": VM, "faults": list(vm)}],
        "unmonitored": [],
    }


def row(resource: str, incident: str, name: str = "VM heartbeat lost") -> dict[str, Any]:
    return {"resource_name": f"{resource}/vmhb/{incident}", "name": name, "severity": "FAILURE"}


def test_what_both_sides_have_is_equal() -> None:
    rows = [row(VM, "a"), row(HOST, "b", "VM heartbeat engine impaired")]
    lines = compare(status(fault("a"), host=(fault("b", "engine-impaired"),)), rows, HOST)
    assert lines == [
        Line(VM, "VM heartbeat lost", "a", "FAILURE", "FAILURE"),
        Line(HOST, "VM heartbeat engine impaired", "b", "FAILURE", "FAILURE"),
    ]
    assert not any(line.differs for line in lines)


def test_what_one_side_lacks_or_has_of_an_earlier_incident_differs() -> None:
    lines = compare(status(fault("new")), [row(VM, "old")], HOST)
    assert [(line.incident, line.believed, line.shown) for line in lines] == [
        ("new", "FAILURE", "-"),
        ("old", "-", "FAILURE"),
    ]
    assert all(line.differs for line in lines)


def test_the_alarms_of_other_nodes_and_of_others_are_left_out() -> None:
    rows = [
        row(OTHER, "c"),
        row("compute-10", "d"),
        {"resource_name": None, "name": "VM is unresponsive", "severity": "CRITICAL"},
        {"resource_name": f"{VM}/other/e", "name": "x", "severity": "FAILURE"},
        {"name": "deduced", "severity": "CRITICAL"},
    ]
    assert compare(status(), rows, HOST) == []


def test_a_fault_that_a_maintenance_withholds_is_not_expected() -> None:
    assert compare(status(fault(None)), [], HOST) == []


def test_the_table_marks_what_differs() -> None:
    lines = compare(status(fault("a"), fault("b", "check.db")), [row(VM, "a")], HOST)
    head, *rows = table(lines).splitlines()
    assert head.split() == ["RESOURCE", "ALARM", "INCIDENT", "THIS", "NODE", "VITRAGE"]
    assert [row[0] for row in rows] == ["!", " "]
    assert rows[0].endswith("  VM health check failed: db  b         FAILURE    -")
    assert rows[1].endswith("  VM heartbeat lost           a         FAILURE    FAILURE")
