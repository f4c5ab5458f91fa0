# SPDX-License-Identifier: Apache-2.0
"""Each event in the life of a VM on the whole engine, on a virtual clock (docs/lifecycle.md).

What real guests do in tests/e2e/test_lifecycle.py, within milliseconds and at any length.
"""

from __future__ import annotations

import pytest

from collectd_vmhb.domain import DomainState
from collectd_vmhb.verdict import ENGINE_IMPAIRED, HEARTBEAT_LOST
from tests.simulation.cloud import Cloud
from tests.simulation.hosts import (
    HOST,
    LATEST,
    LATEST_AFTER_GRACE,
    SPECS,
    ends,
    host_of,
    told,
)
from tests.simulation.node import Node
from tests.simulation.vm import Vm

#: Longer than any silence that is not planned may be.
LONG = 60.0


@pytest.fixture(name="node")
def _node(cloud: Cloud) -> Node:
    return host_of(cloud, 1)


@pytest.fixture(name="vm")
def _vm(node: Node) -> Vm:
    (vm,) = node.vms.values()
    return vm


def is_well(vm: Vm, told_before: int = 0) -> bool:
    """The VM answers, and no more was told than that."""
    node = vm.node
    vm.cloud.run(10.0)
    return node.health(vm.uuid) == "healthy" and len(node.alarms.raised) == told_before


# -- planned --------------------------------------------------------------------------------


def test_pause(cloud: Cloud, node: Node, vm: Vm) -> None:
    vm.pause()
    cloud.run(LONG)
    assert node.health(vm.uuid) == "paused"
    vm.resume()
    assert is_well(vm)


def test_save(cloud: Cloud, node: Node, vm: Vm) -> None:
    vm.save()
    cloud.run(LONG)
    assert node.health(vm.uuid) == ""
    vm.restore()
    assert is_well(vm)


def test_snapshots(cloud: Cloud, vm: Vm) -> None:
    for seconds in (0.1, 2.0, 20.0, LONG):
        vm.pause()
        cloud.run(seconds)
        vm.resume()
        cloud.run(0.5)
    assert is_well(vm)


@pytest.mark.parametrize("clean", [True, False])
def test_reboot(cloud: Cloud, node: Node, vm: Vm, clean: bool) -> None:
    if clean:
        vm.stop_agent()
        cloud.run(20.0)
    vm.reset(HOST.grace_after_reboot - 10.0)
    cloud.run(1.0)
    assert node.health(vm.uuid) == "establishing"
    cloud.run(HOST.grace_after_reboot)
    assert is_well(vm)


def test_reboot_of_a_guest_that_boots_for_long(cloud: Cloud) -> None:
    node = Node(cloud, HOST)
    vm = Vm(node, "vm", {**SPECS, "vmhb:grace_period": "900", "vmhb:required": "true"})
    node.start()
    vm.start(600.0)
    cloud.run(610.0)
    assert is_well(vm)
    vm.reset(600.0)
    cloud.run(610.0)
    assert is_well(vm)
    vm.reset(None)
    cloud.run(900.0)
    assert node.alarms.raised == []
    cloud.run(LATEST_AFTER_GRACE)
    assert told(node) == [("vm", HEARTBEAT_LOST)]


def test_off_however_it_went(cloud: Cloud, node: Node, vm: Vm) -> None:
    vm.stop()
    cloud.run(LONG)
    assert node.health(vm.uuid) == ""
    vm.start(5.0)
    cloud.run(5.0)
    assert is_well(vm)


def test_off_after_a_goodbye(cloud: Cloud, node: Node, vm: Vm) -> None:
    vm.stop_agent()
    cloud.run(5.0)
    assert node.health(vm.uuid) == "establishing"
    vm.state = DomainState.SHUTTING_DOWN
    node.event(vm.uuid)
    cloud.run(2.0)
    assert node.health(vm.uuid) == "paused"
    vm.stop()
    cloud.run(LONG)
    assert node.alarms.raised == []


def test_goodbye_and_no_shutdown(cloud: Cloud, node: Node, vm: Vm) -> None:
    vm.stop_agent()
    cloud.run(10 * LONG)
    assert node.health(vm.uuid) == "establishing"
    vm.start_agent()
    assert is_well(vm)


def test_a_moment_without_answers(cloud: Cloud, vm: Vm) -> None:
    for _ in range(20):
        vm.hang()
        cloud.run(3.5)
        vm.thaw()
        cloud.run(2.0)
    assert is_well(vm)


def test_agent_restarted(cloud: Cloud, vm: Vm) -> None:
    vm.kill_agent()
    cloud.run(0.5)
    vm.start_agent()
    assert is_well(vm)


