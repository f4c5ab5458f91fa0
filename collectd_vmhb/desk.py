# SPDX-License-Identifier: Apache-2.0
"""Answers what is asked of a running engine, by collectd's read callback and by an operator.

Values and the table of all VMs are read in the asker's thread, in single steps of the interpreter:
a thousand rows made by the loop would hold up the heartbeats. All else is done by the loop, in its
own thread, and the asker waits a bounded time for it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from concurrent import futures
from concurrent.futures import Future
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from collectd_vmhb.awareness import Awareness
from collectd_vmhb.contact import Contact
from collectd_vmhb.discovery import Discovery
from collectd_vmhb.domain import Domain
from collectd_vmhb.hypervisor import Detached
from collectd_vmhb.monitor import Counters
from collectd_vmhb.provision import to_detach
from collectd_vmhb.publish import Sample, engine_samples, vm_samples
from collectd_vmhb.reporter import Reporter
from collectd_vmhb.settings import Mode, Settings, VmValues
from collectd_vmhb.sources import Sources
from collectd_vmhb.verdict import VERIFICATION, FaultCleared
from collectd_vmhb.verification import Verifications, synthetic_fault
from collectd_vmhb.view import (
    Eyes,
    Values,
    bystander,
    display_name,
    policy_file,
    window_values,
)
from collectd_vmhb.watch import Watch
from collectd_vmhb.wording import Refusal, shown

log = logging.getLogger(__name__)

#: Whoever asks from another thread waits at most so many seconds for the loop.
ASKING_MAX = 2.0
#: libvirt may take so many seconds to detach a channel before the asker is told to wait.
DETACHING_MAX = 2.5

#: The counters of a VM that are published.
_COUNTED = {
    VmValues.BASIC: ("beats", "misses"),
    VmValues.ALL: tuple(each.name for each in fields(Counters)),
}

T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """Work that another thread wants done in the loop's; it takes the time and gives a result."""

    work: Callable[[float], Any]
    result: Future[Any] = field(default_factory=Future)

    def answer(self, now: float) -> None:
        """Does the work; its errors are the asker's, and not the loop's."""
        try:
            self.result.set_result(self.work(now))
        except Exception as error:
            self.result.set_exception(error)


@dataclass(frozen=True)
class Books:
    """What the loop keeps, and the desk looks into."""

    settings: Settings
    watches: Mapping[str, Watch]
    discovery: Discovery
    sources: Sources
    reporter: Reporter
    contact: Contact
    awareness: Awareness
    totals: Mapping[str, int]


