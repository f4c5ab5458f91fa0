# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from collectd_vmhb.domain import ChannelDevice, Domain, DomainState, parse_domain
from collectd_vmhb.provision import Attach, Connect, Impossible, Leave, channel_xml, next_step
from collectd_vmhb.settings import Mode

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


def test_a_channel_without_a_socket_says_what_to_do() -> None:
    step = next_step(domain(ChannelDevice(NAME, None)), NAME, Mode.REPORT)
    assert isinstance(step, Impossible)
    assert step.reason == "no-path"
    assert NAME in step.text


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
