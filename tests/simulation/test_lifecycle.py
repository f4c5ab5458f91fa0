# SPDX-License-Identifier: Apache-2.0
"""The life of a VM on a virtual clock: long, repeated and random stories (docs/lifecycle.md)."""

from __future__ import annotations

import math
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collectd_vmhb.publish import Note
from collectd_vmhb.reporter import Reporter
from collectd_vmhb.state import State
from collectd_vmhb.verdict import (
    ENGINE_IMPAIRED,
    HEARTBEAT_LOST,
    FaultCleared,
    FaultRaised,
    Health,
    Severity,
)
from tests.simulation.cloud import Cloud
from tests.simulation.hosts import HOST, LATEST_OF_MANY, host_of
from tests.simulation.node import Node
from tests.simulation.world import POLICY, UUID, World

GRACE_AFTER_RESUME, GRACE_AFTER_REBOOT = 15.0, 25.0
#: The documented bounds of a detection, from when silence counts; the later one with what a new
#: connection or the end of a grace period may add.
SOONEST = (POLICY.miss_threshold - 1) * POLICY.interval - 0.01
LATEST = (POLICY.miss_threshold + 1) * POLICY.interval + POLICY.timeout + 0.6


def healthy_world(seed: int = 0) -> World:
    world = World(
        seed=seed, grace_after_resume=GRACE_AFTER_RESUME, grace_after_reboot=GRACE_AFTER_REBOOT
    )
    world.start()
    world.boot()
    world.run(10)
    assert world.monitor.health is Health.HEALTHY
    return world


@pytest.mark.parametrize("running", [0.3, 1.0, 4.0])
def test_pauses_in_a_row_are_no_failure(running: float) -> None:
    world = healthy_world()
    for _ in range(200):
        world.monitor.pause(world.now, "paused")
        world.freeze()
        world.run(20)
        world.monitor.resume(world.now)
        world.thaw()
        world.run(running)
    world.run(5)
    assert world.monitor.health is Health.HEALTHY
    assert world.faults == []


def test_a_storm_of_reboots_is_shown_as_establishing_and_is_no_failure() -> None:
    world = healthy_world()
    for _ in range(100):
        world.freeze()
        # Each reset is told several times.
        for _ in range(3):
            world.monitor.rebooted(world.now)
            world.run(0.2)
        assert world.monitor.health is Health.ESTABLISHING
        world.run(4)
        world.boot()
        world.run(1)
    world.run(5)
    assert world.monitor.health is Health.HEALTHY
    assert world.faults == []


@pytest.mark.parametrize("period", [3.0, 24.0])
def test_a_vm_that_does_nothing_but_boot_is_found(period: float) -> None:
    world = healthy_world()
    world.freeze()
    began = world.at()
    while world.at() - began < 300:
        world.monitor.rebooted(world.now)
        world.run(period)
    (found,) = world.raised(HEARTBEAT_LOST)
    assert POLICY.grace_period <= found - began <= POLICY.grace_period + LATEST + period
    world.boot()
    world.run(5)
    assert world.monitor.health is Health.HEALTHY


def test_a_pause_uses_up_nothing_of_a_boots_grace_period() -> None:
    world = healthy_world()
    world.freeze()
    world.monitor.rebooted(world.now)
    world.run(5)
    world.monitor.pause(world.now, "paused")
    world.run(300)
    world.monitor.resume(world.now)
    world.run(GRACE_AFTER_REBOOT - 5 + SOONEST)
    assert world.faults == []
    world.run(LATEST - SOONEST)
    assert world.raised(HEARTBEAT_LOST)


def test_a_reboot_long_after_the_agents_goodbye_is_forgiven_like_any_other() -> None:
    world = healthy_world()
    world.guest.stop("stopped")
    world._settle()
    world.freeze()
    world.run(2 * POLICY.grace_period)
    world.monitor.rebooted(world.now)
    world.run(GRACE_AFTER_REBOOT - 1)
    assert world.faults == []
    world.boot()
    world.run(5)
    assert world.monitor.health is Health.HEALTHY
    assert world.faults == []


