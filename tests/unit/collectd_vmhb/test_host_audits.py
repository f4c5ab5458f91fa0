# SPDX-License-Identifier: Apache-2.0
"""Audits as the host asks for them, of guests that answer well, badly, late and never."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import Any

import pytest

from collectd_vmhb.audits import CHECKS_MAX, FAULT_REST, SLACK, Outcome
from collectd_vmhb.settings import Settings
from collectd_vmhb.wording import Refusal
from tests.unit.collectd_vmhb.peer import POLICY, Peer

CAPS = ("audit", "checks")
MANUAL = replace(Settings(), audit_on_fault=False)


class Audited(Peer):
    """A guest that speaks audits, healthy, and what it was asked to audit."""

    def __init__(self, settings: Settings = MANUAL, caps: tuple[str, ...] = CAPS) -> None:
        super().__init__(POLICY, settings)
        self.open(extended=True, caps=caps)
        self.answer(vmhb={"checks": [], "more": False})

    @property
    def audits(self) -> list[dict[str, Any]]:
        return [message for message in self.said if message["msg_type"] == "audit"]

    def ask(self, check: str = "", detailed: bool = False, timeout: float | None = None) -> int:
        audit = self.monitor.audit(check, detailed, timeout, self.now)
        self.collect()
        return audit.id

    def result(self, number: int, outcome: str = "done", **fields: Any) -> None:
        message = {"version": 3, "msg_type": "audit_result", "id": number, "outcome": outcome}
        self.say(json.dumps({**message, **fields}).encode() + b"\n")

    def report(self, name: str, status: str) -> None:
        """The next beat says so of a check."""
        self.live(1, answering=False)
        self.answer(vmhb={"checks": [entry(name, status)]})

    @property
    def outcome(self) -> Outcome:
        assert self.monitor.audits is not None
        assert self.monitor.audits.last is not None
        return self.monitor.audits.last.outcome

    def found(self) -> dict[str, str]:
        assert self.monitor.audits is not None
        assert self.monitor.audits.last is not None
        return {name: check.text for name, check in self.monitor.audits.last.checks.items()}


def entry(name: str, status: str = "ok", text: str = "") -> dict[str, Any]:
    return {"name": name, "status": status, "text": text, "since_ms": 0, "duration_ms": 3}


def test_an_audit_goes_out_once_and_its_answer_may_come_in_parts() -> None:
    peer = Audited()
    number = peer.ask("", detailed=True, timeout=7.5)
    (asked,) = peer.audits
    assert (asked["id"], asked["check"], asked["level"]) == (number, "", "detailed")
    assert asked["timeout_ms"] == 7500
    peer.result(number, checks=[entry("a", text="one\x1b[1m")], more=True)
    assert peer.outcome is Outcome.RUNNING
    peer.result(number, checks=[entry("b", "critical", "two")], log_msg="well")
    assert peer.outcome is Outcome.DONE
    assert peer.found() == {"a": "one [1m", "b": "two"}
    assert peer.faults == [], "an audit says what was found once, not how a check stands"


def test_answers_to_anything_else_are_ignored() -> None:
    peer = Audited()
    number = peer.ask("a")
    peer.result(number + 1, checks=[entry("a")])
    assert peer.outcome is Outcome.RUNNING
    peer.result(number, checks=[entry("a"), entry("other")])
    assert peer.found() == {"a": ""}
    peer.result(number, "refused", checks=[entry("a", text="again")])
    assert peer.outcome is Outcome.DONE
    assert peer.found() == {"a": ""}


def test_who_never_answers_is_given_up_in_time() -> None:
    peer = Audited()
    asked = peer.now
    number = peer.ask(timeout=3.0)
    assert peer.monitor.deadline <= asked + 3.0 + SLACK
    peer.live(3.0 + SLACK - 0.1)
    assert peer.outcome is Outcome.RUNNING
    peer.live(0.2)
    assert peer.outcome is Outcome.UNANSWERED
    peer.result(number)
    assert peer.outcome is Outcome.UNANSWERED, "late"
    assert peer.monitor.counters.misses == 0


@pytest.mark.parametrize("how", ["disconnected", "exit", "init"])
def test_an_audit_ends_with_its_session(how: str) -> None:
    peer = Audited()
    peer.ask()
    if how == "disconnected":
        peer.monitor.disconnected(peer.now, "gone")
    elif how == "exit":
        peer.say(b'{"version":3,"msg_type":"exit","log_msg":"bye"}\n')
    else:
        peer.open(extended=True, caps=CAPS)
    assert peer.outcome is Outcome.INTERRUPTED


def test_one_runs_at_a_time_and_the_next_waits_its_while() -> None:
    peer = Audited()
    number = peer.ask()
    with pytest.raises(Refusal, match="running since 0"):
        peer.ask()
    peer.result(number)
    with pytest.raises(Refusal, match=r"too soon.*AuditPace"):
        peer.ask()
    peer.live(5)
    assert peer.ask() != number


def test_who_cannot_be_asked_is_not_and_it_is_said_why() -> None:
    for caps, words in ((("checks",), "does not speak audits"), ((), "does not speak audits")):
        with pytest.raises(Refusal, match=words):
            Audited(caps=caps).ask()
    published = Peer()
    published.open()
    published.answer()
    with pytest.raises(Refusal, match="does not speak audits"):
        published.monitor.audit("", False, None, 0.0)
    peer = Audited()
    peer.monitor.disconnected(peer.now, "gone")
    peer.monitor.connected(peer.now)
    with pytest.raises(Refusal, match="no session"):
        peer.ask()
    peer = Audited()
    peer.monitor.pause(peer.now, "paused")
    with pytest.raises(Refusal, match="is paused"):
        peer.ask()
    assert peer.audits == []


def test_what_a_guest_answers_is_bounded() -> None:
    peer = Audited()
    number = peer.ask()
    for part in range(40):
        peer.result(number, checks=[entry(f"c{part}-{i}") for i in range(64)], more=True)
        peer.live(1)
    assert len(peer.found()) == CHECKS_MAX
    assert peer.outcome is Outcome.UNANSWERED, "parts without end are no answer"


# -- audits that faults ask for -------------------------------------------------------------


def test_a_check_that_fails_is_audited_in_detail_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    peer = Audited(Settings())
    peer.report("app", "critical")
    (asked,) = peer.audits
    assert (asked["check"], asked["level"], asked["timeout_ms"]) == ("app", "detailed", 30000)
    peer.live(2)
    peer.result(asked["id"], checks=[entry("app", "critical", "no route to 10.0.0.7")])
    peer.live(60)
    assert peer.faults == ["+check.app"], "nobody is notified again"
    assert len(peer.audits) == 1
    assert "VM uuid: detailed audit of check app, done after 2.0 s: app critical: no route" in (
        caplog.text
    )
    assert peer.monitor.audits is not None
    assert peer.monitor.audits.of_faults["app"].outcome is Outcome.DONE
    peer.report("app", "ok")
    assert peer.monitor.audits.of_faults == {}


def test_many_checks_that_fail_together_are_audited_one_after_another() -> None:
    peer = Audited(Settings())
    peer.live(1, answering=False)
    peer.answer(vmhb={"checks": [entry(f"c{n}", "warning") for n in range(5)]})
    for count in range(1, 6):
        assert len(peer.audits) == count
        peer.result(peer.audits[-1]["id"])
        peer.live(5.5)
    assert {asked["check"] for asked in peer.audits} == {f"c{n}" for n in range(5)}


def test_a_check_that_flaps_asks_for_an_audit_now_and_then() -> None:
    peer = Audited(replace(Settings(), audit_timeout=1.0))
    flaps = int(FAULT_REST / 2) - 10
    for _ in range(flaps):
        peer.report("app", "critical")
        peer.report("app", "ok")
    assert len(peer.audits) == 1
    for _ in range(20):
        peer.report("app", "critical")
        peer.report("app", "ok")
    assert len(peer.audits) == 2


def test_ever_new_names_get_no_more_audits_than_the_pace_allows() -> None:
    peer = Audited(replace(Settings(), audit_timeout=1.0))
    for number in range(200):
        peer.open(extended=True, caps=CAPS)
        peer.live(1, answering=False)
        peer.answer(vmhb={"checks": [entry(f"c{number}", "critical")], "more": False})
    assert len(peer.audits) <= 200 / 5 + 1
    assert peer.monitor.audits is not None
    assert len(peer.monitor.audits._rests) <= CHECKS_MAX
    assert len(peer.monitor.audits.of_faults) <= 1


def test_what_waits_for_an_audit_is_forgotten_with_its_fault_or_the_guests_silence() -> None:
    peer = Audited(Settings())
    peer.live(1, answering=False)
    peer.answer(vmhb={"checks": [entry("a", "critical"), entry("b", "critical")]})
    (first,) = peer.audits
    waits = ({"a", "b"} - {first["check"]}).pop()
    peer.report(waits, "ok")
    peer.result(first["id"])
    peer.live(60)
    assert len(peer.audits) == 1
    peer.live(1, answering=False)
    peer.answer(vmhb={"checks": [entry("c", "critical"), entry("d", "critical")]})
    peer.live(100, answering=False)
    assert len(peer.audits) == 2
    assert peer.monitor.deadline > peer.now


def test_the_health_bit_of_a_published_guest_is_not_audited() -> None:
    peer = Peer()
    peer.open()
    peer.answer(heartbeat_health="unhealthy")
    peer.live(10)
    assert "+check.health" in peer.faults
    assert all(message["msg_type"] != "audit" for message in peer.said)
