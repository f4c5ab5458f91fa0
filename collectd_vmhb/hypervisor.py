# SPDX-License-Identifier: Apache-2.0
"""libvirt, kept at arm's length: its calls can block for seconds, so they run in worker threads.

What the workers find out is posted to the engine's loop. libvirt's own callbacks arrive in any
thread and order (collectd's ``virt`` plugin shares the process-wide event loop), so all they do
is ask for a look at a domain; the answer is always read anew.

Reading needs a read-only connection. A writable one is opened for attaching, and closed after.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Union

import libvirt

from collectd_vmhb.domain import Domain, DomainState, parse_domain
from collectd_vmhb.provision import channel_xml
from collectd_vmhb.usage import Disks, Usage, Vcpu

log = logging.getLogger(__name__)

#: So many domains that wait for a look are compared all at once: when a thousand are destroyed, the
#: look that tells of the next one must not wait for theirs.
LOOKS_MAX = 50
#: Of the first scan so many domains are told at a time: whom an earlier engine knew need not wait
#: until a thousand others are read.
AHEAD = 50
#: Seconds between tries to reach libvirt; a look is tried again with the connection.
RETRY = 1.0
#: libvirt's keepalive: a daemon that does not answer 3 probes 5 s apart is gone.
KEEPALIVE = (5, 3)
#: The event loop's idle wake-up in ms, which lets its thread see that it is to stop.
EVENT_LOOP_WAKE = 500
#: Stopping waits so long for the workers; one that hangs in libvirt is left behind.
STOP_TIMEOUT = 2.0
#: libvirt can hold an attach for as long as another operation has the VM, such as a migration, or
#: its QEMU does not answer; so many VMs can be in that state before the others have to wait.
ATTACHERS = 4
#: Domains that can be measured at once: one whose QEMU hangs holds its worker for as long, and
#: one of the 20 that libvirtd has by default.
METERS = 3
#: Domains that wait to be measured; beyond, when very many fail together, the rest is not.
MEASURES_MAX = 64

_STATES = {
    libvirt.VIR_DOMAIN_NOSTATE: DomainState.RUNNING,
    libvirt.VIR_DOMAIN_RUNNING: DomainState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: DomainState.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: DomainState.PAUSED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: DomainState.PAUSED,
    libvirt.VIR_DOMAIN_SHUTDOWN: DomainState.SHUTTING_DOWN,
    libvirt.VIR_DOMAIN_SHUTOFF: DomainState.SHUT_OFF,
    libvirt.VIR_DOMAIN_CRASHED: DomainState.BROKEN,
}
#: Reason, since libvirt 10.1, of a VM that libvirt stopped for a task and could not start again.
_PAUSED_API_ERROR = getattr(libvirt, "VIR_DOMAIN_PAUSED_API_ERROR", -1)
#: Reasons for being paused that nobody wanted; on_crash=preserve leads to "crashed".
_BROKEN = (
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR),
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_CRASHED),
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_WATCHDOG),
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED),
    (libvirt.VIR_DOMAIN_PAUSED, _PAUSED_API_ERROR),
)
#: Reasons for running, until the next pause, of a guest that ran before this run began.
_CARRIED = (
    (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_MIGRATED),
    (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_RESTORED),
    (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_FROM_SNAPSHOT),
    (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_POSTCOPY),
)
#: Why a domain is paused, in words.
_PAUSED_FOR = {
    libvirt.VIR_DOMAIN_PAUSED_USER: "by request",
    libvirt.VIR_DOMAIN_PAUSED_MIGRATION: "for a migration",
    libvirt.VIR_DOMAIN_PAUSED_SAVE: "to be saved",
    libvirt.VIR_DOMAIN_PAUSED_DUMP: "to be dumped",
    libvirt.VIR_DOMAIN_PAUSED_IOERROR: "for an I/O error",
    libvirt.VIR_DOMAIN_PAUSED_WATCHDOG: "by its watchdog",
    libvirt.VIR_DOMAIN_PAUSED_SNAPSHOT: "for a snapshot",
    libvirt.VIR_DOMAIN_PAUSED_CRASHED: "because the guest crashed",
    libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED: "because its migration failed",
    _PAUSED_API_ERROR: "because libvirt could not resume it",
}
_LOOK_AGAIN = (
    libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
    libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE,
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED,
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED,
)


@dataclass(frozen=True)
class Scanned:
    """Every domain of this host, as just read, and the UUIDs of those that make no sense."""

    domains: tuple[Domain, ...]
    unreadable: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Looked:
    """One domain as just read; None if libvirt does not have it."""

    uuid: str
    domain: Domain | None


@dataclass(frozen=True)
class Rebooted:
    """A guest resets inside the same QEMU; arrives several times a boot under SeaBIOS."""

    uuid: str


@dataclass(frozen=True)
class Attached:
    """An attach was tried; ``error`` is libvirt's word if it failed."""

    uuid: str
    error: str | None


