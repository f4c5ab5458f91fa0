# SPDX-License-Identifier: Apache-2.0
"""The invariants of subjects.py on what earlier fuzzing left, and on lines made by a grammar.

script/fuzz looks for more, guided by coverage.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import corpus
from tests.fuzz.subjects import ASKED, MARK, SUBJECTS

# -- JSON that no encoder writes: keys twice, numbers of any form, texts with any escape

NUMBERS = st.sampled_from(["0", "-1", "1e0", "1e999", "NaN", "-Infinity", "9" * 4301, "3.0", "07"])
ASKED_TEXT = st.just(ASKED.decode())
TEXTS = st.sampled_from(['"\\ud800"', '"\x00\x1b[2J"', '"\\u202e"', '"a"b"', '""', '"\U0001f525"'])
WORDS = st.sampled_from(
    [
        *("init", "challenge", "challenge_response", "audit", "audit_result", "exit", "nack"),
        *("init_ack", "healthy", "unhealthy", "ok", "critical", "done", "checks", "busy", "quick"),
        *("action_response", "no session: send init"),
    ]
).map(json.dumps)
KEYS = st.sampled_from(
    [
        *("version", "msg_type", "invocation_id", "heartbeat_interval_ms", "heartbeat_challenge"),
        *("heartbeat_response", "heartbeat_health", "log_msg", "vmhb", "caps", "max_line", "name"),
        *("checks", "status", "text", "perfdata", "since_ms", "duration_ms", "more", "busy"),
        *("reason", "for_ms", "id", "outcome", "check", "level", "timeout_ms", "interval_ms"),
    ]
).map(json.dumps)
LITERALS = st.sampled_from(["true", "false", "null", "3", "7", "1000"])


def _members(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    member = st.tuples(KEYS, values).map(":".join)
    return st.lists(member, max_size=6).map(lambda members: "{" + ",".join(members) + "}")


VALUES = st.recursive(
    NUMBERS | TEXTS | WORDS | LITERALS | ASKED_TEXT,
    lambda inner: (
        _members(inner) | st.lists(inner, max_size=4).map(lambda items: "[" + ",".join(items) + "]")
    ),
    max_leaves=8,
)
#: What a message of each kind needs, so that the rest of it is looked at.
BEGINNINGS = st.sampled_from(
    [
        '"msg_type":"init","invocation_id":7,"heartbeat_interval_ms":1000',
        '"msg_type":"init","invocation_id":7,"heartbeat_interval_ms":1000,'
        '"vmhb":{"caps":["checks","audit","busy","interval"],"max_line":16384}',
        f'"msg_type":"challenge_response","heartbeat_response":{ASKED.decode()},'
        '"heartbeat_health":"healthy"',
        '"msg_type":"audit_result","id":1,"outcome":"done"',
        f'"msg_type":"init_ack","invocation_id":{ASKED.decode()},'
        '"vmhb":{"caps":["checks","audit","busy"],"max_line":900}',
        '"msg_type":"challenge","heartbeat_challenge":5',
        '"msg_type":"audit","id":9,"check":"","timeout_ms":1000',
    ]
)


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    members = draw(st.lists(st.tuples(KEYS, VALUES).map(":".join), max_size=5))
    text = ",".join(['"version":3', draw(BEGINNINGS), *members])
    line = ("{" + text + "}").encode()
    # Now and then it is cut off, or goes on where it should have ended.
    return line[: draw(st.integers(0, len(line)))] if draw(st.integers(0, 9)) == 0 else line


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    reads = draw(st.lists(st.lists(lines(), max_size=4), max_size=8))
    events = draw(st.lists(st.integers(1, 255), min_size=len(reads), max_size=len(reads)))
    said = [b"\n" + b"\n".join(read) + b"\n" for read in reads]
    return MARK.join(bytes([event]) + read for event, read in zip(events, said))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("subject", SUBJECTS)
def test_what_was_kept_of_earlier_runs(subject: str) -> None:
    inputs = corpus.begin(subject)
    assert len(inputs) > 20
    for data in inputs:
        SUBJECTS[subject](data)


@given(lines())
@settings(max_examples=150)
def test_lines_of_the_grammar(line: bytes) -> None:
    SUBJECTS["codec"](line)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("subject", ["session", "monitor", "agent"])
@given(streams())
@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_streams_of_the_grammar(subject: str, stream: bytes) -> None:
    SUBJECTS[subject](stream)
