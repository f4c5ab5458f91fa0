# SPDX-License-Identifier: Apache-2.0
"""A VM as it is, whatever anybody believes of it: QEMU's port, and the real agent's core inside."""

from __future__ import annotations

import errno
import itertools
from typing import TYPE_CHECKING, Callable
from weakref import WeakValueDictionary

from collectd_vmhb.channel import ChannelError
from collectd_vmhb.domain import ChannelDevice, Domain, DomainState, Instance
from vmhb_guest.session import Session, State
from vmhb_guest.status import CheckResult, Status

if TYPE_CHECKING:
    from tests.simulation.node import Node

CHANNEL = "org.openstack.vmhb.0"
#: An agent looks for its host that often (vmhb_guest.port.RETRY).
AGENT_LOOKS = 0.5
#: Round trip of a challenge, in seconds: what an emulated guest was seen to take, at most.
RTT = 0.005

#: The channels that there are, by path.
_ports: WeakValueDictionary[str, Port] = WeakValueDictionary()
_numbers = itertools.count()


class Port:
    """A channel in one run of a VM."""

    def __init__(self, vm: Vm) -> None:
        self.vm = vm
        self.path = f"/channel/{next(_numbers)}"
        self.queued = b""
        self.host: HostEnd | None = None
        #: Another program has the port: QEMU does not accept ours.
        self.rival = False
        _ports[self.path] = self

    def close(self) -> None:
        """QEMU ends, or the device is unplugged."""
        del _ports[self.path]
        if self.host is not None:
            self.host.hang_up()


