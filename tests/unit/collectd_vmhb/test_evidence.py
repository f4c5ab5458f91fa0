# SPDX-License-Identifier: Apache-2.0
"""What goes with a fault: when a domain is measured, how that reads, and what of it is told."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectd_vmhb import display, evidence
from collectd_vmhb.evidence import Doubt, Reading, attach, judge, of_exchanges, told
from collectd_vmhb.settings import EvidenceText
from collectd_vmhb.usage import Disks, Usage, Vcpu
from collectd_vmhb.verdict import FaultRaised, Health, Severity

AT = 100.0
WINDOW = 4.0
FIRST = Usage(AT, "running", False, (Vcpu(40.0, 5.0),), True, Disks(1000, 3.0), 200)
NOTHING_TOLD = Usage(AT, "running", False)


def later(
    ran: float = 0.1,
    waited: float = 0.0,
    halts: int | None = None,
    requests: int = 0,
    seconds: float = 0.0,
    packets: int = 0,
    **more: Any,
) -> Usage:
    """FIRST after WINDOW seconds in which so much was done."""
    vcpu = Vcpu(40.0 + ran, 5.0 + waited, None if halts is None else 1000 + halts)
    fields = {
        "vcpus": (vcpu,),
        "disks": Disks(1000 + requests, 3.0 + seconds),
        "packets": 200 + packets,
        **more,
    }
    return replace(FIRST, at=AT + WINDOW, **fields)


def reading(first: Usage, last: Usage, silent: float = 0.0) -> Reading:
    return judge(first, last, silent, AT + WINDOW).reading


# -- how measurements read ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "read"),
    [
        (later(ran=3.9), Reading.HUNG),
        (later(ran=0.0), Reading.HUNG),
        # Less than the kernel counts: it was ready to run, though.
        (later(ran=0.0, waited=0.0001), Reading.WAITING),
        (later(ran=3.9, requests=40, seconds=0.2), Reading.BUSY),
        (later(ran=3.9, packets=1), Reading.BUSY),
        (later(ran=1.5, waited=2.4), Reading.STARVED),
        (later(ran=0.0, waited=3.9), Reading.STARVED),
        # A neighbour takes some of the time, as on any host.
        (later(ran=2.4, waited=1.5, packets=1), Reading.AGENT_SILENT),
        (later(requests=3, seconds=7.5), Reading.IO_STUCK),
        (later(requests=300, seconds=7.5), Reading.AGENT_SILENT),
        (later(packets=5), Reading.AGENT_SILENT),
        (later(), Reading.WAITING),
        (later(disks=None), Reading.AGENT_SILENT),
        (later(stopped=True, state="paused for an I/O error"), Reading.STOPPED),
        (later(vcpus=()), Reading.NOT_MEASURED),
        (later(vcpus=(Vcpu(1.0, 0.0), Vcpu(1.0, 0.0))), Reading.NOT_MEASURED),
    ],
)
def test_what_the_counters_did_reads_as(last: Usage, read: Reading) -> None:
    assert reading(FIRST, last) is read


def test_one_vcpu_that_spins_hangs_a_guest_of_many() -> None:
    idle = Vcpu(7.0, 1.0)
    first = replace(FIRST, vcpus=(Vcpu(40.0, 5.0), idle, idle))
    last = replace(later(), vcpus=(Vcpu(43.9, 5.0), idle, idle))
    assert reading(first, last) is Reading.HUNG


def test_a_vcpu_that_halts_and_wakes_is_no_dead_one_however_little_it_runs() -> None:
    first = replace(FIRST, vcpus=(Vcpu(40.0, 5.0, 1000),))
    assert reading(first, later(ran=0.0, halts=12)) is Reading.WAITING
    assert reading(first, later(ran=0.0, waited=0.001, halts=0)) is Reading.HUNG


def test_a_disk_that_was_never_used_is_not_suspected() -> None:
    unused = Disks(0, 0.0)
    assert reading(replace(FIRST, disks=unused), later(disks=unused)) is Reading.AGENT_SILENT


def test_a_qemu_that_does_not_answer_is_told_with_what_libvirt_knows_without_it() -> None:
    last = replace(FIRST, at=AT + WINDOW, answered=False, disks=None, packets=None)
    finding = judge(FIRST, last, WINDOW, AT + WINDOW)
    assert finding.reading is Reading.QEMU_SILENT
    assert finding.measured == (
        "QEMU has not answered libvirt for 4.0 s; from 4.0 s to 0.0 s before this its vCPU ran "
        "0.00 s and waited 0.000 s for a processor"
    )
    assert judge(NOTHING_TOLD, NOTHING_TOLD, 1.5, AT).measured == (
        "QEMU has not answered libvirt for 1.5 s"
    )
    assert reading(NOTHING_TOLD, NOTHING_TOLD, silent=0.3) is Reading.NOT_MEASURED
    assert reading(FIRST, later(ran=0.1, waited=3.8), silent=2.0) is Reading.STARVED


def test_the_figures_are_told_with_their_window_before_they_are_read() -> None:
    last = later(ran=3.9, waited=0.02, halts=7, requests=4, seconds=0.1, packets=3)
    first = replace(FIRST, vcpus=(Vcpu(40.0, 5.0, 1000),))
    assert judge(first, last, 0.0, AT + WINDOW + 0.3).measured == (
        "from 4.3 s to 0.3 s before this its vCPU ran 3.90 s and waited 0.020 s for a processor, "
        "7 halts, 4 disk requests were done (25 ms each), 3 packets were sent"
    )


counts = st.integers(0, 10**6)
times = st.floats(0, 10**6)
usages = st.builds(
    Usage,
    at=times,
    state=st.sampled_from(("running", "paused by request")),
    stopped=st.booleans(),
    vcpus=st.lists(st.builds(Vcpu, times, times, st.none() | counts), max_size=3).map(tuple),
    answered=st.booleans(),
    disks=st.none() | st.builds(Disks, counts, times),
    packets=st.none() | counts,
)


@given(usages, usages, times, times)
def test_any_two_measurements_have_one_short_reading(
    first: Usage, last: Usage, silent: float, now: float
) -> None:
    finding = judge(first, last, silent, now)
    assert finding.reading in evidence.MEANINGS
    assert 0 < len(finding.measured) < 300


def test_each_reading_but_the_empty_one_means_something_and_has_a_next_step() -> None:
    told = {reading for reading, meaning in evidence.MEANINGS.items() if meaning}
    assert told == set(Reading) - {Reading.NOT_MEASURED}
    assert set(display.NEXT_BY_READING) == {reading.value for reading in told}


# -- when a domain is measured ------------------------------------------------------------------


SUSPECT, FAILED = Health.SUSPECT, Health.FAILED
TIMEOUT = 0.9


def measured_at(moments: list[tuple[float, Health, int, float]]) -> list[float]:
    """When a VM is measured; each moment: now, its health, its misses, when will it be FAILED."""
    doubt = Doubt()
    return [
        at
        for at, health, misses, verdict in moments
        if doubt.due(health, misses, verdict, TIMEOUT, at)
    ]


def test_a_vm_in_doubt_is_measured_at_each_miss_before_the_verdict_and_after_it() -> None:
    moments = [(0.9, SUSPECT, 1, math.inf), (1.0, SUSPECT, 1, math.inf)]
    moments += [(1.9, SUSPECT, 2, math.inf), (2.0, SUSPECT, 2, 2.9), (2.6, SUSPECT, 2, 2.9)]
    moments += [(2.7, SUSPECT, 2, 2.9), (2.9, FAILED, 3, math.inf), (3.9, FAILED, 4, math.inf)]
    moments += [(32.9, FAILED, 33, math.inf), (33.0, FAILED, 33, math.inf)]
    assert measured_at(moments) == [0.9, 1.9, 2.6, 2.9, 32.9]


def test_a_vm_that_was_failed_before_this_engine_began_is_measured() -> None:
    assert measured_at([(0.0, FAILED, 0, math.inf), (9.0, FAILED, 9, math.inf)]) == [0.0]


def test_a_vm_that_is_paused_or_answers_is_not_measured() -> None:
    assert measured_at([(0.0, Health.PAUSED, 2, math.inf), (1.0, Health.HEALTHY, 0, 1.9)]) == []


def test_the_engine_is_told_when_to_come_back() -> None:
    doubt = Doubt()
    assert doubt.at == math.inf
    assert doubt.due(SUSPECT, 1, math.inf, TIMEOUT, 1.0)
    assert doubt.at == math.inf
    assert not doubt.due(SUSPECT, 1, 3.0, TIMEOUT, 2.0)
    assert doubt.at == pytest.approx(2.7)


def test_the_last_measurement_before_the_verdict_is_within_the_timeout() -> None:
    doubt = Doubt()
    doubt.due(SUSPECT, 1, math.inf, 0.2, 1.0)
    assert not doubt.due(SUSPECT, 1, 3.0, 0.2, 2.0)
    assert doubt.at == pytest.approx(2.9)


def doubtful() -> Doubt:
    doubt = Doubt()
    assert doubt.due(SUSPECT, 1, math.inf, TIMEOUT, AT)
    return doubt


@pytest.mark.parametrize("health", [Health.HEALTHY, Health.PAUSED])
def test_what_was_measured_is_forgotten_with_the_doubt(health: Health) -> None:
    doubt = doubtful()
    doubt.take(FIRST)
    assert not doubt.due(health, 0, math.inf, TIMEOUT, AT + 1.0)
    assert (doubt.first, doubt.at) == (None, math.inf)
    assert doubt.due(SUSPECT, 1, math.inf, TIMEOUT, AT + 2.0)


def test_a_measurement_grows_and_the_first_whole_one_is_kept() -> None:
    doubt = doubtful()
    assert doubt.finding(AT).reading is Reading.NOT_MEASURED
    for part in (NOTHING_TOLD, replace(FIRST, disks=None), FIRST):
        doubt.take(part)
    doubt.take(replace(NOTHING_TOLD, at=AT + WINDOW))
    assert doubt.first is FIRST
    doubt.take(later(ran=3.9))
    assert doubt.finding(AT + WINDOW).reading is Reading.HUNG


def test_a_measurement_that_has_only_begun_does_not_take_the_place_of_a_whole_one() -> None:
    doubt = doubtful()
    doubt.take(FIRST)
    doubt.take(later(ran=3.9))
    doubt.take(replace(NOTHING_TOLD, at=AT + 2 * WINDOW))
    assert doubt.finding(AT + 2 * WINDOW).reading is Reading.HUNG


def test_a_qemu_that_does_not_answer_is_silent_since_it_was_asked_first() -> None:
    doubt = doubtful()
    doubt.take(NOTHING_TOLD)
    doubt.take(replace(FIRST, at=AT + WINDOW, answered=False))
    finding = doubt.finding(AT + WINDOW + 0.5)
    assert finding.reading is Reading.QEMU_SILENT
    assert "for 4.5 s" in finding.measured


def test_a_domain_that_was_stopped_meanwhile_is_told_at_once() -> None:
    doubt = doubtful()
    doubt.take(FIRST)
    doubt.take(replace(NOTHING_TOLD, at=AT + 1.0, stopped=True, state="paused for an I/O error"))
    assert doubt.finding(AT + 1.0).measured == "the domain is paused for an I/O error"


def test_an_answer_from_before_the_doubt_does_not_count() -> None:
    doubt = Doubt()
    doubt.take(FIRST)
    assert doubt.first is None


# -- what is told -------------------------------------------------------------------------------

LOST = FaultRaised("vm", "heartbeat-lost", Severity.FAILURE, "5 unanswered", AT, "no-answer", {})
CHECK = FaultRaised(
    "vm", "check.app", Severity.FAILURE, "app is critical", AT, "critical", {}, "no reply"
)


def attached(
    fault: FaultRaised, text: EvidenceText = EvidenceText.NONE, last: Usage = FIRST
) -> FaultRaised:
    exchanges = of_exchanges([(AT - 2.0, 0.0016), (AT - 1.0, 0.0024), (AT, math.nan)], AT + WINDOW)
    finding = judge(FIRST, last, 0.0, AT + WINDOW)
    return attach(fault, exchanges, "running", finding, text)


def test_a_lost_heartbeat_carries_its_exchanges_its_domain_and_the_reading() -> None:
    fault = attached(LOST, last=later(ran=3.9))
    assert fault.text == "5 unanswered; the guest looks hung"
    assert fault.details["exchanges"] == "-6.0:1.6 -5.0:2.4 -4.0:-"
    assert fault.details["rtt_ms"] == "1.6/2.0/2.4"
    assert fault.details["domain"] == "running"
    assert fault.details["reading"] == "hung"
    assert "vCPU ran 3.90 s" in fault.details["measured"]


def test_what_was_not_measured_adds_nothing_to_the_text() -> None:
    assert attached(LOST).text == "5 unanswered"


def test_a_failed_check_carries_no_reading_and_by_default_no_word_of_the_guest() -> None:
    fault = attached(CHECK, last=later(ran=3.9))
    assert fault.text == "app is critical"
    assert fault.details.keys() == {"domain", "exchanges", "rtt_ms"}


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (EvidenceText.REDACTED, "no reply"),
        (EvidenceText.FULL, "no reply"),
    ],
)
def test_a_guests_words_go_out_if_that_is_asked_for(how: EvidenceText, words: str) -> None:
    assert attached(CHECK, how).details["guest_text"] == words


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("no reply from db01.example.com:5432, giving up!", "no reply from * giving up!"),
        ("cannot open /srv/secret/key (errno 13)", "cannot open * (errno *"),
        ("user=admin token abcDEF123", "* token *"),
        ("mail to someone@example.com - failed", "mail to * - failed"),
        ("2001:db8::1 unreachable", "* unreachable"),
        ("plain words; nothing else.", "plain words; nothing else."),
        ("größer", "*"),
    ],
)
def test_redaction_keeps_words_of_letters_alone(text: str, redacted: str) -> None:
    assert told(text, EvidenceText.REDACTED) == redacted


@given(st.text(), st.sampled_from(EvidenceText))
def test_a_guests_words_leave_printable_and_short(text: str, how: EvidenceText) -> None:
    words = told(text, how)
    assert words.isprintable()
    assert len(words) <= evidence.GUEST_TEXT_MAX
    if how is EvidenceText.NONE:
        assert words == ""


@given(st.text())
def test_redaction_lets_no_digit_and_no_path_through(text: str) -> None:
    words = told(text, EvidenceText.REDACTED)
    assert not any(char.isdigit() or char in "/@=" for char in words)
