# SPDX-License-Identifier: Apache-2.0
"""The life of a VM on real QEMU: what each event shows and tells (docs/lifecycle.md)."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable
from xml.etree import ElementTree

import libvirt
import pytest

from collectd_vmhb.control import ControlError, ask
from tests.e2e.conftest import OKAY, Cloud
from tests.lab.disk import Disk
from tests.lab.guest import CHANNEL, Guest
from tests.lab.lab import Lab
from tests.lab.node import Node

pytestmark = [pytest.mark.long, pytest.mark.timeout(120)]

INTERVAL, MISSES = 0.5, 6
SPECS = {
    "vmhb:enabled": "true",
    "vmhb:interval": str(INTERVAL),
    "vmhb:miss_threshold": str(MISSES),
    "vmhb:recovery_threshold": "2",
}
#: Seconds after which a silence that is not planned would have been told.
LONG = (MISSES + 1) * INTERVAL + 0.5
NOVA = "http://openstack.org/xmlns/libvirt/nova/1.1"

LOST = "heartbeat-lost: no-answer"
RECOVERED = "heartbeat-lost ends: recovered"


class Story:
    """One VM from here on: what the engine shows of it and what was told."""

    def __init__(self, cloud: Cloud, guest: Guest) -> None:
        self.cloud = cloud
        self.guest = guest
        self._mark = cloud.mark()

    @property
    def engine(self) -> dict[str, Any]:
        """All that the engine knows of the VM; nothing if it does not run or watch it."""
        path = f"{self.cloud.lab.node.root}/run/vmhb/control.sock"
        try:
            account: dict[str, Any] = ask(path, {"command": "explain", "vm": self.guest.uuid})
        except ControlError:
            return {}
        return account

    @property
    def beats(self) -> int:
        """The answers of this run."""
        return self.engine["counters"]["beats"] if self.engine else 0

    @property
    def told(self) -> list[str]:
        """The notifications about the VM, with the reason that each gives."""
        return [
            f"{row['type_instance']}{' ends' if row['severity'] == OKAY else ''}: "
            f"{row['meta']['reason']}"
            for row in self.cloud.collectd.notifications()[self._mark :]
            if row["plugin_instance"] == self.guest.uuid
        ]

    def shows(self, health: str, within: float = 40) -> None:
        """Waits for a health; "" is that of a VM which is not watched."""
        until(lambda: self.engine.get("health", "") == health, within, f"not shown as {health!r}")

    def tells(self, *told: str, within: float = 40) -> None:
        """Waits for that many notifications; they are exactly these."""
        until(lambda: len(self.told) >= len(told), within, f"not told: {told}")
        assert self.told == list(told)

    def tells_the_end_of_the_run(self) -> str:
        """Waits until the loss that was told ends, as the VM was destroyed; returns how."""
        until(lambda: len(self.told) == 2, 10, "not told that it ends")
        # libvirt may be asked while QEMU ends, or after it.
        ends = ("heartbeat-lost ends: shutting down", "heartbeat-lost ends: shut off")
        assert self.told[1] in ends
        return self.told[1]

    def goes_on(self, *told: str, within: float = 60) -> None:
        """Waits for a healthy VM whose beats go on; all that was told is this."""
        self.shows("healthy", within)
        beats = self.beats
        until(lambda: self.beats > beats + 2, within, "the beats do not go on")
        self.shows("healthy", within)
        time.sleep(0.3)
        assert self.told == list(told)


def until(true: Callable[[], object], within: float, what: str) -> None:
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture(scope="module")
def vm(cloud: Cloud) -> Iterator[Guest]:
    """The guest of all stories that leave it as it was."""
    guest = cloud.lab.boot("life", extra_specs=SPECS)
    yield guest
    if guest.domain.isActive():
        guest.destroy()
    guest.undefine()


@pytest.fixture
def story(cloud: Cloud, vm: Guest) -> Iterator[Story]:
    """A story that begins with a healthy guest; one that ends badly leaves the others one."""
    Story(cloud, vm).shows("healthy")
    yield Story(cloud, vm)
    story, vm.extra_specs = Story(cloud, vm), SPECS
    if story.engine.get("health") != "healthy":
        if vm.domain.isActive():
            os.kill(vm.pid, signal.SIGCONT)
            vm.destroy()
        vm.start()
        story.shows("healthy")


@pytest.fixture(scope="module")
def saved(cloud: Cloud, vm: Guest) -> str:
    """The guest as it runs, in a file: another run begins sooner from it than with a boot."""
    Story(cloud, vm).shows("healthy")
    file = f"/var/lib/libvirt/qemu/{vm.name}.save"
    vm.domain.save(file)
    vm.node.connection.restore(file)
    return file


def channel_of(guest: Guest) -> ElementTree.Element | None:
    domain = ElementTree.fromstring(guest.domain.XMLDesc())
    return domain.find(f".//channel/target[@name='{CHANNEL}']/..")


def soon(guest: Guest, command: str) -> None:
    """Types a command after which the guest does not answer any more."""
    guest.run(f"(sleep 0.2; {command}) >/dev/null 2>&1 &")


# -- stopped for a while --------------------------------------------------------------------


def test_pause_and_resume(story: Story, vm: Guest) -> None:
    vm.domain.suspend()
    story.shows("paused")
    time.sleep(LONG)
    vm.domain.resume()
    story.goes_on()


def test_save_and_restore(story: Story, vm: Guest) -> None:
    file = f"/var/lib/libvirt/qemu/{vm.name}.once"
    vm.domain.save(file)
    story.shows("")
    vm.node.connection.restore(file)
    story.goes_on()


def test_managed_save_and_start(story: Story, vm: Guest) -> None:
    vm.domain.managedSave()
    story.shows("")
    vm.domain.create()
    story.goes_on()


def test_restored_while_failed(story: Story, vm: Guest) -> None:
    vm.stop_agent()
    story.tells(LOST)
    file = f"/var/lib/libvirt/qemu/{vm.name}.failed"
    vm.domain.save(file)
    until(lambda: len(story.told) == 2, 10, "not told that it ends")
    end = story.told[1]
    vm.node.connection.restore(file)
    story.tells(LOST, end, LOST)
    vm.continue_agent()
    story.goes_on(LOST, end, LOST, RECOVERED)


def test_external_snapshot_of_the_memory(story: Story, vm: Guest) -> None:
    file = f"/var/lib/libvirt/qemu/{vm.name}.memory"
    snapshot = vm.domain.snapshotCreateXML(
        f"<domainsnapshot><memory snapshot='external' file='{file}'/></domainsnapshot>",
        libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_LIVE,
    )
    snapshot.delete(libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)
    story.goes_on()


def test_snapshots_of_a_disk(cloud: Cloud) -> None:
    disk = "/var/lib/libvirt/qemu/disk.qcow2"
    command = cloud.lab.node.command("qemu-img", "create", "-q", "-f", "qcow2", disk, "16M")
    subprocess.run(command, check=True)
    subprocess.run(cloud.lab.node.command("chmod", "666", disk), check=True)
    guest = cloud.lab.boot(
        "disk",
        extra_specs=SPECS,
        devices=f"<disk type='file'><driver name='qemu' type='qcow2'/><source file='{disk}'/>"
        "<target dev='vda' bus='virtio'/></disk>",
    )
    story = Story(cloud, guest)
    story.goes_on()
    guest.domain.snapshotCreateXML("<domainsnapshot/>")  # stops the VM for its time
    story.goes_on()
    only = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
    guest.domain.snapshotCreateXML("<domainsnapshot/>", only)
    story.goes_on()
    guest.destroy()
    for snapshot in guest.domain.listAllSnapshots():
        snapshot.delete(libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)
    guest.undefine()


def test_suspended_to_its_memory_by_the_guest(story: Story, vm: Guest) -> None:
    soon(vm, "echo mem >/sys/power/state")
    story.shows("paused")
    time.sleep(LONG)
    vm.domain.pMWakeup()
    story.goes_on()


@pytest.fixture
def full(cloud: Cloud) -> Iterator[tuple[Guest, Path]]:
    """A guest whose disk has less room on this host than the guest thinks, and what takes it."""
    disk = Disk(cloud.lab.node, "full")
    disk.mount()
    node_path = Path(f"{cloud.lab.node.root}{disk.path}")
    (node_path / "ballast").write_bytes(bytes(4 << 20))
    with (node_path / "vm.raw").open("wb") as file:
        file.truncate(32 << 20)
    (node_path / "vm.raw").chmod(0o666)
    guest = cloud.lab.boot(
        "full",
        extra_specs=SPECS,
        devices=f"<disk type='file'><driver name='qemu' type='raw' cache='none'/>"
        f"<source file='{disk.path}/vm.raw'/><target dev='vda' bus='virtio'/></disk>",
    )
    yield guest, node_path / "ballast"
    guest.destroy()
    guest.undefine()
    disk.unmount()


def test_stopped_by_qemu_on_an_io_error(cloud: Cloud, full: tuple[Guest, Path]) -> None:
    guest, ballast = full
    story = Story(cloud, guest)
    story.goes_on()
    soon(guest, "dd if=/dev/zero of=/dev/vda bs=64k count=200 conv=fsync")
    story.tells(LOST)
    assert story.engine["domain"]["state"] == "stopped by a failure"
    ballast.unlink()
    guest.domain.resume()
    story.goes_on(LOST, RECOVERED)


# -- boots again ----------------------------------------------------------------------------


def test_clean_reboot_in_the_guest(story: Story, vm: Guest) -> None:
    soon(vm, "kill -TERM -$(cat /run/agent.pid); sleep 0.3; reboot -f")
    story.shows("establishing")
    story.goes_on()


def test_sudden_reboot_in_the_guest(story: Story, vm: Guest) -> None:
    soon(vm, "reboot -f")
    story.shows("establishing")
    story.goes_on()


def test_kernel_panic_that_reboots(story: Story, vm: Guest) -> None:
    soon(vm, "echo c >/proc/sysrq-trigger")
    story.shows("establishing")
    story.goes_on()


def test_kernel_panic_that_hangs_until_a_reset(story: Story, vm: Guest) -> None:
    vm.run("echo 0 >/proc/sys/kernel/panic")
    soon(vm, "echo c >/proc/sysrq-trigger")
    story.tells(LOST)
    vm.domain.reset()
    time.sleep(1)
    assert story.engine["health"] == "failed", "a reset alone heals nothing"
    story.goes_on(LOST, RECOVERED)


@pytest.fixture
def panicking(cloud: Cloud) -> Iterator[Guest]:
    """A guest with a device through which libvirt sees a panic."""
    guest = cloud.lab.boot("panicking", extra_specs=SPECS, devices="<panic model='isa'/>")
    guest.wait_booted()
    yield guest
    if guest.domain.isActive():
        guest.destroy()
    guest.undefine()


def test_kernel_panic_that_libvirt_sees(cloud: Cloud, panicking: Guest) -> None:
    story = Story(cloud, panicking)
    story.goes_on()
    soon(panicking, "echo c >/proc/sysrq-trigger")
    story.shows("")
    panicking.on_crash = "preserve"
    panicking.start()
    story.goes_on()
    soon(panicking, "echo c >/proc/sysrq-trigger")
    story.tells(LOST)
    assert story.engine["domain"]["state"] == "stopped by a failure"
    panicking.destroy()
    story.tells_the_end_of_the_run()


def test_out_of_memory(story: Story, vm: Guest) -> None:
    killed = vm.run("tail /dev/zero; echo $?", timeout=60)
    assert killed.endswith("137"), "the kernel kills what takes all memory"
    story.goes_on()


def test_reboot_that_libvirt_cannot_tell_of(story: Story, vm: Guest) -> None:
    vm.node.kill_libvirtd()
    soon(vm, "reboot -f")
    story.tells(LOST)
    vm.node.start_libvirtd()
    story.goes_on(LOST, RECOVERED)


# -- switched off ---------------------------------------------------------------------------


def test_shutdown_from_inside(story: Story, vm: Guest, saved: str) -> None:
    soon(vm, "kill -TERM -$(cat /run/agent.pid); sleep 0.3; poweroff -f")
    story.shows("")
    vm.node.connection.restore(saved)
    story.goes_on()


def test_shutdown_from_outside_that_the_guest_follows(story: Story, vm: Guest, saved: str) -> None:
    # What acpid or logind does: who has the power button's device open is told that it was pressed.
    event = "$(ls /sys/devices/LNXSYSTM:00/LNXPWRBN:00/input/input*/ | grep event)"
    off = "kill -TERM -$(cat /run/agent.pid); sleep 0.3; poweroff -f"
    vm.run(f"(head -c 1 /dev/input/{event}; {off}) >/dev/null 2>&1 & sleep 0.5")
    vm.domain.shutdown()
    story.shows("")
    vm.node.connection.restore(saved)
    story.goes_on()


def test_shutdown_from_outside_that_the_guest_does_not_follow(story: Story, vm: Guest) -> None:
    vm.domain.shutdown()
    time.sleep(LONG)
    story.goes_on()


def test_qemu_killed(story: Story, vm: Guest, saved: str) -> None:
    os.kill(vm.pid, signal.SIGKILL)
    story.shows("")
    vm.node.connection.restore(saved)
    story.goes_on()


def test_qemu_stopped(story: Story, vm: Guest) -> None:
    os.kill(vm.pid, signal.SIGSTOP)
    story.tells(LOST)
    os.kill(vm.pid, signal.SIGCONT)
    story.goes_on(LOST, RECOVERED)


def test_pause_while_failed(story: Story, vm: Guest) -> None:
    vm.stop_agent()
    story.tells(LOST)
    vm.domain.suspend()
    story.tells(LOST, "heartbeat-lost ends: paused")
    vm.domain.resume()
    story.tells(LOST, "heartbeat-lost ends: paused", LOST)
    vm.continue_agent()
    story.goes_on(LOST, "heartbeat-lost ends: paused", LOST, RECOVERED)


def test_destroy_of_a_vm_that_is_asked_often(story: Story, vm: Guest, saved: str) -> None:
    set_specs(vm, interval="0.2", miss_threshold="4")
    story.goes_on()
    vm.destroy()
    story.shows("")
    time.sleep(1)
    assert story.told == []
    vm.extra_specs = SPECS
    vm.define()
    vm.node.connection.restore(saved)
    story.goes_on()


def test_rescue(story: Story, vm: Guest, saved: str) -> None:
    vm.destroy()
    story.shows("")
    vm.undefine()
    vm.image, vm.agent = "python", False
    vm.start()
    story.shows("establishing")
    time.sleep(LONG)
    assert story.engine["health"] == "establishing", "the rescue image has no agent"
    vm.destroy()
    vm.undefine()
    vm.image, vm.agent = "sh", True
    vm.define()
    vm.node.connection.restore(saved)
    story.goes_on()


# -- the agent ------------------------------------------------------------------------------


def test_agent_killed_and_started(story: Story, vm: Guest) -> None:
    vm.kill_agent()
    story.tells(LOST)
    vm.start_agent()
    story.goes_on(LOST, RECOVERED)


def test_agent_stopped_as_a_service_is(story: Story, vm: Guest) -> None:
    vm.run("kill -TERM -$(cat /run/agent.pid)")
    story.shows("establishing")
    time.sleep(LONG)
    assert story.engine["health"] == "establishing"
    vm.start_agent()
    story.goes_on()


def test_agent_restarted(story: Story, vm: Guest) -> None:
    vm.run("kill -KILL -$(cat /run/agent.pid); agent-start")
    story.goes_on()


# -- the channel ----------------------------------------------------------------------------


def test_channel_detached(story: Story, vm: Guest) -> None:
    channel = channel_of(vm)
    assert channel is not None
    vm.domain.detachDeviceFlags(ElementTree.tostring(channel, encoding="unicode"))
    until(lambda: channel_of(vm) is not None, 10, "not attached again")
    story.goes_on()


def test_another_reader_has_the_channel(story: Story, vm: Guest) -> None:
    time.sleep(1)  # until it is on disk that this VM answers
    story.cloud.collectd.stop()
    source = ElementTree.fromstring(vm.domain.XMLDesc()).find(
        f".//channel/target[@name='{CHANNEL}']/../source"
    )
    assert source is not None
    with socket.socket(socket.AF_UNIX) as rival:
        rival.connect(f"{vm.node.root}{source.get('path')}")
        story.cloud.collectd.start(story.cloud.stanza)
        story.tells("heartbeat-lost: not-accepted")
        assert story.engine["channel"]["state"] == "connected, no session"
        assert "another program on this host" in story.engine["channel"]["obstacle"]
    story.goes_on("heartbeat-lost: not-accepted", RECOVERED)


# -- the services of the host ----------------------------------------------------------------


def test_collectd_restarted_in_order(story: Story, vm: Guest) -> None:
    story.cloud.collectd.stop()
    story.cloud.collectd.start(story.cloud.stanza)
    story.goes_on()


def test_libvirtd_restarted_in_order(story: Story, vm: Guest) -> None:
    vm.node.kill_libvirtd(signal.SIGTERM)
    vm.node.start_libvirtd()
    story.goes_on()


# -- Nova -----------------------------------------------------------------------------------


def start_as_nova_does(story: Story, vm: Guest, **changed: str) -> None:
    """A hard reboot; a resize is one with other extra specs."""
    vm.destroy()
    story.shows("")
    vm.undefine()
    vm.extra_specs = {**SPECS, **{f"vmhb:{key}": value for key, value in changed.items()}}
    vm.start()


def test_hard_reboot_and_resize_by_nova(story: Story, vm: Guest, saved: str) -> None:
    start_as_nova_does(story, vm, interval="0.4")
    story.goes_on()
    assert story.engine["policy"]["interval"] == 0.4
    assert channel_of(vm) is not None
    start_as_nova_does(story, vm, enabled="false")
    time.sleep(1.5)
    assert story.engine == {}
    assert channel_of(vm) is None
    vm.destroy()
    vm.extra_specs = SPECS
    vm.define()
    vm.node.connection.restore(saved)
    story.goes_on()


def set_specs(vm: Guest, **changed: str) -> None:
    """Changes the metadata of a running VM, as Nova does it."""
    vm.extra_specs = {**SPECS, **{f"vmhb:{key}": value for key, value in changed.items()}}
    found = re.search(r"<nova:instance .*</nova:instance>", vm.xml(), re.DOTALL)
    assert found
    element = libvirt.VIR_DOMAIN_METADATA_ELEMENT
    vm.domain.setMetadata(element, found[0], "instance", NOVA, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def test_metadata_changed_while_it_runs(story: Story, vm: Guest) -> None:
    set_specs(vm, interval="0.4")
    until(lambda: story.engine["policy"]["interval"] == 0.4, 10, "the change is not seen")
    story.goes_on()
    set_specs(vm, enabled="false")
    story.shows("")
    assert channel_of(vm) is not None, "it detaches nothing by itself"
    set_specs(vm)
    story.goes_on()


def test_monitoring_switched_off_while_failed(story: Story, vm: Guest) -> None:
    vm.stop_agent()
    story.tells(LOST)
    set_specs(vm, enabled="false")
    story.tells(LOST, "heartbeat-lost ends: monitoring is switched off")
    vm.continue_agent()
    set_specs(vm)
    story.goes_on(LOST, "heartbeat-lost ends: monitoring is switched off")


def test_deleted_while_failed(story: Story, vm: Guest, saved: str) -> None:
    vm.stop_agent()
    story.tells(LOST)
    vm.destroy()
    end = story.tells_the_end_of_the_run()
    vm.undefine()
    story.shows("")
    vm.define()
    vm.node.connection.restore(saved)
    story.goes_on(LOST, end)


# -- another node ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def elsewhere(cloud: Cloud) -> Iterator[Cloud]:
    """The product on a second node, which Vitrage knows nothing of."""
    lab = Lab(cloud.lab.directory)
    lab.node = Node(cloud.lab.directory / "compute-1", "compute-1")
    lab.vitrage = cloud.lab.vitrage
    lab.node.start()
    try:
        there = Cloud(lab)
        there.collectd.start(there.stanza)
        yield there
        there.collectd.stop()
    finally:
        lab.node.stop()


def migrate(guest: Guest, there: Node, mib_a_second: int = 0) -> Guest:
    """Moves a VM as Nova does; returns it where it is then."""
    arrived = Guest(there, **guest.options())  # type: ignore[arg-type]
    arrived.xml()  # brings the image along
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    guest.domain.migrate3(
        there.connection,
        {
            libvirt.VIR_MIGRATE_PARAM_URI: f"tcp://127.0.0.1:{port}",
            **({libvirt.VIR_MIGRATE_PARAM_BANDWIDTH: mib_a_second} if mib_a_second else {}),
        },
        libvirt.VIR_MIGRATE_LIVE
        | libvirt.VIR_MIGRATE_PERSIST_DEST
        | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
        | libvirt.VIR_MIGRATE_UNSAFE,
    )
    return arrived


def test_live_migration_there_and_back(story: Story, vm: Guest, elsewhere: Cloud) -> None:
    there = Story(elsewhere, vm)
    arrived = migrate(vm, elsewhere.lab.node)
    there.goes_on()
    story.shows("")
    assert story.told == []
    arrived.stop_agent()
    there.tells(LOST)
    migrate(arrived, vm.node)
    there.tells(LOST, "heartbeat-lost ends: paused")
    there.shows("")
    story.tells(LOST)
    vm.continue_agent()
    story.goes_on(LOST, RECOVERED)
    assert there.told == [LOST, "heartbeat-lost ends: paused"]


def test_five_migrations_in_a_row(story: Story, vm: Guest, elsewhere: Cloud) -> None:
    there = Story(elsewhere, vm)
    here = vm
    for turn in range(5):
        here = migrate(here, vm.node if turn % 2 else elsewhere.lab.node)
    there.goes_on()
    story.shows("")
    migrate(here, vm.node)
    story.goes_on()
    assert there.told == []


def test_migration_that_fails_half_way(story: Story, vm: Guest, elsewhere: Cloud) -> None:
    there = Story(elsewhere, vm)
    errors: list[libvirt.libvirtError] = []

    def move() -> None:
        try:
            migrate(vm, elsewhere.lab.node, mib_a_second=1)
        except libvirt.libvirtError as error:
            errors.append(error)

    mover = threading.Thread(target=move, daemon=True)
    mover.start()
    arriving = Guest(elsewhere.lab.node, **vm.options())  # type: ignore[arg-type]
    pid_file = elsewhere.lab.node.run / "libvirt" / "qemu" / f"{vm.name}.pid"
    until(pid_file.exists, 20, "the migration does not begin")
    time.sleep(LONG)
    os.kill(arriving.pid, signal.SIGKILL)
    mover.join(60)
    assert len(errors) == 1
    story.goes_on()
    there.shows("")
    assert there.told == []


def test_migration_that_is_given_up(story: Story, vm: Guest, elsewhere: Cloud) -> None:
    there = Story(elsewhere, vm)
    errors: list[libvirt.libvirtError] = []

    def move() -> None:
        try:
            migrate(vm, elsewhere.lab.node, mib_a_second=1)
        except libvirt.libvirtError as error:
            errors.append(error)

    mover = threading.Thread(target=move, daemon=True)
    mover.start()
    until(lambda: there.engine.get("health") == "paused", 20, "the migration does not begin")
    time.sleep(LONG)
    vm.domain.abortJob()
    mover.join(60)
    assert len(errors) == 1
    story.goes_on()
    there.shows("")
    assert there.told == []


def test_migration_of_a_paused_vm(story: Story, vm: Guest, elsewhere: Cloud) -> None:
    there = Story(elsewhere, vm)
    vm.domain.suspend()
    story.shows("paused")
    arrived = migrate(vm, elsewhere.lab.node)
    there.shows("paused")
    time.sleep(LONG)
    arrived.domain.resume()
    there.goes_on()
    migrate(arrived, vm.node)
    story.goes_on()
    assert there.told == []
