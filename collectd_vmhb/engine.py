# SPDX-License-Identifier: Apache-2.0
"""Watches every VM of this host from one thread: a poll, drawers of deadlines, an inbox.

Nothing here blocks: libvirt and the disk are asked through workers that post what they found,
notifications go to a sink that only queues. Readable channels come before due timers, so that an
answer which waited while this process was held up still counts.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import logging
import os
import queue
import socket
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, Union

from collectd_vmhb.attaching import Attaching
from collectd_vmhb.awareness import LATE, Awareness
from collectd_vmhb.channel import Channel, ChannelError, retry_after
from collectd_vmhb.contact import Contact
from collectd_vmhb.correlation import CORRELATED, WINDOW_ROUNDS, Correlation
from collectd_vmhb.desk import Asked, Books, Desk
from collectd_vmhb.discovery import Change, Discovery
from collectd_vmhb.domain import Domain, DomainState
from collectd_vmhb.evidence import Doubt
from collectd_vmhb.hypervisor import (
    Attached,
    Detached,
    Finding,
    Looked,
    Measured,
    Reachable,
    Rebooted,
    Scanned,
)
from collectd_vmhb.impairments import DISK, MASS, POLICIES, RIGHTS, Impairments
from collectd_vmhb.monitor import Monitor, grace_after_reboot
from collectd_vmhb.phases import Phases
from collectd_vmhb.policy import Policy, Problem, bad_policy, policy_for
from collectd_vmhb.poll import READ, WRITE, Poll
from collectd_vmhb.protocol import CHALLENGE_MAX
from collectd_vmhb.provision import Connect, Impossible, next_step, seen_from_here
from collectd_vmhb.publish import Note
from collectd_vmhb.reporter import SAVE_MAX, Reporter
from collectd_vmhb.reprieve import Reprieve
from collectd_vmhb.settings import Mode, Settings
from collectd_vmhb.sources import FILE, NO_POLICIES, PoliciesRead, Sources
from collectd_vmhb.state import State
from collectd_vmhb.timers import NEVER, Timers
from collectd_vmhb.verdict import (
    BAD_POLICY,
    CANNOT_MONITOR,
    ENGINE_IMPAIRED,
    VERIFICATION,
    FaultCleared,
    FaultEvent,
    FaultRaised,
    Severity,
)
from collectd_vmhb.view import display_name
from collectd_vmhb.watch import Watch
from collectd_vmhb.wording import shown

log = logging.getLogger(__name__)

#: Seconds after which libvirt knows whether a guest has its port open, after an arrival or another
#: client's leave: QEMU tells it up to a second later, and libvirt tells nobody (9.0 said
#: "disconnected" for 0.4 to 2 s).
OPEN_KNOWN = 5.0

#: VMs that are challenged before answers are read: no guest's round trip is to wait for all that
#: share its moment.
IN_A_ROW = 20

#: States in which a guest is silent on purpose.
_PLANNED = frozenset({DomainState.PAUSED, DomainState.SHUTTING_DOWN})
#: Faults that the engine itself raises and clears; the others are the monitor's.
_ENGINE_FAULTS = frozenset({BAD_POLICY, CANNOT_MONITOR, VERIFICATION})
#: Why a channel cannot be opened, whichever VM's it is.
_OF_THIS_HOST = frozenset({errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE})
#: Faults that outlive a run of the VM.
_POLICY_FAULTS = frozenset({BAD_POLICY})


class Libvirt(Protocol):
    """What the engine asks of `hypervisor.Hypervisor`; the answers come through `Engine.post`."""

    def scan(self) -> None:
        """Asks for all domains."""

    def look(self, uuid: str) -> None:
        """Asks for one domain."""

    def measure(self, uuid: str) -> None:
        """Asks for the counters of one domain."""

    def attach(self, uuid: str, channel: str) -> None:
        """Asks for a channel in a running domain."""

    def detach(self, uuid: str, channel: str, path: str) -> None:
        """Asks to take a channel out of a running domain."""


@dataclass(frozen=True)
class Saved:
    """The state of this number is on disk, or ``error`` says why it is not."""

    number: int
    error: str | None


Posted = Union[Finding, Saved, Asked, PoliciesRead]
#: What is done for a VM, at a time and for events of its channel. Returns when the monitor is due
#: next if nothing else follows from it, None if something may.
Work = Callable[[Watch, float, int], Union[float, None]]


class Engine:
    """Runs the whole compute side; what is not private may be called from any thread.

    Call `run` in a thread of its own. For ``save`` and ``notify`` see `Reporter`.
    """

    def __init__(
        self,
        settings: Settings,
        state: State,
        save: Callable[[int, State], None],
        notify: Callable[[Note], None],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        policies: PoliciesRead = NO_POLICIES,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._wall = wall
        silent = settings.mode is not Mode.REPORT
        self._reporter = Reporter(settings.hold_down, save, notify, wall, silent)
        try:
            self._reporter.load(state, clock())
        except ValueError as error:
            log.error("starting with no open faults: %s", error)
        if state.other_boot:
            for uuid in self._reporter.instances():
                self._reporter.close(uuid, "this host restarted")
        #: Who was established before this process, and in which run.
        self._earlier = dict(state.established)
        #: Until when the silence of some of them was forgiven, in Unix time.
        self._forgiven = dict(state.forgiven)
        self._libvirt: Libvirt | None = None
        self._stopping = threading.Event()
        self._inbox: queue.SimpleQueue[Posted] = queue.SimpleQueue()
        self._poll: Poll[Watch | None] = Poll()
        self._wakes, self._waker = socket.socketpair()
        self._wakes.setblocking(False)
        self._waker.setblocking(False)
        self._poll.register(self._wakes, READ, None)
        self._discovery = Discovery()
        self._watches: dict[str, Watch] = {}
        #: Who rebooted before libvirt has told of it otherwise.
        self._early_reboots: set[str] = set()
        self._timers: Timers[Watch] = Timers()
        self._phases = Phases()
        #: When `_run_own` has something to do, and whether more happened since than beats.
        self._own_deadline = NEVER
        self._stirred = True
        self._random = functools.partial(next, _challenges())
        self._awareness = Awareness()
        self._correlation = Correlation()
        self._totals: Counter[str] = Counter(loops=0, errors=0, bytes_in=0, bytes_out=0)
        self._attaching = Attaching(
            settings.mode, settings.attach_rate, lambda *job: self._ask.attach(*job)
        )
        self._scan_at = NEVER
        self._impairments = Impairments(self._report_host)
        self._contact = Contact(self._impairments)
        for incident in self._reporter.incidents():
            if incident.name == ENGINE_IMPAIRED:
                self._impairments.adopt(incident.reason, incident.text)
        self._sources = Sources(settings.flavor_policy)
        self._on_policies(policies, clock())
        books = Books(
            settings,
            self._watches,
            self._discovery,
            self._sources,
            self._reporter,
            self._contact,
            self._awareness,
            self._totals,
        )
        #: Answers what is asked from other threads.
        self.desk = Desk(
            books, self.post, self._catch_up, lambda *job: self._ask.detach(*job), clock, wall
        )

    # -- from other threads -----------------------------------------------------------------

    def post(self, posted: Posted) -> None:
        """Hands the loop what a worker found out; never blocks."""
        self._inbox.put(posted)
        self._wake()

    def stop(self) -> None:
        """Makes `run` return soon."""
        self._stopping.set()
        self._wake()

    def flush(self) -> None:
        """Lets out what was saved as the loop ended; call it after `run` and the last save."""
        while not self._inbox.empty():
            posted = self._inbox.get()
            if isinstance(posted, Saved):
                self._reporter.saved(posted.number)

    def _wake(self) -> None:
        # Enough wake-ups wait already, or the loop has ended before the workers.
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")

    # -- the loop ---------------------------------------------------------------------------

    def run(self, libvirt: Libvirt) -> None:
        """Runs until `stop`; ``libvirt`` has been or will be asked to scan by its owner."""
        self._libvirt = libvirt
        self._scan_at = self._clock() + self._settings.reconcile_interval
        self._own_deadline = self._plan_own()
        while not self._stopping.is_set():
            self._turn_and_survive()
        for watch in self._watches.values():
            self._disconnect(watch)
        asked = {uuid: watch.monitor.asked_at for uuid, watch in self._watches.items()}
        self._reporter.finish(self._clock(), first=sorted(asked, key=asked.__getitem__))
        self._poll.close()
        self._wakes.close()
        self._waker.close()

    def _turn_and_survive(self) -> None:
        try:
            self._turn()
        except Exception:
            # One bad turn must not end the monitoring of every VM.
            self._totals["errors"] += 1
            log.exception("the engine goes on after an error")
            self._stopping.wait(0.1)

    def _turn(self) -> None:
        wanted = self._next_deadline()
        wait = None if wanted == NEVER else max(0.0, wanted - self._clock())
        ready = self._poll.wait(wait)
        now = self._clock()
        self._totals["loops"] += 1
        if wanted <= now:
            self._awareness.woke(now - wanted, now)
            if now - wanted > LATE:
                self._reporter.stood_still(now - wanted)
        for watch, events in ready:
            if watch is None:
                self._drain_wakes()
            else:
                self._attend(watch, self._on_ready, now, events)
        self._empty_inbox()
        self._run_timers(now)
        if self._stirred or now >= self._own_deadline:
            self._run_own(now)

    def _drain_wakes(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wakes.recv(4096):
                pass

    def _next_deadline(self) -> float:
        return min(self._timers.deadline(), self._own_deadline)

    def _run_timers(self, now: float) -> None:
        for number, watch in enumerate(self._timers.due(now), start=1):
            # A VM's own time: what those before it took is not taken from its timeout.
            self._attend(watch, self._on_due, self._clock())
            if number % IN_A_ROW == 0:
                self._attend_answers()

    def _attend_answers(self) -> None:
        """Attends who answered meanwhile; what wakes the loop itself is left to its next turn."""
        ready = self._poll.wait(0.0)
        now = self._clock()
        for watch, events in ready:
            if watch is not None:
                self._attend(watch, self._on_ready, now, events)

    def _run_own(self, now: float) -> None:
        """Does what is due and is no single VM's; that changes only where `_stirred` is set."""
        if now >= self._scan_at:
            self._scan_at = now + self._settings.reconcile_interval
            self._ask.scan()
            # Cleared by the scan: a daemon that hangs says nothing, not even that it is away.
            self._contact.suspect(now)
        if now >= self._attaching.deadline:
            self._attaching.turn(now)
        self._contact.turn(now)
        self._watch_the_disk(now)
        for fault in self._correlation.due(now):
            self._report(self._watches[fault.uuid].domain, fault, now)
        if MASS in self._impairments and now >= self._correlation.review_at:
            self._review_mass(now)
        self.desk.turn(now)
        self._reporter.turn(now)
        self._own_deadline = self._plan_own()
        self._stirred = False

    def _plan_own(self) -> float:
        others = [self._reporter.deadline, self._correlation.deadline, self.desk.deadline]
        if MASS in self._impairments:
            others.append(self._correlation.review_at)
        at = [deadline for deadline in others if deadline is not None]
        return min(self._scan_at, self._attaching.deadline, self._contact.deadline, *at)

    @property
    def _ask(self) -> Libvirt:
        if self._libvirt is None:
            raise RuntimeError("the engine does not run")
        return self._libvirt

    def _empty_inbox(self) -> None:
        while not self._inbox.empty():
            self._stirred = True
            self._on_posted(self._inbox.get(), self._clock())

    def _on_posted(self, posted: Posted, now: float) -> None:
        if isinstance(posted, Saved):
            self._on_saved(posted, now)
        elif isinstance(posted, Asked):
            posted.answer(now)
        elif isinstance(posted, PoliciesRead):
            self._on_policies(posted, now)
        else:
            self._on_found(posted, now)

    # -- what libvirt says ------------------------------------------------------------------

    def _on_found(self, finding: Finding, now: float) -> None:
        if isinstance(finding, Scanned):
            self._on_scanned(finding, now)
        elif isinstance(finding, Looked):
            self._on_looked(finding, now)
        elif isinstance(finding, Reachable):
            if finding.error is not None:
                self._contact.suspect(now)
        elif isinstance(finding, Detached):
            self.desk.detached(finding)
        else:
            watch = self._watches.get(finding.uuid)
            if watch is None:
                known = self._discovery.domain(finding.uuid)
                if isinstance(finding, Rebooted) and (known is None or known.domain_id is None):
                    # Perhaps the answer that makes it known is still on its way.
                    self._early_reboots.add(finding.uuid)
                return
            if isinstance(finding, Rebooted):
                self._attend(watch, self._on_rebooted, now)
            elif isinstance(finding, Measured):
                watch.take(finding.usage)
            else:
                self._on_attached(watch, finding, now)

    def _on_scanned(self, scanned: Scanned, now: float) -> None:
        self._contact.answered(now)
        for change in self._discovery.scanned(scanned.domains, scanned.unreadable):
            self._review_and_survive(change, now)
        self._early_reboots.clear()
        for watch in list(self._watches.values()):
            self._provision(watch, now, fresh=False)
        if DISK in self._impairments:
            self._reporter.save_again()
        if not self._contact.complete:
            self._contact.complete = True
            there = {domain.uuid for domain in scanned.domains} | scanned.unreadable
            for uuid in self._reporter.instances() - there:
                self._reporter.close(uuid, "gone while the engine was away")
            for uuid in self._earlier:
                self._reporter.established(uuid, None, now)
            self._earlier.clear()
            if not self._watches:
                # Nobody is left whose channel an earlier engine might not open.
                self._impairments.mend(RIGHTS, now)
            self._impairments.settle(now)
            self._reporter.handshake()

    def _on_looked(self, looked: Looked, now: float) -> None:
        for change in self._discovery.looked(looked.uuid, looked.domain):
            self._review_and_survive(change, now)
        self._early_reboots.discard(looked.uuid)
        watch = self._watches.get(looked.uuid)
        if watch is None:
            return
        self._provision(watch, now, fresh=False)
        if watch.unbooted_until is not None and watch.look_at == NEVER:
            if watch.domain.guest_has_open(watch.policy.channel):
                watch.monitor.withdraw_grace(now, watch.unbooted_until)
                self._catch_up(watch, now)
            watch.unbooted_until = None
        if watch.reprieve is not None and watch.reprieve.answered(now):
            self._catch_up(watch, now)

    def _review_and_survive(self, change: Change, now: float) -> None:
        try:
            self._review(change, now)
        except Exception:
            # The others' changes are told only once.
            self._totals["errors"] += 1
            log.exception("a domain is left alone after an error of the engine")

    def _review(self, change: Change, now: float) -> None:
        """Brings the watch of one VM in line with what libvirt says of its domain."""
        domain = change.after
        if domain is None:
            if change.before is not None:
                self._forget(change.before.uuid, "gone from this host", now, keep=frozenset())
            return
        told = self._sources.told(domain)
        decision = policy_for(told.extra_specs, self._settings)
        self._judge_policy(domain, decision.problems, told.source, now)
        if decision.policy is None:
            self._forget(domain.uuid, "monitoring is switched off", now)
        elif domain.domain_id is None or domain.state is DomainState.SHUT_OFF:
            self._forget(domain.uuid, "shut off", now)
        else:
            # A word of the policy file can concern a VM that has been running for long.
            self._follow(domain, decision.policy, now, fresh=change.before is not domain)

    def _on_policies(self, read: PoliciesRead, now: float) -> None:
        """Takes what is in force of the policy file, and reviews the VMs that it says more of."""
        before, self._sources.read = self._sources.read, read
        if read.error is None:
            self._impairments.mend(POLICIES, now)
        else:
            self._impairments.impair(POLICIES, read.error, now)
        for domain in self._discovery.known():
            uuid = domain.uuid
            if before.policies.get(uuid) != read.policies.get(uuid):
                self._review_and_survive(Change(domain, domain), now)

    def _follow(self, domain: Domain, policy: Policy, now: float, fresh: bool) -> None:
        watch = self._watches.get(domain.uuid)
        same_run = watch is not None and watch.domain.domain_id == domain.domain_id
        if watch is not None and not (same_run and watch.policy == policy):
            if not same_run:
                self._reporter.close(domain.uuid, "restarted", _POLICY_FAULTS)
            self._disconnect(watch)
            self._correlation.forget(domain.uuid)
            self._timers.plan(watch, NEVER)
            before = watch.monitor
            expected = same_run and before.established
            forgiven = before.grace_until if same_run else now
            watch = self._begin(domain, policy, expected, forgiven, now)
            if same_run:
                watch.monitor.busy = before.busy
        elif watch is None:
            watch = self._begin(domain, policy, False, now, now)
        watch.domain = domain
        if domain.state in _PLANNED:
            watch.monitor.pause(now, domain.state.value)
        else:
            watch.monitor.resume(now)
        watch.monitor.guest_open = domain.guest_has_open(policy.channel)
        if domain.carried:
            self._judge_arrival(watch, now)
        fresh = fresh and self._contact.complete and not watch.had_channel
        self._provision(watch, now, fresh)
        self._catch_up(watch, now)

    def _judge_arrival(self, watch: Watch, now: float) -> None:
        """Expects answers of a guest that was migrated here, or restored, with its agent."""
        if watch.domain.guest_has_open(watch.policy.channel):
            watch.monitor.expect(now)
        elif not watch.looked and not watch.monitor.established:
            watch.looked = True
            watch.look_at = now + OPEN_KNOWN

    def _begin(
        self, domain: Domain, policy: Policy, expected: bool, forgiven: float, now: float
    ) -> Watch:
        """Begins a watch; silence is forgiven at least until ``forgiven``."""
        earlier = self._earlier.pop(domain.uuid, None)
        if earlier is not None and earlier != domain.domain_id:
            self._reporter.established(domain.uuid, None, now)
            self._reporter.close(domain.uuid, "restarted", _POLICY_FAULTS)
        elif earlier is not None:
            expected = True
            # A wall clock that was set must not forgive for ever.
            left = self._forgiven.get(domain.uuid, 0.0) - self._wall()
            forgiven = now + min(left, grace_after_reboot(policy, self._settings))
        monitor = Monitor(
            domain.uuid,
            policy,
            self._settings,
            self._random,
            phase=self._phases.of(domain.uuid),
            open_faults={
                name: severity
                for name, severity in self._reporter.of(domain.uuid).items()
                if name not in _ENGINE_FAULTS
            },
        )
        grace = self._settings.grace_after_resume if expected else policy.grace_period
        grace = max(grace, forgiven - now)
        self._attaching.forget(domain.uuid)
        watch = self._watches[domain.uuid] = Watch(domain, policy, monitor)
        if earlier is not None and domain.guest_has_open(policy.channel) is False:
            # It may have rebooted while nobody looked: an agent that hangs keeps its port open. Or
            # it closed the port for a moment, as some do when the earlier engine leaves it.
            watch.unbooted_until = now + grace
            watch.look_at = now + OPEN_KNOWN
            grace = max(grace, grace_after_reboot(policy, self._settings))
        monitor.start(now, grace, expected)
        if domain.uuid in self._early_reboots:
            monitor.rebooted(now)
        return watch

    def _forget(
        self, uuid: str, reason: str, now: float, keep: frozenset[str] = _POLICY_FAULTS
    ) -> None:
        """Ends the watch of a VM, and all faults of it but those to ``keep``."""
        watch = self._watches.pop(uuid, None)
        if watch is not None:
            self._disconnect(watch)
            self._timers.plan(watch, NEVER)
            self._reporter.established(uuid, None, now)
            self._impairments.unbar(uuid, now)
        self._phases.forget(uuid)
        self._attaching.forget(uuid)
        self._correlation.forget(uuid)
        self._reporter.close(uuid, reason, keep)

    def _judge_policy(
        self, domain: Domain, problems: tuple[Problem, ...], source: str, now: float
    ) -> None:
        if not problems:
            self._report(domain, FaultCleared(domain.uuid, BAD_POLICY, "corrected"), now)
            return
        where = f", in {source}" if source == FILE else ""
        self._report(domain, bad_policy(domain.uuid, problems, where, now), now)

    # -- the channel ------------------------------------------------------------------------

    def _provision(self, watch: Watch, now: float, fresh: bool) -> None:
        """Sees to it that the channel is there; ``fresh``: the VM has just started."""
        if watch.channel is not None:
            return
        step = self._attaching.provide(watch.domain, watch.policy.channel, now, fresh)
        if isinstance(step, Impossible):
            self._cannot_monitor(watch, step, now)
        elif isinstance(step, Connect):
            watch.monitor.unreachable = False
            cleared = FaultCleared(watch.uuid, CANNOT_MONITOR, "the channel is there")
            self._report(watch.domain, cleared, now)
            if watch.connect_at == NEVER:
                watch.connect_at = now
                self._schedule(watch, now)

    def _on_attached(self, watch: Watch, attached: Attached, now: float) -> None:
        name, channel = _name(watch.domain), watch.policy.channel
        if attached.error is None:
            log.info("VM %s: channel %s attached", name, channel)
            # Somebody may have detached it before the event that told of it was followed.
            self._ask.look(watch.uuid)
        else:
            log.warning("VM %s: channel not attached: %s", name, attached.error)
        impossible = self._attaching.answered(watch.uuid, attached.error, now)
        if impossible is not None:
            self._cannot_monitor(watch, impossible, now)

    def _cannot_monitor(self, watch: Watch, why: Impossible, now: float) -> None:
        watch.monitor.unreachable = True
        fault = FaultRaised(watch.uuid, CANNOT_MONITOR, Severity.WARNING, why.text, now, why.reason)
        self._report(watch.domain, fault, now)

    def _connect(self, watch: Watch, now: float) -> None:
        watch.connect_at = NEVER
        step = next_step(watch.domain, watch.policy.channel, self._settings.mode)
        if watch.domain.state is not DomainState.RUNNING or not isinstance(step, Connect):
            return
        watch.channel = Channel(seen_from_here(step.address, self._settings.socket_path_map))
        watch.had_channel = True
        watch.accepted = False
        watch.monitor.barred = False
        self._impairments.unbar(watch.uuid, now)
        watch.monitor.connected(now)

    def _lost(self, watch: Watch, error: ChannelError, now: float) -> None:
        """Notes that the channel is gone or cannot be opened, and plans the next try."""
        self._stirred = True
        self._disconnect(watch)
        if watch.uuid not in self._watches:
            return
        watch.failures += 1
        watch.connect_at = now + retry_after(watch.failures)
        watch.monitor.disconnected(now, str(error))
        if error.errno in _OF_THIS_HOST:
            # A matter of this host: said once for it, and no VM is blamed.
            watch.monitor.barred = True
            self._impairments.bar(watch.uuid, str(error), now)
        else:
            # The path changes with every start of the VM: libvirt knows.
            self._ask.look(watch.uuid)
        self._serve(watch, now)

    def _disconnect(self, watch: Watch) -> None:
        if watch.channel is not None:
            self._set_interest(watch, 0)
            watch.channel.close()
            watch.channel = None

    # -- one VM's turn ----------------------------------------------------------------------

    def _attend(self, watch: Watch, work: Work, now: float, events: int = 0) -> None:
        """Does something for one VM and what follows from it; its errors stay its own."""
        try:
            deadline = work(watch, now, events)
            if deadline is not None and deadline < watch.aside:
                self._timers.plan(watch, deadline)
            else:
                self._serve(watch, now)
        except ChannelError as error:
            self._lost(watch, error, now)
        except Exception:
            self._totals["errors"] += 1
            log.exception("VM %s: an error of the engine", _name(watch.domain))
            self._lost(watch, ChannelError(0, "an error of the engine; see collectd's log"), now)

    def _catch_up(self, watch: Watch, now: float) -> None:
        """Does what follows from a call into a monitor that was made elsewhere."""
        self._attend(watch, lambda *_: None, now)

    def _on_ready(self, watch: Watch, now: float, events: int) -> float | None:
        channel = watch.channel
        if channel is None:
            return None
        # What is neither, such as an error, is found out by either.
        if events != READ:
            channel.flush()
        data = channel.read() if events != WRITE else b""
        if not data:
            return None
        # Only now: a channel that opens and closes at once is tried less and less often.
        watch.failures = 0
        self._totals["bytes_in"] += len(data)
        return watch.monitor.receive(data, now)

    def _on_due(self, watch: Watch, now: float, _: int) -> float | None:
        monitor = watch.monitor
        if watch.aside <= now:
            self._do_aside(watch, now)
        if not watch.accepted and watch.channel is not None and now >= monitor.deadline:
            # Once for most connections: who was accepted stays so.
            watch.accepted = watch.channel.taken is not False
            monitor.unaccepted = not watch.accepted
        deadline = monitor.tick(now, self._awareness.stretch)
        if deadline is not None:
            return deadline if self._send(watch) else None
        if monitor.mute(now):
            raise ChannelError(0, "nothing came from the guest; another reader may have the port")
        return None

    def _do_aside(self, watch: Watch, now: float) -> None:
        """Does what is due besides what the monitor has."""
        if watch.connect_at <= now:
            self._connect(watch, now)
        if watch.look_at <= now:
            watch.look_at = NEVER
            self._ask.look(watch.uuid)

    def _on_rebooted(self, watch: Watch, now: float, _: int) -> None:
        watch.unbooted_until = None
        watch.monitor.rebooted(now)

    def _serve(self, watch: Watch, now: float) -> None:
        """Does the caller's duties after each call into the monitor."""
        self._stirred = True
        self._send(watch)
        self._measure(watch, now)
        self._tell(watch, now)
        self._note_established(watch, now)
        self._note_doubt(watch, now)
        self._listen(watch, now)
        self._schedule(watch, now)

    def _send(self, watch: Watch) -> bool:
        """Sends what the monitor has to say; False if a part of that has to wait."""
        data = watch.monitor.data_to_send()
        if not data or watch.channel is None:
            return watch.channel is not None
        self._totals["bytes_out"] += len(data)
        return watch.channel.write(data)

    def _measure(self, watch: Watch, now: float) -> None:
        """Has the domain's counters read while the VM is in doubt."""
        monitor = watch.monitor
        misses, timeout = monitor.misses_in_a_row, monitor.policy.timeout
        doubt = watch.doubt or Doubt()
        if doubt.due(monitor.health, misses, monitor.verdict_at, timeout, now):
            self._ask.measure(watch.uuid)
        watch.doubt = doubt if doubt.began else None

    def _tell(self, watch: Watch, now: float) -> None:
        """Reports what the monitor found, but for a loss that waits for libvirt's word."""
        reprieve = watch.reprieve or Reprieve()
        if reprieve.heard(now):
            self._note_missing(watch, now)
        for event in watch.events(self._settings.evidence_text, now):
            if not reprieve.holds(event, now):
                self._report_unless_mass(watch, event, now)
        loss = reprieve.due(now)
        if loss is not None:
            self._report_unless_mass(watch, loss, now)
        watch.reprieve = reprieve if reprieve.deadline < NEVER else None

    def _report_unless_mass(self, watch: Watch, event: FaultEvent, now: float) -> None:
        """Reports a fault, but for a loss that belongs to a mass: that is held for now."""
        if not self._correlation.holds(event, watch.policy.interval, now):
            self._report(watch.domain, event, now)

    def _note_established(self, watch: Watch, now: float) -> None:
        monitor = watch.monitor
        established, until = monitor.established, monitor.grace_until
        if established is not watch.established or until != watch.forgiven:
            watch.established, watch.forgiven = established, until
            run = watch.domain.domain_id if monitor.established else None
            self._reporter.established(watch.uuid, run, now, monitor.grace_until)

    def _note_doubt(self, watch: Watch, now: float) -> None:
        """Asks libvirt of a VM that starts to miss."""
        doubtful = watch.monitor.doubtful
        if doubtful and not watch.doubted:
            # Perhaps it is not meant to run, and the event is still on its way.
            self._ask.look(watch.uuid)
            watch.reprieve = watch.reprieve or Reprieve()
            watch.reprieve.begin(now)
        watch.doubted = doubtful

    def _note_missing(self, watch: Watch, now: float) -> None:
        """Suspects this host where many VMs that are meant to run start to miss together."""
        missing = watch.monitor.misses_in_a_row and watch.domain.state not in _PLANNED
        if not missing or self._reporter.window(watch.uuid) is not None:
            return
        policy, watched = watch.policy, len(self._watches)
        together = self._correlation.missing(watch.uuid, policy.interval, now, watched)
        if together:
            rounds = policy.miss_threshold + WINDOW_ROUNDS
            self._correlation.begin(now + rounds * policy.interval)
            if MASS not in self._impairments:
                text = (
                    f"{together} of {watched} VMs fell silent together: this host, or its storage?"
                )
                self._impairments.impair(MASS, text, now)

    def _review_mass(self, now: float) -> None:
        """Suspects this host no longer once few of the VMs that fell silent together are lost."""
        lost = sum(CORRELATED in incident.details for incident in self._reporter.incidents())
        if self._correlation.is_over(lost, len(self._watches), now):
            self._impairments.mend(MASS, now)

    def _listen(self, watch: Watch, now: float) -> None:
        """Has the selector wait for what may be read or is still to be written."""
        if watch.channel is not None:
            reading = 0 if watch.monitor.conduct.muted_until > now else READ
            writing = WRITE if watch.channel.blocked else 0
            self._set_interest(watch, reading | writing)

    def _set_interest(self, watch: Watch, events: int) -> None:
        if watch.channel is None or events == watch.interest:
            return
        if not watch.interest:
            self._poll.register(watch.channel, events, watch)
        elif not events:
            self._poll.unregister(watch.channel)
        else:
            self._poll.modify(watch.channel, events)
        watch.interest = events

    def _schedule(self, watch: Watch, now: float) -> None:
        watch.aside = watch.plan(now)
        self._timers.plan(watch, min(watch.monitor.deadline, watch.aside))

    # -- what leaves ------------------------------------------------------------------------

    def _report(self, domain: Domain, event: FaultEvent, now: float) -> None:
        self._reporter.report(event, display_name(domain), domain.project, now)

    def _on_saved(self, saved: Saved, now: float) -> None:
        if saved.error is None:
            if DISK in self._impairments:
                # A receiver on the same disk may have lost something meanwhile.
                self._reporter.handshake()
            self._impairments.mend(DISK, now)
        else:
            # An alarm that may be repeated is better than none.
            self._impairments.impair(DISK, f"the state is not saved: {saved.error}", now)
        self._reporter.saved(saved.number)

    def _watch_the_disk(self, now: float) -> None:
        if now >= self._reporter.save_by:
            since = f"the state has not been saved for {SAVE_MAX:.0f} s"
            self._impairments.impair(DISK, f"{since}: does the disk of StateDir hang?", now)
            self._reporter.give_up_waiting(now)

    def _report_host(self, event: FaultEvent, now: float) -> None:
        self._reporter.report(event, "", "", now)


def _challenges() -> Iterator[int]:
    """Gives random challenges without end; the kernel is asked for many at once."""
    return itertools.chain.from_iterable(iter(_many_challenges, []))


def _many_challenges() -> list[int]:
    return [number & CHALLENGE_MAX or 1 for number in array("I", os.urandom(1024))]


def _name(domain: Domain) -> str:
    return shown(display_name(domain))
