# SPDX-License-Identifier: Apache-2.0
"""The agent's side of a session: bytes, time and check results in, bytes to send out.

It does no I/O. The caller owns the clock and the port. After every call it must send what
`data_to_send` returns and call `tick` no later than `deadline`. Times are seconds of one
monotonic clock.
"""

import math
import os
from collections import deque
from enum import Enum
from typing import Callable, Deque, Dict, Iterable, List, NamedTuple, Optional, Sequence

from . import log, wire
from .report import ENVELOPE, Report, fit
from .status import CheckResult, Status
from .text import clean
from .throttle import Throttle

#: Between one init and the next while nobody acknowledges (published protocol: 5 s).
INIT_RETRY = 5.0
#: Never send init more often than this, whatever the host says.
INIT_PACE = 1.0
#: The host counts as silent after two intervals, but never before this (published protocol).
SILENCE_MIN = 5.0
#: The longest interval we let a host announce: a day.
INTERVAL_MAX_MS = 86400000
#: Bytes that may wait for the port; beyond that the oldest lines are worth least.
OUTPUT_MAX = 8 * wire.MAX_LINE
#: A C peer keeps 64 bytes of name and 192 of log_msg with the closing NUL.
NAME_MAX = 63
LOG_MSG_MAX = 191
#: Seconds between two log lines about the same misbehaviour of the host.
LOG_PERIOD = 60.0
CAPS = ("checks", "audit", "busy", "interval")
#: Audits must not become a burden: one at a time, and no more than one in so many seconds.
AUDIT_PACE = 1.0
AUDIT_TIMEOUT_MAX_MS = 600000
#: Bytes of an audit_result around its checks and its log_msg.
AUDIT_ENVELOPE = 256
LEVELS = ("quick", "detailed")


class State(Enum):
    """Where a session stands; the value is the word in the log."""

    CLOSED = "no port"
    ENABLING = "waiting for init_ack"
    ENABLED = "enabled"


class Event(Enum):
    """What moves a session; the value is its word in docs/states.md."""

    PORT_OPENED = "port opened"
    PORT_CLOSED = "port closed"
    ACKNOWLEDGED = "init_ack"
    SILENCE = "no challenge"
    NO_SESSION = "nack that says no session"
    CHECK_REMOVED = "check removed"


def _but(stays: State, **moves: State) -> Dict[Event, State]:
    """Return the row of a state, which stays but for these moves."""
    return {event: moves.get(event.name.lower(), stays) for event in Event}


#: Every rule on how the session moves; drawn in docs/states.md.
TRANSITIONS = {
    State.CLOSED: _but(State.CLOSED, port_opened=State.ENABLING),
    State.ENABLING: _but(State.ENABLING, acknowledged=State.ENABLED, port_closed=State.CLOSED),
    State.ENABLED: _but(
        State.ENABLED,
        silence=State.ENABLING,
        no_session=State.ENABLING,
        check_removed=State.ENABLING,
        port_opened=State.ENABLING,
        port_closed=State.CLOSED,
    ),
}


class AuditRequest(NamedTuple):
    """What the host wants to be run now."""

    id: int
    #: The name of a check; empty for all.
    check: str
    level: str
    #: Seconds.
    timeout: float


def draw_invocation_id() -> int:
    """Return a random positive 31-bit number.

    It waits for no entropy early in the boot: the number tells one init from another and guards no
    secret. Not by the module random, whose imports cost 3 MiB.
    """
    if not hasattr(os, "getrandom"):  # on Windows, where urandom does not wait either
        return int.from_bytes(os.urandom(4), "little") % wire.MAX_INT31 + 1
    try:
        number = int.from_bytes(os.getrandom(4, os.GRND_NONBLOCK), "little")
    except OSError:
        number = os.getpid() * 65537 ^ int(os.times().elapsed * 100)
    return number % wire.MAX_INT31 + 1


