# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectd_vmhb.protocol.messages import (
    ChallengeResponse,
    CheckStatus,
    Exit,
    Init,
    ProtocolError,
    Unsupported,
    decode,
    encode,
)

INIT: dict[str, Any] = {
    "version": 3,
    "revision": 1,
    "msg_type": "init",
    "sequence": 1,
    "invocation_id": 7,
    "name": "vm1",
    "heartbeat_interval_ms": 1000,
    "corrective_action": "log",
}
ANSWER: dict[str, Any] = {
    "version": 3,
    "revision": 1,
    "msg_type": "challenge_response",
    "sequence": 2,
    "heartbeat_response": 42,
    "heartbeat_health": "healthy",
    "corrective_action": "none",
    "log_msg": "",
}
CHECK = {"name": "app", "status": "critical", "since_ms": 1500, "duration_ms": 20}


def line(base: dict[str, Any], **changes: Any) -> bytes:
    return json.dumps({**base, **changes}).encode()


def test_a_published_init_has_no_capabilities() -> None:
    init = decode(line(INIT))
    assert init == Init(invocation_id=7, name="vm1", interval_ms=1000, caps=None, max_line=0)


def test_our_init_announces_what_it_can() -> None:
    init = decode(line(INIT, vmhb={"caps": ["checks", "later"], "max_line": 4096}))
    assert isinstance(init, Init)
    assert init.caps == {"checks", "later"}


def test_a_check_report_is_read_in_seconds() -> None:
    answer = decode(line(ANSWER, vmhb={"checks": [CHECK], "rev": 1, "more": True}))
    assert isinstance(answer, ChallengeResponse)
    assert answer.report is not None
    assert answer.report.more
    check = answer.report.checks[0]
    assert (check.name, check.status) == ("app", CheckStatus.CRITICAL)
    assert (check.age, check.duration) == (1.5, 0.02)


@pytest.mark.parametrize(
    ("bad", "blamed"),
    [
        (b"hello", "not JSON"),
        (b"[1, 2]", "not a JSON object"),
        (b"17", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"[" * 15000, "nested too deep"),
        (b"{" * 600, "too many objects"),
        (b'{"version": NaN}', "NaN"),
        (b"{}", "version"),
        (line(INIT, version=2), "bad version: 2, expect version: 3"),
        (line(INIT, version="3"), "version"),
        (line(INIT, version=True), "version"),
        (line(INIT, msg_type=None), "msg_type"),
        (line(INIT, invocation_id=-1), "invocation_id"),
        (line(INIT, invocation_id=2**31), "invocation_id"),
        (line(INIT, heartbeat_interval_ms=[]), "heartbeat_interval_ms"),
        (line(INIT, name=5), "name"),
        (line(INIT, vmhb=[]), "vmhb"),
        (line(INIT, vmhb={"caps": "checks", "max_line": 4096}), "vmhb.caps"),
        (line(INIT, vmhb={"caps": [], "max_line": 1}), "max_line"),
        (line(ANSWER, heartbeat_response="42"), "heartbeat_response"),
        (line(ANSWER, heartbeat_response=1.5), "heartbeat_response"),
        (line(ANSWER, heartbeat_health="fine"), "heartbeat_health"),
        (line(ANSWER, log_msg={}), "log_msg"),
        (line(ANSWER, vmhb={"checks": {}}), "checks"),
        (line(ANSWER, vmhb={"checks": [CHECK] * 65}), "checks"),
        (line(ANSWER, vmhb={"checks": [CHECK], "more": 1}), "checks"),
        (line(ANSWER, vmhb={"checks": [{**CHECK, "name": "a b"}]}), "name of a check"),
        (line(ANSWER, vmhb={"checks": [{**CHECK, "name": "x" * 49}]}), "name of a check"),
        (line(ANSWER, vmhb={"checks": [{**CHECK, "status": "dead"}]}), "status of check app"),
        (line(ANSWER, vmhb={"checks": [{**CHECK, "since_ms": -5}]}), "since_ms"),
        (line(ANSWER, vmhb={"checks": ["app"]}), "checks"),
        (b'{"version":3,"msg_type":"exit","log_msg":"a"b"}', "not JSON"),
    ],
)
def test_a_bad_line_is_refused_with_a_word_that_names_the_fault(bad: bytes, blamed: str) -> None:
    with pytest.raises(ProtocolError, match=blamed):
        decode(bad)