@dataclass(frozen=True)
class Detached:
    """A detach was tried; ``error`` is libvirt's word if it failed."""

    uuid: str
    channel: str
    error: str | None


@dataclass(frozen=True)
class Reachable:
    """libvirt answers again, or does not any more and why."""

    error: str | None


@dataclass(frozen=True)
class Measured:
    """The counters of one domain, as far as they are known; more of the same moment can follow."""

    uuid: str
    usage: Usage


Finding = Union[Scanned, Looked, Rebooted, Attached, Detached, Reachable, Measured]


@dataclass(frozen=True)
class _Job:
    """What a worker does to a running domain, and how it tells what became of that."""

    uuid: str
    work: Callable[[libvirt.virDomain], object]
    finding: Callable[[str | None], Finding]


class Hypervisor:
    """Reads domains and attaches channels for the engine; ``post`` takes the findings.

    ``post`` is called from worker threads and must not block. The first scan begins with the
    domains in ``first``, by UUID, in that order.
    """

    def __init__(
        self, uri: str, post: Callable[[Finding], None], first: Sequence[str] = ()
    ) -> None:
        self._uri = uri
        self._post = post
        self._first = first
        self._stopping = threading.Event()
        self._looks: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        #: What waits in `_looks` already; "" stands for a scan of all.
        self._waiting: set[str] = set()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._measures: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        #: What waits in `_measures`, and the domains whose QEMU is being asked.
        self._to_measure: set[str] = set()
        self._asking: set[str] = set()
        self._reader: libvirt.virConnect | None = None
        self._callbacks: list[int] = []
        #: Domains whose XML makes no sense, as was said.
        self._unreadable: set[str] = set()
        #: A hash of each domain's XML, and what it says: most of a scan would be reading it anew.
        self._parsed: dict[str, tuple[int, Domain]] = {}
        #: Kinds of errors of our own that were logged.
        self._said: set[str] = set()
        self._away: str | None = None
        #: All domains were told once.
        self._scanned = False
        self._threads = [
            threading.Thread(target=target, name=f"vmhb-{name}", daemon=True)
            for name, target in (
                ("libvirt-events", self._run_events),
                ("libvirt-reader", self._run_reader),
                *((f"libvirt-attacher-{n}", self._run_attacher) for n in range(ATTACHERS)),
                *((f"libvirt-meter-{n}", self._run_meter) for n in range(METERS)),
            )
        ]

    def start(self) -> None:
        """Starts the workers; the first scan follows as soon as libvirt answers."""
        libvirt.virEventRegisterDefaultImpl()
        # Every error raises; by default libvirt prints it to stderr as well, each second anew.
        libvirt.registerErrorHandler(lambda opaque, error: None, None)
        for thread in self._threads:
            thread.start()
        self.scan()

    def stop(self) -> None:
        """Ends the workers within STOP_TIMEOUT."""
        self._stopping.set()
        libvirt.registerErrorHandler(None, None)
        self._looks.put(None)
        for _ in range(ATTACHERS):
            self._jobs.put(None)
        for _ in range(METERS):
            self._measures.put(None)
        until = time.monotonic() + STOP_TIMEOUT
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                log.warning("%s still waits for libvirt and is left behind", thread.name)

    def scan(self) -> None:
        """Asks for all domains: posts Scanned."""
        self.look("")

    def look(self, uuid: str) -> None:
        """Asks for one domain: posts Looked."""
        if uuid not in self._waiting:
            self._waiting.add(uuid)
            self._looks.put(uuid)

    def measure(self, uuid: str) -> None:
        """Asks for the counters of one domain: posts Measured, in up to three parts."""
        if uuid not in self._to_measure and len(self._to_measure) < MEASURES_MAX:
            self._to_measure.add(uuid)
            self._measures.put(uuid)

    def attach(self, uuid: str, channel: str) -> None:
        """Asks for a channel in a running domain: posts Attached, then Looked."""
        device = channel_xml(channel)
        self._jobs.put(
            _Job(
                uuid,
                lambda domain: domain.attachDeviceFlags(device, libvirt.VIR_DOMAIN_AFFECT_LIVE),
                lambda error: Attached(uuid, error),
            )
        )

    def detach(self, uuid: str, channel: str, path: str) -> None:
        """Asks to take a channel out of a running domain: posts Detached, then Looked."""
        device = channel_xml(channel, path)
        self._jobs.put(
            _Job(
                uuid,
                lambda domain: domain.detachDeviceFlags(device, libvirt.VIR_DOMAIN_AFFECT_LIVE),
                lambda error: Detached(uuid, channel, error),
            )
        )

    # -- events -----------------------------------------------------------------------------

    def _run_events(self) -> None:
        # Without a timer of its own the loop would sleep until libvirt has something to say.
        timer = libvirt.virEventAddTimeout(EVENT_LOOP_WAKE, lambda timer, opaque: None, None)
        while not self._stopping.is_set():
            self._turn_events()
        # The loop is the process's: whoever runs it on must not call a Python that has ended.
        libvirt.virEventRemoveTimeout(timer)

    def _turn_events(self) -> None:
        try:
            libvirt.virEventRunDefaultImpl()
        except Exception as error:
            self._survive(error, "libvirt's event loop")
            self._stopping.wait(RETRY)

    def _on_event(self, conn: Any, domain: libvirt.virDomain, *details: Any) -> None:
        self.look(domain.UUIDString())

    def _on_reboot(self, conn: Any, domain: libvirt.virDomain, opaque: Any) -> None:
        self._post(Rebooted(domain.UUIDString()))

    def _on_close(self, conn: Any, reason: int, opaque: Any) -> None:
        # The scan finds the connection dead and opens another.
        self.scan()

    # -- reading ----------------------------------------------------------------------------

    def _run_reader(self) -> None:
        while True:
            uuid = self._looks.get()
            if uuid is None or self._stopping.is_set():
                break
            self._waiting.discard(uuid)
            if len(self._waiting) >= LOOKS_MAX:
                uuid = self._take_all_looks()
            try:
                conn = self._reading(whole=not uuid)
                finding = self._read_one(conn, uuid) if uuid else self._read_all(conn)
                if finding is not None:
                    self._post(finding)
            except libvirt.libvirtError as error:
                self._lost(error, uuid)
            except Exception as error:
                self._survive(error, f"a look at {uuid or 'the domains'}")
        self._close_reader()

    def _take_all_looks(self) -> str:
        """Empties the queue, and returns what stands for a scan of all domains."""
        with contextlib.suppress(queue.Empty):
            while True:
                uuid = self._looks.get_nowait()
                if uuid is None:
                    # `stop` waits for the end.
                    self._looks.put(None)
                    break
                self._waiting.discard(uuid)
        return ""

    def _reading(self, whole: bool) -> libvirt.virConnect:
        """Returns the connection; if it is a new one, all domains are read, now if ``whole``."""
        if self._reader is not None and self._reader.isAlive() == 1:
            return self._reader
        self._close_reader()
        conn = self._reader = libvirt.openReadOnly(self._uri)
        with contextlib.suppress(libvirt.libvirtError):  # not every driver has a connection to keep
            conn.setKeepAlive(*KEEPALIVE)
        try:
            self._register(conn)
        except libvirt.libvirtError:
            self._close_reader()
            raise
        if self._away is not None:
            log.info("libvirt answers again at %s", self._uri)
            self._away = None
        self._post(Reachable(None))
        # Whatever happened since the last connection told nobody.
        if not whole:
            self.scan()
        return conn

    def _register(self, conn: libvirt.virConnect) -> None:
        with contextlib.suppress(libvirt.libvirtError):
            conn.registerCloseCallback(self._on_close, None)
        for event in _LOOK_AGAIN:
            self._callbacks.append(conn.domainEventRegisterAny(None, event, self._on_event, None))
        reboot = libvirt.VIR_DOMAIN_EVENT_ID_REBOOT
        self._callbacks.append(conn.domainEventRegisterAny(None, reboot, self._on_reboot, None))

    def _lost(self, error: libvirt.libvirtError, uuid: str) -> None:
        text = _words(error)
        if self._reader is not None and self._reader.isAlive() == 1:
            log.warning("libvirt cannot tell about %s: %s", uuid or "its domains", text)
            return
        if self._away is None:
            self._away = text
            log.warning(
                "libvirt is away at %s (%s); trying again until it answers", self._uri, text
            )
        self._post(Reachable(text))
        self._stopping.wait(RETRY)
        self.scan()

    def _close_reader(self) -> None:
        conn, self._reader = self._reader, None
        callbacks, self._callbacks = self._callbacks, []
        if conn is None:
            return
        # Each registered callback holds a reference: close() alone would leave the connection.
        for callback in callbacks:
            with contextlib.suppress(libvirt.libvirtError):
                conn.domainEventDeregisterAny(callback)
        with contextlib.suppress(libvirt.libvirtError):
            conn.unregisterCloseCallback()
        with contextlib.suppress(libvirt.libvirtError):
            conn.close()

    def _read_all(self, conn: libvirt.virConnect) -> Scanned:
        found: dict[str, Domain] = {}
        ahead: list[Domain] = []
        unreadable = set()
        refused: libvirt.libvirtError | None = None
        states = _states(conn)
        turns = {uuid: turn for turn, uuid in enumerate(self._first)}
        handles = conn.listAllDomains()
        handles.sort(key=lambda handle: turns.get(handle.UUIDString(), len(turns)))
        for handle in handles:
            self._look_meanwhile(conn, found)
            try:
                domain = self._read(handle, states.get(handle.UUIDString()))
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                    continue
                if conn.isAlive() != 1:
                    raise
                domain, refused = None, error
                self._leave(handle, _words(error))
            if domain is None:
                unreadable.add(handle.UUIDString())
                continue
            found[domain.uuid] = domain
            ahead.append(domain)
            if not self._scanned and len(ahead) == AHEAD:
                for domain in ahead:
                    self._post(Looked(domain.uuid, domain))
                ahead.clear()
        if refused is not None and not found:
            raise refused
        self._unreadable &= unreadable
        self._parsed = {uuid: self._parsed[uuid] for uuid in found}
        self._scanned, self._first = True, ()
        return Scanned(tuple(found.values()), frozenset(unreadable))

    def _look_meanwhile(self, conn: libvirt.virConnect, found: dict[str, Domain]) -> None:
        """Takes the looks that wait: an event's must not wait for the rest of a scan."""
        while not self._looks.empty() and len(self._waiting) < LOOKS_MAX:
            uuid = self._looks.get()
            if not uuid:
                # The end, or another scan: afterwards.
                self._looks.put(uuid)
                return
            self._waiting.discard(uuid)
            try:
                looked = self._read_one(conn, uuid)
            except libvirt.libvirtError as error:
                if conn.isAlive() != 1:
                    raise
                self._lost(error, uuid)
                continue
            if looked is None:
                continue
            if looked.domain is None:
                found.pop(uuid, None)
            else:
                found[uuid] = looked.domain
            self._post(looked)

    def _read_one(self, conn: libvirt.virConnect, uuid: str) -> Looked | None:
        with _ignoring_gone():
            domain = self._read(conn.lookupByUUIDString(uuid))
            return None if domain is None else Looked(uuid, domain)
        return Looked(uuid, None)

    def _read(
        self, handle: libvirt.virDomain, known_state: tuple[int, int] | None = None
    ) -> Domain | None:
        """Reads one domain; None, said once, if its XML makes no sense.

        Without ``known_state``, its state and the reason for it, libvirt is asked for them as well.
        """
        state, reason = known_state or handle.state()[:2]
        known = _STATES.get(state, DomainState.RUNNING)
        if (state, reason) in _BROKEN:
            known = DomainState.BROKEN
        number = handle.ID()
        domain_id = number if number >= 0 else None
        carried = (state, reason) in _CARRIED
        try:
            xml = handle.XMLDesc()
            mark = hash(xml)
            before, domain = self._parsed.get(handle.UUIDString(), (None, None))
            if domain is None or before != mark:
                domain = parse_domain(xml, known, domain_id, carried)
            elif (domain.state, domain.domain_id, domain.carried) != (known, domain_id, carried):
                domain = replace(domain, state=known, domain_id=domain_id, carried=carried)
            self._parsed[domain.uuid] = mark, domain
            return domain
        except libvirt.libvirtError:
            raise
        except Exception as error:
            self._leave(handle, str(error) if isinstance(error, ValueError) else repr(error))
            return None

    def _leave(self, handle: libvirt.virDomain, why: str) -> None:
        """Says, once, that a domain cannot be read."""
        if handle.UUIDString() not in self._unreadable:
            self._unreadable.add(handle.UUIDString())
            log.warning("domain %s is left as it was: %s", handle.name(), why)

    # -- measuring --------------------------------------------------------------------------

    def _run_meter(self) -> None:
        conn: libvirt.virConnect | None = None
        while True:
            uuid = self._measures.get()
            if uuid is None or self._stopping.is_set():
                break
            self._to_measure.discard(uuid)
            try:
                if conn is None or conn.isAlive() != 1:
                    # Not the reader's: libvirtd serves few calls of one connection at a time.
                    conn = libvirt.openReadOnly(self._uri)
                    with contextlib.suppress(libvirt.libvirtError):
                        conn.setKeepAlive(*KEEPALIVE)
                self._measure(conn, uuid)
            except libvirt.libvirtError as error:
                log.debug("domain %s is not measured: %s", uuid, _words(error))
            except Exception as error:
                self._survive(error, f"the counters of {uuid}")

    def _measure(self, conn: libvirt.virConnect, uuid: str) -> None:
        """Reads the counters that libvirt has by itself, and then those that it asks QEMU for.

        The vCPUs' are among the first only while another worker waits for that QEMU: asked alone,
        libvirt looks for more of them in QEMU.
        """
        handle = conn.lookupByUUIDString(uuid)
        usage = _usage(handle)
        if uuid in self._asking:
            self._post(Measured(uuid, replace(usage, vcpus=_vcpus(conn, handle))))
            return
        self._post(Measured(uuid, usage))
        self._asking.add(uuid)
        try:
            usage = replace(usage, vcpus=_vcpus(conn, handle), answered=True)
            self._post(Measured(uuid, usage))
            usage = replace(usage, disks=_disks(handle), packets=_packets(conn, handle))
        finally:
            self._asking.discard(uuid)
            # An error is an answer as well: that QEMU does not hang.
            self._post(Measured(uuid, replace(usage, answered=True)))

    # -- attaching --------------------------------------------------------------------------

    def _run_attacher(self) -> None:
        conn: libvirt.virConnect | None = None
        while True:
            job = self._jobs.get()
            if job is None or self._stopping.is_set():
                break
            error: str | None = None
            try:
                conn = conn or self._writing()
                job.work(conn.lookupByUUIDString(job.uuid))
            except libvirt.libvirtError as failure:
                error = _words(failure)
            except Exception as failure:
                error = f"an error of the engine: {failure!r}"
                self._survive(failure, "a device")
            self._post(job.finding(error))
            self.look(job.uuid)
            if conn is not None and (error or self._jobs.empty()):
                with contextlib.suppress(libvirt.libvirtError):
                    conn.close()
                conn = None

    def _writing(self) -> libvirt.virConnect:
        conn = libvirt.open(self._uri)
        with contextlib.suppress(libvirt.libvirtError):
            conn.setKeepAlive(*KEEPALIVE)
        return conn

    def _survive(self, error: Exception, work: str) -> None:
        """Logs an error of our own, once for each kind: it costs its one job, not the thread."""
        kind = type(error).__name__
        if kind not in self._said:
            self._said.add(kind)
            log.error("the engine goes on after an error with %s", work, exc_info=error)


