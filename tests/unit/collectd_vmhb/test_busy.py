# SPDX-License-Identifier: Apache-2.0
"""How long a guest may be busy, whatever it says."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectd_vmhb.busy import GIVEN_BACK, LEAST, LOGGED, Busy
from collectd_vmhb.protocol import BusyClaim

LONGEST = 600.0


def claim(seconds: float, reason: str = "fsck") -> BusyClaim:
    return BusyClaim(reason, seconds)


def test_it_lasts_as_long_as_the_guest_says_and_no_longer_than_its_budget() -> None:
    busy = Busy("vm", LONGEST)
    assert not busy.lasts(0.0)
    busy.claim(claim(60.0), 100.0)
    assert (busy.until, busy.reason) == (160.0, "fsck")
    assert busy.lasts(159.9)
    assert not busy.lasts(160.0)
    greedy = Busy("vm", LONGEST)
    greedy.claim(claim(1e9), 100.0)
    assert greedy.until == 700.0


def test_what_is_said_again_moves_the_end_within_one_budget() -> None:
    busy = Busy("vm", LONGEST)
    busy.claim(claim(60.0), 0.0)
    busy.claim(claim(20.0), 10.0)
    assert busy.until == 30.0, "it is over sooner than it thought"
    for now in range(11, 640):
        busy.claim(claim(60.0), float(now))
        if now >= LONGEST:
            assert not busy.lasts(now)
    assert busy.until <= LONGEST


def test_a_budget_that_is_spent_comes_back_while_the_vm_is_not_busy() -> None:
    busy = Busy("vm", LONGEST)
    busy.claim(claim(LONGEST), 0.0)
    soon = LONGEST + LEAST / GIVEN_BACK - 1
    busy.claim(claim(60.0), soon)
    assert not busy.lasts(soon)
    later = soon + 2
    busy.claim(claim(60.0), later)
    assert LEAST <= busy.until - later < LEAST + 1
    rested = busy.until + LONGEST / GIVEN_BACK
    busy.claim(claim(LONGEST), rested)
    assert busy.until == rested + LONGEST


def test_a_pause_uses_up_nothing() -> None:
    busy = Busy("vm", LONGEST)
    busy.claim(claim(60.0), 0.0)
    for now in (20.0, 30.0, 400.0):
        busy.stand_still(now)
        assert busy.lasts(now)
    busy.go_on(420.0)
    assert busy.until == 460.0
    busy.claim(claim(1e9), 430.0)
    assert busy.until == LONGEST + 400.0
    busy.go_on(1e6)
    assert busy.until == LONGEST + 400.0, "it was not paused again"


def test_what_is_over_in_a_pause_stays_over() -> None:
    busy = Busy("vm", LONGEST)
    busy.claim(claim(500.0), 0.0)
    busy.stand_still(10.0)
    busy.over(100.0)
    busy.go_on(300.0)
    assert not busy.lasts(300.0)


def test_what_is_left_over_is_kept() -> None:
    busy = Busy("vm", LONGEST)
    busy.claim(claim(LONGEST), 0.0)
    busy.over(100.0)
    assert not busy.lasts(100.0)
    busy.claim(claim(LONGEST), 100.0)
    assert busy.until == LONGEST


def test_a_short_time_is_granted_from_a_small_budget() -> None:
    busy = Busy("vm", 5.0)
    busy.claim(claim(60.0), 0.0)
    assert busy.until == 5.0, "all there is"
    busy.claim(claim(60.0), 25.0)
    assert not busy.lasts(25.0), "four seconds have come back"
    busy.claim(claim(4.0), 25.0)
    assert busy.until == 29.0


@given(
    st.lists(
        st.tuples(st.floats(0, 700), st.one_of(st.none(), st.floats(0.001, 1e6))), max_size=60
    ),
    st.floats(1, 3600),
)
def test_no_guest_is_busy_for_ever(story: list[tuple[float, float | None]], longest: float) -> None:
    """Of any time T it is busy for (longest + T / 5) / 1.2 seconds at most."""
    busy = Busy("vm", longest)
    now = spent = 0.0
    for wait, seconds in story:
        spent += max(0.0, min(now + wait, busy.until) - now)
        now += wait
        if seconds is None:
            busy.over(now)
        else:
            busy.claim(claim(seconds), now)
        assert busy.until <= now + longest + 1e-6
        assert spent <= (longest + now * GIVEN_BACK) / (1 + GIVEN_BACK) + 1e-3


def test_the_log_has_one_line_about_a_guest_that_says_it_again_and_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    busy = Busy("vm", LONGEST)
    for now in range(int(LOGGED)):
        busy.claim(claim(0.5), float(now))
    assert [record.getMessage() for record in caplog.records] == [
        "VM vm: busy for 0.5 s: fsck; its silence is let be"
    ]
