# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from collectd_vmhb.awareness import FORGET, LATE, SCORE_MAX, Awareness


def test_a_punctual_host_gives_no_extra_time() -> None:
    awareness = Awareness()
    for second in range(100):
        awareness.woke(LATE, float(second))
    assert awareness.score == 0
    assert awareness.stretch == 1.0


def test_each_late_wake_up_stretches_timeouts_up_to_a_bound() -> None:
    awareness = Awareness()
    stretches = []
    for turn in range(SCORE_MAX + 2):
        awareness.woke(LATE + 0.01, turn * 0.1)
        stretches.append(awareness.stretch)
    assert stretches == [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 9.0, 9.0]


def test_lateness_is_forgotten_one_point_at_a_time() -> None:
    awareness = Awareness()
    awareness.woke(1.0, 0.0)
    awareness.woke(1.0, 0.1)
    scores = []
    for now in (0.2, FORGET, 0.2 + FORGET, 0.3 + FORGET, 0.3 + 2 * FORGET, 0.4 + 3 * FORGET):
        awareness.woke(0.0, now)
        scores.append(awareness.score)
    assert scores == [2, 2, 1, 1, 0, 0]


def test_the_worst_lateness_is_told_once() -> None:
    awareness = Awareness()
    for lateness in (0.01, 0.3, 0.02):
        awareness.woke(lateness, 1.0)
    assert awareness.take_worst() == 0.3
    assert awareness.take_worst() == 0.0


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10))))
def test_the_score_stays_in_its_range(wakes: list[tuple[float, float]]) -> None:
    awareness, now = Awareness(), 0.0
    for lateness, passed in wakes:
        now += passed
        awareness.woke(lateness, now)
        assert 0 <= awareness.score <= SCORE_MAX