def _states(conn: libvirt.virConnect) -> dict[str, tuple[int, int]]:
    """Returns state and reason of all domains, in one call instead of one for each.

    What changes until a domain itself is read is told by an event.
    """
    try:
        records = conn.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
            raise
        records = []
    return {
        handle.UUIDString(): (figures["state.state"], figures["state.reason"])
        for handle, figures in records
    }


def _usage(handle: libvirt.virDomain) -> Usage:
    """Returns what libvirt knows by itself; never waits for QEMU (libvirt 9.0)."""
    at = time.monotonic()
    state, reason = handle.state()[:2]
    known = _STATES.get(state, DomainState.RUNNING)
    words = known.value
    if state == libvirt.VIR_DOMAIN_PAUSED and reason in _PAUSED_FOR:
        words += " " + _PAUSED_FOR[reason]
    return Usage(at, words, known is not DomainState.RUNNING)


def _vcpus(conn: libvirt.virConnect, handle: libvirt.virDomain) -> tuple[Vcpu, ...]:
    """Returns the vCPUs' counters, if this driver has any; can wait for QEMU."""
    counters = _counters(conn, handle, libvirt.VIR_DOMAIN_STATS_VCPU)
    return tuple(
        Vcpu(
            counters[f"vcpu.{number}.time"] / 1e9,
            counters.get(f"vcpu.{number}.delay", 0) / 1e9,
            counters.get(f"vcpu.{number}.halt_exits.sum"),
        )
        for number in range(counters.get("vcpu.maximum", 0))
        # Those that are not plugged in have no time.
        if f"vcpu.{number}.time" in counters
    )


