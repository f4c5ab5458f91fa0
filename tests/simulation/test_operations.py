# SPDX-License-Identifier: Apache-2.0
"""What operators do to a cloud, told as stories of whole hosts (docs/lifecycle.md)."""

from __future__ import annotations

import pytest

from collectd_vmhb.verdict import HEARTBEAT_LOST
from tests.simulation.cloud import Cloud
from tests.simulation.hosts import (
    HOST,
    LATEST,
    LATEST_AFTER_GRACE,
    SPECS,
    host_of,
    told,
)
from tests.simulation.node import Node
from tests.simulation.vm import Vm

pytestmark = pytest.mark.timeout(120)


def test_a_host_is_emptied_by_live_migration(cloud: Cloud) -> None:
    node, other = host_of(cloud, 40), host_of(cloud, 40, name="other")
    # Two at a time, as Nova has it, each with a downtime of its own.
    for number, vm in enumerate(list(node.vms.values())):
        vm.pause()
        cloud.run(cloud.rng.choice((0.05, 0.5, 3.0)))
        vm.move(other)
        if number % 2:
            cloud.run(cloud.rng.uniform(0.0, 2.0))
    cloud.run(60.0)
    assert node.alarms.raised == other.alarms.raised == []
    assert {other.health(uuid) for uuid in other.vms} == {"healthy"}
    assert len(other.vms) == 80


def test_a_host_whose_vms_are_all_paused_at_once_and_resumed(cloud: Cloud) -> None:
    node = host_of(cloud, 30)
    for _ in range(3):
        for vm in node.vms.values():
            vm.pause()
        cloud.run(120.0)
        for vm in node.vms.values():
            vm.resume()
        cloud.run(20.0)
    assert node.alarms.raised == []
    assert {node.health(uuid) for uuid in node.vms} == {"healthy"}


def test_libvirtd_is_upgraded_while_vms_hang_and_go_off(cloud: Cloud) -> None:
    node = host_of(cloud, 10)
    hung, off, *others = node.vms.values()
    node.lose_libvirt()
    hung.hang()
    cloud.run(LATEST)
    assert told(node) == [(hung.uuid, HEARTBEAT_LOST)]
    off.stop()
    cloud.run(1.0)
    node.find_libvirt()
    cloud.run(30.0)
    assert told(node) == [(hung.uuid, HEARTBEAT_LOST)], "who is off is not lost"
    assert {node.health(vm.uuid) for vm in others} == {"healthy"}


def test_collectd_is_upgraded_while_vms_come_and_go(cloud: Cloud) -> None:
    node, other = host_of(cloud, 10), host_of(cloud, 0)
    lost, gone, moved, again, paused, *others = node.vms.values()
    lost.hang()
    cloud.run(LATEST)
    node.stop()
    gone.stop()
    gone.undefine()
    moved.pause()
    cloud.run(1.0)
    moved.move(other)
    again.stop()
    again.start(60.0)
    paused.pause()
    came = Vm(node, "came", SPECS)
    came.start(60.0)
    cloud.run(30.0)
    node.start()
    cloud.run(120.0)
    assert told(node) == [(lost.uuid, HEARTBEAT_LOST)], "the same incident goes on"
    assert other.alarms.raised == []
    assert other.health(moved.uuid) == "healthy"
    assert (node.health(gone.uuid), node.health(paused.uuid)) == ("", "paused")
    assert {node.health(vm.uuid) for vm in (again, came, *others)} == {"healthy"}


def test_a_host_sleeps_for_an_hour(cloud: Cloud) -> None:
    node = host_of(cloud, 20)
    node.freeze(3600.0)
    cloud.run(3660.0)
    assert node.alarms.raised == []
    assert {node.health(uuid) for uuid in node.vms} == {"healthy"}


def test_images_without_an_agent(cloud: Cloud) -> None:
    node = Node(cloud, HOST)
    node.start()
    for number in range(30):
        Vm(node, f"vm-{number}", SPECS).start(None)
    cloud.run(3600.0)
    for vm in node.vms.values():
        vm.reset(None)
    cloud.run(3600.0)
    assert node.alarms.raised == []
    assert {node.health(uuid) for uuid in node.vms} == {"establishing"}


def test_all_vms_of_a_host_boot_at_once_and_slowly(cloud: Cloud) -> None:
    node = Node(cloud, HOST)
    node.start()
    specs = {**SPECS, "vmhb:required": "true"}
    for number in range(40):
        Vm(node, f"vm-{number}", specs).start(cloud.rng.uniform(30.0, 290.0))
    cloud.run(320.0)
    assert node.alarms.raised == []
    assert {node.health(uuid) for uuid in node.vms} == {"healthy"}


def test_shelved_and_unshelved_elsewhere(cloud: Cloud) -> None:
    node, other = host_of(cloud, 1), host_of(cloud, 0)
    (vm,) = node.vms.values()
    vm.stop_agent()
    cloud.run(10.0)
    vm.stop()
    vm.undefine()
    cloud.run(3600.0)
    vm.node = other
    other.vms[vm.uuid] = vm
    vm.start(120.0)
    cloud.run(140.0)
    assert node.alarms.raised == other.alarms.raised == []
    assert (node.health(vm.uuid), other.health(vm.uuid)) == ("", "healthy")


def test_a_guest_that_installs_updates_over_several_boots(cloud: Cloud) -> None:
    node = host_of(cloud, 1)
    (vm,) = node.vms.values()
    for _ in range(4):
        vm.stop_agent()
        cloud.run(60.0)
        vm.reset(90.0)
        cloud.run(100.0)
        assert node.health(vm.uuid) == "healthy"
    vm.stop_agent()
    for _ in range(3):
        cloud.run(20.0)
        vm.reset(None)
    cloud.run(60.0)
    vm.start_agent()
    cloud.run(10.0)
    assert node.alarms.raised == []
    vm.reset(None)
    cloud.run(HOST.grace_after_reboot + LATEST_AFTER_GRACE)
    assert told(node) == [(vm.uuid, HEARTBEAT_LOST)], "the last one did not come up"


def test_qemu_killed_for_want_of_memory_while_another_hangs(cloud: Cloud) -> None:
    node = host_of(cloud, 10)
    killed, hung, *_ = node.vms.values()
    hung.hang()
    killed.stop()
    cloud.run(LATEST)
    assert told(node) == [(hung.uuid, HEARTBEAT_LOST)]
    assert node.health(killed.uuid) == ""


def test_a_starved_engine(cloud: Cloud) -> None:
    node = host_of(cloud, 40)
    hung, *others = node.vms.values()
    node.stall(10.0)
    cloud.run(5.0)
    hung.hang()
    cloud.run(60.0)
    assert told(node) == [(hung.uuid, HEARTBEAT_LOST)]
    assert {node.health(vm.uuid) for vm in others} == {"healthy"}
