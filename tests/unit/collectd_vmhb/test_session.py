# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from collectd_vmhb.protocol import CAPS, Answered, Audited, Closed, Match, Opened, Refused, Session
from collectd_vmhb.protocol.messages import AuditResult, ChallengeResponse, Exit, Init, Unsupported
from collectd_vmhb.protocol.session import NACKS_MAX, TRANSITIONS, SessionState


def session() -> Session:
    numbers = itertools.count(101)
    new = Session(lambda: next(numbers), interval=1.0, timeout=0.9)
    new.connected()
    return new


def sent(of: Session) -> list[dict[str, Any]]:
    return [json.loads(line) for line in of.data_to_send().splitlines() if line]


def init(**extra: Any) -> bytes:
    fields = {"version": 3, "msg_type": "init", "invocation_id": 7, "heartbeat_interval_ms": 1000}
    return json.dumps({**fields, **extra}).encode() + b"\n"


def answer(value: int, **extra: Any) -> bytes:
    fields = {
        "version": 3,
        "msg_type": "challenge_response",
        "heartbeat_response": value,
        "heartbeat_health": "healthy",
    }
    return json.dumps({**fields, **extra}).encode() + b"\n"


VMHB = {"caps": ["checks", "busy"], "max_line": 16384}
REPORT = {
    "checks": [{"name": "app", "status": "ok", "since_ms": 0, "duration_ms": 1}],
    "more": False,
}


def test_every_state_says_what_every_message_does_to_it() -> None:
    for state in SessionState:
        assert set(TRANSITIONS[state]) == {
            Init,
            ChallengeResponse,
            AuditResult,
            Exit,
            Unsupported,
        }


def test_a_published_guest_gets_an_acknowledgement_without_extension() -> None:
    s = session()
    assert s.receive(init()) == [Opened(guest_name="", caps=frozenset())]
    (ack,) = sent(s)
    assert ack == {
        "version": 3,
        "revision": 1,
        "msg_type": "init_ack",
        "sequence": 1,
        "invocation_id": 7,
    }
    assert s.open


def test_our_guest_is_told_what_is_agreed() -> None:
    s = session()
    s.receive(init(vmhb=VMHB))
    (ack,) = sent(s)
    assert ack["vmhb"] == {
        "caps": ["busy", "checks"],
        "interval_ms": 1000,
        "timeout_ms": 900,
        "max_line": 16384,
    }


def test_only_the_outstanding_challenge_counts() -> None:
    s = session()
    s.receive(init())
    s.challenge()
    s.challenge()
    first, second = [m["heartbeat_challenge"] for m in sent(s) if m["msg_type"] == "challenge"]
    matches = [
        event.match
        for value in (first, second, second, 999)
        for event in s.receive(answer(value))
        if isinstance(event, Answered)
    ]
    assert matches == [Match.LATE, Match.CURRENT, Match.LATE, Match.WRONG]


def test_an_answer_that_is_64_challenges_old_is_late_and_an_older_one_wrong() -> None:
    s = session()
    for _ in range(66):
        s.challenge()
    values = [m["heartbeat_challenge"] for m in sent(s)]
    matches = [s.receive(answer(value))[0] for value in values[:2]]
    assert [m.match for m in matches if isinstance(m, Answered)] == [Match.WRONG, Match.LATE]


def test_a_challenge_is_not_repeated_within_the_remembered_ones() -> None:
    numbers = iter([1, 1, 2, 2, 1, 3])
    s = Session(lambda: next(numbers), 1.0, 0.9)
    for _ in range(3):
        s.challenge()
    assert [m["heartbeat_challenge"] for m in sent(s)] == [1, 2, 3]


def test_reports_count_only_where_they_were_agreed_on_this_connection() -> None:
    s = session()
    s.receive(init())
    (event,) = s.receive(answer(1, vmhb=REPORT))
    assert isinstance(event, Answered)
    assert event.report is None
    s.receive(init(vmhb=VMHB))
    (event,) = s.receive(answer(1, vmhb=REPORT))
    assert isinstance(event, Answered)
    assert event.report is not None
    s.connected()
    (event,) = s.receive(answer(1, vmhb=REPORT))
    assert isinstance(event, Answered)
    assert event.report is None


def test_an_answer_without_a_session_asks_for_init_once() -> None:
    s = session()
    s.receive(answer(5) * 3)
    (nack,) = sent(s)
    assert nack["msg_type"] == "nack"
    assert nack["log_msg"].startswith("no session")


def test_an_equal_invocation_id_is_a_new_session_all_the_same() -> None:
    s = session()
    events = s.receive(init() + init())
    assert len([e for e in events if isinstance(e, Opened)]) == 2
    assert len(sent(s)) == 2


def test_exit_closes_the_session() -> None:
    s = session()
    s.receive(init())
    assert s.receive(b'{"version":3,"msg_type":"exit","log_msg":"bye"}\n') == [Closed("bye")]
    assert not s.open


