# SPDX-License-Identifier: Apache-2.0
"""Plays the cases of guest.jsonl to a live guest, in real time.

A case says when things happen. Live, only what is awaited takes its time: the guest is waited for
where the case expects something, or nothing, and the next bytes go out at once. A case that begins
with a plain session goes on in the one that is open.
"""

import json
import re
import time
from typing import Any, Callable, Dict, List, Optional, Set

from .guest import Guest
from .matching import matches
from .port import PortError

#: Bytes a second that even a slow guest takes in: a shell without KVM, reading byte by byte.
READING_PACE = 5000.0
#: Seconds that a host stays away, so that a guest which asks now and then can notice.
AWAY = 1.0
#: Seconds in which a guest must have noticed that a host is there.
NOTICE = 6.0
#: A guest's timer may be later than the protocol says by so many seconds, and earlier by a share.
LATE = 1.5
EARLY = 0.1
#: The first answer after a boot may wait for entropy (docs/protocol.md).
FIRST_ANSWER = 3.0
#: An answer to an audit may be later than the time it was given.
AUDIT_LATE = 2.0
#: One check in each is the least that a guest gets into a line.
PARTS_MAX = 64
#: The guest's own affair; that the values are allowed ones is checked for every message.
OWN_AFFAIR = {"heartbeat_health", "corrective_action", "log_msg", "name"}
#: How the cases write the start of a plain session.
OPENING = [
    {"port": "open"},
    {"expect": {"msg_type": "init"}},
    {
        "receive": '\n{"version":3,"revision":1,"msg_type":"init_ack","sequence":1,'
        '"invocation_id":$invocation_id}\n'
    },
]


class BrokenError(Exception):
    """The guest broke a rule: what was expected, and what was seen."""

    def __init__(self, expected: str, seen: str) -> None:
        super().__init__(expected, seen)
        self.expected = expected
        self.seen = seen


class NotRunError(Exception):
    """A rule cannot be tried with this guest, or in this way; the text says why."""