def test_two_hundred_guests_outlive_a_host_that_stands_still_for_ten_seconds() -> None:
    worlds = [healthy_world(seed) for seed in range(200)]
    for number, world in enumerate(worlds):
        world.run(number / 200)
        world.host_runs = False
        world.freeze()
        world.run(10)
        world.host_runs = True
        # Some guests go on before the host, others up to two seconds after it.
        world.run(number % 20 / 10)
        world.thaw()
        world.run(10)
    assert {world.monitor.health for world in worlds} == {Health.HEALTHY}
    assert [world.faults for world in worlds if world.faults] == []


@pytest.mark.parametrize("step", [-86400.0, -1.0, 3600.0, 10 * 365 * 86400.0])
def test_a_step_of_the_wall_clock_changes_no_verdict(step: float) -> None:
    wall = [1_700_000_000.0]
    told: list[Note] = []
    saved: list[int] = []
    reporter = Reporter(30.0, lambda number, _: saved.append(number), told.append, lambda: wall[0])
    reporter.load(State(), 0.0)
    reporter.report(
        FaultRaised(UUID, HEARTBEAT_LOST, Severity.FAILURE, "lost", 100.0, "no-answer"),
        "web",
        "",
        106.0,
    )
    wall[0] += step
    reporter.report(FaultCleared(UUID, HEARTBEAT_LOST, "recovered"), "web", "", 110.0)
    for now in (106.0, 110.0, 135.9, 140.1):
        reporter.turn(now)
        for number in saved:
            reporter.saved(number)
        reporter.turn(now)
        expected = ["no-answer"] if now < 136.0 else ["no-answer", "recovered"]
        assert [note.meta["reason"] for note in told] == expected
    assert len({note.meta["incident"] for note in told}) == 1


# -- random stories -------------------------------------------------------------------------

#: What makes a silent VM silent: while one of these lasts, it cannot answer.
HUNG, CUT, PAUSED, BOOTING, LEFT = "hung", "cut", "paused", "booting", "left"


