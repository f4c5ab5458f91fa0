# SPDX-License-Identifier: Apache-2.0
"""The engine's loop with real sockets and a clock that runs, and a libvirt that a test plays."""

from __future__ import annotations

import errno
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

import pytest

from collectd_vmhb import contact, desk, monitor, policy, reporter, reprieve
from collectd_vmhb import engine as engine_module
from collectd_vmhb.awareness import Awareness
from collectd_vmhb.channel import ChannelError
from collectd_vmhb.conduct import BYTES_PER_SECOND
from collectd_vmhb.domain import ChannelDevice, Domain, DomainState, Instance
from collectd_vmhb.engine import Engine, Saved
from collectd_vmhb.hypervisor import (
    Attached,
    Detached,
    Looked,
    Measured,
    Reachable,
    Rebooted,
    Scanned,
)
from collectd_vmhb.publish import Note
from collectd_vmhb.settings import FlavorPolicy, Settings, VmValues
from collectd_vmhb.settings import Mode as EngineMode
from collectd_vmhb.sources import NO_POLICIES, PoliciesRead
from collectd_vmhb.state import State
from collectd_vmhb.usage import Disks, Usage, Vcpu
from collectd_vmhb.wording import Refusal
from tests.integration.stand_in import Mode, StandIn

NAME = "org.openstack.vmhb.0"
FAST = {
    "vmhb:enabled": "true",
    "vmhb:interval": "0.1",
    "vmhb:miss_threshold": "2",
    "vmhb:recovery_threshold": "1",
    "vmhb:grace_period": "0.3",
}
#: More than a VM that does not answer needs to be found lost.
LONG = 1.5
SETTINGS = Settings(hold_down=0.0, grace_after_resume=0.3, attach_rate=100.0, values=VmValues.ALL)


class Node:
    """An engine that runs, a disk that saves at once, and what it asked of libvirt."""

    def __init__(
        self,
        settings: Settings = SETTINGS,
        state: State | None = None,
        policies: PoliciesRead = NO_POLICIES,
    ) -> None:
        self.notes: list[Note] = []
        self.states: list[State] = []
        self.asked: list[tuple[str, ...]] = []
        #: The domains that libvirt answers of by itself.
        self.tells: dict[str, Domain] = {}
        self.disk: str | None = None
        self.disk_hangs = False
        self.guests: list[StandIn] = []
        self.engine = Engine(
            settings, state or State(), self._save, self.notes.append, policies=policies
        )
        self._thread = threading.Thread(target=self.engine.run, args=(self,), daemon=True)
        self._thread.start()

    def _save(self, number: int, state: State) -> None:
        self.states.append(state)
        if not self.disk_hangs:
            self.engine.post(Saved(number, self.disk))

    def scan(self) -> None:
        self.asked.append(("scan",))

    def look(self, uuid: str) -> None:
        self.asked.append(("look", uuid))
        if uuid in self.tells:
            self.look_at(self.tells[uuid])

    def measure(self, uuid: str) -> None:
        self.asked.append(("measure", uuid))

    def attach(self, uuid: str, channel: str) -> None:
        self.asked.append(("attach", uuid, channel))

    def detach(self, uuid: str, channel: str, path: str) -> None:
        self.asked.append(("detach", uuid, channel, path))

    def see(self, *domains: Domain) -> None:
        self.engine.post(Scanned(domains))

    def look_at(self, domain: Domain) -> None:
        self.engine.post(Looked(domain.uuid, domain))

    def guest(self, path: Path, mode: Mode = Mode.HEALTHY) -> StandIn:
        self.guests.append(StandIn(path, mode))
        return self.guests[-1]

    def close(self) -> None:
        self.engine.stop()
        self._thread.join(5)
        for guest in self.guests:
            guest.stop()
        assert not self._thread.is_alive()

    def value(self, name: str, uuid: str = "vm") -> float:
        for sample in self.engine.desk.samples():
            if (sample.plugin_instance, sample.type_instance) == (uuid, name):
                return sample.value
        return float("nan")

    def wait(self, ready: Callable[[], object]) -> None:
        deadline = time.monotonic() + 8
        while not ready():
            assert time.monotonic() < deadline, (self.said(), self.engine.desk.samples())
            time.sleep(0.01)

    def wait_attaches(self, count: int) -> None:
        self.wait(lambda: self.asked.count(("attach", "vm", NAME)) == count)

    def wait_healthy(self) -> None:
        self.wait(lambda: self.value("health") == 2)

    def wait_said(self, fault: str, severity: str, uuid: str = "vm") -> Note:
        self.wait(lambda: (fault, severity) in self.said(uuid))
        (note,) = (
            n
            for n in self.notes
            if (n.type_instance, n.severity, n.plugin_instance) == (fault, severity, uuid)
        )
        return note

    def said(self, uuid: str = "vm") -> list[tuple[str, str]]:
        return [(n.type_instance, n.severity) for n in self.notes if n.plugin_instance == uuid]


