# SPDX-License-Identifier: Apache-2.0
"""The lab itself works: what the other end-to-end tests take for granted.

It comes first (conftest.py), while nothing of the product runs on the node.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from xml.etree import ElementTree

import libvirt
import pytest

from tests.lab.guest import CHANNEL, Guest
from tests.lab.lab import Lab
from tests.lab.layout import LAB, LabError

pytestmark = pytest.mark.timeout(180)

ATTACHED = f"<channel type='unix'><target type='virtio' name='{CHANNEL}'/></channel>"


@pytest.fixture(scope="module", params=["sh", "python"])
def guest(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Guest]:
    guest = lab.boot(f"lab-{request.param}", image=request.param)
    guest.wait_booted()
    yield guest
    guest.destroy()
    guest.undefine()


def first_line_of(guest: Guest, timeout: float = 20.0) -> str:
    """Connect to the channel as the engine does; return what the agent says first."""
    domain = ElementTree.fromstring(guest.domain.XMLDesc())
    source = domain.find(f".//channel/target[@name='{CHANNEL}']/../source")
    assert source is not None
    with socket.socket(socket.AF_UNIX) as channel:
        channel.settimeout(timeout)
        channel.connect(f"{guest.node.root}{source.get('path')}")
        return channel.recv(4096).decode().strip()


def agent_state(guest: Guest) -> str:
    """The state of the agent's process as /proc has it: S, R, T or gone."""
    return guest.run("awk '{print $3}' /proc/$(cat /run/agent.pid)/stat || echo gone")


def test_commands_run_in_a_guest(guest: Guest) -> None:
    assert guest.run("hostname; echo 'a  b'") == f"{guest.display_name}\na  b"


def test_a_command_that_fails_or_hangs_says_so(guest: Guest) -> None:
    with pytest.raises(LabError, match=r"'false' exits with 1"):
        guest.run("false")
    with pytest.raises(LabError, match="exits with 137"):
        guest.run("sleep 60", timeout=1)


def test_agent_greets_on_a_channel_that_is_attached_while_it_runs(guest: Guest) -> None:
    assert f"name='{CHANNEL}'" not in guest.domain.XMLDesc()
    guest.domain.attachDeviceFlags(ATTACHED, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    assert '"msg_type":"init"' in first_line_of(guest).replace(" ", "")


def test_agent_freezes_goes_on_dies_and_comes_back(guest: Guest) -> None:
    guest.stop_agent()
    assert agent_state(guest) == "T"
    guest.continue_agent()
    assert agent_state(guest) in "SR"
    guest.kill_agent()
    assert agent_state(guest).endswith("gone")
    guest.start_agent()
    assert agent_state(guest) in "SR"


def test_check_breaks_and_mends(guest: Guest) -> None:
    guest.break_check("disk on fire")
    assert guest.run("cat /run/app-broken") == "disk on fire"
    guest.mend_check()
    assert guest.run("ls /run/app-broken 2>/dev/null || echo mended") == "mended"


def test_domain_is_as_nova_defines_it(guest: Guest) -> None:
    nova = "{http://openstack.org/xmlns/libvirt/nova/1.1}"
    domain = ElementTree.fromstring(guest.domain.XMLDesc())
    specs = {each.get("name"): each.text for each in domain.iter(f"{nova}extraSpec")}
    assert specs == {"vmhb:enabled": "true", "vmhb:interval": "1"}
    assert domain.findtext(f".//{nova}name") == guest.display_name


def test_guest_without_controller_takes_no_channel(lab: Lab) -> None:
    guest = lab.boot("lab-no-controller", controller=False)
    try:
        with pytest.raises(libvirt.libvirtError, match="no virtio-serial controllers"):
            guest.domain.attachDeviceFlags(ATTACHED, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    finally:
        guest.destroy()
        guest.undefine()


def test_guests_outlive_libvirtd(lab: Lab, guest: Guest) -> None:
    lab.node.kill_libvirtd()
    assert guest.run("echo here") == "here"
    lab.node.start_libvirtd()
    assert guest.domain.isActive()


def test_collectd_runs_on_the_node_and_its_notifications_are_recorded(lab: Lab) -> None:
    collectd = lab.node.collectd
    collectd.start()
    collectd.ask(
        f"PUTNOTIF severity=failure time={time.time():.0f} host=a plugin=lab type=gauge "
        'message="it works" s:key=value'
    )
    row = collectd.wait_for(lambda row: row["plugin"] == "lab", timeout=5)
    assert (row["message"], row["meta"]) == ("it works", {"key": "value"})
    collectd.kill()
    collectd.start()
    collectd.stop()
    assert collectd.pid == 0


def test_vitrage_knows_the_guests_and_lists_no_alarm(lab: Lab, guest: Guest) -> None:
    deadline = time.monotonic() + 10
    while guest.uuid not in lab.vitrage.cli("resource", "list", "--all"):
        assert time.monotonic() < deadline, "Vitrage was told of the guest, but does not list it"
    assert lab.vitrage.alarm_list() == []


def test_another_process_can_attach(lab: Lab, guest: Guest) -> None:
    attached = Lab.attach(lab.directory)
    assert attached.guests[guest.display_name].run("echo here") == "here"
    assert attached.vitrage.alarm_list() == []
    attached.node.connection.close()


def test_a_lab_in_use_is_not_taken_over(lab: Lab) -> None:
    with pytest.raises(LabError, match="in use"):
        Lab(lab.directory).up()


def test_nothing_to_attach_to() -> None:
    with pytest.raises(LabError, match="no lab is up"):
        Lab.attach(LAB / "nowhere")