class Player:
    """Brings a guest to where a case begins and plays it; `answer_time` is in seconds."""

    def __init__(
        self,
        guest: Guest,
        answer_time: float,
        stop: Optional[Callable[[], None]],
        busy: Optional[Callable[[], None]] = None,
    ) -> None:
        """Take the guest, and how to have its agent stopped and be busy, if anybody knows."""
        #: Nothing makes the guest open a session: no other rule can be tried.
        self.silent = False
        self._guest = guest
        self._answer_time = answer_time
        self._stop_agent = stop
        self._begin_busy = busy
        self._answered = False
        # Whether a plain session, acknowledged without the extension, is known to be open.
        self._in_session = False
        self._heeds_nack = True
        # Whether an init waits to be read, and whether our end is closed.
        self._init_waits = False
        self._away = False
        # Bytes sent since the guest was last heard.
        self._unheard = 0
        # When the last step was, by the case's clock and by ours, and what it was.
        self._case_time = 0.0
        self._time = 0.0
        self._kind = ""

    # -- bringing the guest to a known place -------------------------------------------------

    def meet(self) -> None:
        """Connect, and wait for a first init; raise PortError if there is no guest."""
        self._guest.connect()
        if self._await_init(NOTICE) or self._init_by_nack() or self._init_by_silence():
            return
        raise PortError(
            "%s: no init from the guest: does its agent run, and is nobody else connected "
            "(collectd, say)?" % self._guest.port.path
        )

    def establish(self, **extension: object) -> None:
        """Open a session, with what init_ack is to hold beyond the published protocol."""
        self.fresh_init()
        self.acknowledge(**extension)

    def acknowledge(self, **extension: object) -> None:
        """Acknowledge the last init."""
        self._guest.forget()
        self._guest.agree(bool(extension))
        self._guest.send("init_ack", invocation_id=self._guest.init_ids[-1], **extension)
        self._in_session = not extension

    def fresh_init(self) -> None:
        """Have the guest send an init, which is the next message to be read."""
        came = self._init_waits or (
            self._init_by_nack() or self._init_by_hang_up() or self._init_by_silence()
        )
        self._init_waits = self._in_session = False
        self.silent = not came
        if self.silent:
            raise BrokenError("init, to begin with", "nothing: the guest is silent")

    def _init_by_nack(self) -> bool:
        if not self._heeds_nack:
            return False
        # A guest heeds it in a session only; an init that was left open would close it later.
        if self._guest.init_ids:
            self.acknowledge()
        self._guest.send("nack", invocation_id=0, log_msg="no session: send init")
        self._heeds_nack = self._await_init(LATE + 1.0)
        return self._heeds_nack

    def _init_by_hang_up(self) -> bool:
        if not self._guest.port.can_hang_up:
            return False
        self._guest.hang_up()
        time.sleep(AWAY)
        self._guest.connect()
        return self._await_init(NOTICE)

    def _init_by_silence(self) -> bool:
        return self._await_init(max(5.0, 2 * self._guest.interval) + LATE)

    def _await_init(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        message = self._guest.next(until)
        while message is not None:
            if message["msg_type"] == "init":
                self._guest.put_back(message)
                self._init_waits = True
                return True
            message = self._guest.next(until)
        return False

    # -- asking --------------------------------------------------------------------------------

    def challenge(self, value: int) -> Dict[str, Any]:
        """Challenge the guest and return its answer; raise BrokenError."""
        self._guest.forget()
        self._guest.send("challenge", heartbeat_challenge=value)
        wanted = {"msg_type": "challenge_response", "heartbeat_response": value}
        return self._expected(wanted, time.monotonic() + self._patience(wanted))

    def audit(self, number: int, check: str, timeout: float) -> List[Dict[str, Any]]:
        """Ask for an audit and return the parts of its answer; raise BrokenError."""
        self._guest.forget()
        self._guest.send(
            "audit", id=number, check=check, level="quick", timeout_ms=int(timeout * 1000)
        )
        wanted = {"msg_type": "audit_result", "id": number}
        parts: List[Dict[str, Any]] = []
        while not parts or parts[-1].get("more", False):
            if len(parts) == PARTS_MAX:
                raise BrokenError("an answer that ends", "%d parts, and more" % len(parts))
            parts.append(self._expected(wanted, time.monotonic() + timeout + AUDIT_LATE))
        return parts

    def be_busy(self) -> None:
        """Have the guest say that it is busy; raise NotRunError if nobody knows how."""
        if self._begin_busy is None:
            raise NotRunError("give --busy-command to have the guest be busy")
        self._begin_busy()

    # -- playing a case ------------------------------------------------------------------------

    def play(self, case: Dict[str, Any]) -> None:
        """Play one case; raise BrokenError or NotRunError."""
        steps = case["steps"]
        plain = [{key: step[key] for key in step if key != "at"} for step in steps[:3]] == OPENING
        if plain:
            if not self._in_session:
                self.establish()
            self._guest.forget()
            self._step_done(steps[2]["at"], time.monotonic(), "receive")
            steps = steps[3:]
        else:
            self._step_done(0.0, time.monotonic(), "")
        unknown = _caps_needed(steps) - set(self._guest.caps)
        if unknown:
            raise NotRunError("the guest does not offer " + ", ".join(sorted(unknown)))
        # Until it has been played to its end, nobody knows in which state the guest is.
        self._in_session = False
        for step in steps:
            self._play_step(step)
        self._nothing_until(time.monotonic())
        self._in_session = plain and self._kind == "expect" and "init" not in _told(steps)

    def _play_step(self, step: Dict[str, Any]) -> None:
        gap = step["at"] - self._case_time
        (kind,) = set(step) - {"at", "times"}
        if kind == "receive":
            # Bytes that come in pieces keep their distance; others go out at once.
            self._nothing_until(self._time + (gap if self._kind == kind else 0.0))
        getattr(self, "_do_" + kind)(step, gap)
        self._step_done(step["at"], self._time if kind == "expect_none" else time.monotonic(), kind)

    def _step_done(self, case_time: float, now: float, kind: str) -> None:
        self._case_time, self._time, self._kind = case_time, now, kind

    def _do_port(self, step: Dict[str, Any], gap: float) -> None:
        if step["port"] == "closed":
            if not self._guest.port.can_hang_up:
                raise NotRunError("a tty does not tell the guest that the host has gone")
            self._guest.hang_up()
            time.sleep(AWAY)
            self._away = True
        elif self._away:
            self._guest.connect()
            self._away = False
        else:
            self.fresh_init()

    def _do_receive(self, step: Dict[str, Any], gap: float) -> None:
        text = step["receive"]
        for name, back in (("$previous_invocation_id", 2), ("$invocation_id", 1)):
            if name in text:
                text = text.replace(name, str(self._guest.init_ids[-back]))
        if '"init_ack"' in text:
            self._guest.agree('"vmhb":{' in text)
        data = text.encode("latin-1") * step.get("times", 1)
        self._unheard += len(data)
        self._guest.say(data)

    def _do_expect(self, step: Dict[str, Any], gap: float) -> None:
        wanted = {
            key: "$any" if key in OWN_AFFAIR else want for key, want in step["expect"].items()
        }
        self._expected(wanted, self._time + gap + self._patience(wanted))

    def _do_expect_none(self, step: Dict[str, Any], gap: float) -> None:
        until = self._time + gap
        if not self._away:
            self._nothing_until(until - (gap * EARLY if gap > 1 else 0.0))
        self._time = until

    def _do_stop(self, step: Dict[str, Any], gap: float) -> None:
        if self._stop_agent is None:
            raise NotRunError("give --stop-command to have the agent stopped")
        self._stop_agent()

    def _patience(self, wanted: Dict[str, Any]) -> float:
        if wanted["msg_type"] == "init":
            return NOTICE if self._kind == "port" else LATE
        if wanted["msg_type"] == "exit":
            return NOTICE
        patience = self._answer_time if self._answered else max(self._answer_time, FIRST_ANSWER)
        return patience + self._unheard / READING_PACE

    def _expected(self, wanted: Dict[str, Any], until: float) -> Dict[str, Any]:
        began = time.monotonic()
        message = self._guest.next(until)
        if message is None:
            seen = "nothing for %.1f s" % (time.monotonic() - began)
            raise BrokenError(_words(wanted), seen)
        if not matches(message, wanted):
            raise BrokenError(_words(wanted), _words(message))
        self._unheard = 0
        self._answered = self._answered or message["msg_type"] == "challenge_response"
        return message

    def _nothing_until(self, until: float) -> None:
        message = self._guest.next(until)
        if message is not None:
            raise BrokenError("nothing", _words(message))


def _caps_needed(steps: List[Dict[str, Any]]) -> Set[str]:
    """What the init_ack of a case agrees to: a guest goes by nothing that it did not offer."""
    agreed = [re.search(r'"caps":\[([^\]]*)\]', step.get("receive", "")) for step in steps]
    return {cap for caps in agreed if caps for cap in re.findall(r'"(\w+)"', caps.group(1))}


def _told(steps: List[Dict[str, Any]]) -> List[str]:
    """The types of all messages that a case expects from the guest."""
    return [step["expect"]["msg_type"] for step in steps if "expect" in step]


def _words(message: Dict[str, Any]) -> str:
    """A message as people compare it: without its header, and not too long."""
    left_out = ("msg_type", "version", "revision", "sequence")
    fields = ["%s %s" % (key, json.dumps(message[key])) for key in message if key not in left_out]
    text = ", ".join([str(message.get("msg_type")), *fields]).replace('"$any"', "anything")
    text = text.replace('"$absent"', "(absent)")
    return text if len(text) <= 200 else text[:197] + "..."