Start = Callable[..., Node]


@pytest.fixture(name="start")
def _start() -> Iterator[Start]:
    """Starts engines, and ends them with the test."""
    nodes: list[Node] = []

    def start(settings: Settings = SETTINGS, **more: Any) -> Node:
        nodes.append(Node(settings, **more))
        return nodes[-1]

    yield start
    for node in nodes:
        node.close()


@pytest.fixture(name="node")
def _node(start: Start) -> Iterator[Node]:
    node = start()
    yield node
    assert node.value("errors", "") == 0, "the engine's own errors"


def domain(
    path: Path | None, specs: dict[str, str] | None = FAST, uuid: str = "vm", **more: Any
) -> Domain:
    fields: dict[str, Any] = {
        "domain_id": 1,
        "state": DomainState.RUNNING,
        "instance": Instance("web", "p-1", "m1", specs),
        "channels": () if path is None else (ChannelDevice(NAME, str(path)),),
        "has_virtio_serial": True,
    }
    return Domain(uuid, "instance-1", **{**fields, **more})


def test_a_changed_flavor_leaves_no_second_watch_behind(node: Node, tmp_path: Path) -> None:
    path = tmp_path / "port"
    guest = node.guest(path)
    node.see(domain(path))
    node.wait_healthy()
    node.look_at(domain(path, {**FAST, "vmhb:interval": "0.2"}))
    node.wait(lambda: guest.connections == 2)
    node.wait_healthy()
    time.sleep(LONG)
    assert node.said() == []
    assert guest.connections == 2


def test_a_vm_that_restarts_is_followed_to_its_new_socket(node: Node, tmp_path: Path) -> None:
    node.guest(tmp_path / "run-1").mode = Mode.HEALTHY
    node.see(domain(tmp_path / "run-1"))
    node.wait_healthy()
    node.guests[0].mode = Mode.SILENT
    node.wait_said("heartbeat-lost", "failure")
    node.guests.pop().stop()
    node.guest(tmp_path / "run-2")
    node.look_at(domain(tmp_path / "run-2", domain_id=2))
    assert node.wait_said("heartbeat-lost", "okay").meta["reason"] == "restarted"
    node.wait_healthy()
    time.sleep(LONG)
    assert node.said() == [("heartbeat-lost", "failure"), ("heartbeat-lost", "okay")]


def test_a_vm_is_monitored_over_a_serial_port_that_nova_made(start: Start) -> None:
    node = start(replace(SETTINGS, channels_allowed=("serial:1",)))
    guest = StandIn(None)
    node.guests.append(guest)
    specs = {**FAST, "vmhb:channel": "serial:1"}
    ports = (ChannelDevice("serial:0", None, "a pty"), ChannelDevice("serial:1", guest.address))
    node.see(domain(None, specs, channels=ports, has_virtio_serial=False))
    node.wait_healthy()
    guest.mode = Mode.SILENT
    node.wait_said("heartbeat-lost", "failure")
    guest.mode = Mode.HEALTHY
    node.wait_said("heartbeat-lost", "okay")
    assert [job for job in node.asked if job[0] == "attach"] == []


def test_a_socket_is_found_where_this_side_of_a_container_has_it(
    start: Start, tmp_path: Path
) -> None:
    deep = tmp_path / "as-deep-as-a-container-puts-libvirts-directories" / ("volume" * 10)
    deep.mkdir(parents=True)
    short = tmp_path / "short"
    short.symlink_to(deep)
    node = start(replace(SETTINGS, socket_path_map=((Path("/run/libvirt/qemu"), deep),)))
    node.guest(short / "port")
    assert len(str(deep / "port")) > 107, "longer than an address can be"
    node.see(domain(Path("/run/libvirt/qemu/port")))
    node.wait_healthy()


def carried(path: Path, guest_open: bool) -> Domain:
    """A VM that was migrated here, or restored."""
    return domain(
        path, channels=(ChannelDevice(NAME, str(path), guest_open=guest_open),), carried=True
    )


def test_a_vm_that_hangs_on_its_way_here_is_found(node: Node, tmp_path: Path) -> None:
    node.guest(tmp_path / "port", Mode.SILENT)
    node.see(carried(tmp_path / "port", guest_open=True))
    node.wait_said("heartbeat-lost", "failure")


