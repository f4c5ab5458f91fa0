# SPDX-License-Identifier: Apache-2.0
"""A compute node on a virtual clock: the shipped engine; libvirt, disk and collectd are played."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from collectd_vmhb import engine as engine_module
from collectd_vmhb.domain import Domain, DomainState
from collectd_vmhb.engine import Engine, Posted, Saved
from collectd_vmhb.hypervisor import Attached, Looked, Reachable, Rebooted, Scanned
from collectd_vmhb.poll import READ, Poll
from collectd_vmhb.publish import OPEN_FAULTS, Note
from collectd_vmhb.settings import Settings
from collectd_vmhb.state import State
from tests.simulation.cloud import Cloud
from tests.simulation.vm import HostEnd, Vm
from vmhb_guest import log

#: The difference between the wall clock and the monotonic one.
EPOCH = 1_800_000_000.0


def _nothing(*_: object) -> None:
    """Is said."""


@contextlib.contextmanager
def played_channels() -> Iterator[None]:
    """Has engines connect to played ports instead of unix sockets, and agents say nothing."""
    with patch.object(engine_module, "Channel", HostEnd), patch.object(log, "_say", _nothing):
        yield


class Node:
    """One host; `start` and `kill` are those of collectd. Notifications end in `alarms`.

    With ``aware`` off the engine is told of no state: a VM that is paused, saved, off or reboots
    looks to it as if it ran on.
    """

    def __init__(self, cloud: Cloud, settings: Settings, aware: bool = True) -> None:
        self.cloud = cloud
        self.settings = settings
        self.aware = aware
        self.vms: dict[str, Vm] = {}
        self.alarms = Alarms()
        self.engine: SteppedEngine | None = None
        #: The whole host stands still, guests too.
        self.frozen = False
        self.libvirt_away = False
        self._disk = State()
        self._disk_free = 0.0
        self._ids = 0
        self._wanted = math.inf
        self._stalled_until = -math.inf
        self._looks: set[str] = set()
        self._last: dict[str, Domain] = {}
        cloud.actors.append(self)

    # -- what can happen to it --------------------------------------------------------------

    def start(self) -> None:
        """collectd starts."""
        self.engine = SteppedEngine(self, self._disk)
        self._looks.clear()
        self.scan()

    def stop(self) -> None:
        """collectd ends, and saves what it has to."""
        if self.engine is not None:
            self.engine.end()
            self.engine = None

    def kill(self) -> None:
        """collectd is killed."""
        for vm in self.vms.values():
            if vm.port is not None and vm.port.host is not None:
                vm.port.host.close()
        self.engine = None

    def stall(self, seconds: float) -> None:
        """collectd alone stands still: its guests answer, and nobody reads it."""
        self._stalled_until = self.cloud.now + seconds

    def freeze(self, seconds: float) -> None:
        """The whole host stands still."""
        self.frozen = True
        self.stall(seconds)

        def thaw() -> None:
            self.frozen = False
            for vm in self.vms.values():
                vm.host_thawed()

        self.cloud.after(seconds, thaw)

    def lose_libvirt(self) -> None:
        """libvirtd goes away."""
        self.libvirt_away = True
        self._post_later(Reachable("Connection refused"))

    def find_libvirt(self) -> None:
        """libvirtd is back; what happened meanwhile told nobody."""
        self.libvirt_away = False
        self._post_later(Reachable(None))
        self.scan()

    # -- what VMs do to it ------------------------------------------------------------------

    def next_id(self) -> int:
        self._ids += 1
        return self._ids

    def event(self, uuid: str) -> None:
        """Something happened to a domain."""
        if not self.libvirt_away and self.engine is not None:
            self.look(uuid)

    def rebooted(self, uuid: str) -> None:
        """A guest resets; SeaBIOS does so several times."""
        if self.aware and not self.libvirt_away:
            for _ in range(self.cloud.rng.randint(1, 3)):
                self._post_later(Rebooted(uuid))

    # -- engine.Libvirt ---------------------------------------------------------------------

    def scan(self) -> None:
        self.look("")

    def look(self, uuid: str) -> None:
        if uuid in self._looks or self.libvirt_away:
            return
        self._looks.add(uuid)
        engine = self.engine

        def answer() -> None:
            if engine is not self.engine or engine is None:
                return
            self._looks.discard(uuid)
            if self.libvirt_away:
                return
            if not uuid:
                engine.post(Scanned(tuple(self._told(vm) for vm in self.vms.values())))
            else:
                vm = self.vms.get(uuid)
                engine.post(Looked(uuid, None if vm is None else self._told(vm)))

        self.cloud.after(self._latency(), answer)

    def attach(self, uuid: str, channel: str) -> None:
        engine = self.engine

        def attach() -> None:
            vm = self.vms.get(uuid)
            error = "libvirt is away" if self.libvirt_away else None
            if vm is None or vm.domain_id is None:
                error = "the domain does not run"
            elif error is None:
                vm.attach()
            if engine is not None and engine is self.engine:
                engine.post(Attached(uuid, error))

        self.cloud.after(self._latency(), attach)

    def measure(self, uuid: str) -> None:
        """Answers nothing: that is a libvirt that hangs, and no fault waits for it."""

    def detach(self, uuid: str, channel: str, path: str) -> None:
        raise NotImplementedError("no story asks for it")

    def _told(self, vm: Vm) -> Domain:
        """Returns what the engine gets to know of a domain."""
        domain = vm.domain
        if not self.aware:
            before = self._last.get(vm.uuid)
            if domain.domain_id is None and before is not None:
                domain = before
            elif domain.domain_id is not None:
                domain = replace(domain, state=DomainState.RUNNING)
            self._last[vm.uuid] = domain
        return domain

    def _latency(self) -> float:
        return self.cloud.rng.uniform(0.002, 0.03)

    def _post_later(self, posted: Posted) -> None:
        engine = self.engine

        def post() -> None:
            if engine is not None and engine is self.engine:
                engine.post(posted)

        self.cloud.after(self._latency(), post)

    # -- the disk, and collectd's bus -------------------------------------------------------

    def save(self, number: int, state: State) -> None:
        engine = self.engine

        def saved() -> None:
            # An engine that ends waits for its disk; one that is killed does not.
            if engine is self.engine:
                self._disk = state
                if engine is not None:
                    engine.post(Saved(number, None))

        # One worker writes, and one save after the other.
        self._disk_free = max(self._disk_free, self.cloud.now) + self.cloud.rng.uniform(0.001, 0.01)
        self.cloud.after(self._disk_free - self.cloud.now, saved)

    def save_at_the_end(self, state: State) -> None:
        self._disk = state

    def notify(self, note: Note) -> None:
        self.alarms.take(note, self.cloud.now)

    # -- a turn of the engine ---------------------------------------------------------------

    def poke(self, channel: HostEnd | None = None) -> None:
        """The engine has something to look at."""
        if self.engine is not None:
            if channel is not None:
                self.engine.ready[channel] = None
            self._wanted = self.cloud.now

    @property
    def due(self) -> float:
        if self.engine is None:
            return math.inf
        return max(self._wanted, self._stalled_until)

    def turn(self) -> None:
        if self.engine is not None:
            self._wanted = math.inf
            self._wanted = min(self._wanted, self.engine.step())

    def health(self, uuid: str) -> str:
        """What the engine shows of a VM; "" for one that is not watched."""
        if self.engine is None:
            return ""
        return self.engine.health(uuid)


class SteppedEngine(Engine):
    """The engine, turned by a `Node` instead of a thread of its own."""

    def __init__(self, node: Node, state: State) -> None:
        self._node = node
        #: Channels that there is something to read from.
        self.ready: dict[HostEnd, None] = {}
        self._planned = math.inf
        super().__init__(
            node.settings,
            state,
            node.save,
            node.notify,
            clock=lambda: node.cloud.now,
            wall=lambda: EPOCH + node.cloud.now,
        )
        self._poll.close()
        self._wakes.close()
        self._waker.close()
        self._poll = _Poll(self.ready)
        self._libvirt = node
        self._scan_at = self._clock() + self._settings.reconcile_interval
        node._wanted = node.cloud.now

    def _wake(self) -> None:
        self._node.poke()

    def step(self) -> float:
        """Turns once and returns when it wants to be turned again."""
        self._turn()
        assert not self._totals["errors"], "an error of the engine"
        self._planned = super()._next_deadline()
        return self._node.cloud.now if self._poll.wait(0) else self._planned

    def _next_deadline(self) -> float:
        # Nothing changes between two steps.
        return self._planned

    def end(self) -> None:
        """Stops as the plugin has it stop: what is unsaved is saved, and then told."""
        self._reporter._save = lambda number, state: self._saved_last(number, state)
        self.stop()
        self.run(self._node)
        self.flush()

    def _saved_last(self, number: int, state: State) -> None:
        self._node.save_at_the_end(state)
        self.post(Saved(number, None))

    def health(self, uuid: str) -> str:
        watch = self._watches.get(uuid)
        return "" if watch is None else watch.monitor.health.value


class _Poll(Poll[Any]):
    """Says which channels of a played node are ready; never waits."""

    def __init__(self, ready: dict[HostEnd, None]) -> None:
        self._ready = ready
        self._wanted: dict[Any, tuple[Any, int]] = {}

    def register(self, door: Any, events: int, owner: Any) -> None:
        self._wanted[door] = owner, events
        if door.readable:
            self._ready[door] = None

    def modify(self, door: Any, events: int) -> None:
        self.register(door, events, self._wanted[door][0])

    def unregister(self, door: Any) -> None:
        del self._wanted[door]

    def wait(self, seconds: float | None) -> list[tuple[Any, int]]:
        found = []
        for channel in list(self._ready):
            wanted = self._wanted.get(channel)
            if wanted is None or not channel.readable:
                del self._ready[channel]
            elif wanted[1] & READ:
                found.append((wanted[0], READ))
        return found

    def close(self) -> None:
        """Holds nothing."""


class Alarms:
    """What a receiver of the notifications holds for true; it keeps to what meta data say."""

    def __init__(self) -> None:
        #: Incident -> (instance, fault).
        self.open: dict[str, tuple[str, str]] = {}
        #: (time, instance, fault, reason) of each incident that began, and of each that ended.
        self.raised: list[tuple[float, str, str, str]] = []
        self.ended: list[tuple[float, str, str, str]] = []
        self._listed: set[str] = set()

    def take(self, note: Note, now: float) -> None:
        if note.type_instance == OPEN_FAULTS:
            self._take_list(note)
            return
        incident = str(note.meta["incident"])
        row = (now, note.plugin_instance, note.type_instance, str(note.meta["reason"]))
        if note.severity == "okay":
            if self.open.pop(incident, None) is not None:
                self.ended.append(row)
        elif incident not in self.open:
            self.open[incident] = (note.plugin_instance, note.type_instance)
            self.raised.append(row)

    def of(self, uuid: str) -> set[str]:
        """The open faults of an instance, or of the host for ""."""
        return {fault for owner, fault in self.open.values() if owner == uuid}

    def _take_list(self, note: Note) -> None:
        self._listed |= set(json.loads(str(note.meta["incidents"])))
        if note.meta["part"] == note.meta["parts"]:
            for incident in self.open.keys() - self._listed:
                del self.open[incident]
            self._listed.clear()