def test_channel_detached(cloud: Cloud, vm: Vm) -> None:
    vm.detach()
    cloud.run(2.0)
    assert vm.port is not None, "attached again"
    assert is_well(vm)


def off_and_on(vm: Vm, specs: dict[str, str], boot: float | None = 5.0) -> None:
    """A hard reboot of Nova's: destroy, undefine, define, start."""
    node = vm.node
    vm.stop()
    vm.undefine()
    vm.cloud.run(1.0)
    node.vms[vm.uuid] = vm
    vm.specs = specs
    vm.start(boot)
    vm.cloud.run(5.0)


def test_hard_reboot_and_resize(node: Node, vm: Vm) -> None:
    off_and_on(vm, SPECS)
    assert is_well(vm)
    off_and_on(vm, {**SPECS, "vmhb:interval": "4"})
    vm.cloud.run(10.0)
    assert is_well(vm)
    off_and_on(vm, {})
    assert node.health(vm.uuid) == ""
    off_and_on(vm, SPECS)
    assert is_well(vm)


def test_rescue(cloud: Cloud, node: Node, vm: Vm) -> None:
    off_and_on(vm, SPECS, boot=None)
    cloud.run(10 * LONG)
    assert node.health(vm.uuid) == "establishing"
    off_and_on(vm, SPECS)
    assert is_well(vm)


def test_switched_off_and_on_while_it_runs(cloud: Cloud, node: Node, vm: Vm) -> None:
    vm.change_flavor({**SPECS, "vmhb:interval": "2"})
    assert is_well(vm)
    vm.change_flavor({})
    cloud.run(LONG)
    assert node.health(vm.uuid) == ""
    assert vm.port is not None, "nothing is detached"
    vm.change_flavor(SPECS)
    assert is_well(vm)


def test_a_reboot_before_monitoring_was_switched_on_shortens_no_later_one(cloud: Cloud) -> None:
    node = Node(cloud, HOST)
    specs = {**SPECS, "vmhb:grace_period": "150", "vmhb:required": "true"}
    vm = Vm(node, "vm", {})
    node.start()
    vm.start(2.0)
    cloud.run(10.0)
    vm.reset(None)
    cloud.run(5.0)
    vm.change_flavor(specs)
    cloud.run(140.0)
    vm.reset(HOST.grace_after_reboot - 10.0)
    cloud.run(HOST.grace_after_reboot + LONG)
    assert is_well(vm)
    assert node.alarms.raised == []


@pytest.mark.parametrize("downtime", [0.05, 1.0, 30.0])
def test_five_migrations(cloud: Cloud, node: Node, vm: Vm, downtime: float) -> None:
    other = host_of(cloud, 0)
    for turn in range(5):
        vm.pause()
        cloud.run(downtime)
        vm.move(node if turn % 2 else other)
        cloud.run(0.5)
    assert is_well(vm)
    assert node.alarms.raised == []
    assert node.health(vm.uuid) == "", "it is elsewhere"


def test_migration_that_is_given_up(cloud: Cloud, node: Node, vm: Vm) -> None:
    other = host_of(cloud, 0)
    arriving = Vm(other, vm.uuid, SPECS)
    arriving.domain_id, arriving.state = other.next_id(), DomainState.PAUSED
    other.event(vm.uuid)
    cloud.run(LONG)
    assert (node.health(vm.uuid), other.health(vm.uuid)) == ("healthy", "paused")
    vm.pause()
    cloud.run(5.0)
    arriving.stop()
    arriving.undefine()
    vm.resume()
    assert is_well(vm)
    assert other.alarms.raised == []
    assert other.health(vm.uuid) == ""


def test_migration_of_a_paused_vm(cloud: Cloud, node: Node, vm: Vm) -> None:
    other = host_of(cloud, 0)
    vm.pause()
    cloud.run(LONG)
    vm.move(other)
    vm.pause()
    cloud.run(LONG)
    assert other.health(vm.uuid) == "paused"
    vm.resume()
    assert is_well(vm)


@pytest.mark.parametrize("end", [Node.stop, Node.kill])
def test_collectd_restarted(cloud: Cloud, node: Node, vm: Vm, end: object) -> None:
    for away in (0.0, 5.0, LONG):
        assert callable(end)
        end(node)
        cloud.run(away)
        node.start()
        assert is_well(vm)


def test_libvirtd_restarted(cloud: Cloud, node: Node, vm: Vm) -> None:
    node.lose_libvirt()
    cloud.run(50.0)
    assert node.health(vm.uuid) == "healthy"
    node.find_libvirt()
    assert is_well(vm)


# -- not planned ----------------------------------------------------------------------------