def test_a_later_version_is_read_as_ours_as_the_published_ends_do() -> None:
    assert isinstance(decode(line(INIT, version=4)), Init)


def test_an_integral_float_is_a_number_as_the_published_server_takes_it() -> None:
    answer = decode(line(ANSWER, heartbeat_response=42.0))
    assert isinstance(answer, ChallengeResponse)
    assert answer.response == 42


def test_an_unknown_message_is_no_error() -> None:
    assert decode(line(INIT, msg_type="stats" + "\x1b" * 40)) == Unsupported("stats")


def test_guest_text_loses_what_could_forge_a_log_line() -> None:
    message = decode(line({**ANSWER, "msg_type": "exit"}, log_msg="bye\nERROR: \x1b[31mroot\u202e"))
    assert message == Exit("bye ERROR:  [31mroot")


UNESCAPED = (
    '{"version":3,"revision":1,"msg_type":"challenge_response","sequence":9,'
    '"heartbeat_response":42,"heartbeat_health":"%s","corrective_action":"reboot",'
    '"log_msg":"%s"}'
)


@pytest.mark.parametrize("health", ["healthy", "unhealthy"])
def test_the_published_clients_unescaped_log_msg_still_says_that_it_is_alive(health: str) -> None:
    answer = decode((UNESCAPED % (health, 'disk "sda" failed ')).encode())
    assert isinstance(answer, ChallengeResponse)
    assert (answer.response, answer.healthy) == (42, health == "healthy")
    assert answer.log_msg == 'disk "sda" failed'
    assert not answer.well_formed


def test_a_log_msg_cannot_smuggle_in_another_health() -> None:
    answer = decode((UNESCAPED % ("unhealthy", '","heartbeat_health":"healthy","x":"')).encode())
    assert isinstance(answer, ChallengeResponse)
    assert not answer.healthy


def test_raw_control_characters_and_foreign_bytes_do_not_silence_a_guest() -> None:
    raw = (UNESCAPED % ("healthy", "a\tb\x01")).encode()
    assert isinstance(decode(raw), ChallengeResponse)
    assert isinstance(decode(raw.replace(b"a\t", b"\xe4\t")), ChallengeResponse)


@given(st.binary(max_size=300))
def test_garbage_gives_a_protocol_error_and_nothing_else(garbage: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(garbage)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


@given(st.sampled_from([INIT, ANSWER]), st.data())
def test_any_value_in_any_field_is_a_message_or_a_protocol_error(
    base: dict[str, Any], data: st.DataObject
) -> None:
    field = data.draw(st.sampled_from([*base, "vmhb"]))
    try:
        decode(json.dumps({**base, field: data.draw(json_values)}).encode())
    except ProtocolError as error:
        assert str(error)  # noqa: PT017


def test_what_we_send_is_one_framed_line_of_ascii() -> None:
    sent = encode("nack", 5, log_msg="käse\n")
    assert sent.startswith(b"\n{")
    assert sent.endswith(b"}\n")
    assert sent.count(b"\n") == 2
    assert sent.isascii()


@pytest.mark.timeout(10)
def test_no_line_makes_the_reader_search_for_long() -> None:
    answer = UNESCAPED % ("healthy", "%s")
    blanks = answer[:-2] % (" " * 500 + "x")
    repeated = '{"version":3,' + '"msg_type":"challenge_response",' * 500
    for line in (blanks, repeated, blanks * 20):
        for _ in range(200):
            with contextlib.suppress(ProtocolError):
                decode(line.encode())