class Session:
    """Introduces the agent to the host and answers the host's challenges."""

    def __init__(
        self, name: str, interval: float = 1.0, draw: Callable[[], int] = draw_invocation_id
    ) -> None:
        """Take the VM's name, the heartbeat interval we would like, the source of ids."""
        self.state = State.CLOSED
        #: Lines that were no message for us.
        self.malformed = 0
        #: Messages of ours that the host refused.
        self.nacks = 0
        self._name = clean(name, NAME_MAX)
        self._wanted_interval = interval
        self._draw = draw
        self._receivers = {
            "init_ack": self._on_init_ack,
            "challenge": self._on_challenge,
            "nack": self._on_nack,
            "audit": self._on_audit,
        }
        self._report = Report()
        #: The audit that is to be run, or runs; the answer is given with `audit_done`.
        self.audit: Optional[AuditRequest] = None
        self._last_audit: Optional[float] = None
        self._busy = ("", -math.inf)
        self._busy_told = False
        self._agreed: List[str] = []
        self._decoder = wire.LineDecoder()
        self._output: Deque[bytes] = deque()
        self._output_size = 0
        self._sequence = 0
        self._invocation_id: Optional[int] = None
        self._previous_id: Optional[int] = None
        self._interval = interval
        self._max_line = wire.BASE_MAX_LINE
        self._init_due = 0.0
        self._last_init: Optional[float] = None
        self._last_challenge = 0.0
        self._malformed_log = Throttle(LOG_PERIOD)
        self._nack_log = Throttle(LOG_PERIOD)

    @property
    def deadline(self) -> Optional[float]:
        """When `tick` has something to do, or None while the port is closed."""
        if self.state is State.ENABLING:
            return self._init_due
        if self.state is State.ENABLED:
            return self._last_challenge + max(2 * self._interval, SILENCE_MIN)
        return None

    @property
    def interval(self) -> float:
        """Seconds between two challenges, as far as we know."""
        return self._interval

    def port_opened(self, now: float) -> None:
        """Begin: the port is open and the host is at its other end."""
        self._decoder = wire.LineDecoder()
        self._move(Event.PORT_OPENED)
        self._init_due = now
        self.tick(now)

    def port_closed(self) -> None:
        """Forget what waited for a host that has gone: the next one shall not read it."""
        self._move(Event.PORT_CLOSED)
        self._output.clear()
        self._output_size = 0

    def receive(self, data: bytes, now: float) -> None:
        """Take bytes that the host sent, cut anywhere."""
        if self.state is State.CLOSED:
            return
        overlong = self._decoder.overlong
        for line in self._decoder.feed(data):
            self._receive_line(line, now)
        for _ in range(self._decoder.overlong - overlong):
            self._drop("longer than %d bytes" % wire.MAX_LINE, now)
        self._init_if_due(now)

    def tick(self, now: float) -> None:
        """Let time pass: send init when it is due, notice that the host is silent."""
        deadline = self.deadline
        if self.state is State.ENABLED and deadline is not None and now >= deadline:
            log.warning("no challenge for %.1f s", now - self._last_challenge)
            self._reinit(Event.SILENCE, now)
        self._init_if_due(now)

    def expect_checks(self, names: Iterable[str], now: float) -> None:
        """Take the names of all health checks there are; a removed one needs a new session."""
        if self._report.expect(names) and self.tells("checks"):
            self._reinit(Event.CHECK_REMOVED, now)
            self._init_if_due(now)

    def check_result(self, result: CheckResult) -> None:
        """Take the new standing of a health check; the next response carries it."""
        self._report.update(result)

    def busy(self, reason: str, until: float) -> None:
        """Tell the host that the VM will be slow on purpose until then; the past ends that."""
        self._busy = clean(reason, LOG_MSG_MAX), until

    def audit_done(
        self, outcome: str, results: Sequence[CheckResult], text: str, now: float
    ) -> None:
        """Answer the audit under way: "done", "timeout" or "unknown_check"."""
        if self.audit is not None:
            request, self.audit = self.audit, None
            self._answer_audit(request.id, outcome, results, text, now)

    def tells(self, cap: str) -> bool:
        """Return whether the host wants to hear of it: a capability that this session has."""
        return self.state is State.ENABLED and cap in self._agreed

    def stop(self, reason: str) -> None:
        """Say goodbye, so that the silence to come is no loss."""
        if self.state is not State.CLOSED:
            self._send("exit", {"log_msg": clean(reason, LOG_MSG_MAX)})

    def data_to_send(self) -> bytes:
        """Return whole lines for the port and forget them; call it when the port holds none."""
        data = b"".join(self._output)
        self._output.clear()
        self._output_size = 0
        return data

    def _move(self, event: Event) -> None:
        state = TRANSITIONS[self.state][event]
        if state is not State.ENABLED:
            self.audit = None
        if state is not self.state:
            log.info("session: %s", state.value)
        self.state = state

    def _reinit(self, why: Event, now: float) -> None:
        self._move(why)
        earliest = now if self._last_init is None else self._last_init + INIT_PACE
        self._init_due = max(now, earliest)

    def _init_if_due(self, now: float) -> None:
        if self.state is not State.ENABLING or now < self._init_due:
            return
        self._previous_id = self._invocation_id
        self._invocation_id = self._draw()
        self._last_init = now
        self._init_due = now + INIT_RETRY
        self._send(
            "init",
            {
                "invocation_id": self._invocation_id,
                "name": self._name,
                "heartbeat_interval_ms": int(self._wanted_interval * 1000),
                # We take no part in votes and notices: nobody needs to wait for us.
                "vote_secs": 0,
                "shutdown_notice_secs": 0,
                "suspend_notice_secs": 0,
                "resume_notice_secs": 0,
                "restart_secs": 0,
                # "reboot" and "stop" would let a host act on our word; repair is not our business.
                "corrective_action": "log",
                "vmhb": {"caps": list(CAPS), "max_line": wire.MAX_LINE},
            },
        )

    def _receive_line(self, line: bytes, now: float) -> None:
        try:
            message = wire.decode(line)
        except wire.WireError as error:
            self._drop(str(error), now)
            return
        receiver = self._receivers.get(message.msg_type)
        if receiver is not None:
            receiver(message.fields, now)

    def _drop(self, reason: str, now: float) -> None:
        self.malformed += 1
        if self._malformed_log.allows(now):
            log.warning("dropped a line: %s; %d so far", clean(reason, 200), self.malformed)

    def _on_init_ack(self, fields: Dict[str, object], now: float) -> None:
        acked = wire.integer(fields, "invocation_id", 0, wire.MAX_INT31)
        if self.state is not State.ENABLING or acked is None:
            return
        if acked not in (self._invocation_id, self._previous_id):
            return
        extension = fields.get("vmhb")
        self._agree(extension if isinstance(extension, dict) else {})
        self._last_challenge = now
        self._report.start()
        self._move(Event.ACKNOWLEDGED)

    def _agree(self, extension: Dict[str, object]) -> None:
        """Settle what this session may use; an empty extension means the published protocol."""
        caps = extension.get("caps")
        agreed = [cap for cap in CAPS if isinstance(caps, list) and cap in caps]
        self._agreed = agreed
        interval_ms = wire.integer(extension, "interval_ms", 1, INTERVAL_MAX_MS)
        announced = "interval" in agreed and interval_ms is not None
        self._interval = (interval_ms or 0) / 1000.0 if announced else self._wanted_interval
        max_line = wire.integer(extension, "max_line", wire.BASE_MAX_LINE, wire.MAX_INT31)
        self._max_line = min(max_line or wire.BASE_MAX_LINE, wire.MAX_LINE)

    def _on_challenge(self, fields: Dict[str, object], now: float) -> None:
        challenge = wire.integer(fields, "heartbeat_challenge", 0, wire.MAX_INT31)
        if self.state is not State.ENABLED:
            return
        if challenge is None:
            self._drop("challenge without a number", now)
            return
        self._last_challenge = now
        self._respond(challenge, now)

    def _respond(self, challenge: int, now: float) -> None:
        worst = self._report.worst()
        unhealthy = worst is not None and worst.status is Status.CRITICAL
        response: Dict[str, object] = {
            "heartbeat_response": challenge,
            "heartbeat_health": "unhealthy" if unhealthy else "healthy",
            "corrective_action": "log" if unhealthy else "none",
            "log_msg": clean("%s: %s" % (worst.name, worst.text), LOG_MSG_MAX) if worst else "",
        }
        # What the key "vmhb" costs is in the room that Report leaves around its own entries.
        room = self._max_line - len(wire.encode("challenge_response", self._sequence + 1, response))
        extension = self._busy_part(now, room - ENVELOPE) if self.tells("busy") else {}
        if self.tells("checks"):
            part = self._report.next_part(now, room - len(wire.compact(extension)))
            extension.update(part or {})
        if extension:
            response["vmhb"] = extension
        self._send("challenge_response", response)

    def _busy_part(self, now: float, room: int) -> Dict[str, object]:
        """Return what to say of being busy: how long it will last, and once that it is over."""
        reason, until = self._busy
        if now < until:
            self._busy_told = True
            busy = {"reason": reason, "for_ms": math.ceil((until - now) * 1000)}
            if len(wire.compact({"busy": busy})) > room:
                busy["reason"] = ""
            return {"busy": busy}
        told, self._busy_told = self._busy_told, False
        return {"busy": {"reason": "", "for_ms": 0}} if told else {}

    def _on_audit(self, fields: Dict[str, object], now: float) -> None:
        number = wire.integer(fields, "id", 1, wire.MAX_INT31)
        if not self.tells("audit"):
            return
        if number is None:
            self._drop("audit without an id", now)
            return
        check, level = fields.get("check", ""), fields.get("level", "quick")
        timeout_ms = wire.integer(fields, "timeout_ms", 1, AUDIT_TIMEOUT_MAX_MS)
        refused = ""
        if not isinstance(check, str) or level not in LEVELS or timeout_ms is None:
            refused = "check, level or timeout_ms is wrong"
        elif self.audit is not None:
            refused = "audit %d is not over" % self.audit.id
        elif self._last_audit is not None and now - self._last_audit < AUDIT_PACE:
            refused = "the last audit was less than %g s ago" % AUDIT_PACE
        if refused:
            self._answer_audit(number, "refused", [], refused, now)
        else:
            self._last_audit = now
            self.audit = AuditRequest(number, str(check), str(level), (timeout_ms or 0) / 1000.0)

    def _answer_audit(
        self, number: int, outcome: str, results: Sequence[CheckResult], text: str, now: float
    ) -> None:
        more = True
        while more:
            message: Dict[str, object] = {"id": number, "outcome": outcome}
            message["log_msg"] = clean(text, LOG_MSG_MAX)
            room = self._max_line - AUDIT_ENVELOPE - len(wire.compact(message))
            checks = fit(results, now, room)
            results = results[len(checks) :]
            more = bool(checks and results)
            self._send("audit_result", dict(message, checks=checks, more=more))

    def _on_nack(self, fields: Dict[str, object], now: float) -> None:
        reason = fields.get("log_msg")
        reason = clean(reason, LOG_MSG_MAX) if isinstance(reason, str) else "no reason given"
        self.nacks += 1
        if self._nack_log.allows(now):
            log.warning("the host refused a message: %s; %d so far", reason, self.nacks)
        if self.state is State.ENABLED and reason.startswith("no session"):
            self._reinit(Event.NO_SESSION, now)

    def _send(self, msg_type: str, fields: Dict[str, object]) -> None:
        self._sequence += 1
        line = wire.encode(msg_type, self._sequence, fields)
        self._output.append(line)
        self._output_size += len(line)
        while self._output_size > OUTPUT_MAX:
            self._output_size -= len(self._output.popleft())
            # The dropped line may have carried results that nobody else will carry.
            self._report.start_over()
