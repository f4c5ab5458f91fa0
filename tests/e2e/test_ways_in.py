# SPDX-License-Identifier: Apache-2.0
"""The ways into a guest, on real QEMU: serial ports, channels of other people, `vmhb detach`."""

from __future__ import annotations

import re
import socket
import subprocess
import time
from collections.abc import Iterator

import libvirt
import pytest

from collectd_vmhb.control import ControlError, ask
from tests.e2e.conftest import SPECS, Cloud
from tests.lab import processes
from tests.lab.guest import CHANNEL, Guest
from tests.lab.lab import Lab
from tests.lab.node import Node
from tests.lab.product import stanza

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]

NOVA = "http://openstack.org/xmlns/libvirt/nova/1.1"
PORTS = ("org.openstack.vmhb.0", "serial:1", "serial:2")


@pytest.fixture(scope="module", autouse=True)
def _allowed(cloud: Cloud) -> Iterator[None]:
    """The operator allows serial ports for the time of this module."""
    cloud.collectd.stop()
    keys = stanza(
        cloud.lab, HoldDown=0.0, GraceAfterResume=3.0, ReconcileInterval=2.0, ChannelsAllowed=PORTS
    )
    cloud.collectd.start(keys)
    yield
    cloud.collectd.stop()
    cloud.collectd.start(cloud.stanza)


