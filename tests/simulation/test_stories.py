# SPDX-License-Identifier: Apache-2.0
"""Stories of one VM's life, told as what the operator sees and when."""

from __future__ import annotations

from dataclasses import replace

import pytest

from collectd_vmhb.verdict import (
    HEARTBEAT_LOST,
    NOT_ESTABLISHED,
    FaultRaised,
    Health,
    Severity,
)
from tests.simulation.world import POLICY, World
from vmhb_guest.status import Status

TICK = 0.01


def healthy_world(**settings: object) -> World:
    world = World(**settings)  # type: ignore[arg-type]
    world.start()
    world.boot()
    world.run(10)
    assert world.monitor.health is Health.HEALTHY
    return world


def test_a_guest_that_boots_late_is_established_and_nothing_is_reported() -> None:
    world = World()
    world.start()
    world.run(40)
    assert world.monitor.health is Health.ESTABLISHING
    world.boot()
    world.run(1)
    assert [health for _, health in world.health] == [
        Health.ESTABLISHING,
        Health.HEALTHY,
    ]
    world.run(3600)
    assert world.faults == []
    assert world.monitor.counters.beats == pytest.approx(3600, abs=2)


@pytest.mark.parametrize("after_beat", [0.0, 0.1, 0.5, 0.89, 0.95])
@pytest.mark.parametrize(
    ("interval", "timeout", "threshold"), [(1.0, 0.9, 5), (0.5, 0.1, 2), (10.0, 9.0, 3)]
)
def test_a_hang_is_found_within_the_documented_bound(
    interval: float, timeout: float, threshold: int, after_beat: float
) -> None:
    policy = replace(POLICY, interval=interval, timeout=timeout, miss_threshold=threshold)
    world = World(policy)
    world.start()
    world.boot()
    world.run(10 * interval + after_beat * interval)
    hung = world.at()
    world.freeze()
    world.run((threshold + 2) * interval)
    (found,) = world.raised(HEARTBEAT_LOST)
    rtt = 2 * world.wire.delay
    assert (threshold - 1) * interval + timeout - rtt <= found - hung
    assert found - hung <= threshold * interval + timeout + TICK


def test_a_lost_heartbeat_is_over_after_the_threshold_of_answers() -> None:
    world = healthy_world()
    world.freeze()
    world.run(10)
    assert world.monitor.health is Health.FAILED
    thawed = world.at()
    world.thaw()
    world.run(10)
    assert world.cleared(HEARTBEAT_LOST) == ["recovered"]
    recovered = next(t for t, e in world.faults[1:])
    assert 2.0 <= recovered - thawed <= 3.1
    assert world.monitor.counters.late >= 5


def test_one_answer_among_misses_does_not_end_a_failure() -> None:
    world = healthy_world()
    world.freeze()
    world.run(10)
    for _ in range(5):
        world.thaw()
        world.run(1.2)
        world.freeze()
        world.run(3)
    assert world.monitor.health is Health.FAILED
    assert world.cleared(HEARTBEAT_LOST) == []


def test_a_short_hiccup_is_shown_and_not_reported() -> None:
    world = healthy_world()
    world.freeze()
    world.run(3)
    world.thaw()
    world.run(5)
    assert [health for _, health in world.health][-2:] == [Health.SUSPECT, Health.HEALTHY]
    assert world.faults == []


def test_an_hour_of_pause_is_no_failure() -> None:
    world = healthy_world()
    world.freeze()
    world.monitor.pause(world.now, "paused")
    world.run(3600)
    assert world.monitor.health is Health.PAUSED
    world.monitor.resume(world.now)
    world.run(20)
    assert world.monitor.health is Health.ESTABLISHING
    world.thaw()
    world.run(2)
    assert world.monitor.health is Health.HEALTHY
    assert world.faults == []