class Life:
    """A VM to which things happen, and when its silence began to count, by the rules alone."""

    def __init__(self) -> None:
        self.world = healthy_world()
        self.silent_for: set[str] = set()
        #: When its silence began, and until when it is forgiven.
        self.silent_since = math.inf
        self.grace_until = -math.inf
        #: When the first of the boots began that no answer has followed yet.
        self.boots_since = math.inf
        #: Whether it is held to answer: not after its agent said goodbye, until it boots again.
        self.expected = True
        self.story: list[str] = []

    def happens(self, action: str, seconds: float) -> None:
        """One thing happens, if it can now, and then time passes: enough for one who answers."""
        before = set(self.silent_for)
        getattr(self, action)()
        self.world._settle()
        if self.silent_for and not before:
            self.silent_since = self.world.now
        if not self.silent_for:
            # A VM that answers has this much time to be healthy; a failed one needs three beats.
            seconds = max(seconds, 12.0)
        self.story.append(f"{action} {seconds:.1f}")
        began, faults = self.world.at(), len(self.world.faults)
        self.world.run(seconds)
        for at, event in self.world.faults[faults:]:
            if isinstance(event, FaultRaised):
                self._judge(at, began)
        self._check()

    # What can happen.

    def freeze(self) -> None:
        if not self.silent_for & {PAUSED, BOOTING, LEFT}:
            self.world.freeze()
            self.silent_for.add(HUNG)

    def thaw(self) -> None:
        if HUNG in self.silent_for and PAUSED not in self.silent_for:
            self.silent_for.discard(HUNG)
            self.world.thaw()

    def detach(self) -> None:
        if CUT not in self.silent_for:
            self.silent_for.add(CUT)
            self.world.connected = False
            self.world.monitor.disconnected(self.world.now, "the channel is detached")

    def attach(self) -> None:
        if CUT in self.silent_for:
            self.silent_for.discard(CUT)
            self.world.connect()

    def pause(self) -> None:
        if PAUSED not in self.silent_for:
            self.silent_for.add(PAUSED)
            self.world.monitor.pause(self.world.now, "paused")
            self.world.freeze()

    def resume(self) -> None:
        if PAUSED in self.silent_for:
            self.silent_for.discard(PAUSED)
            self.grace_until = self.world.now + GRACE_AFTER_RESUME
            self.boots_since = self.world.now if self.expected else math.inf
            self.world.monitor.resume(self.world.now)
            if not self.silent_for & {HUNG, BOOTING, LEFT}:
                self.world.thaw()

    def reboot(self) -> None:
        if PAUSED not in self.silent_for:
            self.silent_for -= {HUNG, LEFT}
            self.silent_for.add(BOOTING)
            self.expected = True
            if not self.expected:
                # Whatever its agent said: it answered in this run, so from now on it has to.
                self.expected = True
                self.silent_since = self.world.now
            self.boots_since = min(self.boots_since, self.world.now)
            until = min(self.world.now + GRACE_AFTER_REBOOT, self.boots_since + POLICY.grace_period)
            if until > self.world.now:
                self.grace_until = until
            self.world.freeze()
            self.world.monitor.rebooted(self.world.now)

    def boot(self) -> None:
        if self.silent_for & {BOOTING, LEFT} and PAUSED not in self.silent_for:
            self.silent_for -= {BOOTING, LEFT}
            self.world.boot()
            self.world.thaw()

    def leave(self) -> None:
        if not self.silent_for:
            self.world.guest.stop("shutdown")
            self.world._settle()
            self.world.freeze()
            self.silent_for.add(LEFT)
            self.boots_since = math.inf
            self.expected = False

    # What must come of it.

    @property
    def counts_from(self) -> float:
        """Since when its silence counts, in seconds since the world began."""
        return max(self.silent_since, self.grace_until) - self.world.began

    def _judge(self, found: float, began: float) -> None:
        """A loss was told: it is a true one."""
        assert self.silent_for or found - began <= POLICY.timeout + 0.01, self.story
        assert self.expected, self.story
        assert PAUSED not in self.silent_for, self.story
        assert found - self.counts_from >= SOONEST, self.story

    def _check(self) -> None:
        lost = HEARTBEAT_LOST in self.world.open_faults()
        if not self.silent_for:
            assert self.world.monitor.health is Health.HEALTHY, self.story
            assert not lost, self.story
            self.grace_until = -math.inf
            self.boots_since = math.inf
            self.expected = True
        elif PAUSED in self.silent_for or not self.expected:
            assert not lost, self.story
        elif self.world.at() - self.counts_from > LATEST:
            assert lost, self.story


ACTIONS = ["freeze", "thaw", "detach", "attach", "pause", "resume", "reboot", "boot", "leave"]


@pytest.mark.timeout(120)
@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.floats(0.5, 60.0)), min_size=1, max_size=15))
def test_any_story_is_told_truly(story: list[tuple[str, float]]) -> None:
    life = Life()
    for action, seconds in story:
        life.happens(action, seconds)


# -- whole hosts ----------------------------------------------------------------------------


def test_half_of_all_vms_silent_in_the_same_moment(cloud: Cloud) -> None:
    node = host_of(cloud, 40)
    hung = [vm for number, vm in enumerate(node.vms.values()) if number % 2]
    for vm in hung:
        vm.hang()
    cloud.run(LATEST_OF_MANY)
    first, *others = [(uuid, fault) for _, uuid, fault, _ in node.alarms.raised]
    assert first == ("", ENGINE_IMPAIRED)
    assert sorted(others) == sorted((vm.uuid, HEARTBEAT_LOST) for vm in hung)
    cloud.run(600.0)
    assert node.alarms.of("") == {ENGINE_IMPAIRED}, "the host is suspect as long as they are silent"
    for vm in hung:
        vm.thaw()
    cloud.run(15.0)
    assert node.alarms.open == {}


