# SPDX-License-Identifier: Apache-2.0
"""Monitors one VM: bytes and time in; bytes, faults and the next deadline out.

The caller owns the clock and the channel. After every call: write `data_to_send` to the channel,
publish `events`, and call `tick` at `deadline`. Times are seconds on the monotonic clock.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Callable

from collectd_vmhb.audits import Audit, Audits
from collectd_vmhb.busy import Busy
from collectd_vmhb.checks import Checks
from collectd_vmhb.conduct import TOLD_MAX, Conduct
from collectd_vmhb.detector import Detector
from collectd_vmhb.history import History
from collectd_vmhb.policy import Policy
from collectd_vmhb.protocol import (
    CAPS,
    Answered,
    Audited,
    Closed,
    Match,
    Opened,
    Refused,
    Session,
)
from collectd_vmhb.settings import Settings
from collectd_vmhb.silence import Silence, why_silent
from collectd_vmhb.verdict import (
    CHECK_PREFIX,
    GUEST_MISBEHAVES,
    HEARTBEAT_LOST,
    NOT_ESTABLISHED,
    FaultCleared,
    FaultEvent,
    FaultRaised,
    Health,
    Severity,
)
from collectd_vmhb.wording import Refusal

log = logging.getLogger(__name__)

#: Sends are moved up to this grid: wake-ups cost more than the messages (docs/adr/0004).
TICK = 0.01
#: A challenge written at once after a reconnect can be swallowed by the published client, one
#: that comes 0.5 s later never was (25 of 25); it is repeated until there is a session.
PROBE_DELAY = 0.5
PROBE_PERIOD = 2.0
PROBES_AT_FIRST = 10
PROBE_PERIOD_LATER = 10.0
#: The published client opens a new session after 5 s without a challenge.
BASE_PERIOD_MAX = 4.0
#: Challenges left unanswered before writing stops: a port that nobody reads buffers them all,
#: and whoever comes back would answer each. Below protocol.session.REMEMBERED.
UNANSWERED_MAX = 60
#: A connection that has been silent for so long is opened anew: another reader may have had it.
#: StarlingX's guestServer reconnects after the same time.
MUTE = 120.0
#: A guest that has just booted may lack entropy for its first answer (1.04 s seen).
FIRST_ANSWER = 3.0
#: Health in which the last word about the checks is current.
ANSWERING = (Health.HEALTHY, Health.UNHEALTHY, Health.SUSPECT)
#: The same for all of whom nothing is wrong.
_NO_FAULTS: Mapping[str, Severity] = MappingProxyType({})


@dataclass(init=False)
class Counters:
    """What happened on one VM's channel since monitoring began."""

    __slots__ = (
        "beats",
        "bytes_in",
        "bytes_out",
        "late",
        "malformed",
        "misses",
        "sessions",
        "wrong",
    )

    sessions: int
    beats: int
    misses: int
    late: int
    wrong: int
    malformed: int
    bytes_in: int
    bytes_out: int

    def __init__(self) -> None:
        for name in self.__slots__:
            setattr(self, name, 0)


