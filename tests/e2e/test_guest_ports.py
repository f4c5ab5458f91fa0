# SPDX-License-Identifier: Apache-2.0
"""Three clients in real guests, at a channel that comes, goes and comes back; and two ttys."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from xml.etree import ElementTree

import libvirt
import pytest

from tests.e2e.conftest import SPECS, Cloud
from tests.lab.guest import CHANNEL, Guest
from tests.lab.lab import Lab
from tests.lab.layout import NODE_VENV
from tests.lab.product import stanza
from vmhb_conformance import rules
from vmhb_conformance.guest import Guest as Client
from vmhb_conformance.player import NotRunError, Player
from vmhb_conformance.port import SocketPort

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]

CHANNEL_XML = f"<channel type='unix'><target type='virtio' name='{CHANNEL}'/></channel>"
#: A second serial port as hw:serial_port_count=2 gives it, and a second virtio console.
TTYS = """
    <serial type='unix'><source mode='bind' path='/var/lib/libvirt/qemu/ttys.1'/></serial>
    <console type='null'><target type='virtio'/></console>
    <console type='unix'>
      <source mode='bind' path='/var/lib/libvirt/qemu/ttys.hvc1'/><target type='virtio'/>
    </console>"""


@pytest.fixture(scope="module")
def clients(lab: Lab) -> Iterator[dict[str, Guest]]:
    """A guest of each client; no flavor asks for monitoring, so the engine leaves them alone."""
    guests = {
        image: lab.boot(f"alone-{image}", image=image, extra_specs={}, memory=192)
        for image in ("python", "sh", "c")
    }
    for guest in guests.values():
        guest.wait_booted()
    yield guests
    for guest in guests.values():
        guest.destroy()
        guest.undefine()


@pytest.mark.parametrize(("image", "check"), [("sh", "check.health"), ("c", "check.app")])
def test_a_client_without_python_is_watched_with_its_check(
    cloud: Cloud, image: str, check: str
) -> None:
    specs = {**SPECS, "vmhb:miss_threshold": "20"}
    guest = cloud.lab.boot(f"watched-{image}", image=image, extra_specs=specs)
    try:
        cloud.healthy(guest)
        mark = cloud.mark()
        guest.break_check()
        cloud.notified(guest, check, bad=True, since=mark)
        guest.mend_check()
        cloud.notified(guest, check, bad=False, since=mark)
    finally:
        guest.destroy()
        guest.undefine()


def conformance(guest: Guest, *options: str) -> dict[str, str]:
    """Runs vmhb-conformance on the node, as its README says; rule -> outcome."""
    program = str(NODE_VENV / "bin" / "vmhb-conformance")
    arguments = ["--domain", guest.name, "--quick", "--json", "--timeout", "4", *options]
    command = guest.node.command(program, *arguments)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {rule["rule"]: rule["status"] for rule in json.loads(done.stdout)["rules"]}


@pytest.mark.parametrize("image", ["python", "sh", "c"])
def test_a_channel_that_is_plugged_in_later_and_again_is_served_by_the_rules(
    clients: dict[str, Guest], image: str
) -> None:
    guest = clients[image]
    guest.domain.attachDeviceFlags(CHANNEL_XML, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    passed = [rule for rule, status in conformance(guest).items() if status == "passed"]
    assert len(passed) > 15, "a tester that tries nothing proves nothing"
    domain = ElementTree.fromstring(guest.domain.XMLDesc())
    channel = domain.find(f".//channel/target[@name='{CHANNEL}']/..")
    assert channel is not None
    guest.domain.detachDeviceFlags(ElementTree.tostring(channel, encoding="unicode"))
    guest.run(f"while grep -q {CHANNEL} /sys/class/virtio-ports/*/name; do sleep 0.2; done", 20)
    guest.domain.attachDeviceFlags(CHANNEL_XML, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    assert "passed" in conformance(guest, "--base").values()


def test_the_agent_rests_while_there_is_no_host(clients: dict[str, Guest]) -> None:
    """Less than 0.1 % of a core is asked for, and much more without hardware virtualisation."""
    guest = clients["python"]
    guest.run("rm /etc/vmhb-guest/health.d/app; sleep 11", 20)  # until that has been noticed

    def ticks() -> int:
        stat = guest.run("cat /proc/$(cat /run/agent.pid)/stat").rpartition(") ")[2].split()
        return int(stat[11]) + int(stat[12])

    before, began = ticks(), time.monotonic()
    time.sleep(30)
    share = (ticks() - before) / 100 / (time.monotonic() - began)
    assert share < 0.05


@pytest.fixture(scope="module")
def ttys(cloud: Cloud) -> Iterator[Guest]:
    """A guest whose agent is at ttyS1; the operator allows serial ports meanwhile."""
    allowed = ("org.openstack.vmhb.0", "serial:1")
    cloud.collectd.stop()
    cloud.collectd.start(stanza(cloud.lab, HoldDown=0.0, ChannelsAllowed=allowed))
    guest = cloud.lab.boot(
        "ttys",
        image="python",
        extra_specs={**SPECS, "vmhb:channel": "serial:1", "vmhb:miss_threshold": "10"},
        port="/dev/ttyS1",
        devices=TTYS,
    )
    yield guest
    guest.destroy()
    guest.undefine()
    cloud.collectd.stop()
    cloud.collectd.start(cloud.stanza)


def test_the_agent_is_watched_at_a_serial_port_with_its_checks(cloud: Cloud, ttys: Guest) -> None:
    cloud.healthy(ttys)
    mark = cloud.mark()
    ttys.break_check()
    cloud.notified(ttys, "check.app", bad=True, since=mark)
    ttys.mend_check()
    cloud.notified(ttys, "check.app", bad=False, since=mark)
    ttys.stop_agent()
    cloud.notified(ttys, "heartbeat-lost", bad=True, since=mark)
    ttys.continue_agent()
    cloud.notified(ttys, "heartbeat-lost", bad=False, since=mark)


def test_a_port_that_is_held_is_said_to_be_so(cloud: Cloud, ttys: Guest) -> None:
    cloud.healthy(ttys)
    ttys.run(
        "python3 -m vmhb_guest --port-path /dev/ttyS1 --run-dir /run/second >/run/second.log 2>&1 &"
        " echo $! >/run/second.pid"
    )
    ttys.run("until grep -q 'in use' /run/second.log; do sleep 1; done", 60)
    holder = ttys.run("cat /run/agent.pid; kill $(cat /run/second.pid)")
    assert f"is in use by process {holder} (python3)" in ttys.run("cat /run/second.log")


def test_a_virtio_console_is_served_by_the_rules(ttys: Guest) -> None:
    ttys.wait_booted()
    ttys.run(
        "python3 -m vmhb_guest --port-path /dev/hvc1 --run-dir /run/hvc >/run/hvc.log 2>&1 &"
        " echo $! >/run/hvc.pid"
    )
    port = SocketPort(f"{ttys.node.root}/var/lib/libvirt/qemu/ttys.hvc1")
    port.can_hang_up = False  # QEMU does not tell a tty
    client = Client(port)
    player = Player(client, 4.0, None)
    player.meet()
    passed = 0
    for rule in rules.load():
        if rule.seconds < rules.SLOW and not rule.stops and not rule.optional:
            try:
                rule.play(player, client)
            except NotRunError:
                continue
            passed += 1
    assert passed > 12
    assert client.offences == {}
    ttys.run("kill $(cat /run/hvc.pid)")
