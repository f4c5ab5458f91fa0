# SPDX-License-Identifier: Apache-2.0
"""Stories of guests that are busy, and of audits: honest ones, hanging ones, hostile ones."""

from __future__ import annotations

import json

import pytest

from collectd_vmhb.audits import FAULT_REST, SLACK, Audit, Outcome
from collectd_vmhb.busy import GIVEN_BACK
from collectd_vmhb.settings import Settings
from collectd_vmhb.verdict import GUEST_MISBEHAVES, HEARTBEAT_LOST, Health
from tests.simulation.cloud import Cloud
from tests.simulation.node import Node, played_channels
from tests.simulation.vm import Vm
from tests.simulation.world import POLICY, World
from vmhb_guest.status import CheckResult, Status

#: From a hang to its verdict, at the most.
LONGEST = POLICY.miss_threshold * POLICY.interval + POLICY.timeout + 0.01
BUSY_MAX = 600.0


@pytest.fixture(name="world")
def _world() -> World:
    world = World()
    world.guest.expect_checks([], world.now)
    world.start()
    world.boot()
    world.run(10)
    assert world.monitor.health is Health.HEALTHY
    return world


def last_audit(world: World) -> Audit:
    assert world.monitor.audits is not None
    assert world.monitor.audits.last is not None
    return world.monitor.audits.last


def audit(world: World, check: str = "", timeout: float = 5.0) -> Audit:
    asked = world.monitor.audit(check, False, timeout, world.now)
    world._settle()
    world.run(0.1)
    return asked


def result(world: World, name: str, status: Status, text: str) -> CheckResult:
    return CheckResult(name, status, text, "", world.now, 0.1)


# -- busy -----------------------------------------------------------------------------------


def test_a_guest_that_said_so_is_silent_and_comes_back(world: World) -> None:
    world.guest.busy("update", world.now + 300)
    world.run(2)
    world.freeze()
    world.run(280)
    assert world.monitor.health is Health.HEALTHY
    assert world.monitor.is_busy(world.now)
    assert not world.monitor.mute(world.now), "nobody is to cut the connection meanwhile"
    world.thaw()
    world.guest.busy("", world.now)
    world.run(2)
    assert not world.monitor.is_busy(world.now)
    world.run(3600)
    assert world.faults == []
    assert world.monitor.counters.misses > 250, "they are counted all the same"


@pytest.mark.parametrize("after", [0.0, 30.0, 59.5])
def test_a_guest_that_hangs_while_it_is_busy_is_found_when_its_time_is_over(
    world: World, after: float
) -> None:
    world.guest.busy("fsck", world.now + 60)
    began = world.at()
    world.run(max(after, 1.1))
    world.freeze()
    world.run(200)
    (found,) = world.raised(HEARTBEAT_LOST)
    hung = began + max(after, 1.1)
    normal = POLICY.miss_threshold - 1 + POLICY.timeout
    assert max(began + 60, hung) + normal - 1.1 <= found <= began + 60 + LONGEST + 1


def test_a_pause_takes_nothing_from_the_time_of_a_busy_guest(world: World) -> None:
    world.guest.busy("fsck", world.now + 300)
    world.run(2)
    world.freeze()
    world.monitor.pause(world.now, "paused")
    world.run(400)
    world.monitor.resume(world.now)
    world.run(297)
    assert world.faults == []
    world.run(2 + LONGEST)
    assert world.raised(HEARTBEAT_LOST)


def test_a_changed_flavor_takes_nothing_from_the_time_of_a_busy_guest() -> None:
    with played_channels():
        cloud = Cloud(1)
        node = Node(cloud, Settings(hold_down=0.0))
        node.start()
        vm = Vm(node, "vm", {"vmhb:enabled": "true"})
        vm.start(2.0)
        cloud.run(10.0)
        assert vm.agent is not None
        vm.agent.busy("fsck", cloud.now + 300)
        cloud.run(2.0)
        vm.hang()
        vm.change_flavor({**vm.specs, "vmhb:interval": "2"})
        cloud.run(297.0)
        assert (node.health("vm"), node.alarms.raised) == ("establishing", [])
        cloud.run(2 + 2 * LONGEST)
        assert node.alarms.of("vm") == {HEARTBEAT_LOST}