class Monitor:
    """Keeps one VM's session and health, and says which faults its state means.

    ``open_faults`` are those that an earlier process left open (name -> severity): they go on
    until this one has seen for itself. ``random`` gives challenges; ``phase`` (0 ... 1) is the part
    of each interval at whose end this VM is challenged, by the clock (`phases`); None is whichever
    its session begins with.
    """

    __slots__ = (
        "_answered",
        "_connected",
        "_detector",
        "_due",
        "_events",
        "_heard",
        "_in_step",
        "_next_challenge",
        "_open",
        "_phase",
        "_postponed",
        "_probes",
        "_refusal",
        "_sent",
        "_session",
        "_settings",
        "_steady",
        "_unanswered",
        "audits",
        "barred",
        "busy",
        "checks",
        "conduct",
        "counters",
        "guest_open",
        "history",
        "obstacle",
        "policy",
        "rtt",
        "unaccepted",
        "unreachable",
        "uuid",
    )

    def __init__(
        self,
        uuid: str,
        policy: Policy,
        settings: Settings,
        random: Callable[[], int],
        phase: float | None = None,
        open_faults: Mapping[str, Severity] | None = None,
    ) -> None:
        self.uuid = uuid
        self.policy = policy
        self.counters = Counters()
        #: Round trip of the last beat in seconds; NaN before the first. See also `current_rtt`.
        self.rtt = math.nan
        self.checks = Checks(settings.perfdata_max)
        #: Made when the guest first says that it is busy, and when it is first audited.
        self.busy: Busy | None = None
        self.audits: Audits | None = None
        self.conduct = Conduct()
        #: There is no way in: silence is no fault of the guest's.
        self.unreachable = False
        #: This host may not open the channel: nothing is known of the guest.
        self.barred = False
        #: QEMU has not accepted the connection.
        self.unaccepted = False
        #: A process in the guest has the port open, as far as libvirt says.
        self.guest_open: bool | None = None
        #: Why the channel is not connected, or was not last; for people.
        self.obstacle = "it was not connected yet"
        self.history = History()
        self._settings = settings
        self._phase = phase
        self._detector = Detector(policy)
        caps = CAPS if settings.busy_max else CAPS - {"busy"}
        self._session = Session(random, policy.interval, policy.timeout, caps)
        self._connected = False
        self._next_challenge = math.inf
        #: The next challenge is where the phase has it.
        self._in_step = False
        self._probes = 0
        self._postponed = False
        self._sent = 0.0
        self._due: float | None = None
        self._unanswered = 0
        self._heard = -math.inf
        self._answered = math.nan
        #: Why the guest's last line on this connection was refused, in words that may be its own.
        self._refusal = ""
        self._open: Mapping[str, Severity] = open_faults or _NO_FAULTS
        self._events: tuple[FaultEvent, ...] = ()
        #: See `_is_steady`; said anew whenever anything but the schedule may have changed.
        self._steady = False

    # -- what the caller tells -------------------------------------------------------------

    def start(self, now: float, grace: float, expected: bool) -> None:
        """Watches the VM, which runs now; ``expected``: it was seen to answer in this run."""
        self._detector.start(now, grace, expected)
        if HEARTBEAT_LOST in self._open:
            self._detector.resume_failed()
        self._schedule(now)
        self._settle(now, "restarted")

    def expect(self, now: float) -> None:
        """The guest came from elsewhere with its port open: as good as an answer in this run."""
        self._detector.expect(now, self._settings.grace_after_resume)
        self._settle(now, "")

    def withdraw_grace(self, now: float, until: float) -> None:
        """The guest did not boot, though it seemed to; silence is forgiven until then at most."""
        self._detector.withdraw_grace(until)
        self._settle(now, "")

    def pause(self, now: float, reason: str) -> None:
        """Planned silence begins: the VM was paused, saved, or is on its way to another host."""
        self._detector.stop(now)
        if self.busy is not None:
            self.busy.stand_still(now)
        self._session.withdraw()
        self._due = None
        self._next_challenge = math.inf
        self._settle(now, reason)

    def resume(self, now: float) -> None:
        """Planned silence is over."""
        if self.busy is not None:
            self.busy.go_on(now)
        if self.health is not Health.PAUSED:
            return
        # Who does not run says nothing, and the channel is none the worse for it.
        self._heard = now
        self._detector.start(now, self._settings.grace_after_resume, self.established)
        self._schedule(now)
        self._settle(now, "resumed")

    def rebooted(self, now: float) -> None:
        """The guest boots again inside the same QEMU."""
        if self.busy is not None:
            self.busy.over(now)
        self._detector.reboot(now, grace_after_reboot(self.policy, self._settings))
        self._settle(now, "rebooted")

    def connected(self, now: float) -> None:
        """The channel's host end is connected: a new stream begins."""
        self._connected = True
        self._heard = now
        # A published client can need a line to wake up; more would only pile up unread.
        self._unanswered = min(self._unanswered, UNANSWERED_MAX - 2)
        self._probes = 0
        self._refusal = ""
        self.unaccepted = False
        self.checks.connected()
        self._interrupt_audit(now)
        self._session.connected()
        if not self.established:
            self._schedule(now)
        elif not self._postponed:
            # Only once between two answers: a channel that flaps must not delay the verdict.
            self._postponed = True
            self._in_step = False
            if self.health is Health.PAUSED or self.counters.beats or self.counters.misses:
                self._next_challenge = max(self._next_challenge, _on_grid(now + PROBE_DELAY))
            else:
                self._ask_early(now)

    def disconnected(self, now: float, obstacle: str) -> None:
        """The channel is gone; the VM is held to its schedule all the same."""
        self._connected = False
        self.obstacle = obstacle
        self._interrupt_audit(now)
        self._settle(now, "")

    def receive(self, data: bytes, now: float) -> float | None:
        """Takes bytes that the guest sent; returns the deadline if they changed nothing else."""
        self.counters.bytes_in += len(data)
        self._heard = now
        self._unanswered = 0
        if self._steady and self._session.take_plain_answer(data):
            # Not charged to the guest's budget: there is one for each challenge.
            self._on_beat(now)
            return self._next_challenge
        events = self._session.receive(data)
        self.conduct.sent(len(data), self._session.lines, now)
        for event in events:
            if isinstance(event, Answered):
                self._on_answer(event, now)
            elif isinstance(event, Audited):
                if self.audits is not None:
                    self.audits.take(event, now)
            elif isinstance(event, Opened):
                self._on_opened(event, now)
            elif isinstance(event, Closed):
                self._on_exit(event, now)
            elif isinstance(event, Refused):
                self.counters.malformed += 1
                self._refusal = event.reason
                self.conduct.complain(now)
        self._settle(now, "recovered")
        return None

    def tick(self, now: float, stretch: float = 1.0) -> float | None:
        """Does what is due; ``stretch`` lengthens timeouts while this host itself is late.

        Returns the deadline if nothing else changed; a challenge may be there to be sent.
        """
        if self._steady and self._due is None:
            due = now >= self._next_challenge
            return self._challenge(now, stretch) if due else self._next_challenge
        if self._due is not None and now >= self._due:
            self._session.withdraw()
            self._due = None
            self.counters.misses += 1
            self.history.exchanged(self._sent, math.nan)
            if not (self.barred or self.unreachable or self.is_busy(now)):
                self._detector.miss(now)
        if self._due is None and now >= self._next_challenge:
            self._challenge(now, stretch)
        if self.audits is not None:
            self.audits.tick(now, self.health in ANSWERING)
        self._settle(now, "recovered")
        return None

    def audit(self, check: str, detailed: bool, timeout: float | None, now: float) -> Audit:
        """Has the guest run a check now, or all for ""; raises Refusal if that cannot be.

        Without a ``timeout`` (in seconds) it is that of the settings.
        """
        if self.health not in ANSWERING:
            raise Refusal(f"the VM is {self.health.value}: nobody would answer")
        self._steady = False
        return self._made_audits().ask(check, detailed, timeout, now)

    # -- what the caller asks ---------------------------------------------------------------

    def is_busy(self, now: float) -> bool:
        """True while the guest is slow on purpose, and may be."""
        return self.busy is not None and self.busy.lasts(now)

    def figures(self) -> dict[str, float]:
        """Returns what the checks measure, by name; nothing while challenges go unanswered."""
        current = self.health in (Health.HEALTHY, Health.UNHEALTHY) and self._unanswered <= 1
        if self.checks.figures is None or not current or not self._session.open:
            return {}
        return self.checks.figures.current()

    @property
    def health(self) -> Health:
        """The VM's state, in the words users see."""
        return self._detector.health

    @property
    def asked_at(self) -> float:
        """When the last challenge was sent, or would have been; 0 before the first."""
        return self._sent

    @property
    def current_rtt(self) -> float:
        """Round trip of the last beat in seconds, NaN while nothing answers."""
        return self.rtt if self.health in ANSWERING else math.nan

    @property
    def established(self) -> bool:
        """True once the VM has answered in this run, so that it is expected to."""
        return self._detector.expected

    @property
    def connected_now(self) -> bool:
        """True between `connected` and `disconnected`."""
        return self._connected

    @property
    def way(self) -> str:
        """How far the way to the guest is open, for people."""
        if not self._connected:
            return "not connected"
        return "session open" if self._session.open else "connected, no session"

    def silence(self, now: float) -> Silence:
        """Says why a VM that has not answered is silent, as far as the host can tell."""
        booting = self.health is Health.ESTABLISHING and now < self.grace_until
        return why_silent(
            self._connected,
            bool(self._refusal),
            self._session.open,
            self.guest_open,
            booting,
            not self.unaccepted,
        )

    @property
    def misses_in_a_row(self) -> int:
        """Challenges in a row that were not answered and count."""
        return self._detector.misses

    @property
    def grace_until(self) -> float:
        """Until then silence is forgiven while the VM is establishing."""
        return self._detector.grace_until

    @property
    def doubtful(self) -> bool:
        """True while misses count: a good moment to read the domain's state again."""
        # Those of a VM that is establishing count once its grace period is over.
        return self.misses_in_a_row > 0 and self.health in (Health.SUSPECT, Health.ESTABLISHING)

    @property
    def verdict_at(self) -> float:
        """When the heartbeat is lost unless an answer comes; inf if more misses are left."""
        last = self.misses_in_a_row == self.policy.miss_threshold - 1
        return self._due if last and self._due is not None else math.inf

    @property
    def deadline(self) -> float:
        """When `tick` has something to do."""
        wanted = self._next_challenge if self._due is None else self._due
        if self.policy.required and self._must_establish and NOT_ESTABLISHED not in self._open:
            wanted = min(wanted, self._detector.grace_until)
        wanted = min(wanted, self.conduct.news_at)
        return wanted if self.audits is None else min(wanted, self.audits.deadline)

    def mute(self, now: float) -> bool:
        """True if the connection has carried nothing from the guest for MUTE seconds."""
        if now - self._heard <= MUTE or not self._connected:
            return False
        return self.health is not Health.PAUSED and not self.is_busy(now)

    def data_to_send(self) -> bytes:
        """Returns whole lines for the guest; forgets them if there is no connection."""
        data = self._session.data_to_send()
        if not self._connected:
            return b""
        self.counters.bytes_out += len(data)
        return data

    def events(self) -> tuple[FaultEvent, ...]:
        """Returns what changed among the faults since the last call."""
        events, self._events = self._events, ()
        return events

    # -- the schedule -----------------------------------------------------------------------

    def _pace(self) -> tuple[float, float]:
        """Returns the period of the challenges, and how long an answer may take."""
        policy = self.policy
        if self._session.extended or not self._session.open:
            return policy.interval, policy.timeout
        return min(policy.interval, BASE_PERIOD_MAX), min(policy.timeout, BASE_PERIOD_MAX)

    def _schedule(self, now: float) -> None:
        """Plans the first challenge after a start or a connect."""
        self._due = None
        self._session.withdraw()
        if self.health is Health.PAUSED:
            return
        spread = (self._phase or 0.0) * self.policy.interval
        self._next_challenge = _on_grid(now + PROBE_DELAY + spread)
        self._in_step = False

    def _challenge(self, now: float, stretch: float = 1.0) -> float:
        """Asks, if there is somebody to ask, and returns when that counts as missed."""
        if self._session.open or self.established:
            period, timeout = self._pace()
            timeout *= stretch
        else:
            self._probes += 1
            period = PROBE_PERIOD if self._probes <= PROBES_AT_FIRST else PROBE_PERIOD_LATER
            timeout = period
        if self._connected and self._unanswered < UNANSWERED_MAX:
            self._session.challenge()
            self._unanswered += 1
        self._sent = now
        self._due = now + timeout
        self._next_challenge += period
        if self._next_challenge <= now:
            # In step with itself: after a stall of this host, its VMs must not all ask at once.
            missed = math.ceil((now + timeout - self._next_challenge) / period)
            self._next_challenge += missed * period
        return self._due

    def _ask_early(self, now: float) -> None:
        """Asks whom an earlier process knew, and who has been without a challenge since.

        Its agent may not be ready to hear that: an answer counts, silence is held against nobody.
        """
        self._session.challenge()
        self._unanswered += 1
        self._sent = now
        self._next_challenge = _on_grid(now + max(PROBE_DELAY, self._pace()[0]))

    def _fall_into_step(self) -> None:
        """Has the next challenge come as much sooner as it takes to be where the phase has it."""
        self._in_step = True
        if self._phase is None:
            return
        period = self._pace()[0]
        rounds = math.floor(self._next_challenge / period - self._phase + 1e-6)
        self._next_challenge = round((rounds + self._phase) * period / TICK) * TICK

    # -- what the guest said ----------------------------------------------------------------

    def _on_opened(self, event: Opened, now: float) -> None:
        self.counters.sessions += 1
        self._interrupt_audit(now)
        self.checks.opened("checks" in event.caps)
        if self.health is Health.PAUSED:
            return
        asked = self._due
        # Acknowledgement and first challenge go out together, as the published ends do.
        self._next_challenge = _on_grid(now)
        self._in_step = False
        due = self._challenge(now)
        if not self.established:
            due = max(due, now + FIRST_ANSWER)
        elif asked is not None:
            # Who only ever asks for sessions does not answer: that challenge can still be missed.
            due = min(due, asked)
        self._due = due

    def _on_exit(self, event: Closed, now: float) -> None:
        self._detector.exit(now, grace_after_reboot(self.policy, self._settings))
        self._interrupt_audit(now)
        if self.busy is not None:
            self.busy.over(now)
        self.obstacle = "the guest's agent said that it leaves"
        if self.conduct.left(now):
            log.info("%s: the guest's agent leaves: %s", self.uuid, event.reason)
        self._probes = 0
        self._schedule(now)

    def _on_answer(self, answer: Answered, now: float) -> None:
        if not answer.well_formed:
            self.counters.malformed += 1
        self.checks.take(answer, self._session.open)
        if answer.match is Match.LATE:
            self.counters.late += 1
        elif answer.match is Match.WRONG:
            self.counters.wrong += 1
            self.conduct.complain(now)
            return
        self._take_busy(answer, now)
        if answer.match is Match.CURRENT:
            self._on_beat(now)
            if not self._in_step:
                self._fall_into_step()
            self._detector.beat(self.checks.sick)

    def _on_beat(self, now: float) -> None:
        self.counters.beats += 1
        self.rtt = now - self._sent
        self.history.exchanged(self._sent, self.rtt)
        self._answered = now
        self._due = None
        self._postponed = False

    def _take_busy(self, answer: Answered, now: float) -> None:
        if answer.busy is not None and answer.busy.seconds:
            if self.busy is None:
                self.busy = Busy(self.uuid, self._settings.busy_max)
            self.busy.claim(answer.busy, now)
        elif self.busy is not None and self._session.open:
            # Who kept its session over a restart of ours cannot say it before the next one.
            self.busy.over(now)

    # -- the faults that follow -------------------------------------------------------------

    def _is_steady(self, now: float) -> bool:
        """Tells whether a plain answer in time would change neither the health nor any fault.

        Nearly always, and then until something else comes than such answers: what follows from
        one needs not be looked into, and nothing falls due but a challenge and its timeout.
        """
        if self._detector.health is not Health.HEALTHY or self._open or self.is_busy(now):
            return False
        if self.audits is not None and self.audits.deadline < math.inf:
            return False
        return self._in_step and self.checks.well and self.conduct.news_at == math.inf

    @property
    def _must_establish(self) -> bool:
        if not self.policy.required or self.established or self.unreachable or self.barred:
            return False
        return self.health in (Health.UNKNOWN, Health.ESTABLISHING)

    def _wanted(self, now: float) -> dict[str, Severity]:
        """Returns the faults that the present state means."""
        wanted: dict[str, Severity] = {}
        if self.health is Health.FAILED:
            wanted[HEARTBEAT_LOST] = Severity.FAILURE
        overdue = now >= self._detector.grace_until or NOT_ESTABLISHED in self._open
        if self._must_establish and overdue:
            wanted[NOT_ESTABLISHED] = Severity.WARNING
        if self.conduct.misbehaves(now):
            wanted[GUEST_MISBEHAVES] = Severity.WARNING
        if self.checks.known and self.health in ANSWERING:
            wanted.update(self.checks.faults)
        else:
            # Nobody can say how the checks are now: what was raised stays.
            wanted.update(kv for kv in self._open.items() if kv[0].startswith(CHECK_PREFIX))
        return wanted

    def _settle(self, now: float, why: str) -> None:
        """Does what follows from a change of state."""
        self._judge(now, why)
        self._steady = self._is_steady(now)

    def _judge(self, now: float, why: str) -> None:
        """Turns the difference between the open and the wanted faults into events."""
        if self._detector.health is not self.history.health:
            self.history.turned(self._detector.health, now)
        self.conduct.news_at = math.inf
        wanted = self._wanted(now)
        if wanted == self._open:
            return
        wanted = self._tellable(wanted, now)
        for name in self._open.keys() - wanted.keys():
            self._events += (FaultCleared(self.uuid, name, why),)
            if self.audits is not None and name.startswith(CHECK_PREFIX):
                self.audits.fault_cleared(name[len(CHECK_PREFIX) :])
        for name, severity in wanted.items():
            if self._open.get(name) is not severity:
                self._events += (self._describe(name, severity, now),)
                if name.startswith(CHECK_PREFIX):
                    self._audit_on_fault(name[len(CHECK_PREFIX) :], now)
        self._open = wanted or _NO_FAULTS

    def _tellable(self, wanted: dict[str, Severity], now: float) -> dict[str, Severity]:
        """Returns the faults as they may be told now: a guest makes no storm of its checks."""
        names = {**self._open, **wanted}
        changed = [
            name
            for name in names
            if name.startswith(CHECK_PREFIX) and self._open.get(name) is not wanted.get(name)
        ]
        begun = wanted.keys() - self._open.keys()
        room = TOLD_MAX - sum(name.startswith(CHECK_PREFIX) for name in self._open)
        wait = set(changed) - self.conduct.tellable(changed, begun, room, now)
        told = {name: (self._open if name in wait else wanted).get(name) for name in names}
        return {name: severity for name, severity in told.items() if severity is not None}

    def _audit_on_fault(self, check: str, now: float) -> None:
        if self._settings.audit_on_fault and self._session.can_audit:
            audits = self._made_audits()
            audits.fault_raised(check, now)
            audits.tick(now, self.health in ANSWERING)

    def _made_audits(self) -> Audits:
        if self.audits is None:
            self.audits = Audits(self.uuid, self._session, self._settings)
        return self.audits

    def _interrupt_audit(self, now: float) -> None:
        if self.audits is not None:
            self.audits.interrupt(now)

    def _describe(self, name: str, severity: Severity, now: float) -> FaultRaised:
        if name.startswith(CHECK_PREFIX):
            check = self.checks.of_fault(name)
            return FaultRaised(
                self.uuid,
                name,
                severity,
                f"health check {check.name} is {check.status.value}",
                since=now - check.age,
                reason=check.status.value,
                guest_text=check.text,
            )
        text, reason, since = self._account(name, now)
        said = self._refusal if name == NOT_ESTABLISHED else ""
        return FaultRaised(self.uuid, name, severity, text, since, reason, self._figures(now), said)

    def _account(self, name: str, now: float) -> tuple[str, str, float]:
        """Returns what to say about a fault: for people, for machines, and since when."""
        if name == HEARTBEAT_LOST:
            ago = (
                ""
                if math.isnan(self._answered)
                else f", last answer {now - self._answered:.1f} s ago"
            )
            text = f"{self.policy.miss_threshold} heartbeat challenges in a row unanswered{ago}"
            reason = "no-answer"
            if not self._connected:
                text += f" ({self.obstacle})"
            elif self.unaccepted:
                text += f" ({Silence.NOT_ACCEPTED.value})"
                reason = Silence.NOT_ACCEPTED.reason
            return text, reason, now if math.isnan(self._answered) else self._answered
        if name == NOT_ESTABLISHED:
            why = self.silence(now)
            text = self.obstacle if why is Silence.NOT_CONNECTED else why.value
            return f"no heartbeat session since the VM started: {text}", why.reason, now
        return (
            (
                f"the guest's agent sends what it should not: {self.counters.malformed} malformed "
                f"lines, {self.counters.wrong} answers to no challenge of ours, or too much at once"
            ),
            "misbehaves",
            now,
        )

    def _figures(self, now: float) -> dict[str, str]:
        figures = {
            "beats": str(self.counters.beats),
            "misses": str(self.counters.misses),
            "late": str(self.counters.late),
            "sessions": str(self.counters.sessions),
            "connected": str(self._connected).lower(),
        }
        if not math.isnan(self._answered):
            figures["last_answer_secs_ago"] = f"{now - self._answered:.3f}"
            figures["last_rtt_ms"] = f"{self.rtt * 1000:.2f}"
        return figures


def grace_after_reboot(policy: Policy, settings: Settings) -> float:
    """Returns for how long silence is forgiven after a reboot, in seconds.

    A flavor that asks for more time to boot than others have needs it for each boot.
    """
    slow = policy.grace_period if policy.grace_period > settings.grace_period else 0.0
    return max(settings.grace_after_reboot, slow)


def _on_grid(at: float) -> float:
    """Moves a time up to the next tick, so that many sends share one wake-up."""
    return math.ceil(at / TICK) * TICK
