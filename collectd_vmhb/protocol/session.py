# SPDX-License-Identifier: Apache-2.0
"""The host end of one guest's session: who may say what when, and which answer counts.

Theory of operation
    The guest opens a session with init and we acknowledge it. From then on we send challenges,
    one outstanding at a time, each a fresh random value. Only the outstanding value counts as a
    beat: a port buffers, so an agent that comes back answers everything that was queued, and a
    line can even reach the next connection. One of the last values is LATE, any other WRONG.

    An init in any state opens a new session: a rebooted guest repeats its invocation_id, so an
    equal id means nothing. An answer without a session is still an answer (the guest kept its
    session over our restart), but what was agreed in it is unknown to us: one nack asks for init.
"""

from __future__ import annotations

import enum
import itertools
import sys
from array import array
from dataclasses import dataclass
from typing import Callable, Union

from collectd_vmhb.protocol.beat import challenge_line, plain_answer
from collectd_vmhb.protocol.lines import BASE_MAX_LINE, MAX_LINE, LineSplitter, TooLong
from collectd_vmhb.protocol.messages import (
    NACK_TEXT_MAX,
    AuditResult,
    BusyClaim,
    ChallengeResponse,
    Check,
    CheckReport,
    Exit,
    Init,
    Message,
    ProtocolError,
    Unsupported,
    decode,
    encode,
)

#: What we speak beyond the published protocol.
CAPS = frozenset({"audit", "busy", "checks", "interval"})
#: One object for each set of them, not one for each session.
_CAP_SETS = {
    caps: caps
    for size in range(len(CAPS) + 1)
    for caps in map(frozenset, itertools.combinations(CAPS, size))
}
#: Lines taken of what came at once; more of them would cost others their time. An answer has 95
#: bytes at least, so one read of `channel` holds fewer.
LINES_MAX = 64
#: How many past values are told apart from values that were never ours.
REMEMBERED = 64
#: Nacks between two answers: the published client never reacts to one, so more are only noise.
NACKS_MAX = 3
#: No challenge has this value, and no answer can.
_NEVER_ASKED = -1


@enum.unique
class SessionState(enum.Enum):
    """Whether the guest has opened a session on this connection."""

    WAITING_INIT = "waiting_init"
    OPEN = "open"


#: Every rule on how a message moves the session; drawn in docs/states.md.
TRANSITIONS: dict[SessionState, dict[type, SessionState]] = {
    SessionState.WAITING_INIT: {
        Init: SessionState.OPEN,
        ChallengeResponse: SessionState.WAITING_INIT,
        AuditResult: SessionState.WAITING_INIT,
        Exit: SessionState.WAITING_INIT,
        Unsupported: SessionState.WAITING_INIT,
    },
    SessionState.OPEN: {
        Init: SessionState.OPEN,
        ChallengeResponse: SessionState.OPEN,
        AuditResult: SessionState.OPEN,
        Exit: SessionState.WAITING_INIT,
        Unsupported: SessionState.OPEN,
    },
}


@enum.unique
class Match(enum.Enum):
    """How an answer relates to what we asked."""

    CURRENT = "current"
    LATE = "late"
    WRONG = "wrong"


@dataclass(frozen=True)
class Opened:
    """A session began; ``caps`` is what both ends speak beyond the published protocol."""

    guest_name: str
    caps: frozenset[str]


@dataclass(frozen=True)
class Answered:
    """The guest answered a challenge."""

    match: Match
    healthy: bool
    log_msg: str
    report: CheckReport | None
    well_formed: bool
    busy: BusyClaim | None = None


@dataclass(frozen=True)
class Audited:
    """The guest answered an audit, or a part of it."""

    id: int
    outcome: str
    log_msg: str
    checks: tuple[Check, ...]
    more: bool


@dataclass(frozen=True)
class Closed:
    """The guest left on purpose."""

    reason: str


@dataclass(frozen=True)
class Refused:
    """A line that was no message of the protocol."""

    reason: str


SessionEvent = Union[Opened, Answered, Audited, Closed, Refused]