def _packets(conn: libvirt.virConnect, handle: libvirt.virDomain) -> int | None:
    counters = _counters(conn, handle, libvirt.VIR_DOMAIN_STATS_INTERFACE)
    sent = [counters.get(f"net.{number}.tx.pkts") for number in range(counters.get("net.count", 0))]
    return sum(packets or 0 for packets in sent) if sent else None


def _counters(conn: libvirt.virConnect, handle: libvirt.virDomain, group: int) -> Mapping[str, Any]:
    """Returns a group of statistics; without those of QEMU while somebody else asks it."""
    nowait = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    try:
        records = conn.domainListGetStats([handle], group, nowait)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
            raise
        records = []
    return records[0][1] if records else {}


def _disks(handle: libvirt.virDomain) -> Disks | None:
    """Returns the sum of all disks; None if there is none, or if this driver does not count.

    Not the statistics' group: for that QEMU looks at the files as well, and storage that hangs
    would then stop all of the VM.
    """
    try:
        counters = handle.blockStatsFlags("")
    except libvirt.libvirtError:
        return None
    kinds = ("rd", "wr", "flush")
    return Disks(
        sum(counters.get(f"{kind}_operations", 0) for kind in kinds),
        sum(counters.get(f"{kind}_total_times", 0) for kind in kinds) / 1e9,
    )


@contextlib.contextmanager
def _ignoring_gone() -> Iterator[None]:
    """Lets a domain vanish between being listed and being read."""
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise


def _words(error: libvirt.libvirtError) -> str:
    return error.get_error_message() or str(error)