def test_bad_lines_are_counted_and_nacked_a_few_times_in_short_ascii() -> None:
    s = session()
    unknown = b'{"version":3,"msg_type":"x' + "ü".encode() * 500 + b'"}\n'
    events = [event for _ in range(50) for event in s.receive(unknown + b"garbage\n")]
    assert len([e for e in events if isinstance(e, Refused)]) == 50
    nacks = sent(s)
    assert len(nacks) == NACKS_MAX
    assert all(len(nack["log_msg"].encode()) <= 200 for nack in nacks)


def test_an_action_response_of_the_published_voting_is_let_pass() -> None:
    s = session()
    assert s.receive(b'{"version":3,"msg_type":"action_response"}\n') == []
    assert sent(s) == []


@pytest.mark.parametrize("extended", [True, False])
def test_a_line_above_the_limit_is_refused_and_the_next_one_read(extended: bool) -> None:
    s = session()
    s.receive(init(**({"vmhb": VMHB} if extended else {})))
    limit = 16384 if extended else 4 * 1056
    events = s.receive(b'{"a":"' + b"x" * limit + b'"}\n' + answer(3))
    assert [type(event) for event in events] == [Refused, Answered]


AUDIT = {"version": 3, "msg_type": "audit_result", "id": 1, "outcome": "done"}


def test_an_audit_has_an_id_and_its_answer_is_an_event() -> None:
    s = session()
    s.receive(init(vmhb={"caps": ["audit"], "max_line": 16384}))
    assert s.can_audit
    sent(s)
    number = s.audit("app", "detailed", 2.5)
    (asked,) = sent(s)
    assert (asked["msg_type"], asked["id"], asked["check"]) == ("audit", number, "app")
    assert (asked["level"], asked["timeout_ms"]) == ("detailed", 2500)
    (event,) = s.receive(json.dumps({**AUDIT, "id": number, **REPORT}).encode() + b"\n")
    assert isinstance(event, Audited)
    assert (event.id, event.outcome, [check.name for check in event.checks]) == (
        number,
        "done",
        ["app"],
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": 0},
        {"id": True},
        {"id": 2**31},
        {"outcome": "well"},
        {"outcome": None},
        {"checks": {}},
        {"checks": [{}]},
        {"checks": [REPORT["checks"][0]] * 65},  # type: ignore[index]
        {"more": 1},
        {"log_msg": 7},
    ],
)
def test_a_wrong_answer_to_an_audit_is_refused_as_a_whole(wrong: dict[str, Any]) -> None:
    s = session()
    s.receive(init(vmhb={"caps": ["audit"], "max_line": 16384}))
    (event,) = s.receive(json.dumps({**AUDIT, **wrong}).encode() + b"\n")
    assert isinstance(event, Refused)


def test_audits_and_busy_are_nothing_where_they_were_not_agreed() -> None:
    s = session()
    s.receive(init(vmhb={"caps": ["checks"], "max_line": 16384}))
    assert not s.can_audit
    sent(s)
    assert s.receive(json.dumps(AUDIT).encode() + b"\n") == []
    (nack,) = sent(s)
    assert nack["log_msg"] == "unsupported message type: audit_result"
    (event,) = s.receive(answer(1, vmhb={"busy": {"reason": "x", "for_ms": 9}}))
    assert isinstance(event, Answered)
    assert event.busy is None


def test_a_guest_says_that_it_is_busy_in_words_that_are_safe_to_print() -> None:
    s = session()
    s.receive(init(vmhb=VMHB))
    (event,) = s.receive(answer(1, vmhb={"busy": {"reason": "up\x1b[31m\n" * 99, "for_ms": 1500}}))
    assert isinstance(event, Answered)
    assert event.busy is not None
    assert event.busy.seconds == 1.5
    assert len(event.busy.reason) <= 191
    assert event.busy.reason.isprintable()


@pytest.mark.parametrize(
    "busy", [[], 7, {}, {"reason": "x"}, {"reason": 1, "for_ms": 1}, {"reason": "", "for_ms": -1}]
)
def test_a_wrong_busy_is_refused_with_its_answer(busy: object) -> None:
    s = session()
    s.receive(init(vmhb=VMHB))
    (event,) = s.receive(answer(1, vmhb={"busy": busy}))
    assert isinstance(event, Refused)


def test_a_host_that_grants_no_busy_does_not_agree_to_it() -> None:
    s = Session(lambda: 1, 1.0, 0.9, CAPS - {"busy"})
    s.connected()
    s.receive(init(vmhb={"caps": sorted(CAPS), "max_line": 16384}))
    assert sent(s)[0]["vmhb"]["caps"] == ["audit", "checks", "interval"]


def test_an_answer_is_taken_plainly_only_if_it_is_the_one_that_is_waited_for() -> None:
    plain = (
        '{"version":3,"revision":1,"msg_type":"challenge_response","sequence":1,'
        '"heartbeat_response":%d,"heartbeat_health":"healthy","corrective_action":"none",'
        '"log_msg":""}\n'
    )
    s = session()
    assert not s.take_plain_answer((plain % 101).encode()), "nobody asked"
    s.receive(init())
    s.challenge()
    assert not s.take_plain_answer((plain % 999).encode())
    assert s.take_plain_answer((plain % 101).encode())