def test_libvirt_is_asked_again_whether_a_vm_brought_its_agent(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "OPEN_KNOWN", 0.2)
    node.guest(tmp_path / "port", Mode.SILENT)
    node.see(carried(tmp_path / "port", guest_open=False))
    node.wait(lambda: ("look", "vm") in node.asked)
    node.look_at(carried(tmp_path / "port", guest_open=True))
    node.wait_said("heartbeat-lost", "failure")


@pytest.mark.parametrize("way", ["came without", "booted here"])
def test_a_vm_that_never_had_an_agent_is_not_blamed(node: Node, tmp_path: Path, way: str) -> None:
    path = tmp_path / "port"
    node.guest(path, Mode.SILENT)
    came = carried(path, guest_open=way == "booted here")
    node.see(replace(came, carried=way == "came without"))
    time.sleep(LONG)
    assert (node.value("health"), node.said()) == (1, [])


def test_a_vm_in_doubt_is_measured_before_its_fault_which_tells_what_was_seen(
    node: Node, tmp_path: Path
) -> None:
    specs = {**FAST, "vmhb:interval": "0.4", "vmhb:miss_threshold": "3"}
    guest = node.guest(tmp_path / "port")
    node.see(domain(tmp_path / "port", specs))
    node.wait_healthy()
    assert ("measure", "vm") not in node.asked
    guest.mode = Mode.SILENT
    usage = Usage(time.monotonic(), "running", False, (Vcpu(10.0, 0.0),), True, Disks(9, 1.0), 0)
    node.wait(lambda: node.asked.count(("measure", "vm")) == 1)
    node.engine.post(Measured("vm", usage))
    # At the second miss, and shortly before the third.
    node.wait(lambda: node.asked.count(("measure", "vm")) == 3)
    assert node.said() == []
    usage = replace(usage, at=time.monotonic(), vcpus=(Vcpu(10.1, 0.0),))
    node.engine.post(Measured("vm", usage))
    lost = node.wait_said("heartbeat-lost", "failure")
    evidence = json.loads(str(lost.meta["evidence"]))
    assert evidence["reading"] == "waiting"
    assert "its vCPU ran 0.10 s" in evidence["measured"]
    assert evidence["exchanges"].count(":-") >= 3
    # What is measured later is shown to whoever asks, and not told again.
    node.wait(lambda: node.asked.count(("measure", "vm")) == 4)
    usage = replace(usage, at=usage.at + 5.0, vcpus=(Vcpu(18.0, 0.0),))
    node.engine.post(Measured("vm", usage))
    node.wait(lambda: node.engine.desk.explain("vm")["measured"]["reading"] == "hung")
    guest.mode = Mode.HEALTHY
    node.wait_said("heartbeat-lost", "okay")
    assert node.engine.desk.explain("vm")["measured"] is None
    assert len(node.said()) == 2


def test_a_libvirt_that_measures_nothing_delays_no_fault(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reprieve, "LOOK_MAX", 0.0)  # looks are another question
    guest = node.guest(tmp_path / "port")
    node.see(domain(tmp_path / "port"))
    node.wait_healthy()
    guest.mode, began = Mode.SILENT, time.time()
    lost = node.wait_said("heartbeat-lost", "failure")
    assert lost.time - began < LONG
    evidence = json.loads(str(lost.meta["evidence"]))
    assert evidence["reading"] == "not-measured"
    assert lost.message.startswith("VM web: 2 heartbeat challenges in a row unanswered")


def test_silence_while_paused_is_no_failure(node: Node, tmp_path: Path) -> None:
    path = tmp_path / "port"
    guest = node.guest(path)
    node.see(domain(path))
    node.wait_healthy()
    guest.mode = Mode.SILENT
    node.look_at(domain(path, state=DomainState.PAUSED))
    node.wait(lambda: node.value("health") == 6)
    time.sleep(LONG)
    assert node.said() == []
    guest.mode = Mode.HEALTHY
    node.look_at(domain(path))
    node.wait_healthy()
    guest.mode = Mode.SILENT
    node.wait_said("heartbeat-lost", "failure")