def test_a_mass_silence_is_over_when_few_of_the_vms_are_left_of_it(cloud: Cloud) -> None:
    node = host_of(cloud, 20)
    hung = list(node.vms.values())[:8]
    for vm in hung:
        vm.hang()
    cloud.run(LATEST_OF_MANY)
    assert len(node.alarms.open) == 1 + len(hung)
    for vm in hung[:2]:
        vm.thaw()
    cloud.run(15.0)
    assert node.alarms.of("") == {ENGINE_IMPAIRED}, "6 of 20 are still silent, a share of 30 %"
    hung[2].thaw()
    cloud.run(15.0)
    assert node.alarms.of("") == set()
    assert len(node.alarms.open) == 5, "the others stay lost"


def test_a_mass_silence_is_no_shorter_for_a_restart_of_collectd(cloud: Cloud) -> None:
    node = host_of(cloud, 10)
    for vm in node.vms.values():
        vm.hang()
    cloud.run(LATEST_OF_MANY)
    before = dict(node.alarms.open)
    assert len(before) == 11
    node.kill()
    cloud.run(3.0)
    node.start()
    cloud.run(600.0)
    assert node.alarms.open == before
    for vm in node.vms.values():
        vm.thaw()
    cloud.run(15.0)
    assert node.alarms.open == {}


@pytest.mark.parametrize(
    ("destroyed", "watched", "interval", "takes"), [(8, 20, "1", 2.0), (6, 10, "0.1", 1.5)]
)
def test_many_vms_destroyed_at_once(
    cloud: Cloud, destroyed: int, watched: int, interval: str, takes: float
) -> None:
    node = host_of(cloud, watched, interval)
    gone = list(node.vms.values())[:destroyed]
    for vm in gone:
        vm.hang()
    with patch.object(node, "look"):
        cloud.run(takes)
    for vm in gone:
        vm.stop()
    cloud.run(10.0)
    assert node.alarms.raised == []
    assert [node.health(vm.uuid) for vm in gone] == [""] * destroyed


def test_all_vms_hang_while_collectd_is_away(cloud: Cloud) -> None:
    node = host_of(cloud, 20)
    node.kill()
    for vm in node.vms.values():
        vm.hang()
    node.start()
    cloud.run(HOST.grace_after_resume + LATEST_OF_MANY + 1.7)
    first, *others = [(uuid, fault) for _, uuid, fault, _ in node.alarms.raised]
    assert first == ("", ENGINE_IMPAIRED)
    assert sorted(others) == sorted((uuid, HEARTBEAT_LOST) for uuid in node.vms)


def test_collectd_restarted_while_vms_hang(cloud: Cloud) -> None:
    node = host_of(cloud, 10)
    found, hanging = node.vms["vm-1"], node.vms["vm-2"]
    found.hang()
    cloud.run(10.0)
    node.kill()
    hanging.hang()
    cloud.run(3.0)
    node.start()
    cloud.run(HOST.grace_after_resume - 0.1)
    assert list(node.alarms.open.values()) == [(found.uuid, HEARTBEAT_LOST)]
    cloud.run(5 * 1.0 + 0.9 + 1.7)
    assert [(uuid, fault) for _, uuid, fault, _ in node.alarms.raised] == [
        (found.uuid, HEARTBEAT_LOST),
        (hanging.uuid, HEARTBEAT_LOST),
    ]