class HostEnd:
    """Takes the place of `collectd_vmhb.channel.Channel`."""

    blocked = False

    def __init__(self, path: str) -> None:
        port = _ports.get(path)
        if port is None:
            raise ChannelError(errno.ENOENT, f"{path}: there is no such channel")
        self._port: Port | None = port
        self._node = port.vm.node
        self._data = b""
        port.host = self
        port.vm.host_came()

    @property
    def taken(self) -> bool:
        return self._port is None or not self._port.rival

    @property
    def readable(self) -> bool:
        return bool(self._data) or self._port is None

    def read(self) -> bytes:
        data, self._data = self._data, b""
        if not data and self._port is None:
            raise ChannelError(0, "closed by QEMU")
        return data

    def write(self, lines: bytes) -> None:
        if self._port is None:
            raise ChannelError(errno.EPIPE, "closed by QEMU")
        self._port.queued += lines
        self._port.vm.lines_came()

    def flush(self) -> None:
        """Nothing is ever unsent."""

    def close(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            port.host = None
            # QEMU forgets what the guest has not read.
            port.queued = b""
            port.vm.host_went()

    def arrive(self, data: bytes) -> None:
        """The guest said something."""
        if data and self._port is not None:
            self._data += data
            self._node.poke(self)

    def hang_up(self) -> None:
        """The other end is gone."""
        self._port = None
        self._node.poke(self)


class Vm:
    """One instance: its domain, what runs in it, and what can happen to both."""

    def __init__(self, node: Node, uuid: str, specs: dict[str, str]) -> None:
        self.node = node
        self.cloud = node.cloud
        self.uuid = uuid
        self.specs = specs
        self.domain_id: int | None = None
        self.state = DomainState.SHUT_OFF
        self.port: Port | None = None
        self.hung = False
        #: Whether libvirt says if a process in the guest has the port open: not of a serial port.
        self.tells_port = False
        #: Until then it says that none has, also where one has opened it again.
        self.said_closed_until = 0.0
        #: Its guest did not boot in this run.
        self.carried = False
        self.agent: Session | None = None
        self.checks: dict[str, Status] = {}
        #: What the guest would do now, if it ran.
        self._put_off: list[Callable[[], None]] = []
        self._armed = False
        self._boots = 0
        node.vms[uuid] = self

    @property
    def domain(self) -> Domain:
        """What libvirt says of it."""
        channels: tuple[ChannelDevice, ...] = ()
        if self.port is not None:
            has_open = self.agent is not None and self.cloud.now >= self.said_closed_until
            opened = has_open if self.tells_port else None
            channels = (ChannelDevice(CHANNEL, self.port.path, guest_open=opened),)
        return Domain(
            uuid=self.uuid,
            name=f"instance-{self.uuid}",
            domain_id=self.domain_id,
            state=self.state,
            instance=Instance(self.uuid, "project", "flavor", dict(self.specs)),
            channels=channels,
            has_virtio_serial=True,
            carried=self.carried and self.tells_port,
        )

    @property
    def runs(self) -> bool:
        """Its processors run: it may do something by itself."""
        return self.state is DomainState.RUNNING and not self.hung and not self.node.frozen

    # -- the domain -------------------------------------------------------------------------

    def start(self, boot: float | None) -> None:
        """Switches it on; its agent answers after ``boot`` seconds, never for None."""
        self.domain_id = self.node.next_id()
        self.state = DomainState.RUNNING
        self.carried = False
        self._boot(boot)
        self.node.event(self.uuid)

    def stop(self) -> None:
        """QEMU ends: a shutdown, a destroy, a crash."""
        self._end_run()
        self.agent = None
        self._boots += 1
        self.hung = False
        self.node.event(self.uuid)

    def pause(self) -> None:
        self.state = DomainState.PAUSED
        self.node.event(self.uuid)

    def resume(self) -> None:
        self.state = DomainState.RUNNING
        self.node.event(self.uuid)
        self._wake()

    def save(self) -> None:
        """Suspends it to disk: as it is, in no QEMU."""
        self._end_run()
        self.node.event(self.uuid)

    def restore(self) -> None:
        """Another QEMU goes on with what was saved; the channel is part of it."""
        self.domain_id = self.node.next_id()
        self.state = DomainState.RUNNING
        self.carried = True
        self.attach()
        self.node.event(self.uuid)
        self._wake()

    def reset(self, boot: float | None) -> None:
        """Boots again inside the same QEMU, by whomever."""
        self.hung = False
        self._boot(boot)
        self.node.rebooted(self.uuid)

    def undefine(self) -> None:
        del self.node.vms[self.uuid]
        self.node.event(self.uuid)

    def move(self, to: Node) -> None:
        """Arrives on another node, as a live migration ends; it was paused on the way."""
        self._end_run()
        self.undefine()
        self.node = to
        to.vms[self.uuid] = self
        self.restore()

    def change_flavor(self, specs: dict[str, str]) -> None:
        self.specs = specs
        self.node.event(self.uuid)

    def attach(self) -> None:
        """Plugs the channel in."""
        if self.port is None and self.domain_id is not None:
            self.port = Port(self)
            self.node.event(self.uuid)

    def detach(self) -> None:
        """Somebody unplugs the channel."""
        self._unplug()
        self.node.event(self.uuid)

    def _end_run(self) -> None:
        self._unplug()
        self.domain_id = None
        self.state = DomainState.SHUT_OFF

    def _unplug(self) -> None:
        port, self.port = self.port, None
        if port is not None:
            port.close()
            self.host_went()

    # -- the guest --------------------------------------------------------------------------

    def hang(self) -> None:
        """Its kernel, or its QEMU, stands still."""
        self.hung = True

    def thaw(self) -> None:
        self.hung = False
        self._wake()

    def host_thawed(self) -> None:
        """The node goes on after it stood still."""
        self._wake()

    def start_agent(self) -> None:
        self.agent = Session("guest", draw=lambda: self.cloud.rng.randint(1, 2**31 - 1))
        self.agent.expect_checks(self.checks, self.cloud.now)
        for name, status in self.checks.items():
            self._tell_check(name, status)
        self._look_for_host()

    def kill_agent(self) -> None:
        """Ends it without a goodbye."""
        self.agent = None

    def stop_agent(self) -> None:
        """Ends it as a service manager does."""
        if self.agent is not None and self.runs:
            self.agent.stop("stopped")
            self._flush()
        self.agent = None

    def check(self, name: str, status: Status) -> None:
        """A health check in the guest has another result."""
        if self.agent is not None and name not in self.checks:
            self.checks[name] = status
            self.agent.expect_checks(self.checks, self.cloud.now)
        self.checks[name] = status
        self._tell_check(name, status)

    def _tell_check(self, name: str, status: Status) -> None:
        if self.agent is not None:
            self.agent.check_result(
                CheckResult(
                    name=name, status=status, text="", perfdata="", since=self.cloud.now, duration=0
                )
            )

    def _boot(self, seconds: float | None) -> None:
        self.agent = None
        self._put_off.clear()
        self._boots += 1
        boots = self._boots

        def up() -> None:
            if self._boots == boots and self.agent is None:
                self.start_agent()

        if seconds is not None:
            self._later(seconds, up)

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        """Has the guest do something, as soon as it can from then on."""

        def act() -> None:
            if self.runs:
                action()
            elif self.domain_id is not None or self.agent is not None:
                self._put_off.append(act)

        self.cloud.after(seconds, act)

    def _wake(self) -> None:
        if not self.runs:
            return
        if self.agent is not None and (self.port is None or self.port.host is None):
            self.agent.port_closed()
        put_off, self._put_off = self._put_off, []
        for act in put_off:
            self.cloud.after(RTT, act)
        self.lines_came()

    # -- its port ---------------------------------------------------------------------------

    def host_came(self) -> None:
        """The host end was connected."""
        self._look_for_host()

    def host_went(self) -> None:
        """The host end was closed: the agent sees it as soon as it runs."""
        if self.agent is not None and self.runs:
            self.agent.port_closed()

    def lines_came(self) -> None:
        """There is something to read."""
        self._later(RTT, self._read)

    def _look_for_host(self) -> None:
        self._later(self.cloud.rng.uniform(0.0, AGENT_LOOKS), self._open)

    def _open(self) -> None:
        there = self.port is not None and self.port.host is not None
        if self.agent is not None and there and self.agent.state is State.CLOSED:
            self.agent.port_opened(self.cloud.now)
            self._flush()
            self._read()

    def _read(self) -> None:
        if self.agent is None or self.port is None or self.agent.state is State.CLOSED:
            return
        if self.port.rival:
            return
        data, self.port.queued = self.port.queued, b""
        if data:
            self.agent.receive(data, self.cloud.now)
            self._flush()

    def _flush(self) -> None:
        """Does the caller's duties after each call into the agent."""
        if self.agent is None:
            return
        data = self.agent.data_to_send()
        if self.port is not None and self.port.host is not None:
            self.port.host.arrive(data)
        if not self._armed and self.agent.deadline is not None:
            self._armed = True
            self.cloud.after(max(0.0, self.agent.deadline - self.cloud.now), self._ring)

    def _ring(self) -> None:
        self._armed = False
        if self.agent is None or self.agent.deadline is None:
            return
        if not self.runs:
            self._put_off.append(self._ring)
        else:
            self.agent.tick(self.cloud.now)
            self._flush()