class Desk:
    """Whatever is not private may be asked from any thread, but for what the loop calls.

    ``post`` hands the loop work. That work may call ``serve``, which does what follows from a call
    into a VM's monitor, and ``detach``, which asks libvirt to take out a channel (UUID, channel,
    path). The loop calls `turn` at `deadline`, and `detached` once libvirt has answered.
    """

    def __init__(
        self,
        books: Books,
        post: Callable[[Asked], None],
        serve: Callable[[Watch, float], None],
        detach: Callable[[str, str, str], None],
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._books = books
        self._post = post
        self._serve = serve
        self._ask_to_detach = detach
        self._clock = clock
        self._wall = wall
        self._began = wall()
        #: Who waits for the end of a detach, by VM.
        self._detaching: dict[str, Future[str]] = {}
        self._verifications = Verifications()
        for incident in books.reporter.incidents():
            if incident.name == VERIFICATION:
                # Whoever asked for it is not waiting any more.
                self._verifications.begin(incident.uuid, clock())

    # -- read in the asker's thread ---------------------------------------------------------

    def samples(self) -> list[Sample]:
        """Returns the values of every VM and of the engine, as they are now."""
        books, now = self._books, self._clock()
        watches = list(books.watches.values())
        counted = _COUNTED[books.settings.values]
        samples = engine_samples(
            [watch.monitor.health for watch in watches],
            books.awareness.take_worst(),
            books.awareness.score,
            dict(books.totals),
            {
                "busy": sum(watch.monitor.is_busy(now) for watch in watches),
                "perfdata-over": sum(watch.monitor.checks.figures_over for watch in watches),
            },
        )
        for watch in watches:
            monitor = watch.monitor
            samples += vm_samples(
                watch.uuid,
                monitor.health,
                monitor.current_rtt,
                {name: getattr(monitor.counters, name) for name in counted},
                books.reporter.window(watch.uuid) is not None,
                monitor.figures(),
            )
        return samples

    def status(self) -> Values:
        """Returns the state of the engine and a row for each VM, as JSON values."""
        books, reporter = self._books, self._books.reporter
        eyes = Eyes(self._clock(), self._wall())
        faults = eyes.faults(reporter.incidents(), reporter.withheld())
        window = reporter.window("")
        return {
            "engine": {
                "pid": os.getpid(),
                "since": self._began,
                "mode": books.settings.mode.value,
                "libvirt": books.contact.state,
                "awareness": books.awareness.score,
                "maintenance": window and window_values(window),
                "faults": faults.get("", []),
                "policy_file": policy_file(books.sources.read),
            },
            "vms": [
                eyes.row(
                    watch.domain,
                    watch.monitor,
                    faults.get(watch.uuid, []),
                    reporter.window(watch.uuid),
                )
                for watch in list(books.watches.values())
            ],
            "unmonitored": [
                bystander(domain, reporter.own_window(domain.uuid), books.sources.told(domain))
                for domain in books.discovery.known()
                if domain.uuid not in books.watches
            ],
        }

    def is_telling(self) -> bool:
        """Whether faults of this host leave it now."""
        books = self._books
        return books.settings.mode is Mode.REPORT and books.reporter.window("") is None

    # -- done by the loop, for whoever asks -------------------------------------------------

    def ping(self) -> Future[None]:
        """Has the loop answer when it comes to it; does not wait for that."""
        asked = Asked(lambda now: None)
        self._post(asked)
        return asked.result

    def say_again(self) -> None:
        """Has the loop repeat every open fault and list them all; does not wait for that."""
        self._post(Asked(lambda now: self._books.reporter.handshake()))

    def explain(self, uuid: str) -> Values:
        """Returns all that is known of one VM, as JSON values; LookupError for an unknown one."""
        return self._in_loop(lambda now: self._explain(uuid, now))

    def audit(self, uuid: str, check: str, detailed: bool, timeout: float | None) -> Values:
        """Has a guest run a check now, or all for "", and returns the audit that began.

        LookupError for an unknown VM, Refusal if it cannot be. How it ends is in `explain`.
        """
        return self._in_loop(lambda now: self._audit(uuid, check, detailed, timeout, now))

    def pause(self, uuid: str, seconds: float, reason: str) -> Values:
        """Begins a maintenance of a VM, or of the host for "", and returns it as JSON values."""
        return self._in_loop(lambda now: self._pause(uuid, seconds, reason, now))

    def resume(self, uuid: str) -> None:
        """Ends a maintenance before its time; LookupError if there is none."""
        self._in_loop(lambda now: self._resume(uuid, now))

    def detach(self, uuid: str) -> str:
        """Takes our channel out of a VM that is not monitored, and returns its name.

        Raises Refusal if that is not to be, or if libvirt does not do it.
        """
        detached = self._in_loop(lambda now: self._detach(uuid))
        try:
            return detached.result(DETACHING_MAX)
        except futures.TimeoutError:
            raise Refusal("libvirt has yet to do it; collectd's log tells the end") from None

    def verify(self, uuid: str, seconds: float) -> Values:
        """Raises a synthetic fault of a VM, or of the host for "", or ends it for 0 seconds.

        Returns its incident; raises Refusal if it cannot be reported.
        """
        return self._in_loop(lambda now: self._verify(uuid, seconds, now))

    def _in_loop(self, work: Callable[[float], T]) -> T:
        asked = Asked(work)
        self._post(asked)
        result: T = asked.result.result(ASKING_MAX)
        return result

    # -- in the loop ------------------------------------------------------------------------

    @property
    def deadline(self) -> float | None:
        """When `turn` has something to do."""
        return self._verifications.deadline

    def turn(self, now: float) -> None:
        """Ends the verifications whose time is over."""
        for uuid in self._verifications.due(now):
            self._end_verification(uuid, now)

    def detached(self, detached: Detached) -> None:
        """Tells whoever waits what libvirt says of a detach."""
        if detached.error is None:
            log.info("VM %s: channel %s detached", detached.uuid, detached.channel)
        else:
            log.warning("VM %s: channel not detached: %s", detached.uuid, detached.error)
        waiting = self._detaching.pop(detached.uuid, None)
        if waiting is not None and detached.error is None:
            waiting.set_result(detached.channel)
        elif waiting is not None:
            waiting.set_exception(Refusal(f"libvirt does not detach it: {detached.error}"))

    def _explain(self, uuid: str, now: float) -> Values:
        watch, reporter = self._watch(uuid), self._books.reporter
        eyes = Eyes(now, self._wall())
        faults = eyes.faults(reporter.incidents(), reporter.withheld())
        return eyes.account(
            watch.domain,
            watch.monitor,
            faults.get(uuid, []),
            reporter.window(uuid),
            self._books.sources.told(watch.domain).source,
            watch.doubt.finding(now) if watch.doubt and watch.doubt.first else None,
        )

    def _audit(
        self, uuid: str, check: str, detailed: bool, timeout: float | None, now: float
    ) -> Values:
        watch = self._watch(uuid)
        audit = watch.monitor.audit(check, detailed, timeout, now)
        self._serve(watch, now)
        return Eyes(now, self._wall()).audit(audit)

    def _pause(self, uuid: str, seconds: float, reason: str, now: float) -> Values:
        if uuid:
            self._domain(uuid)
        return window_values(self._books.reporter.pause(uuid, seconds, reason, now))

    def _resume(self, uuid: str, now: float) -> None:
        if not self._books.reporter.resume(uuid, now):
            whose = f"VM {shown(uuid)}" if uuid else "the host"
            raise LookupError(f"{whose} has no maintenance of its own")

    def _detach(self, uuid: str) -> Future[str]:
        domain = self._domain(uuid)
        if uuid in self._books.watches:
            raise Refusal(
                "it is monitored, and would get it back at once; resize it to a flavor "
                "without vmhb:enabled first"
            )
        device = to_detach(domain, self._books.settings.channels_allowed)
        if uuid not in self._detaching:
            self._detaching[uuid] = Future()
            self._ask_to_detach(uuid, device.channel, device.path)
        return self._detaching[uuid]

    def _verify(self, uuid: str, seconds: float, now: float) -> Values:
        if not seconds:
            self._end_verification(uuid, now)
            return {"incident": None}
        mode, reporter = self._books.settings.mode, self._books.reporter
        if mode is not Mode.REPORT:
            raise Refusal(f"Mode is {mode.value}, in which no fault leaves this host")
        instance, project = "", ""
        if uuid:
            domain = self._domain(uuid)
            instance, project = display_name(domain), domain.project
        reporter.report(synthetic_fault(uuid, now), instance, project, now)
        for incident in reporter.incidents():
            if (incident.uuid, incident.name) == (uuid, VERIFICATION):
                self._verifications.begin(uuid, now + seconds)
                return {"incident": incident.id}
        self._end_verification(uuid, now)
        raise Refusal("a maintenance withholds every fault: end it with vmhb resume")

    def _end_verification(self, uuid: str, now: float) -> None:
        self._verifications.end(uuid)
        self._books.reporter.report(FaultCleared(uuid, VERIFICATION, "verified"), "", "", now)

    def _watch(self, uuid: str) -> Watch:
        watch = self._books.watches.get(uuid)
        if watch is None:
            raise LookupError(f"no VM {shown(uuid)} is monitored here")
        return watch

    def _domain(self, uuid: str) -> Domain:
        domain = self._books.discovery.domain(uuid)
        if domain is None:
            raise LookupError(f"no VM {shown(uuid)} is on this host")
        return domain