def test_a_paused_vm_whose_channel_closes_is_connected_to_when_it_runs_again(
    node: Node, tmp_path: Path
) -> None:
    path = tmp_path / "port"
    guest = node.guest(path)
    node.see(domain(path))
    node.wait_healthy()
    node.look_at(domain(path, state=DomainState.PAUSED))
    node.wait(lambda: node.value("health") == 6)
    guest.mode = Mode.CLOSES
    node.wait(lambda: ("look", "vm") in node.asked)
    guest.mode = Mode.HEALTHY
    time.sleep(0.6)
    assert guest.connections == 1
    node.look_at(domain(path))
    node.wait_healthy()


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (None, "gone from this host"),
        ({"domain_id": None, "state": DomainState.SHUT_OFF}, "shut off"),
        ({"specs": {}}, "monitoring is switched off"),
        ({"state": DomainState.PAUSED}, "paused"),
    ],
)
def test_a_failed_vm_that_nobody_expects_any_more_gets_its_okay(
    node: Node, tmp_path: Path, after: dict[str, Any] | None, reason: str
) -> None:
    path = tmp_path / "port"
    guest = node.guest(path)
    node.see(domain(path))
    node.wait_healthy()
    guest.mode = Mode.SILENT
    lost = node.wait_said("heartbeat-lost", "failure")
    node.engine.post(Looked("vm", None if after is None else domain(path, **after)))
    well = node.wait_said("heartbeat-lost", "okay")
    assert (well.meta["incident"], well.meta["reason"]) == (lost.meta["incident"], reason)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE])
