# SPDX-License-Identifier: Apache-2.0
"""Timers say who is due as a plain list of all times would."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from collectd_vmhb.timers import NEVER, Timers


class Somebody:
    def __init__(self, number: int) -> None:
        self.number = number
        self.scheduled = NEVER


@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(0, 4), st.floats(0.0, 0.2) | st.just(NEVER)),
            st.floats(0.0, 0.05),
        )
    )
)
@example([(0, 0.013), (1, 0.012), (0, 0.05), 0.02, (1, 0.001), 0.0])
def test_who_is_due_is_told_in_order_and_once(steps: list[tuple[int, float] | float]) -> None:
    timers: Timers[Somebody] = Timers()
    all_of_them = [Somebody(number) for number in range(5)]
    wanted: dict[int, float] = {}
    now = 1000.0
    for step in steps:
        if isinstance(step, tuple):
            number, later = step
            timers.plan(all_of_them[number], now + later)
            wanted[number] = now + later
        else:
            now += step
            for somebody in timers.due(now):
                at = wanted.pop(somebody.number)
                assert at <= min([*wanted.values(), now])
            assert all(at > now for at in wanted.values())
        assert timers.deadline() == min(wanted.values(), default=NEVER)


def test_whoever_is_due_at_the_same_time_comes_in_the_order_of_planning() -> None:
    timers: Timers[Somebody] = Timers()
    for number in (3, 1, 2):
        timers.plan(Somebody(number), 7.0)
    assert [somebody.number for somebody in timers.due(7.0)] == [3, 1, 2]


def test_one_who_is_put_off_while_others_have_their_turn_waits() -> None:
    timers: Timers[Somebody] = Timers()
    first, second = Somebody(1), Somebody(2)
    timers.plan(first, 7.0)
    timers.plan(second, 7.001)
    due = timers.due(8.0)
    assert next(due) is first
    timers.plan(second, 9.0)
    timers.plan(first, 7.5)
    assert list(due) == [first]
    assert timers.deadline() == 9.0
