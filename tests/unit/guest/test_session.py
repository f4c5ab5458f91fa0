# SPDX-License-Identifier: Apache-2.0
"""The agent core against a recorded host, against garbage, and against its own limits.

What the wire spec says in general is in tests/vectors; here is what needs code to be said.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmhb_guest import wire
from vmhb_guest.session import OUTPUT_MAX, Session, State
from vmhb_guest.status import CheckResult, Status

RECORDING = Path(__file__).parents[2] / "vectors" / "recorded" / "guestserver-guestclient.jsonl"


def messages(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.split(b"\n") if line]


def line(msg_type: str, **fields: object) -> bytes:
    return wire.encode(msg_type, 1, fields)


def enabled(**extension: object) -> Session:
    session = Session("vm1", draw=lambda: 42)
    session.port_opened(0.0)
    session.data_to_send()
    fields = {"vmhb": extension} if extension else {}
    session.receive(line("init_ack", invocation_id=42, **fields), 0.0)
    assert session.state is State.ENABLED
    return session


def test_a_recorded_guestserver_is_satisfied() -> None:
    """Every challenge that the real server sent gets its answer; it restarts once."""
    records = [json.loads(record) for record in RECORDING.read_text().splitlines()]
    ids = iter(
        message["invocation_id"]
        for record in records
        if record["dir"] == "g2h"
        for message in messages(record["raw"].encode("latin-1"))
        if message["msg_type"] == "init"
    )
    session = Session("sdkguest", draw=lambda: next(ids))
    challenges, answers, opened = [], [], 0
    for record in records:
        now = record["t"]
        while (due := session.deadline) is not None and due <= now:
            session.tick(due)
        note = record.get("note", "")
        if note == "client start" or (opened and note.startswith("guestServer connected")):
            session.port_opened(now)
            opened += 1
        elif note == "guestServer restart":
            session.port_closed()
        elif record["dir"] == "h2g":
            data = record["raw"].encode("latin-1")
            challenges += [
                m["heartbeat_challenge"] for m in messages(data) if "heartbeat_challenge" in m
            ]
            session.receive(data, now)
        answers += [m for m in messages(session.data_to_send()) if "heartbeat_response" in m]
    assert opened == 2
    assert len(challenges) > 30
    assert [answer["heartbeat_response"] for answer in answers] == challenges
    assert all(answer["heartbeat_health"] == "healthy" for answer in answers)
    assert all("vmhb" not in answer for answer in answers)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = st.sampled_from(
    ["invocation_id", "heartbeat_challenge", "log_msg", "vmhb", "msg_type", "version"]
)
EXTENSION_KEYS = st.sampled_from(["caps", "interval_ms", "max_line", "timeout_ms"])
WORDS = st.sampled_from(["init_ack", "challenge", "nack", "checks", "no session"])
ODD = JSON | WORDS | st.lists(WORDS | JSON, max_size=2) | st.just(42)
FIELDS = st.dictionaries(KEYS, ODD | st.dictionaries(EXTENSION_KEYS, ODD, max_size=3), max_size=4)


@settings(deadline=None)
@given(st.lists(st.tuples(WORDS, FIELDS), max_size=6), st.binary(max_size=50))
def test_no_message_of_the_host_raises(sent: list[tuple[str, dict[str, Any]]], junk: bytes) -> None:
    session = Session("vm1", draw=lambda: 42)
    session.port_opened(0.0)
    session.receive(junk + b"\n", 0.5)
    for now, (msg_type, fields) in enumerate(sent, 1):
        message = {"version": 3, "msg_type": msg_type, **fields}
        session.receive(json.dumps(message).encode() + b"\n", float(now))
        session.tick(float(now))
    session.port_closed()
    session.port_opened(100.0)
    session.data_to_send()
    session.receive(
        line("init_ack", invocation_id=42) + line("challenge", heartbeat_challenge=9), 101.0
    )
    assert messages(session.data_to_send())[-1]["heartbeat_response"] == 9


@given(st.data())
def test_any_cut_of_the_stream_gives_the_same_answers(data: st.DataObject) -> None:
    stream = b"".join(line("challenge", heartbeat_challenge=n) for n in range(1, 6))
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=6))
    edges = sorted({0, len(stream), *cuts})
    session = enabled()
    for start, end in zip(edges, edges[1:]):
        session.receive(stream[start:end], 1.0)
    answers = messages(session.data_to_send())
    assert [answer["heartbeat_response"] for answer in answers] == [1, 2, 3, 4, 5]


def test_output_that_nobody_takes_stays_bounded_and_loses_no_result() -> None:
    session = enabled(caps=["checks"], max_line=16384)
    session.expect_checks(["disk"], 0.0)
    session.check_result(CheckResult("disk", Status.CRITICAL, "full", "", 0.0, 0.0))
    for n in range(1, 2001):
        session.receive(line("challenge", heartbeat_challenge=n), 1.0)
    data = session.data_to_send()
    answers = messages(data)
    assert len(data) <= OUTPUT_MAX
    assert answers[-1]["heartbeat_response"] == 2000
    assert answers[0]["heartbeat_response"] > 1
    assert any(
        check["name"] == "disk"
        for a in answers
        for check in a.get("vmhb", {"checks": []})["checks"]
    )


def test_lines_without_extension_fit_the_published_bound() -> None:
    session = Session("n" * 300, draw=lambda: 2**31 - 1)
    session.port_opened(0.0)
    assert len(session.data_to_send()) <= wire.BASE_MAX_LINE
    session.receive(line("init_ack", invocation_id=2**31 - 1), 0.0)
    session.expect_checks(["c" * 48], 0.0)
    session.check_result(CheckResult("c" * 48, Status.CRITICAL, 'ü"😀' * 300, "", 0.0, 0.0))
    session.receive(line("challenge", heartbeat_challenge=2**31 - 1), 1.0)
    data = session.data_to_send()
    assert messages(data)[0]["heartbeat_health"] == "unhealthy"
    assert len(data) <= wire.BASE_MAX_LINE


@given(
    st.integers(wire.BASE_MAX_LINE, 20000),
    st.lists(
        st.tuples(st.sampled_from(Status), st.text(max_size=400), st.text(max_size=150)),
        max_size=12,
    ),
)
def test_a_full_report_arrives_whole_in_lines_of_the_agreed_length(
    max_line: int, outcomes: list[tuple[Status, str, str]]
) -> None:
    session = enabled(caps=["checks"], max_line=max_line)
    names = [f"check-{number:02d}" for number in range(len(outcomes))]
    session.expect_checks(names, 0.0)
    for name, (status, text, perfdata) in zip(names, outcomes):
        session.check_result(CheckResult(name, status, text, perfdata, 0.0, 0.0))
    told, more = [], True
    for challenge in range(1, 40):
        session.receive(line("challenge", heartbeat_challenge=challenge), 1.0)
        data = session.data_to_send()
        assert len(data) <= min(max_line, wire.MAX_LINE)
        part = messages(data)[0].get("vmhb")
        assert more == (part is not None)
        if part is not None:
            told += [check["name"] for check in part["checks"]]
            more = part["more"]
    assert told == names
    assert not more


@pytest.mark.parametrize(
    "provoke",
    [b"garbage\n" * 500, line("nack", invocation_id=1, log_msg="no \x1b[31m") * 500],
)
def test_the_host_cannot_fill_our_log(provoke: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    session = enabled()
    capsys.readouterr()
    session.receive(provoke, 1.0)
    (said,) = capsys.readouterr().err.splitlines()
    assert "\x1b" not in said
    assert (session.malformed + session.nacks) == 500


def test_nothing_happens_while_the_port_is_closed() -> None:
    session = Session("vm1")
    session.receive(line("challenge", heartbeat_challenge=1), 1.0)
    session.stop("stopped")
    assert session.deadline is None
    assert session.data_to_send() == b""


def said(session: Session, msg_type: str) -> list[dict[str, Any]]:
    return [m for m in messages(session.data_to_send()) if m["msg_type"] == msg_type]


def beat(session: Session, challenge: int, now: float) -> dict[str, Any]:
    session.receive(line("challenge", heartbeat_challenge=challenge), now)
    return dict(said(session, "challenge_response")[0].get("vmhb", {}))


def test_busy_is_told_with_what_is_left_of_it_and_once_when_it_is_over() -> None:
    session = enabled(caps=["busy"], max_line=16384)
    session.busy("fsck\n", 20.0)
    assert beat(session, 1, 5.0) == {"busy": {"reason": "fsck", "for_ms": 15000}}
    assert beat(session, 2, 6.0) == {"busy": {"reason": "fsck", "for_ms": 14000}}
    assert beat(session, 3, 20.0) == {"busy": {"reason": "", "for_ms": 0}}
    assert beat(session, 4, 21.0) == {}


def test_busy_is_over_when_it_is_said_to_be_and_nobody_else_is_told() -> None:
    session = enabled(caps=["busy", "checks"], max_line=16384)
    session.busy("fsck", 20.0)
    part = beat(session, 1, 5.0)
    assert (part["busy"]["for_ms"], part["checks"], part["more"]) == (15000, [], False)
    session.busy("", 6.0)
    assert beat(session, 2, 6.0) == {"busy": {"reason": "", "for_ms": 0}}
    without = enabled(caps=["checks"])
    without.busy("fsck", 20.0)
    assert "busy" not in beat(without, 1, 5.0)
    assert not without.tells("busy")


def test_a_line_that_tells_of_a_critical_check_and_of_being_busy_keeps_its_bound() -> None:
    session = enabled(caps=["busy", "checks"], max_line=wire.BASE_MAX_LINE)
    session.expect_checks(["c" * 48], 0.0)
    session.check_result(CheckResult("c" * 48, Status.CRITICAL, "ü" * 300, "", 0.0, 0.0))
    session.busy("ü" * 300, 1e9)
    told = []
    for challenge in range(2**31 - 9, 2**31 - 1):
        session.receive(line("challenge", heartbeat_challenge=challenge), 1.0)
        data = session.data_to_send()
        assert len(data) <= wire.BASE_MAX_LINE
        told.append(messages(data)[0]["vmhb"])
    assert all(part["busy"]["for_ms"] > 0 for part in told)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"id": 1, "timeout_ms": 0}, "check, level or timeout_ms is wrong"),
        ({"id": 1, "timeout_ms": 9, "check": 7}, "check, level or timeout_ms is wrong"),
        ({"id": 1, "timeout_ms": 9, "check": None}, "check, level or timeout_ms is wrong"),
        ({"id": 1, "timeout_ms": 9, "level": []}, "check, level or timeout_ms is wrong"),
    ],
)
def test_an_audit_that_is_asked_for_wrongly_is_refused(fields: dict[str, Any], words: str) -> None:
    session = enabled(caps=["audit"], max_line=16384)
    session.receive(line("audit", **fields), 1.0)
    (refusal,) = said(session, "audit_result")
    assert (refusal["id"], refusal["outcome"], refusal["log_msg"]) == (1, "refused", words)
    assert session.audit is None


def test_audits_are_one_at_a_time_and_one_a_second() -> None:
    session = enabled(caps=["audit"], max_line=16384)
    ask = {"level": "detailed", "timeout_ms": 5000}
    session.receive(line("audit", id=1, check="disk", **ask), 1.0)
    assert session.audit is not None
    assert session.audit[1:] == ("disk", "detailed", 5.0)
    session.receive(line("audit", id=2, **ask), 9.0)
    assert said(session, "audit_result")[0]["log_msg"] == "audit 1 is not over"
    session.audit_done("done", [], "", 9.5)
    assert said(session, "audit_result")[0]["outcome"] == "done"
    session.receive(line("audit", id=3, **ask), 10.0)
    assert session.audit is not None
    session.audit_done("done", [], "", 10.1)
    session.data_to_send()
    session.receive(line("audit", id=4, **ask), 10.5)
    assert said(session, "audit_result")[0]["log_msg"] == "the last audit was less than 1 s ago"


def test_an_audit_that_was_not_agreed_is_not_run() -> None:
    session = enabled(caps=["checks"])
    session.receive(line("audit", id=1, timeout_ms=1000, level="quick"), 1.0)
    assert session.audit is None
    assert session.data_to_send() == b""


@given(st.integers(wire.BASE_MAX_LINE, 20000), st.lists(st.text(max_size=900), max_size=20))
def test_the_results_of_an_audit_arrive_whole_in_lines_of_the_agreed_length(
    max_line: int, texts: list[str]
) -> None:
    session = enabled(caps=["audit"], max_line=max_line)
    session.receive(line("audit", id=2**31 - 1, timeout_ms=1000, level="quick"), 1.0)
    results = [
        CheckResult(f"check-{number}", Status.OK, text, "", 0.0, 0.0)
        for number, text in enumerate(texts)
    ]
    session.audit_done("timeout", results, "ü" * 300, 2.0)
    data = session.data_to_send()
    assert all(len(part) + 2 <= max_line for part in data.split(b"\n"))
    parts = messages(data)
    told = [check["name"] for part in parts for check in part["checks"]]
    # What nobody has taken for a while is dropped, the oldest first.
    assert told == [result.name for result in results][-len(told) :] or not told
    assert [part["more"] for part in parts] == [True] * (len(parts) - 1) + [False]
