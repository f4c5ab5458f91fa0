# SPDX-License-Identifier: Apache-2.0
"""What one guest may cost its host: lines at once, notifications, memory for texts, time."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from collectd_vmhb import audits, checks
from collectd_vmhb.channel import READ_MAX
from collectd_vmhb.conduct import BURST_SECONDS, NEWS_PER_SECOND, TOLD_MAX
from collectd_vmhb.incidents import PER_INSTANCE_MAX
from collectd_vmhb.protocol.messages import CHECKS_MAX
from collectd_vmhb.protocol.session import LINES_MAX
from collectd_vmhb.settings import Settings
from tests.unit.collectd_vmhb.peer import POLICY, Peer

AT_ONCE = int(NEWS_PER_SECOND * BURST_SECONDS)
#: The widest that is stored: four bytes for each character.
WIDE = "\U0001f525"
#: As many of them as fit into a line twice, escaped.
LENGTH = 500


def entry(
    name: str, status: str = "critical", text: str = "", perfdata: str = ""
) -> dict[str, Any]:
    said = {"text": text, "perfdata": perfdata, "since_ms": 0, "duration_ms": 1}
    return {"name": name, "status": status, **said}


def named(count: int, status: str = "critical") -> list[dict[str, Any]]:
    return [entry(f"c{number}", status) for number in range(count)]


def guest(*caps: str) -> Peer:
    peer = Peer(POLICY, replace(Settings(), audit_on_fault=False))
    peer.open(extended=True, caps=("checks", *caps))
    return peer


def kept(results: Any) -> int:
    return sum(check.size for check in results)


def test_more_lines_at_once_than_a_read_of_answers_has_are_not_looked_at() -> None:
    peer = guest()
    answer = b'{"version":3,"msg_type":"challenge_response","heartbeat_response":%d,%s}\n'
    line = answer % (peer.challenge, b'"heartbeat_health":"healthy"')
    assert len(line) * LINES_MAX > READ_MAX, "no guest that only answers ever has so many"
    peer.say(b"1\n" * LINES_MAX + line)
    assert peer.monitor.counters.beats == 0
    assert peer.monitor.counters.malformed == LINES_MAX + 1
    peer.say(line)
    assert peer.monitor.counters.beats == 1


def test_many_checks_that_fail_together_are_told_bit_by_bit_and_none_is_forgotten() -> None:
    peer = guest()
    peer.answer(vmhb={"checks": named(TOLD_MAX), "more": False})
    assert len(peer.faults) == AT_ONCE
    peer.live((TOLD_MAX - AT_ONCE) / NEWS_PER_SECOND + 1)
    assert sorted(peer.faults) == sorted(f"+check.c{number}" for number in range(TOLD_MAX))


def test_a_check_for_whose_fault_there_is_no_room_is_told_once_another_is_over() -> None:
    peer = guest()
    peer.answer(vmhb={"checks": named(TOLD_MAX + 2), "more": False})
    peer.live(60.0)
    assert sorted(peer.faults) == sorted(f"+check.c{number}" for number in range(TOLD_MAX))
    assert len(peer.monitor.checks.results) == TOLD_MAX + 2, "how it stands is known all the same"
    peer.faults.clear()
    peer.answer(vmhb={"checks": [entry("c5", "ok")]})
    peer.live(2.0)
    assert peer.faults == ["-check.c5", f"+check.c{TOLD_MAX}"]


def test_what_has_no_room_keeps_no_news_of_the_others_back() -> None:
    peer = guest()
    peer.answer(vmhb={"checks": named(CHECKS_MAX), "more": False})
    peer.live(60.0)
    peer.faults.clear()
    peer.answer(vmhb={"checks": [entry("c5", "warning")]})
    assert peer.faults == ["+check.c5"]


def test_an_instance_has_room_for_all_that_is_told_of_its_checks() -> None:
    # Recoveries are held back, so that each check that is kept can have an incident at a time.
    assert TOLD_MAX < CHECKS_MAX < PER_INSTANCE_MAX


def test_what_waits_to_be_told_needs_no_word_of_the_guest() -> None:
    peer = Peer(replace(POLICY, interval=60.0, timeout=50.0), Settings())
    peer.open(extended=True, caps=("checks",))
    peer.answer(vmhb={"checks": named(AT_ONCE + 3), "more": False})
    peer.live(2.0, answering=False)
    assert len(peer.faults) == AT_ONCE + 3


def test_a_check_that_turns_without_end_is_told_no_more_often_than_is_allowed() -> None:
    peer = guest()
    peer.answer(vmhb={"checks": named(4), "more": False})
    for turn in range(200):
        peer.now += 0.05
        status = ("ok", "critical", "warning", "unknown")[turn % 4]
        peer.answer(vmhb={"checks": named(4, status)})
    assert len(peer.faults) <= AT_ONCE + 10 * NEWS_PER_SECOND
    peer.live(5.0)
    settled = len(peer.faults)
    peer.live(60.0)
    assert len(peer.faults) == settled, "nothing is told that is not so"


def test_a_lost_heartbeat_waits_for_no_check() -> None:
    peer = guest()
    peer.live(1.0)
    peer.answer(vmhb={"checks": named(CHECKS_MAX), "more": False})
    peer.live(POLICY.interval * (POLICY.miss_threshold + 1), answering=False)
    assert "+heartbeat-lost" in peer.faults


@pytest.mark.parametrize("letter", ["x", "\u00e4", "\u4e2d", WIDE])
def test_texts_of_checks_are_kept_as_far_as_there_is_room(letter: str) -> None:
    peer = guest()
    for number in range(CHECKS_MAX):
        check = entry(f"c{number}", "warning", letter * LENGTH, letter * LENGTH)
        peer.now += 1.0
        peer.answer(vmhb={"checks": [check], "more": number < CHECKS_MAX - 1})
    results = peer.monitor.checks.results
    assert len(results) == CHECKS_MAX, "how each check stands is kept all the same"
    assert kept(results.values()) <= checks.TEXTS_MAX + CHECKS_MAX * 2 * 64
    assert results["c0"].text == letter * LENGTH


def test_room_that_a_check_had_is_there_for_the_next() -> None:
    peer = guest()
    for turn in range(50):
        peer.now += 1.0
        text = WIDE * LENGTH if turn < 49 else "the end"
        peer.answer(vmhb={"checks": [entry("a", text=text)], "more": False})
        peer.now += 1.0
        peer.open(extended=True, caps=("checks",))
        peer.answer(vmhb={"checks": [entry("b", text=text)], "more": False})
    assert peer.monitor.checks.results["b"].text == "the end"


def test_texts_of_audits_are_kept_as_far_as_there_is_room() -> None:
    peer = guest("audit")
    peer.answer(vmhb={"checks": [], "more": False})
    audit = peer.monitor.audit("", True, None, peer.now)
    for number in range(CHECKS_MAX):
        found = [entry(f"c{number}", "warning", WIDE * LENGTH, WIDE * LENGTH)]
        fields = {"id": audit.id, "outcome": "done", "checks": found, "more": True}
        peer.say(json.dumps({"version": 3, "msg_type": "audit_result", **fields}).encode() + b"\n")
    assert len(audit.checks) == audits.CHECKS_MAX
    assert kept(audit.checks.values()) <= audits.AUDIT_TEXTS_MAX + CHECKS_MAX * 2 * 64