def is_lost(vm: Vm, within: float = LATEST) -> bool:
    """Its loss, and nothing else, is told in time."""
    vm.cloud.run(within)
    return told(vm.node) == [(vm.uuid, HEARTBEAT_LOST)]


def test_hang(vm: Vm) -> None:
    vm.hang()
    assert is_lost(vm)
    vm.thaw()
    assert is_well(vm, told_before=1)
    assert ends(vm.node) == ["recovered"]


def test_hang_that_a_reset_ends(cloud: Cloud, node: Node, vm: Vm) -> None:
    vm.hang()
    assert is_lost(vm)
    vm.reset(20.0)
    cloud.run(15.0)
    assert node.health(vm.uuid) == "failed", "a reset alone heals nothing"
    cloud.run(10.0)
    assert is_well(vm, told_before=1)


def test_stopped_by_a_failure(cloud: Cloud, node: Node, vm: Vm) -> None:
    vm.state = DomainState.BROKEN
    node.event(vm.uuid)
    assert is_lost(vm)
    vm.stop()
    cloud.run(1.0)
    assert ends(node) == ["shut off"]


def test_agent_dies(vm: Vm) -> None:
    vm.kill_agent()
    assert is_lost(vm)
    vm.start_agent()
    assert is_well(vm, told_before=1)


def test_another_reader(cloud: Cloud, node: Node, vm: Vm) -> None:
    node.kill()
    assert vm.port is not None
    vm.port.rival = True
    node.start()
    assert is_lost(vm, HOST.grace_after_resume + LATEST_AFTER_GRACE)
    assert node.alarms.raised[0][3] == "not-accepted"
    vm.port.rival = False
    vm.lines_came()
    assert is_well(vm, told_before=1)


def test_hang_while_libvirtd_is_away(cloud: Cloud, node: Node, vm: Vm) -> None:
    node.lose_libvirt()
    cloud.run(5.0)
    vm.hang()
    assert is_lost(vm)


def test_libvirtd_away_for_long_is_told_of_the_host(cloud: Cloud, node: Node) -> None:
    node.lose_libvirt()
    cloud.run(2 * LONG)
    assert told(node) == [("", ENGINE_IMPAIRED)]
    node.find_libvirt()
    cloud.run(5.0)
    assert node.alarms.open == {}


def test_reboot_that_libvirt_cannot_tell_of(cloud: Cloud, node: Node, vm: Vm) -> None:
    node.lose_libvirt()
    cloud.run(1.0)
    vm.reset(30.0)
    assert is_lost(vm)
    cloud.run(30.0)
    node.find_libvirt()
    assert is_well(vm, told_before=1)


def test_pause_while_failed(cloud: Cloud, node: Node, vm: Vm) -> None:
    vm.hang()
    assert is_lost(vm)
    vm.pause()
    cloud.run(LONG)
    assert (node.health(vm.uuid), ends(node)) == ("paused", ["paused"])
    vm.resume()
    cloud.run(HOST.grace_after_resume + LATEST_AFTER_GRACE)
    assert told(node) == [(vm.uuid, HEARTBEAT_LOST)] * 2


@pytest.mark.parametrize("undefined", [False, True])
def test_off_while_failed(cloud: Cloud, node: Node, vm: Vm, undefined: bool) -> None:
    vm.hang()
    assert is_lost(vm)
    vm.stop()
    if undefined:
        vm.undefine()
    cloud.run(1.0)
    assert node.alarms.open == {}
    assert len(ends(node)) == 1


def test_switched_off_while_failed(cloud: Cloud, node: Node, vm: Vm) -> None:
    vm.hang()
    assert is_lost(vm)
    vm.change_flavor({})
    cloud.run(1.0)
    assert ends(node) == ["monitoring is switched off"]


def test_migrated_while_failed(cloud: Cloud, node: Node, vm: Vm) -> None:
    other = host_of(cloud, 0)
    vm.tells_port = True
    vm.hang()
    assert is_lost(vm)
    vm.pause()
    cloud.run(1.0)
    vm.move(other)
    cloud.run(HOST.grace_after_resume + LATEST_AFTER_GRACE)
    assert (ends(node), told(other)) == (["paused"], [(vm.uuid, HEARTBEAT_LOST)])


def test_restored_while_failed(cloud: Cloud, node: Node, vm: Vm) -> None:
    vm.tells_port = True
    vm.hang()
    assert is_lost(vm)
    vm.save()
    cloud.run(LONG)
    assert ends(node) == ["shut off"]
    vm.restore()
    cloud.run(HOST.grace_after_resume + LATEST_AFTER_GRACE)
    assert told(node) == [(vm.uuid, HEARTBEAT_LOST)] * 2
