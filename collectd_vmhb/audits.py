# SPDX-License-Identifier: Apache-2.0
"""Audits of one VM: the host has a check, or all of them, run now, and waits for what comes; pure.

One runs at a time, with a pause between two. Somebody asks for one, or a check that fails asks for
the detailed one of itself: what comes of that is kept as long as the fault is open. An audit says
what was found once; how a check stands is said by reports alone.
"""

from __future__ import annotations

import enum
import logging
import math
from dataclasses import dataclass, field

from collectd_vmhb.protocol import Audited, Check, Session
from collectd_vmhb.settings import Settings
from collectd_vmhb.wording import Refusal

log = logging.getLogger(__name__)

#: The longest that a guest may be given.
TIMEOUT_MAX = 600.0
#: The guest keeps its time by a clock of its own, and its answer has a way to go.
SLACK = 2.0
#: For so long a check that fails again and again asks for no other audit.
FAULT_REST = 600.0
#: Bytes of memory for what a guest says in its audits: beyond, a check is kept without texts.
AUDIT_TEXTS_MAX = 8 * 1024
#: Checks kept of one audit, and checks whose last audit is remembered.
CHECKS_MAX = 64


@enum.unique
class Outcome(enum.Enum):
    """How an audit stands; the values are the words of the wire and of the operator."""

    RUNNING = "running"
    #: The guest's own words.
    DONE = "done"
    TIMEOUT = "timeout"
    UNKNOWN_CHECK = "unknown_check"
    REFUSED = "refused"
    #: The guest did not answer in time.
    UNANSWERED = "unanswered"
    #: The session ended before the answer.
    INTERRUPTED = "interrupted"


@dataclass
class Audit:
    """One audit, asked for at ``asked``; ``check`` is empty for all checks."""

    id: int
    check: str
    detailed: bool
    timeout: float
    asked: float
    #: How long it took, once it is over.
    took: float = math.nan
    outcome: Outcome = Outcome.RUNNING
    #: What the guest says about the outcome.
    text: str = ""
    checks: dict[str, Check] = field(default_factory=dict)

    @property
    def running(self) -> bool:
        """True until it is over, whatever came of it."""
        return self.outcome is Outcome.RUNNING

    @property
    def gives_up(self) -> float:
        """When nothing is awaited any more."""
        return self.asked + self.timeout + SLACK


class Audits:
    """Asks one guest for audits, one at a time; times are monotonic seconds.

    ``uuid`` is the instance's, for the log. After each call send what the session has to send.
    """

    __slots__ = ("_rests", "_session", "_settings", "_uuid", "_waiting", "last", "of_faults")

    def __init__(self, uuid: str, session: Session, settings: Settings) -> None:
        self.last: Audit | None = None
        #: The audits that open faults asked for, by the name of the check.
        self.of_faults: dict[str, Audit] = {}
        self._uuid = uuid
        self._session = session
        self._settings = settings
        #: Checks whose fault asks for an audit that has had no turn yet.
        self._waiting: list[str] = []
        #: Checks that ask for none until then.
        self._rests: dict[str, float] = {}

    @property
    def deadline(self) -> float:
        """When `tick` has something to do."""
        if self.last is not None and self.last.running:
            return self.last.gives_up
        return self._free_at if self._waiting else math.inf

    @property
    def _free_at(self) -> float:
        return -math.inf if self.last is None else self.last.asked + self._settings.audit_pace

    def ask(self, check: str, detailed: bool, timeout: float | None, now: float) -> Audit:
        """Asks for an audit and returns it; raises Refusal if there cannot be one now.

        Without a ``timeout`` it is that of the settings.
        """
        if not self._session.open:
            raise Refusal("no session is open with its agent")
        if not self._session.can_audit:
            raise Refusal("its agent does not speak audits; vmhb-guest does")
        last = self.last
        if last is not None and last.running:
            raise Refusal(
                f"an audit is running since {now - last.asked:.1f} s, "
                f"and ends in {last.gives_up - now:.1f} s at the latest"
            )
        if last is not None and now < self._free_at:
            raise Refusal(
                f"too soon: the last audit began {now - last.asked:.1f} s ago, and there may be "
                f"one each {self._settings.audit_pace:g} s (AuditPace)"
            )
        timeout = min(self._settings.audit_timeout if timeout is None else timeout, TIMEOUT_MAX)
        number = self._session.audit(check, "detailed" if detailed else "quick", timeout)
        self.last = Audit(number, check, detailed, timeout, now)
        return self.last

    def take(self, answer: Audited, now: float) -> None:
        """Takes an answer, or a part of it; one to anything but the audit that runs is ignored."""
        audit = self.last
        if audit is None or not audit.running or answer.id != audit.id:
            return
        for check in answer.checks:
            room = check.name in audit.checks or len(audit.checks) < CHECKS_MAX
            if room and audit.check in ("", check.name):
                audit.checks[check.name] = check if check.size <= self._room() else check.bare
        audit.text = answer.log_msg
        if not answer.more:
            self._end(audit, Outcome(answer.outcome), now)

    def tick(self, now: float, answering: bool) -> None:
        """Ends the audit that nobody answered, and begins the next that a fault asked for."""
        if self.last is not None and self.last.running:
            if now < self.last.gives_up:
                return
            self._end(self.last, Outcome.UNANSWERED, now)
        if not answering or not self._session.open:
            self._waiting.clear()
        elif self._waiting and now >= self._free_at:
            check = self._waiting.pop(0)
            self.of_faults[check] = self.ask(check, detailed=True, timeout=None, now=now)

    def interrupt(self, now: float) -> None:
        """The session is over: nobody will answer any more."""
        self._waiting.clear()
        if self.last is not None and self.last.running:
            self._end(self.last, Outcome.INTERRUPTED, now)

    def fault_raised(self, check: str, now: float) -> None:
        """A check fails: it is audited as soon as there is room, unless it was not long ago."""
        if check in self._waiting or now < self._rests.get(check, -math.inf):
            return
        self._rests.pop(check, None)
        while len(self._rests) >= CHECKS_MAX:
            del self._rests[next(iter(self._rests))]
        self._rests[check] = now + FAULT_REST
        self._waiting.append(check)

    def fault_cleared(self, check: str) -> None:
        """Forgets what belongs to a fault."""
        self.of_faults.pop(check, None)
        if check in self._waiting:
            self._waiting.remove(check)

    def _room(self) -> int:
        """Returns the bytes that are left for texts."""
        kept = {id(audit): audit for audit in (self.last, *self.of_faults.values()) if audit}
        return AUDIT_TEXTS_MAX - sum(
            check.size for audit in kept.values() for check in audit.checks.values()
        )

    def _end(self, audit: Audit, outcome: Outcome, now: float) -> None:
        audit.outcome = outcome
        audit.took = now - audit.asked
        if self.of_faults.get(audit.check) is audit:
            log.info("VM %s: %s", self._uuid, words(audit))


def words(audit: Audit) -> str:
    """Returns what came of an audit, on one line; the guest's texts are in it."""
    what = f"check {audit.check}" if audit.check else "all checks"
    found = [f"{check.name} {check.status.value}: {check.text}" for check in audit.checks.values()]
    level = "detailed" if audit.detailed else "quick"
    said = "; ".join([*found, *filter(None, [audit.text])]) or "nothing"
    return f"{level} audit of {what}, {audit.outcome.value} after {audit.took:.1f} s: {said}"