def test_a_guest_that_never_comes_back_from_a_pause_is_found_after_the_grace_period() -> None:
    world = healthy_world(grace_after_resume=30.0)
    world.monitor.pause(world.now, "paused")
    world.freeze()
    world.run(60)
    resumed = world.at()
    world.monitor.resume(world.now)
    world.run(60)
    (found,) = world.raised(HEARTBEAT_LOST)
    assert 30 <= found - resumed <= 30 + 5 * 1.0 + 0.9 + 1.0


def test_a_reboot_is_forgiven_and_a_reset_does_not_heal() -> None:
    world = healthy_world(grace_after_reboot=120.0)
    world.freeze()
    world.monitor.rebooted(world.now)
    world.run(100)
    assert world.faults == []
    world.boot()
    world.run(5)
    assert world.monitor.health is Health.HEALTHY
    world.freeze()
    world.run(10)
    world.monitor.rebooted(world.now)
    world.run(10)
    assert world.monitor.health is Health.FAILED


def test_an_agent_that_says_goodbye_is_not_lost() -> None:
    world = healthy_world()
    world.guest.stop("shutdown")
    world._settle()
    world.freeze()
    world.run(600)
    assert world.faults == []
    assert world.monitor.health is Health.ESTABLISHING


def test_a_required_vm_that_never_answers_is_reported_once_until_it_does() -> None:
    world = World(replace(POLICY, required=True, grace_period=60.0))
    world.start()
    world.run(600)
    assert world.raised(NOT_ESTABLISHED) == [pytest.approx(60, abs=1)]
    world.boot()
    world.run(15)
    assert world.cleared(NOT_ESTABLISHED) == ["recovered"]


def test_a_critical_check_is_named_and_ends_with_the_check() -> None:
    world = healthy_world()
    world.guest.expect_checks(["app", "disk"], world.now)
    world.check("app", Status.OK)
    world.check("disk", Status.OK)
    world.run(5)
    world.check("app", Status.CRITICAL, "does not answer")
    world.run(3)
    assert world.monitor.health is Health.UNHEALTHY
    event = world.faults[-1][1]
    assert isinstance(event, FaultRaised)
    assert (event.name, event.severity) == ("check.app", Severity.FAILURE)
    assert event.guest_text == "does not answer"
    assert "does not answer" not in event.text
    world.check("app", Status.WARNING, "slow")
    world.run(3)
    assert world.open_faults() == {"check.app": Severity.WARNING}
    assert world.monitor.health is Health.HEALTHY
    world.check("app", Status.OK)
    world.run(3)
    assert world.cleared("check.app") == ["recovered"]


def test_check_faults_are_frozen_while_the_heartbeat_is_lost() -> None:
    world = healthy_world()
    world.guest.expect_checks(["app"], world.now)
    world.check("app", Status.CRITICAL)
    world.run(3)
    world.freeze()
    world.run(10)
    assert set(world.open_faults()) == {"check.app", HEARTBEAT_LOST}
    world.thaw()
    world.check("app", Status.OK)
    world.run(10)
    assert world.open_faults() == {}


def test_a_check_that_was_removed_takes_its_fault_along() -> None:
    world = healthy_world()
    world.guest.expect_checks(["app", "disk"], world.now)
    world.check("app", Status.CRITICAL)
    world.check("disk", Status.OK)
    world.run(3)
    assert set(world.open_faults()) == {"check.app"}
    world.guest.expect_checks(["disk"], world.now)
    world.run(10)
    assert world.open_faults() == {}


def test_an_engine_that_comes_back_repeats_nothing_and_finds_who_hung_meanwhile() -> None:
    world = healthy_world()
    world.guest.expect_checks(["app"], world.now)
    world.check("app", Status.CRITICAL)
    world.run(3)
    before = len(world.faults)
    world.restart_host()
    world.run(10)
    assert world.faults[before:] == [], "the same fault goes on under the same incident"
    assert world.monitor.health is Health.UNHEALTHY
    world.freeze()
    world.restart_host()
    world.run(60)
    assert len(world.raised(HEARTBEAT_LOST)) == 1
    world.restart_host()
    assert world.monitor.health is Health.FAILED
    world.thaw()
    world.check("app", Status.OK)
    world.run(10)
    assert world.open_faults() == {}


