# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collectd_vmhb.conduct import (
    BURST_SECONDS,
    COMPLAINT_PEACE,
    COMPLAINT_PERIOD,
    COMPLAINTS_MAX,
    MESSAGES_PER_SECOND,
    Conduct,
)


def accused(conduct: Conduct, at: float) -> float:
    """Complains once a second until that is misbehaviour; returns when."""
    while not conduct.misbehaves(at):
        conduct.complain(at)
        at += 1.0
    return at


def test_a_burst_that_was_saved_up_is_read_and_one_more_is_not() -> None:
    conduct = Conduct()
    conduct.sent(1000, int(MESSAGES_PER_SECOND * BURST_SECONDS), 0.0)
    assert conduct.muted_until == 0.0
    conduct.sent(10, 1, 0.0)
    assert conduct.muted_until > 0.0


def test_what_one_burst_overdraws_is_forgotten_within_seconds() -> None:
    conduct = Conduct()
    conduct.sent(16384, 8000, 0.0)
    conduct.sent(10, 1, 2.0)
    assert conduct.muted_until < 2.0


def test_a_burst_of_complaints_is_one() -> None:
    conduct = Conduct()
    for _ in range(1000):
        conduct.complain(5.0)
    assert not conduct.misbehaves(5.0)


def test_it_ends_with_peace_and_is_not_told_again_within_the_hour() -> None:
    conduct = Conduct()
    first = accused(conduct, 0.0)
    assert first >= COMPLAINTS_MAX
    assert not conduct.misbehaves(first + COMPLAINT_PEACE + 1)
    again = accused(conduct, first + COMPLAINT_PEACE + 1)
    assert again - first > COMPLAINT_PERIOD - COMPLAINTS_MAX


def test_a_leave_is_worth_a_line_now_and_then() -> None:
    conduct = Conduct()
    assert [conduct.left(at) for at in (0.0, 1.0, 599.0, 601.0)] == [True, False, False, True]


def test_a_check_does_not_hide_behind_others_that_flap() -> None:
    conduct = Conduct()
    flapping = [f"a{number}" for number in range(10)]
    for second in range(60):
        conduct.tellable(flapping, (), 0, second)
    told: set[str] = set()
    for second in range(60, 64):
        told |= conduct.tellable([*flapping, "z"], (), 0, second)
    assert "z" in told


def test_what_is_no_change_any_more_waits_no_longer() -> None:
    conduct = Conduct()
    many = [f"a{number}" for number in range(30)]
    assert len(conduct.tellable(many, (), 0, 0.0)) == 20
    assert conduct.news_at == 1.0
    assert conduct.tellable(["z"], (), 0, 1.0) == {"z"}
