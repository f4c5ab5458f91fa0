# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest

from collectd_vmhb.reprieve import LOOK_MAX, Reprieve
from collectd_vmhb.verdict import HEARTBEAT_LOST, FaultCleared, FaultRaised, Severity

LOST = FaultRaised("vm", HEARTBEAT_LOST, Severity.FAILURE, "silent", 0.0, "no-answer")
ALIVE = FaultCleared("vm", HEARTBEAT_LOST, "it answers")
CHECK = FaultRaised("vm", "check.app", Severity.FAILURE, "app is critical", 0.0, "critical")


def asked() -> Reprieve:
    reprieve = Reprieve()
    reprieve.begin(0.0)
    return reprieve


def test_a_loss_goes_out_once_libvirt_has_answered() -> None:
    reprieve = asked()
    assert reprieve.holds(LOST, 0.5)
    assert reprieve.due(0.6) is None
    assert reprieve.answered(0.7)
    assert reprieve.due(0.7) is LOST
    assert reprieve.due(0.8) is None


def test_a_libvirt_that_does_not_answer_delays_a_loss_but_for_a_while() -> None:
    reprieve = asked()
    assert reprieve.holds(LOST, 0.5)
    assert reprieve.deadline == LOOK_MAX
    assert reprieve.heard(LOOK_MAX)
    assert reprieve.due(LOOK_MAX) is LOST
    assert reprieve.deadline == math.inf


@pytest.mark.parametrize("answered", [0.1, 9.0])
def test_that_libvirt_has_answered_or_had_its_time_is_told_once(answered: float) -> None:
    reprieve = asked()
    assert not reprieve.heard(0.05)
    reprieve.answered(answered)
    at = min(answered, LOOK_MAX)
    assert reprieve.deadline == at
    assert reprieve.heard(at)
    assert not reprieve.heard(at + 1.0)
    assert reprieve.deadline == math.inf


def test_a_loss_that_is_over_before_it_was_told_is_never_told() -> None:
    reprieve = asked()
    assert reprieve.holds(LOST, 0.5)
    assert reprieve.holds(ALIVE, 1.0)
    assert reprieve.due(LOOK_MAX) is None


def test_the_end_of_a_loss_that_was_told_is_told() -> None:
    reprieve = asked()
    assert not reprieve.holds(LOST, LOOK_MAX)
    assert not reprieve.holds(ALIVE, LOOK_MAX + 1.0)


def test_a_loss_after_the_answer_waits_for_nothing() -> None:
    reprieve = asked()
    reprieve.answered(0.1)
    assert not reprieve.holds(LOST, 0.5)


def test_only_an_answer_that_was_waited_for_changes_something() -> None:
    assert not Reprieve().answered(5.0)
    reprieve = asked()
    assert not reprieve.answered(LOOK_MAX)


def test_other_faults_are_not_held() -> None:
    assert not asked().holds(CHECK, 0.5)