def test_a_guest_that_kept_its_session_over_our_restart_is_asked_for_a_new_one() -> None:
    world = healthy_world()
    world.restart_host()
    world.run(5)
    assert world.monitor.health is Health.HEALTHY
    assert world.monitor.counters.sessions == 1


def test_a_host_that_was_held_up_for_ten_seconds_blames_nobody() -> None:
    world = healthy_world()
    world.host_runs = False
    world.run(10)
    world.host_runs = True
    world.run(10)
    assert world.faults == []


@pytest.mark.parametrize("seed", range(5))
def test_a_lossy_doubling_wire_makes_misses_but_no_false_alarm(seed: int) -> None:
    world = World(seed=seed)
    world.wire.loss = 0.02
    world.wire.doubled = 0.2
    world.wire.delay = 0.05
    world.start()
    world.boot()
    world.run(3600)
    assert world.monitor.counters.misses > 0
    assert world.monitor.counters.wrong == 0
    assert world.faults == []


def test_hours_of_silence_leave_no_pile_of_challenges_for_the_agent() -> None:
    world = healthy_world()
    world.freeze()
    world.run(3 * 3600)
    assert len(world._held) <= 64
    world.thaw()
    world.run(15)
    assert world.monitor.health is Health.HEALTHY
    assert world.monitor.counters.wrong == 0


def test_what_an_agent_says_when_it_leaves_stays_out_of_every_fault() -> None:
    world = World(replace(POLICY, required=True))
    world.start()
    world.boot()
    world.run(10)
    world.guest.stop("secret words")
    world._settle()
    world.freeze()
    world.run(600)
    assert world.raised(NOT_ESTABLISHED)
    assert not any("secret" in str(event) for _, event in world.faults)


def test_a_channel_that_flaps_does_not_delay_the_verdict_beyond_one_interval() -> None:
    world = healthy_world()
    hung = world.at()
    world.freeze()
    for _ in range(30):
        world.run(0.3)
        world.monitor.disconnected(world.now, "closed by QEMU")
        world.connect()
    (found,) = world.raised(HEARTBEAT_LOST)
    assert found - hung <= 5 * 1.0 + 0.9 + 1.0


def test_a_guest_that_speaks_while_it_is_paused_is_not_asked() -> None:
    world = healthy_world()
    world.monitor.pause(world.now, "paused")
    world.guest.port_opened(world.now)
    world.run(60)
    assert world.monitor.health is Health.PAUSED
    assert world.monitor.counters.misses == 0


def test_an_orderly_reboot_that_never_ends_is_found_after_its_grace_period() -> None:
    world = healthy_world(grace_after_reboot=120.0)
    world.guest.stop("reboot")
    world._settle()
    world.run(0.1)
    world.freeze()
    world.monitor.rebooted(world.now)
    world.run(400)
    (found,) = world.raised(HEARTBEAT_LOST)
    assert 120 <= found <= 10 + 120 + 6 + 1


def test_a_guest_that_only_asks_for_sessions_does_not_answer() -> None:
    world = healthy_world()
    world.freeze()
    init = b'{"version":3,"msg_type":"init","invocation_id":1,"heartbeat_interval_ms":1000}\n'
    for _ in range(30):
        world.run(0.8)
        world._to_host(init)
    assert world.raised(HEARTBEAT_LOST)


def test_a_vm_that_starts_paused_still_has_its_time_to_boot() -> None:
    world = World(replace(POLICY, required=True, grace_period=300.0))
    world.start()
    world.monitor.pause(world.now, "paused")
    world.run(400)
    world.monitor.resume(world.now)
    world.run(290)
    assert world.faults == []
    world.run(20)
    assert world.raised(NOT_ESTABLISHED)
