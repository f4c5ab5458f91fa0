# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from collectd_vmhb.domain import Address, ChannelDevice, Domain, DomainState, parse_domain
from collectd_vmhb.provision import (
    Attach,
    Connect,
    Detach,
    Impossible,
    Leave,
    channel_xml,
    next_step,
    seen_from_here,
    to_detach,
)
from collectd_vmhb.settings import Mode
from collectd_vmhb.wording import Refusal

NAME = "org.openstack.vmhb.0"
PATH = "/var/lib/libvirt/qemu/channel/target/domain-1-instance-00000001/org.openstack.vmhb.0"
AGENT = ChannelDevice("org.qemu.guest_agent.0", "/run/qga.sock")


def domain(*channels: ChannelDevice, controller: bool = True) -> Domain:
    return Domain("u", "instance-1", 1, DomainState.RUNNING, None, channels, controller)


@pytest.mark.parametrize("mode", Mode)
def test_a_channel_that_is_there_is_connected_to_in_every_mode(mode: Mode) -> None:
    assert next_step(domain(AGENT, ChannelDevice(NAME, PATH)), NAME, mode) == Connect(PATH)


@pytest.mark.parametrize("mode", [Mode.ATTACH, Mode.REPORT])
def test_a_missing_channel_is_attached(mode: Mode) -> None:
    assert next_step(domain(AGENT), NAME, mode) == Attach(NAME)
    assert next_step(domain(ChannelDevice(NAME, PATH)), "cgcs.heartbeat", mode) == Attach(
        "cgcs.heartbeat"
    )


def test_an_observer_attaches_nothing() -> None:
    assert next_step(domain(AGENT), NAME, Mode.OBSERVE) == Leave()


@pytest.mark.parametrize("mode", Mode)
def test_without_a_controller_it_says_what_to_do(mode: Mode) -> None:
    step = next_step(domain(controller=False), NAME, mode)
    assert isinstance(step, Impossible)
    assert step.reason == "no-controller"
    assert "hw_qemu_guest_agent=yes" in step.text


@pytest.mark.parametrize("name", [NAME, "serial:1"])
@pytest.mark.parametrize("mode", Mode)
def test_a_port_that_belongs_to_somebody_else_is_left_to_him(mode: Mode, name: str) -> None:
    step = next_step(domain(ChannelDevice(name, None, "a pty")), name, mode)
    assert isinstance(step, Impossible)
    assert step.reason == "occupied"
    assert f"its {name} is a pty" in step.text


@pytest.mark.parametrize("address", ["/serial", ("127.0.0.1", 10001)])
def test_a_serial_port_is_connected_to(address: Address) -> None:
    ports = (ChannelDevice("serial:0", "/console"), ChannelDevice("serial:1", address))
    assert next_step(domain(*ports, controller=False), "serial:1", Mode.OBSERVE) == Connect(address)


def test_a_serial_port_that_is_missing_is_never_attached() -> None:
    step = next_step(domain(ChannelDevice("serial:0", "/console")), "serial:1", Mode.REPORT)
    assert isinstance(step, Impossible)
    assert step.reason == "no-serial-port"
    assert "no serial port 1" in step.text
    assert "hw:serial_port_count" in step.text


PATHS = (
    (Path("/var/lib/libvirt"), Path("/host/libvirt")),
    (Path("/var/lib/libvirt/qemu/channel"), Path("/channels")),
    (Path("/run/libvirt"), Path("/host/run")),
)


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("/var/lib/libvirt/qemu/a.sock", "/host/libvirt/qemu/a.sock"),
        ("/var/lib/libvirt/qemu/channel/target/a", "/channels/target/a"),
        ("/run/libvirt/qemu/channel/1-vm/a", "/host/run/qemu/channel/1-vm/a"),
        ("/run/libvirt-other/a", "/run/libvirt-other/a"),
        ("/run/libvirt", "/host/run"),
        ("/srv/a", "/srv/a"),
        (("127.0.0.1", 10001), ("127.0.0.1", 10001)),
    ],
)
def test_what_libvirt_names_is_found_under_the_longest_prefix(
    address: Address, here: Address
) -> None:
    assert seen_from_here(address, PATHS) == here
    assert seen_from_here(address, tuple(reversed(PATHS))) == here


def test_the_root_of_another_namespace_can_be_mapped() -> None:
    paths = [(Path("/"), Path("/proc/1/root"))]
    assert seen_from_here("/run/a", paths) == "/proc/1/root/run/a"


def test_novas_own_domain_with_the_guest_agents_channel_can_be_attached_to() -> None:
    xml = Path(__file__).parents[2] / "fixtures/domain-xml/nova-32.2.1.xml"
    nova = parse_domain(xml.read_text(), DomainState.RUNNING, 1)
    # What Nova asks for has no controller yet: libvirt adds it when it defines the domain.
    assert isinstance(next_step(nova, NAME, Mode.REPORT), Impossible)
    live = xml.with_name("nova-34.0.0-live.xml").read_text()
    assert next_step(parse_domain(live, DomainState.RUNNING, 1), NAME, Mode.REPORT) == Attach(NAME)


def test_the_device_names_its_port_and_leaves_the_path_to_libvirt() -> None:
    device = ElementTree.fromstring(channel_xml(NAME))
    target, source = device.find("target"), device.find("source")
    assert target is not None
    assert (device.get("type"), target.get("type"), target.get("name")) == ("unix", "virtio", NAME)
    assert source is None or source.get("path") is None


def test_the_device_to_detach_has_the_path_that_it_was_given() -> None:
    source = ElementTree.fromstring(channel_xml(NAME, "/a'b&c")).find("source")
    assert source is not None
    assert (source.get("mode"), source.get("path")) == ("bind", "/a'b&c")


@pytest.mark.parametrize(
    "path", [PATH, f"/run/libvirt/qemu/channel/1-instance-00000001/{NAME}"], ids=["9.0", "9.7"]
)
def test_what_was_attached_without_a_path_is_detached(path: str) -> None:
    there = domain(AGENT, ChannelDevice(NAME, path))
    assert to_detach(there, ("cgcs.heartbeat", NAME)) == Detach(NAME, path)


@pytest.mark.parametrize(
    ("port", "why"),
    [
        (AGENT, f"no channel of ours \\({NAME}\\)"),
        (ChannelDevice(NAME, f"/srv/{NAME}"), f"somebody else: a unix socket /srv/{NAME}"),
        (ChannelDevice(NAME, f"/run/libvirt/qemu/channel/2-other/{NAME}"), "somebody else"),
        (ChannelDevice(NAME, None, "a pty"), "somebody else: a pty$"),
        (ChannelDevice(NAME, ("127.0.0.1", 1)), "somebody else"),
    ],
)
def test_what_is_not_of_our_making_is_not_detached(port: ChannelDevice, why: str) -> None:
    with pytest.raises(Refusal, match=why):
        to_detach(domain(port), (NAME,))


def test_a_vm_that_is_shut_off_has_nothing_to_detach() -> None:
    with pytest.raises(Refusal, match="shut off"):
        to_detach(replace(domain(ChannelDevice(NAME, PATH)), domain_id=None), (NAME,))
