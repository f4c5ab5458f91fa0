# SPDX-License-Identifier: Apache-2.0
"""Many VMs that are challenged in one moment: the engine's own loop, on a clock that is played."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import ClassVar

import pytest

from collectd_vmhb import engine as engine_module
from collectd_vmhb.domain import ChannelDevice, Domain, DomainState, Instance
from collectd_vmhb.engine import IN_A_ROW, Engine
from collectd_vmhb.hypervisor import Scanned
from collectd_vmhb.phases import Phases
from collectd_vmhb.poll import READ
from collectd_vmhb.settings import Settings
from collectd_vmhb.state import State

VMS = 3 * IN_A_ROW + 1
_INIT = {
    "invocation_id": 7,
    "name": "vm",
    "heartbeat_interval_ms": 1000,
    "vote_secs": "5",
    "shutdown_notice_secs": "5",
    "suspend_notice_secs": "5",
    "resume_notice_secs": "5",
    "restart_secs": "60",
    "corrective_action": "log",
}
_ASKED = re.compile(rb'"heartbeat_challenge":(\d+)')


def line(msg_type: str, **fields: object) -> bytes:
    header = {"version": 3, "revision": 1, "msg_type": msg_type, "sequence": 1}
    return json.dumps({**header, **fields}).encode() + b"\n"


class Port:
    """A channel whose guest has answered as soon as it is asked."""

    #: What the engine did, of all ports: "q" for each challenge, "a" for each answer.
    done: ClassVar[list[str]] = []
    taken = True
    blocked = False

    def __init__(self, _: object) -> None:
        self.said = [line("init", **_INIT)]

    def write(self, lines: bytes) -> bool:
        asked = _ASKED.search(lines)
        if asked:
            self.done.append("q")
            answer = {
                "heartbeat_response": int(asked[1]),
                "heartbeat_health": "healthy",
                "corrective_action": "none",
                "log_msg": "",
            }
            self.said.append(line("challenge_response", **answer))
        return True

    def read(self) -> bytes:
        self.done.append("a")
        return self.said.pop(0)

    def flush(self) -> None:
        """Has nothing to do."""

    def close(self) -> None:
        """Keeps nothing."""


class Waiting:
    """A poll whose time passes at once from the first connection on, and which ends by ``stop``."""

    def __init__(self, until: float) -> None:
        self.now = 1000.0
        self._until = self.now + until
        self.stop: Callable[[], None]
        self._owners: dict[Port, object] = {}

    def register(self, port: object, _: int, owner: object) -> None:
        if isinstance(port, Port):
            self._owners[port] = owner

    def unregister(self, port: Port) -> None:
        del self._owners[port]

    def wait(self, seconds: float) -> list[tuple[object, int]]:
        ready = [(owner, READ) for port, owner in self._owners.items() if port.said]
        if self._owners and not ready:
            self.now += seconds
        if self.now > self._until:
            self.stop()
        return ready

    def close(self) -> None:
        """Keeps nothing."""


class Silent:
    """A libvirt that answers nothing."""

    def scan(self) -> None:
        """Is asked for all."""

    def look(self, uuid: str) -> None:
        """Is asked for one."""

    def measure(self, uuid: str) -> None:
        """Is asked to measure one."""

    def attach(self, uuid: str, channel: str) -> None:
        """Is asked for a channel."""

    def detach(self, uuid: str, channel: str, path: str) -> None:
        """Is asked to take one."""


def domain(number: int) -> Domain:
    instance = Instance("web", "p-1", "m1", {"vmhb:enabled": "true", "vmhb:interval": "1"})
    channels = (ChannelDevice("org.openstack.vmhb.0", f"/run/{number}"),)
    return Domain(f"vm-{number}", "", 1, DomainState.RUNNING, instance, channels, True)


def test_no_answer_waits_for_all_who_share_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    poll = Waiting(until=10.0)
    monkeypatch.setattr(engine_module, "Poll", lambda: poll)
    monkeypatch.setattr(engine_module, "Channel", Port)
    monkeypatch.setattr(Phases, "of", lambda *_: 0.0)
    monkeypatch.setattr(Port, "done", [])

    def clock() -> float:
        return poll.now

    engine = Engine(Settings(), State(), lambda *_: None, lambda _: None, clock=clock, wall=clock)
    poll.stop = engine.stop
    engine.post(Scanned(tuple(domain(number) for number in range(VMS))))
    engine.run(Silent())
    healthy = sum(row.value for row in engine.desk.samples() if row.type_instance == "vms-healthy")
    assert healthy == VMS
    rounds = "".join(Port.done[-2 * VMS :]).split("a")
    assert max(map(len, rounds)) == IN_A_ROW
