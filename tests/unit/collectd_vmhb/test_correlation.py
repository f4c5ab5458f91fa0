# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from collectd_vmhb.correlation import HELD_ROUNDS, MASS_MIN, REVIEW, WINDOW_ROUNDS, Correlation
from collectd_vmhb.verdict import HEARTBEAT_LOST, FaultCleared, FaultRaised, Severity


def lost(uuid: str) -> FaultRaised:
    return FaultRaised(uuid, HEARTBEAT_LOST, Severity.FAILURE, "silent", 0.0, "no-answer")


def together(count: int, watched: int, gap: float = 0.0) -> int:
    correlation, found = Correlation(), 0
    for number in range(count):
        found = correlation.missing(f"vm-{number}", 1.0, number * gap, watched)
    return found


@pytest.mark.parametrize(
    ("count", "watched", "gap", "found"),
    [
        (MASS_MIN, 10, 0.0, MASS_MIN),
        (MASS_MIN - 1, 5, 0.0, 0),
        (MASS_MIN, 100, 0.0, 0),
        (30, 100, 0.0, 30),
        (29, 100, 0.0, 0),
        (MASS_MIN, 10, WINDOW_ROUNDS / 1.0, 0),
        (MASS_MIN, 10, 0.3, MASS_MIN),
    ],
)
def test_a_mass_is_many_and_a_share_and_together(
    count: int, watched: int, gap: float, found: int
) -> None:
    assert together(count, watched, gap) == found


def test_one_vm_that_starts_to_miss_again_and_again_is_no_mass() -> None:
    correlation = Correlation()
    assert not any(correlation.missing("vm", 10.0, float(at), 5) for at in range(20))


def test_who_misses_again_counts_once_and_from_then_on() -> None:
    correlation = Correlation()
    for number in range(MASS_MIN - 1):
        correlation.missing(f"vm-{number}", 1.0, 0.0, 5)
    correlation.missing("vm-0", 1.0, 1.5, 5)
    assert correlation.missing("last", 1.0, 2.5, 5) == 0
    for number in range(1, MASS_MIN - 2):
        assert correlation.missing(f"vm-{number}", 1.0, 2.6, 5) == 0
    assert correlation.missing("one more", 1.0, 2.7, 5) == MASS_MIN
    correlation.forget("vm-0")
    assert correlation.missing("last", 1.0, 2.8, 5) == 0


def test_losses_of_a_mass_are_held_and_then_told_as_correlated() -> None:
    correlation = Correlation()
    correlation.begin(until=10.0)
    assert correlation.holds(lost("a"), 1.0, 5.0)
    assert correlation.deadline == 5.0 + HELD_ROUNDS
    assert correlation.due(5.0 + HELD_ROUNDS - 0.1) == []
    (told,) = correlation.due(5.0 + HELD_ROUNDS)
    assert told.details["correlated"] == "true"
    assert told.text.endswith("with many others")
    assert correlation.deadline is None


def test_who_answers_while_held_is_never_blamed() -> None:
    correlation = Correlation()
    correlation.begin(until=10.0)
    correlation.holds(lost("a"), 1.0, 5.0)
    assert correlation.holds(FaultCleared("a", HEARTBEAT_LOST, "recovered"), 1.0, 6.0)
    assert correlation.due(100.0) == []


def test_outside_a_mass_and_for_other_faults_nothing_is_held() -> None:
    correlation = Correlation()
    assert not correlation.holds(lost("a"), 1.0, 5.0)
    correlation.begin(until=10.0)
    assert not correlation.holds(lost("a"), 1.0, 10.0)
    check = FaultRaised("a", "check.app", Severity.FAILURE, "bad", 0.0, "critical")
    assert not correlation.holds(check, 1.0, 5.0)
    assert not correlation.holds(FaultCleared("a", HEARTBEAT_LOST, "recovered"), 1.0, 6.0)


def test_a_vm_that_is_not_watched_any_more_is_forgotten() -> None:
    correlation = Correlation()
    correlation.begin(until=10.0)
    correlation.holds(lost("a"), 1.0, 5.0)
    correlation.forget("a")
    assert correlation.due(100.0) == []


def test_a_vm_that_is_not_watched_any_more_counts_for_no_mass() -> None:
    correlation = Correlation()
    for number in range(MASS_MIN - 1):
        correlation.missing(f"vm-{number}", 1.0, 0.0, MASS_MIN)
    correlation.forget("vm-0")
    assert correlation.missing("another", 1.0, 0.0, MASS_MIN) == 0


@pytest.mark.parametrize(
    ("told", "held", "watched", "over"),
    [
        (MASS_MIN, 0, 10, False),
        (0, MASS_MIN, 10, False),
        (MASS_MIN - 1, 1, 10, False),
        (MASS_MIN - 1, 0, 4, True),
        (MASS_MIN, 0, 17, True),
        (MASS_MIN, 0, 0, False),
    ],
)
def test_a_mass_lasts_while_as_many_are_lost_as_make_one(
    told: int, held: int, watched: int, over: bool
) -> None:
    correlation = Correlation()
    correlation.begin(until=10.0)
    assert correlation.review_at == 10.0
    for number in range(held):
        correlation.holds(lost(f"vm-{number}"), 10.0, 5.0)
    assert correlation.is_over(told, watched, 10.0) is over
    assert correlation.review_at == 10.0 + REVIEW