def test_reboot_while_collectd_is_away(cloud: Cloud) -> None:
    node = host_of(cloud, 10)
    booting, hanging = node.vms["vm-1"], node.vms["vm-2"]
    booting.tells_port = hanging.tells_port = True
    node.kill()
    hanging.hang()
    booting.reset(HOST.grace_after_reboot - 20.0)
    cloud.run(10.0)
    node.start()
    cloud.run(HOST.grace_after_reboot)
    assert [uuid for _, uuid, _, _ in node.alarms.raised] == [hanging.uuid]
    assert node.health(booting.uuid) == "healthy"
    node.kill()
    booting.reset(None)
    node.start()
    cloud.run(HOST.grace_after_reboot + LATEST_OF_MANY + 1.7)
    assert [uuid for _, uuid, _, _ in node.alarms.raised[1:]] == [booting.uuid], "it never came up"


def test_an_agent_that_closes_its_port_as_collectd_leaves_is_forgiven_no_boot(
    cloud: Cloud,
) -> None:
    node = host_of(cloud, 10)
    hanging, booting = node.vms["vm-1"], node.vms["vm-2"]
    hanging.tells_port = booting.tells_port = True
    node.kill()
    hanging.hang()
    hanging.said_closed_until = cloud.now + 2.0
    node.start()
    cloud.run(1.0)
    booting.reset(HOST.grace_after_resume + LATEST_OF_MANY + 20.0)
    cloud.run(HOST.grace_after_resume + LATEST_OF_MANY)
    assert [(uuid, fault) for _, uuid, fault, _ in node.alarms.raised] == [
        (hanging.uuid, HEARTBEAT_LOST)
    ]
    cloud.run(HOST.grace_after_reboot)
    assert len(node.alarms.raised) == 1
    assert node.health(booting.uuid) == "healthy"


def test_an_arrived_guest_that_closes_its_port_as_collectd_leaves_is_forgiven_no_boot(
    cloud: Cloud,
) -> None:
    node = host_of(cloud, 1)
    (vm,) = node.vms.values()
    vm.tells_port = True
    vm.save()
    vm.restore()
    cloud.run(10.0)
    node.kill()
    vm.hang()
    vm.said_closed_until = cloud.now + 2.0
    node.start()
    cloud.run(3.0)
    # All domains are read again, before the look at this one.
    node.lose_libvirt()
    node.find_libvirt()
    cloud.run(HOST.grace_after_resume + LATEST_OF_MANY)
    assert [(uuid, fault) for _, uuid, fault, _ in node.alarms.raised] == [
        (vm.uuid, HEARTBEAT_LOST)
    ]


def test_reboot_in_the_moment_in_which_collectd_starts(cloud: Cloud) -> None:
    node = host_of(cloud, 1)
    (vm,) = node.vms.values()
    node.kill()
    node.start()
    vm.reset(HOST.grace_after_reboot - 10.0)
    cloud.run(HOST.grace_after_reboot + 10.0)
    assert node.alarms.raised == []
    assert node.health(vm.uuid) == "healthy"


def test_migration_to_a_host_without_engine(cloud: Cloud) -> None:
    node, bare = host_of(cloud, 1), Node(cloud, HOST)
    (vm,) = node.vms.values()
    vm.hang()
    cloud.run(10.0)
    assert node.alarms.of(vm.uuid) == {HEARTBEAT_LOST}
    vm.pause()
    cloud.run(1.0)
    vm.move(bare)
    cloud.run(1.0)
    assert node.health(vm.uuid) == ""
    assert node.alarms.open == {}, "nobody knows any more, and nobody is told that it failed"


def test_evacuation(cloud: Cloud) -> None:
    node, other = host_of(cloud, 1), host_of(cloud, 1)
    (vm,) = node.vms.values()
    vm.hang()
    cloud.run(10.0)
    node.kill()
    vm.stop()
    vm.undefine()
    vm.node = other
    other.vms["evacuated"] = vm
    vm.uuid = "evacuated"
    vm.start(5.0)
    cloud.run(20.0)
    assert other.health("evacuated") == "healthy"
    assert other.alarms.raised == []
    node.start()
    cloud.run(5.0)
    assert node.alarms.open == {}, "the host that is back closes what it left open"
