# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectd_vmhb.incidents import RECOVERED, Ended, Incident
from collectd_vmhb.publish import (
    EVIDENCE_MAX,
    HEALTH_NUMBER,
    IDS_PER_PART,
    MESSAGE_MAX,
    NAME_MAX,
    Sample,
    cut,
    ended_note,
    engine_samples,
    fault_note,
    handshake_notes,
    vm_samples,
)
from collectd_vmhb.verdict import Health, Severity

UUID = "6ba7b810-9dad-41d1-80b4-00c04fd430c8"
LOST = Incident(
    id="i-1",
    uuid=UUID,
    name="heartbeat-lost",
    severity=Severity.FAILURE,
    text="5 heartbeat challenges in a row unanswered",
    since=1e9,
    reason="no-answer",
    details={"beats": "3"},
    instance="web",
    project="p-1",
    raised=0.0,
)


def test_a_fault_names_its_vm_in_the_base_fields_and_for_people() -> None:
    note = fault_note(LOST, 1e9 + 5)
    assert (note.plugin_instance, note.type_instance, note.severity, note.time) == (
        UUID,
        "heartbeat-lost",
        "failure",
        1e9 + 5,
    )
    assert note.message == "VM web: 5 heartbeat challenges in a row unanswered"
    assert note.meta == {
        "incident": "i-1",
        "since": 1e9,
        "reason": "no-answer",
        "instance_name": "web",
        "project": "p-1",
        "evidence": '{"beats": "3"}',
    }


def test_an_end_says_why_and_after_how_long() -> None:
    note = ended_note(Ended(LOST, RECOVERED), 1e9 + 61)
    assert note.severity == "okay"
    assert note.message == "VM web: heartbeat-lost is over after 61 s (recovered)"
    assert (note.meta["incident"], note.meta["reason"]) == ("i-1", "recovered")


def test_a_clock_that_went_back_makes_no_negative_duration() -> None:
    assert "after 0 s" in ended_note(Ended(LOST, RECOVERED), 1e9 - 3600).message


def test_a_vm_without_a_name_is_called_by_its_uuid_and_the_host_by_none() -> None:
    assert fault_note(LOST._replace(instance=""), 0.0).message.startswith(f"VM {UUID}: ")
    host = LOST._replace(uuid="", instance="", name="engine-impaired", text="libvirt is away")
    assert fault_note(host, 0.0).message == "this host: libvirt is away"
    assert fault_note(host, 0.0).plugin_instance == ""


def test_a_vms_name_cannot_write_lines_of_its_own_into_a_log() -> None:
    note = fault_note(LOST._replace(instance="a\nvmhb: all is well\u202e"), 0.0)
    assert note.message.isprintable()


@pytest.mark.parametrize("text", ["é" * 300, "€" * 300, "😀" * 300, "a" + "é" * 300])
def test_what_collectd_would_cut_is_cut_on_a_character(text: str) -> None:
    for note in (fault_note(LOST._replace(text=text), 0.0), ended_note(Ended(LOST, text), 0.0)):
        assert MESSAGE_MAX - 3 <= len(note.message.encode()) <= MESSAGE_MAX
        assert "\ufffd" not in note.message
    named = fault_note(LOST._replace(instance=text), 0.0)
    assert len(named.message.encode()) <= MESSAGE_MAX
    assert len(fault_note(LOST._replace(name=text), 0.0).type_instance.encode()) <= NAME_MAX


@given(st.text(st.characters(codec=None)), st.integers(0, 300))
def test_a_cut_text_fits_and_is_what_was_there(text: str, limit: int) -> None:
    short = cut(text, limit)
    assert len(short.encode()) <= limit
    whole = text.encode("utf-8", "replace").decode()
    assert whole.startswith(short)
    assert short == whole or len(short.encode()) > limit - 4


@pytest.mark.parametrize(("count", "sizes"), [(0, [0]), (1, [1]), (20, [20]), (41, [20, 20, 1])])
def test_a_handshake_lists_every_incident_in_numbered_parts(count: int, sizes: list[int]) -> None:
    incidents = [LOST._replace(id=f"6ba7b810-9dad-41d1-80b4-{n:012d}") for n in range(count)]
    notes = handshake_notes(incidents, "h-1", 5.0)
    assert {note.meta["handshake"] for note in notes} == {"h-1"}
    assert {note.type_instance for note in notes} == {"open-faults"}
    assert [(note.meta["part"], note.meta["parts"]) for note in notes] == [
        (number, len(sizes)) for number in range(1, len(sizes) + 1)
    ]
    parts: list[list[str]] = [json.loads(str(note.meta["incidents"])) for note in notes]
    assert [len(part) for part in parts] == sizes
    assert [each for part in parts for each in part] == [i.id for i in incidents]
    assert all(len(str(note.meta["incidents"])) <= 900 for note in notes)
    assert IDS_PER_PART == 20


def test_a_vm_has_its_health_its_counters_and_a_round_trip_once_there_was_one() -> None:
    counters = {"beats": 3, "misses": 1}
    silent = vm_samples(UUID, Health.ESTABLISHING, math.nan, counters)
    assert silent == [
        Sample(UUID, "gauge", "health", 1),
        Sample(UUID, "gauge", "maintenance", 0),
        Sample(UUID, "derive", "beats", 3),
        Sample(UUID, "derive", "misses", 1),
    ]
    answered = vm_samples(UUID, Health.HEALTHY, 0.002, counters)
    assert Sample(UUID, "latency", "heartbeat", 0.002) in answered
    worked_on = vm_samples(UUID, Health.FAILED, math.nan, counters, maintenance=True)
    assert Sample(UUID, "gauge", "maintenance", 1) in worked_on


def test_every_health_has_a_number_of_its_own() -> None:
    assert sorted(HEALTH_NUMBER.values()) == list(range(len(Health)))
    assert set(HEALTH_NUMBER) == set(Health)


def test_the_engine_counts_vms_by_health_and_itself() -> None:
    healths = [Health.HEALTHY, Health.HEALTHY, Health.FAILED]
    samples = {s.type_instance: s for s in engine_samples(healths, 0.01, 2, {"loops": 7})}
    assert samples["vms-healthy"].value == 2
    assert samples["vms-failed"].value == 1
    assert samples["vms-paused"].value == 0
    assert (samples["loop"].type, samples["loop"].value) == ("latency", 0.01)
    assert samples["awareness"].value == 2
    assert (samples["loops"].type, samples["loops"].value) == ("derive", 7)
    assert all(sample.plugin_instance == "" for sample in samples.values())


def test_evidence_leaves_out_the_longest_until_it_fits() -> None:
    details = {"reading": "hung", "measured": "x" * 300, "guest_text": "\u20ac" * 200}
    evidence = str(fault_note(LOST._replace(details=details), 0.0).meta["evidence"])
    assert len(evidence) <= EVIDENCE_MAX
    assert json.loads(evidence) == {"reading": "hung", "measured": "x" * 300}