def test_a_missing_right_is_told_of_the_host_and_blames_no_vm(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def barred(address: object) -> None:
        raise ChannelError(number, f"no way to open {address}")

    specs = {**FAST, "vmhb:required": "true"}
    vms = [domain(tmp_path / uuid, specs, uuid=uuid) for uuid in ("vm", "other")]
    with monkeypatch.context() as rights:
        rights.setattr(engine_module, "Channel", barred)
        node.see(*vms)
        node.wait_said("engine-impaired", "failure", "")
        time.sleep(LONG)
        assert node.said() == node.said("other") == []
    for uuid in ("vm", "other"):
        node.guest(tmp_path / uuid)
    node.wait_healthy()
    node.wait_said("engine-impaired", "okay", "")


def test_a_right_that_was_missing_is_not_missed_where_no_vm_is_left(start: Start) -> None:
    impaired = {
        "id": "earlier",
        "uuid": "",
        "name": "engine-impaired",
        "severity": "failure",
        "text": "no right to open the channel",
        "since": 1.0,
        "reason": "rights",
        "details": {},
        "instance": "",
        "project": "",
    }
    node = start(state=State(incidents=[impaired]))
    node.see()
    assert node.wait_said("engine-impaired", "okay", "").meta["incident"] == "earlier"


def test_a_loss_waits_for_libvirts_word_on_the_vm(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(reprieve, "LOOK_MAX", 60.0)
    node = start()
    uuids = ["runs", "off"]
    for uuid in uuids:
        node.guest(tmp_path / uuid)
    node.see(*(domain(tmp_path / uuid, uuid=uuid) for uuid in uuids))
    node.wait(lambda: all(node.value("health", uuid) == 2 for uuid in uuids))
    for guest in node.guests:
        guest.mode = Mode.SILENT
    node.wait(lambda: all(node.value("health", uuid) == 5 for uuid in uuids))
    assert not any(map(node.said, uuids))
    node.look_at(domain(tmp_path / "runs", uuid="runs"))
    off = domain(tmp_path / "off", uuid="off", domain_id=None, state=DomainState.SHUT_OFF)
    node.look_at(off)
    node.wait_said("heartbeat-lost", "failure", "runs")
    assert node.said("off") == []


def test_a_loss_does_not_wait_for_a_libvirt_that_hangs(node: Node, tmp_path: Path) -> None:
    node.guest(tmp_path / "port")
    node.see(domain(tmp_path / "port"))
    node.wait_healthy()
    node.guests[0].mode = Mode.SILENT
    node.wait(lambda: node.value("health") == 5)
    found = time.monotonic()
    node.wait_said("heartbeat-lost", "failure")
    assert time.monotonic() - found < reprieve.LOOK_MAX + 1.0


def test_a_misbehaving_disk_delays_no_alarm_and_is_one(node: Node, tmp_path: Path) -> None:
    node.disk = "No space left on device"
    node.see(domain(None, has_virtio_serial=False))
    node.wait_said("cannot-monitor", "warning")
    full = node.wait_said("engine-impaired", "warning", "")
    assert "No space left" in full.message
    node.disk = None
    # Nothing new to save: the reconcile tries again all the same.
    node.see(domain(None, has_virtio_serial=False))
    node.wait_said("engine-impaired", "okay", "")


def test_a_disk_that_hangs_silences_no_alarm_and_is_one(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter, "SAVE_MAX", 0.3)
    node.disk_hangs = True
    node.see(domain(None, has_virtio_serial=False))
    node.wait_said("cannot-monitor", "warning")
    stuck = node.wait_said("engine-impaired", "warning", "")
    assert "does the disk of StateDir hang?" in stuck.message
    node.disk_hangs = False
    node.see(domain(None, has_virtio_serial=False))
    node.wait_said("engine-impaired", "okay", "")


def test_a_missing_channel_is_attached_and_connected_to(node: Node, tmp_path: Path) -> None:
    node.see(domain(None))
    node.wait(lambda: ("attach", "vm", NAME) in node.asked)
    path = tmp_path / "port"
    node.guest(path)
    node.engine.post(Attached("vm", None))
    node.look_at(domain(path))
    node.wait_healthy()
    assert node.asked.count(("attach", "vm", NAME)) == 1
    assert node.said() == []


def test_a_channel_that_is_detached_as_soon_as_it_is_there_is_attached_again(node: Node) -> None:
    # What the events told of was over when libvirt was asked: to it nothing has changed.
    node.tells["vm"] = domain(None)
    node.see(domain(None))
    node.wait_attaches(1)
    node.engine.post(Attached("vm", None))
    node.wait_attaches(2)


def test_an_attach_that_fails_again_and_again_is_told_until_it_works(
    node: Node, tmp_path: Path
) -> None:
    for turn in range(1, 4):
        assert node.said() == []
        node.see(domain(None))
        node.wait_attaches(turn)
        node.engine.post(Attached("vm", "device not plugged"))
    assert "device not plugged" in node.wait_said("cannot-monitor", "warning").message
    path = tmp_path / "port"
    node.guest(path)
    node.look_at(domain(path))
    node.wait_said("cannot-monitor", "okay")


def test_attaching_to_vms_that_are_found_running_is_paced(start: Start) -> None:
    node = start(replace(SETTINGS, attach_rate=5.0))
    node.see(*(domain(None, uuid=str(number)) for number in range(20)))
    node.wait(lambda: [job for job in node.asked if job[0] == "attach"])
    time.sleep(0.5)
    assert 2 <= len([job for job in node.asked if job[0] == "attach"]) <= 5
    # A VM that has just started does not stand in that queue.
    node.look_at(domain(None, uuid="new"))
    node.wait(lambda: ("attach", "new", NAME) in node.asked)


def test_vms_that_the_policy_file_switches_on_have_not_just_started(start: Start) -> None:
    node = start(replace(SETTINGS, attach_rate=5.0))
    vms = [str(number) for number in range(20)]
    node.see(*(domain(None, None, uuid=uuid) for uuid in vms))
    node.engine.post(PoliciesRead(dict.fromkeys(vms, FAST), 1.0))
    node.wait(lambda: [job for job in node.asked if job[0] == "attach"])
    time.sleep(0.5)
    assert 2 <= len([job for job in node.asked if job[0] == "attach"]) <= 5


PATH = f"/run/libvirt/qemu/channel/1-instance-1/{NAME}"


def detaching(node: Node, error: str | None) -> Future[str]:
    """Asks for a detach, and answers for libvirt."""
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(node.engine.desk.detach, "vm")
        node.wait(lambda: ("detach", "vm", NAME, PATH) in node.asked)
        node.engine.post(Detached("vm", NAME, error))
    return asked


def test_the_channel_of_a_vm_that_is_not_monitored_is_detached_on_request(node: Node) -> None:
    node.see(domain(Path(PATH), {}))
    assert detaching(node, None).result() == NAME


def test_a_detach_that_libvirt_does_not_do_is_told(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.see(domain(Path(PATH), {}))
    assert "device busy" in str(detaching(node, "device busy").exception())
    monkeypatch.setattr(desk, "DETACHING_MAX", 0.1)
    with pytest.raises(Refusal, match="has yet to do it"):
        node.engine.desk.detach("vm")
    with pytest.raises(Refusal, match="has yet to do it"):
        node.engine.desk.detach("vm")
    assert node.asked.count(("detach", "vm", NAME, PATH)) == 2, "asked for once more, not twice"


def test_a_vm_that_is_monitored_keeps_its_channel(node: Node, tmp_path: Path) -> None:
    node.see(domain(tmp_path / "port"))
    node.wait(lambda: node.value("health") == 1)
    with pytest.raises(Refusal, match="resize it to a flavor without vmhb:enabled"):
        node.engine.desk.detach("vm")
    with pytest.raises(LookupError, match="no VM other"):
        node.engine.desk.detach("other")


def test_libvirt_that_stays_away_is_a_fault_of_the_host(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contact, "AWAY_MAX", 0.2)
    node.engine.post(Reachable("Connection refused"))
    node.engine.post(Reachable("Connection refused"))
    node.wait_said("engine-impaired", "failure", "")
    node.engine.post(Reachable(None))
    node.see()
    node.wait_said("engine-impaired", "okay", "")


def test_libvirt_that_answers_nothing_at_all_is_a_fault_of_the_host(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contact, "AWAY_MAX", 0.2)
    node = start(replace(SETTINGS, reconcile_interval=0.1))
    node.see()
    node.wait_said("engine-impaired", "failure", "")
    node.see()
    node.wait_said("engine-impaired", "okay", "")


@pytest.mark.parametrize("mode", [EngineMode.OBSERVE, EngineMode.ATTACH])
def test_a_mode_that_reports_nothing_watches_all_the_same(
    start: Start, mode: EngineMode, tmp_path: Path
) -> None:
    node = start(replace(SETTINGS, mode=mode))
    guest = node.guest(tmp_path / "port")
    node.see(domain(tmp_path / "port"), domain(None, uuid="other"))
    node.wait_healthy()
    guest.mode = Mode.SILENT
    node.wait(lambda: node.value("health") == 5)
    asked = [job for job in node.asked if job[0] == "attach"]
    assert asked == ([] if mode is EngineMode.OBSERVE else [("attach", "other", NAME)])
    assert {(note.type_instance, note.meta["incidents"]) for note in node.notes} == {
        ("open-faults", "[]")
    }


def test_a_vm_that_cannot_be_reviewed_does_not_cost_the_others_theirs(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sane = policy.policy_for

    def policy_for(specs: Any, settings: Settings) -> Any:
        if specs == {"odd": "1"}:
            raise ZeroDivisionError
        return sane(specs, settings)

    monkeypatch.setattr(engine_module, "policy_for", policy_for)
    node = start()
    node.guest(tmp_path / "port")
    odd = [domain(None, {"odd": "1"}, uuid=f"odd-{number}") for number in range(3)]
    node.see(*odd, domain(tmp_path / "port"))
    node.wait_healthy()
    node.wait(lambda: ("open-faults", "okay") in node.said(""))
    assert node.value("errors", "") == 3


def test_an_engine_that_has_stopped_takes_what_its_workers_still_find_out(
    start: Start,
) -> None:
    node = start()
    node.close()
    for _ in range(1000):
        node.engine.post(Reachable(None))
    node.engine.stop()


def test_a_guest_that_reads_nothing_costs_no_wake_ups(node: Node, tmp_path: Path) -> None:
    path = tmp_path / "port"
    node.guest(path, Mode.SILENT)
    node.see(domain(path))
    time.sleep(1)
    before = node.value("loops", "")
    time.sleep(1)
    assert node.value("loops", "") - before < 60


def many(node: Node, tmp_path: Path, count: int) -> list[str]:
    """So many VMs that answer, with thresholds that leave a mass time to show."""
    specs = {**FAST, "vmhb:miss_threshold": "5"}
    uuids = [f"vm-{number}" for number in range(count)]
    for uuid in uuids:
        node.guest(tmp_path / uuid)
    node.tells = {uuid: domain(tmp_path / uuid, specs, uuid=uuid) for uuid in uuids}
    node.see(*node.tells.values())
    node.wait(lambda: all(node.value("health", uuid) == 2 for uuid in uuids))
    return uuids


def test_many_vms_silent_at_once_are_one_fault_of_the_host_and_then_theirs(
    node: Node, tmp_path: Path
) -> None:
    uuids = many(node, tmp_path, 6)
    for guest in node.guests:
        guest.mode = Mode.SILENT
    host = node.wait_said("engine-impaired", "failure", "")
    assert "of 6 VMs fell silent together" in host.message
    assert not any(node.said(uuid) for uuid in uuids), "the host comes first"
    notes = [node.wait_said("heartbeat-lost", "failure", uuid) for uuid in uuids]
    assert all("correlated" in str(note.meta["evidence"]) for note in notes)
    assert ("engine-impaired", "okay") not in node.said(""), "it lasts with the silence"
    for guest in node.guests:
        guest.mode = Mode.HEALTHY
    node.wait_said("engine-impaired", "okay", "")


def test_many_vms_that_come_back_in_time_are_not_blamed(node: Node, tmp_path: Path) -> None:
    uuids = many(node, tmp_path, 6)
    for guest in node.guests:
        guest.mode = Mode.SILENT
    node.wait(lambda: all(node.value("health", uuid) == 5 for uuid in uuids))
    for guest in node.guests:
        guest.mode = Mode.HEALTHY
    node.wait(lambda: all(node.value("health", uuid) == 2 for uuid in uuids))
    time.sleep(0.5)
    assert not any(node.said(uuid) for uuid in uuids)


# -- policies that the domain's XML does not tell -------------------------------------------------


def test_a_vm_whose_xml_tells_nothing_is_monitored_as_the_policy_file_says(
    start: Start, tmp_path: Path
) -> None:
    node = start(policies=PoliciesRead({"vm": FAST}, 1.0))
    guest = node.guest(tmp_path / "port")
    node.see(domain(tmp_path / "port", None))
    node.wait_healthy()
    assert node.engine.desk.explain("vm")["policy"]["source"] == "the policy file"
    guest.mode = Mode.SILENT
    node.wait_said("heartbeat-lost", "failure")
    node.engine.post(PoliciesRead({"vm": {}}, 2.0))
    assert node.wait_said("heartbeat-lost", "okay").meta["reason"] == "monitoring is switched off"


def test_a_changed_policy_file_is_followed_without_a_word_of_libvirt(
    node: Node, tmp_path: Path
) -> None:
    node.guest(tmp_path / "port")
    node.see(domain(tmp_path / "port", None))
    node.wait(lambda: node.engine.desk.status()["unmonitored"])
    (other,) = node.engine.desk.status()["unmonitored"]
    assert "the policy file does not name it" in other["why"]
    node.engine.post(PoliciesRead({"vm": FAST}, 1.0))
    node.wait_healthy()
    node.engine.post(PoliciesRead({"vm": {**FAST, "vmhb:interval": "0.2"}}, 2.0))
    node.wait(lambda: node.engine.desk.explain("vm")["policy"]["interval"] == 0.2)
    assert node.engine.desk.status()["engine"]["policy_file"] == {
        "vms": 1,
        "written": 2.0,
        "error": None,
    }


def test_a_policy_file_that_is_only_confirmed_disturbs_no_vm(start: Start, tmp_path: Path) -> None:
    node = start(policies=PoliciesRead({"vm": FAST}, 1.0))
    guest = node.guest(tmp_path / "port")
    node.see(domain(tmp_path / "port", None))
    node.wait_healthy()
    for written in range(2, 12):
        node.engine.post(PoliciesRead({"vm": dict(FAST)}, float(written)))
    node.wait(lambda: node.engine.desk.status()["engine"]["policy_file"]["written"] == 11.0)
    node.wait_healthy()
    assert guest.connections == 1


def test_a_broken_policy_file_is_a_fault_of_the_host_and_of_no_vm(
    start: Start, tmp_path: Path
) -> None:
    node = start(policies=PoliciesRead({"vm": FAST}, 1.0))
    node.guest(tmp_path / "port")
    node.see(domain(tmp_path / "port", None))
    node.wait_healthy()
    node.engine.post(PoliciesRead({"vm": FAST}, 2.0, "the policy file is refused: line 3"))
    fault = node.wait_said("engine-impaired", "warning", "")
    assert ("line 3" in fault.message, fault.meta["reason"]) == (True, "policies")
    node.engine.post(PoliciesRead({"vm": FAST}, 3.0))
    node.wait_said("engine-impaired", "okay", "")
    assert node.said() == []
    assert node.value("health") == 2


def test_a_mistake_in_the_policy_file_is_that_vms_own_and_says_where(start: Start) -> None:
    node = start(policies=PoliciesRead({"vm": {**FAST, "vmhb:interval": "fast"}}, 1.0))
    node.see(domain(None, None))
    fault = node.wait_said("bad-policy", "warning")
    assert 'vmhb:interval="fast"' in fault.message
    assert "in the policy file" in fault.message


def test_the_xml_wins_over_the_file_and_the_file_over_a_pattern(
    start: Start, tmp_path: Path
) -> None:
    fast = replace(SETTINGS, flavor_policy=(FlavorPolicy("m?", FAST),))
    node = start(fast, policies=PoliciesRead({"by-file": {**FAST, "vmhb:interval": "0.3"}}, 1.0))
    for uuid in ("by-xml", "by-file", "by-name"):
        node.guest(tmp_path / uuid)
    node.see(
        domain(tmp_path / "by-xml", {**FAST, "vmhb:interval": "0.2"}, uuid="by-xml"),
        domain(tmp_path / "by-file", None, uuid="by-file"),
        domain(tmp_path / "by-name", None, uuid="by-name"),
        domain(None, {}, uuid="unasked"),
    )
    node.wait(lambda: all(node.value("health", u) == 2 for u in ("by-xml", "by-file", "by-name")))
    told = {
        uuid: (policy["interval"], policy["source"])
        for uuid in ("by-xml", "by-file", "by-name")
        for policy in [node.engine.desk.explain(uuid)["policy"]]
    }
    assert told == {
        "by-xml": (0.2, "the domain's XML"),
        "by-file": (0.3, "the policy file"),
        "by-name": (0.1, 'FlavorPolicy "m?"'),
    }
    (other,) = node.engine.desk.status()["unmonitored"]
    assert other["why"] == "its flavor m1 does not ask for it; so says the domain's XML"


# -- what passes between the loop and a VM's monitor ----------------------------------------------


def test_a_host_that_is_late_itself_gives_its_vms_more_time(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = node.guest(tmp_path / "port")
    node.see(domain(tmp_path / "port"))
    node.wait_healthy()
    # Of the 0.09 s that an answer may take.
    monkeypatch.setattr(Awareness, "stretch", property(lambda self: 15.0))
    # A challenge that is on its way has its time already.
    time.sleep(0.3)
    guest.mode = Mode.SILENT
    time.sleep(LONG)
    assert node.said() == []
    node.wait_said("heartbeat-lost", "failure")


def test_libvirt_is_asked_about_a_vm_with_its_first_miss(node: Node, tmp_path: Path) -> None:
    guest = node.guest(tmp_path / "port")
    node.see(domain(tmp_path / "port", {**FAST, "vmhb:miss_threshold": "90"}))
    node.wait_healthy()
    assert ("look", "vm") not in node.asked
    guest.mode = Mode.SILENT
    node.wait(lambda: ("look", "vm") in node.asked)
    time.sleep(0.5)
    assert (node.asked.count(("look", "vm")), node.said()) == (1, [])


def test_a_connection_that_stays_mute_is_opened_anew(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "MUTE", 0.5)
    guest = node.guest(tmp_path / "port")
    node.see(domain(tmp_path / "port"))
    node.wait_healthy()
    guest.mode = Mode.SILENT
    node.wait(lambda: guest.connections == 2)
    guest.mode = Mode.HEALTHY
    node.wait_healthy()


@pytest.mark.parametrize(("run", "lost"), [(1, True), (2, False)])
def test_who_was_established_before_a_restart_is_expected_in_the_same_run_alone(
    start: Start, tmp_path: Path, run: int, lost: bool
) -> None:
    node = start(state=State(established={"vm": 1}))
    node.guest(tmp_path / "port", Mode.SILENT)
    node.see(domain(tmp_path / "port", domain_id=run))
    # libvirt is asked of who is expected, and does not answer.
    time.sleep(LONG + (reprieve.LOOK_MAX if lost else 0.0))
    assert node.said() == ([("heartbeat-lost", "failure")] if lost else [])
    assert node.states[-1].established == ({"vm": 1} if lost else {})


def test_a_bad_policy_outlives_a_run_of_the_vm_and_not_the_vm(node: Node, tmp_path: Path) -> None:
    wrong = {**FAST, "vmhb:interval": "fast"}
    node.see(domain(tmp_path / "port", wrong))
    fault = node.wait_said("bad-policy", "warning")
    node.look_at(domain(None, wrong, domain_id=None, state=DomainState.SHUT_OFF))
    node.wait(lambda: node.engine.desk.status()["vms"] == [])
    node.look_at(domain(tmp_path / "port", wrong, domain_id=2))
    node.wait(lambda: node.engine.desk.status()["vms"])
    assert node.said() == [("bad-policy", "warning")]
    node.engine.post(Looked("vm", None))
    assert node.wait_said("bad-policy", "okay").meta["incident"] == fault.meta["incident"]


def test_a_guest_that_floods_is_not_read_for_a_while_and_costs_no_wake_ups(
    node: Node, tmp_path: Path
) -> None:
    node.guest(tmp_path / "port", Mode.FLOOD)
    node.see(domain(tmp_path / "port"))
    node.wait(lambda: node.value("bytes_in") > 0)
    time.sleep(1)
    bytes_before, loops_before = node.value("bytes_in"), node.value("loops", "")
    time.sleep(2)
    assert 0 < node.value("bytes_in") - bytes_before < 4 * BYTES_PER_SECOND
    assert node.value("loops", "") - loops_before < 200


def test_a_vm_that_boots_again_gets_its_grace(start: Start, tmp_path: Path) -> None:
    node = start(replace(SETTINGS, grace_after_reboot=LONG + 0.5))
    guest = node.guest(tmp_path / "port")
    node.see(domain(tmp_path / "port"))
    node.wait_healthy()
    guest.mode = Mode.SILENT
    node.engine.post(Rebooted("vm"))
    node.wait(lambda: node.value("health") == 1)
    time.sleep(LONG)
    assert node.said() == []
    node.wait_said("heartbeat-lost", "failure")