def set_specs(guest: Guest, **changed: str) -> None:
    """Changes the extra specs of a running VM, as Nova does it."""
    guest.extra_specs = {**SPECS, **{f"vmhb:{key}": value for key, value in changed.items()}}
    found = re.search(r"<nova:instance .*</nova:instance>", guest.xml(), re.DOTALL)
    assert found
    element = libvirt.VIR_DOMAIN_METADATA_ELEMENT
    guest.domain.setMetadata(element, found[0], "instance", NOVA, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def serve(guest: Guest, tty: str) -> None:
    """Starts the shell's agent on a serial port."""
    script = "/usr/share/vmhb-guest/vmhb-guest.sh"
    guest.run(
        f"stty raw -echo <{tty}; setsid sh {script} {tty} </dev/null >/dev/null 2>&1 & "
        f"echo $! >/run/agent.pid"
    )


def test_serial_ports_that_nova_gives_are_a_way_in(cloud: Cloud) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    guest = cloud.lab.boot(
        "serial",
        controller=False,
        agent=False,
        extra_specs={**SPECS, "vmhb:channel": "serial:1"},
        devices=f"""
    <serial type='unix'><source mode='bind' path='/var/lib/libvirt/qemu/serial.1'/></serial>
    <serial type='tcp'>
      <source mode='bind' host='127.0.0.1' service='{port}'/><protocol type='raw'/>
    </serial>""",
    )
    try:
        guest.wait_booted()
        serve(guest, "/dev/ttyS1")
        cloud.healthy(guest)
        mark = cloud.mark()
        guest.kill_agent()
        cloud.notified(guest, "heartbeat-lost", bad=True, since=mark)
        serve(guest, "/dev/ttyS1")
        cloud.notified(guest, "heartbeat-lost", bad=False, since=mark)
        guest.kill_agent()
        set_specs(guest, channel="serial:2")
        serve(guest, "/dev/ttyS2")
        cloud.healthy(guest)
        mark = cloud.mark()
        guest.kill_agent()
        cloud.notified(guest, "heartbeat-lost", bad=True, since=mark)
    finally:
        guest.destroy()
        guest.undefine()


def test_a_serial_port_that_is_not_there_is_told(cloud: Cloud) -> None:
    mark = cloud.mark()
    guest = cloud.lab.boot("bare", agent=False, extra_specs={**SPECS, "vmhb:channel": "serial:1"})
    try:
        row = cloud.notified(guest, "cannot-monitor", bad=True, since=mark)
        assert row["meta"]["reason"] == "no-serial-port"
    finally:
        guest.destroy()
        guest.undefine()


def channel_of(guest: Guest) -> bool:
    return f"name='{CHANNEL}'" in guest.domain.XMLDesc()


def vmhb(cloud: Cloud, command: str, guest: Guest) -> str:
    """What the engine answers, or why it refuses."""
    path = f"{cloud.lab.node.root}/run/vmhb/control.sock"
    try:
        return str(ask(path, {"command": command, "vm": guest.uuid}))
    except ControlError as error:
        return str(error)


def test_a_channel_is_detached_on_request_alone(cloud: Cloud) -> None:
    guest = cloud.lab.boot("detach", extra_specs=SPECS)
    try:
        cloud.healthy(guest)
        mark = cloud.mark()
        assert "it is monitored" in vmhb(cloud, "detach", guest)
        set_specs(guest, enabled="false")
        deadline = time.monotonic() + 10
        while "no VM" not in vmhb(cloud, "explain", guest):
            assert time.monotonic() < deadline, "still monitored"
        assert channel_of(guest), "nothing is detached by itself"
        assert vmhb(cloud, "detach", guest) == CHANNEL
        deadline = time.monotonic() + 10
        while channel_of(guest):
            assert time.monotonic() < deadline, "still there"
        assert "no channel of ours" in vmhb(cloud, "detach", guest)
        assert guest.run("ls /dev/virtio-ports").split() == ["org.qemu.guest_agent.0"]
        set_specs(guest)
        deadline = time.monotonic() + 30
        while "'health': 'healthy'" not in vmhb(cloud, "explain", guest):
            assert time.monotonic() < deadline, "not healthy again"
        assert channel_of(guest)
        assert cloud.faults(mark) == []
    finally:
        guest.destroy()
        guest.undefine()


# -- collectd in a container -----------------------------------------------------------------


def test_a_directory_that_is_elsewhere_for_collectd_and_deeper_than_an_address(
    cloud: Cloud,
) -> None:
    guest = cloud.lab.boot("contained", extra_specs=SPECS)
    node = cloud.lab.node
    elsewhere = f"/run/{'containers' * 6}/{'volumes' * 8}"
    try:
        cloud.healthy(guest)
        cloud.collectd.stop()
        mapped = ("/var/lib/libvirt", elsewhere)
        cloud.collectd.start(stanza(cloud.lab, SocketPathMap=mapped, HoldDown=0.0))
        deadline = time.monotonic() + 20
        while elsewhere not in vmhb(cloud, "explain", guest):
            assert time.monotonic() < deadline, "it connects to another path"
            time.sleep(0.2)
        subprocess.run(node.command("mkdir", "-p", elsewhere), check=True)
        bind = node.command("mount", "--bind", "/var/lib/libvirt", elsewhere)
        subprocess.run(bind, check=True)
        cloud.healthy(guest)
    finally:
        cloud.collectd.stop()
        subprocess.run(node.command("umount", elsewhere), check=False)
        cloud.collectd.start(
            stanza(cloud.lab, HoldDown=0.0, ReconcileInterval=2.0, ChannelsAllowed=PORTS)
        )
        guest.destroy()
        guest.undefine()


# -- libvirt's daemon -----------------------------------------------------------------------


@pytest.fixture
def bare(cloud: Cloud) -> Iterator[Lab]:
    """A node without VMs."""
    lab = Lab(cloud.lab.directory)
    lab.node = Node(cloud.lab.directory / "compute-2", "compute-2")
    lab.node.start()
    yield lab
    lab.node.collectd.stop()
    lab.node.stop()


def begin_libvirtd(node: Node) -> int:
    """Starts one that exits after 2 s without a client, as systemd's units have it after 120."""
    node.start_libvirtd("--timeout", "2")
    node.disconnect()
    return int((node.run / "libvirtd.pid").read_text())


def libvirt_is(node: Node, state: str) -> bool:
    try:
        said = ask(f"{node.root}/run/vmhb/control.sock", {"command": "status"})
    except ControlError:
        return False
    return bool(said["engine"]["libvirt"] == state)


def test_a_daemon_that_exits_when_idle_is_kept_up_and_found_again(bare: Lab) -> None:
    node = bare.node
    node.kill_libvirtd()
    daemon = begin_libvirtd(node)
    uri = "qemu+unix:///system?socket=/run/libvirt/libvirt-sock"
    keys = stanza(bare, notifier=False, LibvirtUri=uri)
    node.collectd.start(keys)
    processes.wait_until(lambda: libvirt_is(node, "connected"), 20, "not connected")
    time.sleep(6)
    assert processes.is_alive(daemon), "the engine's connection keeps it up"
    node.collectd.stop()
    processes.wait_until(lambda: not processes.is_alive(daemon), 20, "it does not exit when idle")
    node.collectd.start(keys)
    begin_libvirtd(node)
    processes.wait_until(lambda: libvirt_is(node, "connected"), 20, "not connected again")
