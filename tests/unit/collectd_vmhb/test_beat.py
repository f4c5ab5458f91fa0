# SPDX-License-Identifier: Apache-2.0
"""The lines of a beat mean what the codec says; the short way ends where the long one does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from hypothesis import example, given
from hypothesis import strategies as st

from collectd_vmhb.monitor import Monitor
from collectd_vmhb.protocol import LineSplitter, ProtocolError, TooLong, session
from collectd_vmhb.protocol.beat import challenge_line, plain_answer
from collectd_vmhb.protocol.messages import CHALLENGE_MAX, ChallengeResponse, decode, encode
from tests.unit.collectd_vmhb.peer import Peer
from vmhb_guest import wire

NUMBERS = st.integers(1, CHALLENGE_MAX)
ACTIONS = st.sampled_from(["none", "log", "reboot", "stop"])


def answer_line(sequence: int, response: int, action: str = "none", **more: object) -> bytes:
    fields = {
        "heartbeat_response": response,
        "heartbeat_health": "healthy",
        "corrective_action": action,
        "log_msg": "",
    }
    return wire.encode("challenge_response", sequence, {**fields, **more})


@given(NUMBERS, NUMBERS)
def test_a_challenge_is_the_line_that_the_codec_writes(sequence: int, value: int) -> None:
    line = challenge_line(sequence, value)
    assert line == encode("challenge", sequence, heartbeat_challenge=value)


@given(NUMBERS, NUMBERS, ACTIONS)
def test_the_answer_of_our_agent_when_all_is_well_is_plain(
    sequence: int, response: int, action: str
) -> None:
    assert plain_answer(answer_line(sequence, response, action)) == response


@st.composite
def _nearly_plain(draw: st.DrawFn) -> bytes:
    """A plain answer in which a few bytes are others, doubled or missing."""
    line = answer_line(draw(NUMBERS), draw(NUMBERS), draw(ACTIONS))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(line)))
        cut = draw(st.integers(0, 3))
        line = line[:at] + draw(st.binary(max_size=3)) + line[at + cut :]
    return line


@given(_nearly_plain())
@example(answer_line(1, 7) + answer_line(2, 7))
@example(answer_line(1, 7).replace(b":7,", b":4294967303,"))
@example(answer_line(1, 7).replace(b":7,", b":07,"))
def test_what_is_taken_for_plain_means_that_to_the_codec(data: bytes) -> None:
    response = plain_answer(data)
    if response is None:
        return
    (line,) = LineSplitter().feed(data)
    assert not isinstance(line, TooLong)
    try:
        message = decode(line)
    except ProtocolError:
        assert response > CHALLENGE_MAX, "never one that we asked"
    else:
        assert message == ChallengeResponse(response, True, "", None)


class Witness(Peer):
    """A guest whose answers are written as its agent writes them, and what is seen of it."""

    def plainly(self, **more: object) -> None:
        self.say(answer_line(7, self.challenge or 1, **more))  # type: ignore[arg-type]

    def seen(self) -> dict[str, Any]:
        monitor = self.monitor
        return {
            "health": monitor.health,
            "counters": monitor.counters,
            "deadline": monitor.deadline,
            "rtt": repr(monitor.rtt),
            "history": repr(monitor.history.exchanges()),
            "since": repr(monitor.history.since),
            "checks": monitor.checks.results,
            "grace": monitor.grace_until,
            "misses": monitor.misses_in_a_row,
            "way": monitor.way,
            "said": self.said,
            "faults": self.faults,
        }


class Plain(Witness):
    """Lives as an agent does that writes its answers plainly."""

    def answer(self, **extra: object) -> None:
        self.plainly(**extra)


CRITICAL = {"name": "disk", "status": "critical", "since_ms": 0, "duration_ms": 1}
WELL = {**CRITICAL, "status": "ok"}
REPORT = {"rev": 1, "more": False}

STEPS: dict[str, Callable[[Plain], object]] = {
    "open": lambda peer: peer.open(),
    "open ours": lambda peer: peer.open(extended=True, caps=("checks", "busy")),
    "answer": lambda peer: peer.plainly(),
    "answer in two": lambda peer: _say_in_two(peer),
    "answer with a blank": lambda peer: peer.answer(),
    "sick": lambda peer: peer.plainly(heartbeat_health="unhealthy"),
    "critical": lambda peer: peer.plainly(vmhb={**REPORT, "checks": [CRITICAL]}),
    "well": lambda peer: peer.plainly(vmhb={**REPORT, "checks": [WELL]}),
    "busy": lambda peer: peer.plainly(vmhb={"busy": {"reason": "backup", "for_ms": 3000}}),
    "live": lambda peer: peer.live(3.0),
    "hang": lambda peer: peer.live(2.0, answering=False),
    "fail": lambda peer: peer.live(7.0, answering=False),
    "garbage": lambda peer: peer.say(b"garbage\n"),
    "leave": lambda peer: peer.say(b'{"version":3,"msg_type":"exit","log_msg":"bye"}\n'),
    "lose": lambda peer: peer.monitor.disconnected(peer.now, "gone"),
    "find": lambda peer: peer.monitor.connected(peer.now),
    "pause": lambda peer: peer.monitor.pause(peer.now, "paused"),
    "resume": lambda peer: peer.monitor.resume(peer.now),
    "reboot": lambda peer: peer.monitor.rebooted(peer.now),
}


def _say_in_two(peer: Plain) -> None:
    line = answer_line(7, peer.challenge or 1)
    peer.say(line[:40])
    peer.say(line[40:])


@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=40))
@example(["open ours", "well", "live", "live", "critical", "live", "well", "live", "hang", "live"])
@example(["open", "answer", "live", "sick", "live", "reboot", "live", "pause", "resume", "live"])
def test_a_monitor_that_takes_the_short_way_ends_like_one_that_never_does(steps: list[str]) -> None:
    short = Plain()
    for step in steps:
        STEPS[step](short)
    with patch.object(Monitor, "_is_steady", return_value=False):
        long = Plain()
        for step in steps:
            STEPS[step](long)
        assert long.seen() == short.seen()


def test_the_short_way_is_the_usual_one() -> None:
    peer = Plain()
    peer.open(extended=True)
    peer.plainly(vmhb={**REPORT, "checks": [WELL]})
    with patch.object(session, "decode", side_effect=AssertionError("read as JSON")):
        peer.live(10)
    assert peer.monitor.counters.beats == 11
