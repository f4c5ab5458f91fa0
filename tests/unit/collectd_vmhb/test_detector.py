# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectd_vmhb.detector import TRANSITIONS, Detector, Signal
from collectd_vmhb.policy import Policy
from collectd_vmhb.verdict import Health

POLICY = Policy(1.0, 0.9, 3, 2, 60.0, False, "org.openstack.vmhb.0")


def healthy() -> Detector:
    detector = Detector(POLICY)
    detector.start(0.0, 60.0, expected=False)
    detector.beat(sick=False)
    return detector


@pytest.mark.parametrize("health", Health)
def test_every_health_says_what_every_signal_does_to_it(health: Health) -> None:
    assert set(TRANSITIONS[health]) == set(Signal)


def test_only_the_last_miss_leads_to_failed() -> None:
    for health, row in TRANSITIONS.items():
        for signal, after in row.items():
            if after is Health.FAILED and health is not Health.FAILED:
                assert signal is Signal.LAST_MISS


def test_only_a_start_leads_out_of_planned_silence() -> None:
    leaving = [s for s, after in TRANSITIONS[Health.PAUSED].items() if after is not Health.PAUSED]
    assert leaving == [Signal.START]


def test_threshold_misses_fail_and_threshold_beats_heal() -> None:
    detector = healthy()
    seen = []
    for _ in range(3):
        detector.miss(100.0)
        seen.append(detector.health)
    for _ in range(2):
        detector.beat(sick=False)
        seen.append(detector.health)
    assert seen == [
        Health.SUSPECT,
        Health.SUSPECT,
        Health.FAILED,
        Health.FAILED,
        Health.HEALTHY,
    ]


def test_who_never_answered_is_never_failed() -> None:
    detector = Detector(POLICY)
    detector.start(0.0, 60.0, expected=False)
    for second in range(1000):
        detector.miss(float(second))
    assert detector.health is Health.ESTABLISHING


def test_who_answered_before_is_failed_after_its_grace_period_and_not_earlier() -> None:
    detector = Detector(POLICY)
    detector.start(0.0, 60.0, expected=True)
    for second in range(60):
        detector.miss(float(second))
        assert detector.health is Health.ESTABLISHING
    for second in (60, 61, 62):
        detector.miss(float(second))
    assert detector.health is Health.FAILED


def arrived() -> Detector:
    detector = Detector(POLICY)
    detector.start(0.0, 60.0, expected=False)
    return detector


def test_who_came_with_an_agent_is_failed_after_the_grace_period_of_an_arrival() -> None:
    detector = arrived()
    detector.expect(5.0, 10.0)
    for second in range(5, 15):
        detector.miss(float(second))
        assert detector.health is Health.ESTABLISHING
    for second in (15, 16, 17):
        detector.miss(float(second))
    assert detector.health is Health.FAILED


def test_who_came_paused_is_held_to_answer_from_its_resume_on() -> None:
    detector = arrived()
    detector.stop(1.0)
    detector.expect(5.0, 10.0)
    assert (detector.health, detector.expected) == (Health.PAUSED, True)
    detector.start(20.0, 10.0, expected=True)
    assert detector.grace_until == 30.0


def test_who_came_and_boots_has_the_grace_period_of_a_boot() -> None:
    detector = arrived()
    detector.reboot(5.0, 70.0)
    detector.expect(6.0, 10.0)
    assert detector.grace_until == 75.0
    detector.miss(74.0)
    assert detector.health is Health.ESTABLISHING


def test_who_answered_is_judged_by_that_alone() -> None:
    detector = healthy()
    detector.exit(10.0, 50.0)
    detector.expect(11.0, 10.0)
    assert not detector.expected, "its agent took its leave"


def test_a_sick_guest_that_falls_silent_is_suspect_and_comes_back_sick() -> None:
    detector = healthy()
    detector.beat(sick=True)
    assert detector.health is Health.UNHEALTHY
    detector.miss(1.0)
    assert detector.health is Health.SUSPECT
    detector.beat(sick=True)
    assert detector.health is Health.UNHEALTHY


@given(st.lists(st.sampled_from(["beat", "miss", "stop", "start", "reboot", "exit"])))
def test_failed_is_entered_only_after_a_full_run_of_misses(steps: list[str]) -> None:
    detector, run = healthy(), 0
    for step in steps:
        before = detector.health
        if step == "miss":
            detector.miss(1000.0)
            run += 1
        else:
            run = 0
            if step == "beat":
                detector.beat(sick=False)
            elif step == "stop":
                detector.stop(0.0)
            elif step == "start":
                detector.start(0.0, 60.0, expected=detector.expected)
            elif step == "reboot":
                detector.reboot(0.0, 60.0)
            else:
                detector.exit(0.0, 60.0)
        if detector.health is Health.FAILED and before is not Health.FAILED:
            assert run >= POLICY.miss_threshold


def test_nothing_but_an_answer_shortens_what_is_forgiven() -> None:
    detector = Detector(POLICY)
    detector.start(0.0, 60.0, expected=False)
    detector.reboot(1.0, 20.0)
    assert detector.grace_until == 60.0
    detector.beat(sick=False)
    detector.reboot(30.0, 50.0)
    detector.stop(30.0)
    detector.start(31.0, 10.0, expected=True)
    assert detector.grace_until == 81.0


def test_a_reset_while_silence_is_planned_is_forgiven_from_its_end_on() -> None:
    detector = healthy()
    detector.stop(10.0)
    detector.reboot(20.0, 50.0)
    detector.start(300.0, 10.0, expected=True)
    assert detector.grace_until == 350.0


def test_planned_silence_gives_back_nothing_to_who_answered() -> None:
    detector = healthy()
    detector.reboot(10.0, 50.0)
    detector.stop(20.0)
    detector.beat(sick=False)
    detector.start(300.0, 10.0, expected=True)
    assert detector.grace_until == 310.0