class Session:
    """Turns bytes into session events and builds the lines to send back.

    After each `receive`, send what `data_to_send` returns. ``random`` gives an int in
    1 ... 2**31 - 1; ``interval`` and ``timeout`` (seconds) are told to guests that can know them.
    ``caps`` is what this end agrees to.
    """

    __slots__ = (
        "_asked",
        "_asked_for_init",
        "_interval",
        "_invocation_id",
        "_lines",
        "_nacks",
        "_output",
        "_outstanding",
        "_past",
        "_random",
        "_sequence",
        "_spoken",
        "_timeout",
        "caps",
        "extended",
        "lines",
        "open",
        "state",
    )

    def __init__(
        self,
        random: Callable[[], int],
        interval: float,
        timeout: float,
        caps: frozenset[str] = CAPS,
    ) -> None:
        self.state = SessionState.WAITING_INIT
        #: True between a guest's init and its exit, on one connection.
        self.open = False
        self.caps: frozenset[str] = frozenset()
        self.extended = False
        #: Lines in the last bytes received; not each of them means something.
        self.lines = 0
        self._spoken = caps
        self._random = random
        self._interval = interval
        self._timeout = timeout
        self._lines = LineSplitter()
        self._sequence = 0
        self._invocation_id = 0
        self._outstanding: int | None = None
        # The last challenges, the outstanding one included, in a ring.
        # Machine integers: as objects they would be 2.7 KiB for each VM.
        self._past = array("i", [_NEVER_ASKED]) * (REMEMBERED + 1)
        self._asked = 0
        self._nacks = 0
        self._asked_for_init = False
        self._output = b""

    @property
    def can_audit(self) -> bool:
        """True while the guest may be asked for audits."""
        return self.open and "audit" in self.caps

    def connected(self) -> None:
        """A new connection: nothing of the last one is agreed, its answers may still come."""
        self._enter(SessionState.WAITING_INIT)
        self.caps = frozenset()
        self.extended = False
        self._lines.reset()
        self._nacks = 0
        self._asked_for_init = False
        self._output = b""

    def challenge(self) -> None:
        """Sends a fresh challenge; it alone counts from now on."""
        value = self._random()
        # Their bytes: to look at 65 numbers would cost as much as the rest of a challenge.
        while self._past.tobytes().find(value.to_bytes(4, sys.byteorder)) >= 0:
            value = self._random()
        self._asked = (self._asked + 1) % len(self._past)
        self._past[self._asked] = value
        self._outstanding = value
        self._output += challenge_line(self._next_sequence(), value)

    def audit(self, check: str, level: str, timeout: float) -> int:
        """Asks for an audit, which must be among `caps`; returns the id that the answer has."""
        number = self._random()
        timeout_ms = round(timeout * 1000)
        self._send("audit", id=number, check=check, level=level, timeout_ms=timeout_ms)
        return number

    def withdraw(self) -> None:
        """Gives the outstanding challenge up: an answer to it is late from now on."""
        self._outstanding = None

    def data_to_send(self) -> bytes:
        """Returns whole lines for the guest and forgets them."""
        lines, self._output = self._output, b""
        return lines

    def take_plain_answer(self, data: bytes) -> bool:
        """Takes bytes if they are the answer that is waited for, and nothing but that.

        If False, nothing was taken: `receive` tells what they are.
        """
        asked = self._outstanding
        if asked is None or not self.open or not self._lines.at_start:
            return False
        if plain_answer(data) != asked:
            return False
        self._outstanding = None
        self._nacks = 0
        return True

    def receive(self, data: bytes) -> list[SessionEvent]:
        """Takes bytes from the guest and returns what they mean, in order."""
        events: list[SessionEvent] = []
        lines = self._lines.feed(data)
        self.lines = len(lines)
        for line in lines[:LINES_MAX]:
            try:
                if isinstance(line, TooLong):
                    raise ProtocolError(f"line longer than {self._lines.limit} bytes")
                event = self._apply(decode(line))
            except ProtocolError as error:
                event = Refused(str(error))
                self._nack(str(error))
            if event is not None:
                events.append(event)
        if len(lines) > LINES_MAX:
            events.append(Refused(f"more than {LINES_MAX} lines at once"))
        return events

    def _apply(self, message: Message) -> SessionEvent | None:
        was_open = self.open
        self._enter(TRANSITIONS[self.state][type(message)])
        if isinstance(message, Init):
            return self._opened(message)
        if isinstance(message, ChallengeResponse):
            if not was_open:
                self._ask_for_init()
            return self._answered(message)
        if isinstance(message, AuditResult) and was_open and "audit" in self.caps:
            return Audited(
                message.id, message.outcome, message.log_msg, message.checks, message.more
            )
        if isinstance(message, Exit):
            return Closed(message.log_msg)
        # action_response belongs to the published protocol's voting, which we do not start.
        msg_type = message.msg_type if isinstance(message, Unsupported) else "audit_result"
        if msg_type != "action_response":
            self._nack(f"unsupported message type: {msg_type}")
        return None

    def _enter(self, state: SessionState) -> None:
        self.state = state
        self.open = state is SessionState.OPEN

    def _opened(self, init: Init) -> Opened:
        self._invocation_id = init.invocation_id
        self.extended = init.caps is not None
        self.caps = _CAP_SETS[(init.caps or frozenset()) & self._spoken]
        agreed: dict[str, object] = {}
        if self.extended:
            agreed["vmhb"] = {
                "caps": sorted(self.caps),
                "interval_ms": round(self._interval * 1000),
                "timeout_ms": round(self._timeout * 1000),
                "max_line": MAX_LINE,
            }
        self._lines.limit = MAX_LINE if self.extended else 4 * BASE_MAX_LINE
        self._send("init_ack", invocation_id=init.invocation_id, **agreed)
        return Opened(guest_name=init.name, caps=self.caps)

    def _answered(self, answer: ChallengeResponse) -> Answered:
        if answer.response == self._outstanding:
            match = Match.CURRENT
            self.withdraw()
            self._nacks = 0
        else:
            match = Match.LATE if answer.response in self._past else Match.WRONG
        return Answered(
            match=match,
            healthy=answer.healthy,
            log_msg=answer.log_msg,
            # What was not agreed on this connection is not used.
            report=answer.report if "checks" in self.caps else None,
            busy=answer.busy if "busy" in self.caps else None,
            well_formed=answer.well_formed,
        )

    def _ask_for_init(self) -> None:
        if not self._asked_for_init:
            self._asked_for_init = True
            self._send("nack", invocation_id=self._invocation_id, log_msg="no session: send init")

    def _nack(self, reason: str) -> None:
        if self._nacks < NACKS_MAX:
            self._nacks += 1
            text = reason.encode("ascii", "replace").decode("ascii")[:NACK_TEXT_MAX]
            self._send("nack", invocation_id=self._invocation_id, log_msg=text)

    def _send(self, msg_type: str, **fields: object) -> None:
        self._output += encode(msg_type, self._next_sequence(), **fields)

    def _next_sequence(self) -> int:
        self._sequence = self._sequence % 0x7FFFFFFF + 1
        return self._sequence
