# SPDX-License-Identifier: Apache-2.0
"""docs/protocol.schema.json says of messages what the code and the wire cases say."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from collectd_vmhb.protocol import messages
from vmhb_conformance import shape
from vmhb_guest import wire
from vmhb_guest.session import AUDIT_TIMEOUT_MAX_MS

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs" / "protocol.schema.json").read_text("ascii"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
VARIABLES = {
    "$challenge": "1",
    "$audit": "1",
    "$previous_invocation_id": "1",
    "$invocation_id": "1",
}
#: Cases about what a reader forgives: a sender may not rely on it, and the schema is for senders.
FORGIVING = {
    "base: key order, further keys and a later version do not matter",
    "extension: nonsense in it means the published protocol",
}


def wire_messages(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every line of the cases that is a JSON object, with the case's name."""
    for text in (ROOT / "tests" / "vectors" / name).read_text("utf-8").splitlines():
        case = json.loads(text)
        received = "".join(step["receive"] for step in case["steps"] if "receive" in step)
        for variable, value in VARIABLES.items():
            received = received.replace(variable, value)
        for line in received.split("\n"):
            try:
                message = json.loads(line, object_pairs_hook=messages._first_wins)
            except (ValueError, RecursionError):
                continue
            if isinstance(message, dict):
                yield case["case"], message


def host_takes(message: dict[str, Any]) -> bool | None:
    """None where the host has no use for a message but does not call it wrong."""
    try:
        read = messages.decode(json.dumps(message).encode())
    except messages.ProtocolError:
        return False
    return None if isinstance(read, messages.Unsupported) else True


def agent_takes(message: dict[str, Any]) -> bool | None:
    try:
        msg_type = wire.decode(json.dumps(message).encode()).msg_type
    except wire.WireError:
        return False
    numbers = {
        "init_ack": "invocation_id",
        "challenge": "heartbeat_challenge",
        "nack": "invocation_id",
        "audit": "id",
    }
    if msg_type not in numbers:
        return None
    if msg_type == "audit" and not wire.integer(message, "timeout_ms", 1, AUDIT_TIMEOUT_MAX_MS):
        return False
    return wire.integer(message, numbers[msg_type], 0, wire.MAX_INT31) is not None


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize(
    ("name", "takes"), [("host.jsonl", host_takes), ("guest.jsonl", agent_takes)]
)
def test_what_the_ends_take_validates_and_what_they_refuse_does_not(name: str, takes: Any) -> None:
    verdicts = set()
    for case, message in wire_messages(name):
        taken = takes(message)
        verdicts.add(taken)
        if taken is not None and case not in FORGIVING:
            assert VALIDATOR.is_valid(message) is taken, f"{case}: {message}"
    assert verdicts >= {True, False}


def test_a_recording_of_the_published_ends_validates() -> None:
    recording = ROOT / "tests/vectors/recorded/guestserver-guestclient.jsonl"
    records = [json.loads(line) for line in recording.read_text("utf-8").splitlines()]
    lines = [line for r in records for line in r.get("raw", "").split("\n") if line]
    assert len(lines) == 77
    for line in lines:
        VALIDATOR.validate(json.loads(line))


def examples() -> dict[str, dict[str, Any]]:
    """The messages of the session in docs/protocol.md, with their header."""
    page = (ROOT / "docs" / "protocol.md").read_text("utf-8")
    session = page.split("## A session")[1].split("```")[1]
    header = '"version":3,"revision":1,"sequence":1,'
    found: dict[str, dict[str, Any]] = {}
    for text in re.findall(r"[<>] (\{.*?\})\n(?=[<>]| {20}|$)", session, re.DOTALL):
        body = text.replace("{… ", "{" + header, 1)
        message = json.loads(body)
        kind = message["msg_type"] + " ".join(message.get("vmhb", {}))
        found.setdefault(kind, message)
    return found


def test_the_session_on_the_page_validates() -> None:
    found = examples()
    kinds = {message["msg_type"] for message in found.values()}
    assert kinds >= {"init", "init_ack", "challenge", "challenge_response", "exit"}
    assert kinds >= {"audit", "audit_result"}
    assert any("busy" in message.get("vmhb", {}) for message in found.values())
    for message in found.values():
        VALIDATOR.validate(message)


def mutants(message: Any) -> Iterator[Any]:
    """Copies of a message, each with one value taken away or replaced by one of another kind."""
    keys = list(message) if isinstance(message, dict) else range(len(message))
    values: list[Any] = [-1, 2**31, 1.5, True, None, "x" * 2000, "ok", "a b", [], [{}], {}]
    for key in keys:
        for value in values:
            copied = copy.deepcopy(message)
            copied[key] = value
            yield copied
        without = copy.deepcopy(message)
        del without[key]
        yield without
        if isinstance(message[key], (dict, list)):
            for inner in mutants(message[key]):
                copied = copy.deepcopy(message)
                copied[key] = inner
                yield copied


def test_the_testers_own_reading_of_the_schema_agrees_with_jsonschema() -> None:
    schema = shape.load()
    tried = 0
    for message in examples().values():
        for mutant in mutants(message):
            tried += 1
            valid = VALIDATOR.is_valid(mutant)
            assert (shape.first_fault(mutant, schema) is None) is valid, mutant
    assert tried > 500