def test_a_guest_that_is_busy_for_ever_is_so_for_a_sixth_of_the_time(world: World) -> None:
    busy = 0
    for second in range(3 * 3600):
        world.guest.busy("always", world.now + 1e6)
        world.run(1)
        busy += world.monitor.is_busy(world.now)
        assert busy <= (BUSY_MAX + second * GIVEN_BACK) / (1 + GIVEN_BACK) + 2
    assert busy > 1800


@pytest.mark.parametrize("hours", [0, 1, 3])
def test_a_liar_that_hangs_is_found_within_the_longest_time_granted(
    world: World, hours: int
) -> None:
    for _ in range(hours * 60):
        world.guest.busy("always", world.now + 1e6)
        world.run(60)
    world.guest.busy("always", world.now + 1e6)
    world.run(1.1)
    hung = world.at()
    world.freeze()
    world.run(BUSY_MAX + LONGEST + 1)
    (found,) = world.raised(HEARTBEAT_LOST)
    assert found - hung <= BUSY_MAX + LONGEST


def test_a_guest_that_reboots_is_not_busy_any_more(world: World) -> None:
    world.guest.busy("update", world.now + 500)
    world.run(2)
    world.monitor.rebooted(world.now)
    world.freeze()
    world.run(POLICY.grace_period + world.settings.grace_after_reboot + 20)
    assert world.raised(HEARTBEAT_LOST)


def test_where_no_time_is_granted_a_guest_is_told_so_by_what_is_agreed() -> None:
    world = World(busy_max=0.0)
    world.start()
    world.boot()
    world.run(5)
    assert not world.guest.tells("busy")
    world.guest.busy("update", world.now + 300)
    world.run(2)
    world.freeze()
    world.run(10)
    assert world.raised(HEARTBEAT_LOST)


# -- audits ---------------------------------------------------------------------------------


def test_an_audit_goes_to_the_guest_and_back_beside_the_heartbeats(world: World) -> None:
    asked = audit(world, "app")
    assert world.guest.audit is not None
    assert (world.guest.audit.check, world.guest.audit.timeout) == ("app", 5.0)
    beats = world.monitor.counters.beats
    world.run(3)
    found = result(world, "app", Status.CRITICAL, "refused")
    world.guest.audit_done("done", [found], "", world.now)
    world._settle()
    world.run(0.1)
    assert asked.outcome is Outcome.DONE
    assert asked.checks["app"].text == "refused"
    assert world.monitor.counters.beats == beats + 3
    assert world.monitor.health is Health.HEALTHY
    assert world.faults == []


def test_an_answer_that_never_comes_costs_the_audit_and_nothing_else(world: World) -> None:
    asked = audit(world)
    world.run(5 + SLACK + 0.1)
    assert asked.outcome is Outcome.UNANSWERED
    world.run(60)
    assert world.monitor.health is Health.HEALTHY
    assert world.monitor.counters.misses == 0
    assert audit(world) is not asked, "the guest refuses, as its own is not over"
    assert last_audit(world).outcome is Outcome.REFUSED


def test_a_fault_is_audited_and_the_audit_is_over_with_the_session(world: World) -> None:
    world.guest.expect_checks(["app"], world.now)
    world.check("app", Status.CRITICAL)
    world.run(3)
    assert world.guest.audit is not None
    assert (world.guest.audit.check, world.guest.audit.level) == ("app", "detailed")
    world.boot()
    world.guest.expect_checks(["app"], world.now)
    world.check("app", Status.CRITICAL)
    world.run(3)
    assert last_audit(world).outcome is Outcome.INTERRUPTED
    world.run(FAULT_REST)
    assert len(world.raised("check.app")) == 1


def test_a_flood_of_answers_to_audits_is_a_flood(world: World) -> None:
    asked = audit(world, timeout=600.0)
    check = {"name": "x", "status": "ok", "since_ms": 0, "duration_ms": 0, "text": "y" * 1024}
    line = {"version": 3, "msg_type": "audit_result", "outcome": "done", "more": True}
    for _ in range(25):
        for number in range(40):
            several = [{**check, "name": f"c{number}-{n}"} for n in range(10)]
            flood = json.dumps({**line, "id": asked.id, "checks": several})
            world.monitor.receive(flood.encode() + b"\n", world.now)
        assert world.monitor.conduct.muted_until > world.now
        world.run(2)
    assert len(asked.checks) <= 64
    assert world.raised(GUEST_MISBEHAVES)
    assert world.monitor.health is Health.HEALTHY
