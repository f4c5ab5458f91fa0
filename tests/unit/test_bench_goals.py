# SPDX-License-Identifier: Apache-2.0
"""The bench's verdict: which goal holds, and whether all do."""

from __future__ import annotations

import pytest

from bench.goals import GOALS, Goal, change, table
from bench.process import ideal

NAN = float("nan")


def test_each_goal_is_told_with_its_must_its_aim_and_the_median() -> None:
    rows, _ = table([{"wakeups": 300.0}, {"wakeups": 900.0}, {"wakeups": 400.0}])
    assert len(rows) == 2 + len(GOALS)
    assert "| wake-ups per second, 1000 VMs | 600 | 350 | 400 [300 - 900] | holds |" in rows


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: goal.figure)
def test_a_goal_that_nobody_measured_does_not_hold(goal: Goal) -> None:
    figures = {other.figure: other.aim for other in GOALS if other is not goal}
    rows, kept = table([figures])
    assert not kept
    (row,) = (row for row in rows if "not measured" in row)
    assert row.startswith(f"| {goal.title} |")
    assert row.endswith("| not measured | **unknown** |")


@pytest.mark.parametrize("worse", [{"cpu_ratio_1000": 3.01}, {"memory_kib": 4.9}, {"early_ms": -1}])
def test_a_must_that_fails_fails_the_check(worse: dict[str, float]) -> None:
    good = {goal.figure: goal.aim for goal in GOALS}
    assert table([good]) == (table([good])[0], True)
    assert not table([{**good, **worse}])[1]


def test_a_tenth_and_a_fifth_of_a_millisecond_are_no_change() -> None:
    assert change(5000.0, 5500.0, 1000) == 1.0
    assert change(100.0, 300.0, 1000) == 1.0, "in us"
    assert change(1.0, 1.2, 1) == pytest.approx(1.0), "in ms"


def test_the_ideal_is_the_last_miss_that_makes_a_loss() -> None:
    exchanges = [(9.0, 0.001), (10.0, NAN), (11.0, NAN), (12.0, NAN), (13.0, NAN)]
    assert ideal(exchanges, 9.5) == 12.5
