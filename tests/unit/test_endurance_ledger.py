# SPDX-License-Identifier: Apache-2.0
"""The ledger of tests/endurance finds what is false, what is missed and what comes too early."""

from __future__ import annotations

import pytest

from tests.endurance.ledger import LOST, SICK, Ledger, ended_within, told_within
from tests.endurance.usage import Usage

VM = "6ba7b810-9dad-41d1-80b4-000000000001"
ROOM = 1.0


@pytest.fixture(name="ledger")
def _ledger() -> Ledger:
    return Ledger(ROOM)


def told(ledger: Ledger, fault: str, bad: bool, at: float) -> None:
    ledger.heard(VM, fault, bad, "text", at)


def test_what_is_told_in_time_is_well(ledger: Ledger) -> None:
    ledger.began(VM, LOST, 100.0)
    told(ledger, LOST, True, 103.0)
    ledger.ended(VM, LOST, 110.0)
    told(ledger, LOST, False, 112.0)
    ledger.turn(200.0)
    assert (ledger.false, ledger.missed) == ([], [])
    assert ledger.delays[LOST] == [3.0]
    assert ledger.health(VM) == "healthy"


@pytest.mark.parametrize("fault", [LOST, SICK])
def test_what_is_not_told_is_missed_once_its_bound_is_over(ledger: Ledger, fault: str) -> None:
    ledger.began(VM, fault, 100.0)
    ledger.turn(100.0 + told_within(fault) + ROOM)
    assert not ledger.missed
    assert not ledger.settled(VM)
    ledger.turn(100.1 + told_within(fault) + ROOM)
    ledger.turn(500.0)
    assert len(ledger.missed) == 1
    assert ledger.settled(VM)


def test_an_end_that_is_not_told_is_missed(ledger: Ledger) -> None:
    ledger.began(VM, SICK, 100.0)
    told(ledger, SICK, True, 101.0)
    ledger.ended(VM, SICK, 110.0)
    ledger.turn(110.1 + ended_within(SICK) + ROOM)
    assert len(ledger.missed) == 1


@pytest.mark.parametrize(("bad", "at"), [(True, 100.0), (False, 100.0)])
def test_what_is_not_true_is_false(ledger: Ledger, bad: bool, at: float) -> None:
    if not bad:
        ledger.began(VM, LOST, at - 10.0)
    told(ledger, LOST, bad, at)
    assert len(ledger.false) == 1


def test_a_loss_before_there_can_have_been_enough_misses_is_false(ledger: Ledger) -> None:
    ledger.began(VM, LOST, 100.0)
    told(ledger, LOST, True, 101.5)
    assert len(ledger.false) == 1


def test_a_host_that_says_it_is_late_has_more_time(ledger: Ledger) -> None:
    ledger.began(VM, LOST, 100.0)
    ledger.late(1.0, 101.0)
    ledger.turn(100.1 + told_within(LOST) + ROOM)
    assert not ledger.missed
    ledger.turn(100.1 + told_within(LOST, 1.0) + ROOM)
    assert len(ledger.missed) == 1


def test_what_is_said_again_is_not_new(ledger: Ledger) -> None:
    ledger.began(VM, SICK, 100.0)
    told(ledger, SICK, True, 101.0)
    ledger.ended(VM, SICK, 110.0)
    told(ledger, SICK, True, 110.5)
    ledger.turn(200.0)
    assert (len(ledger.false), len(ledger.missed)) == (0, 1)


def test_a_loss_is_not_judged_while_the_guests_could_not_answer(ledger: Ledger) -> None:
    ledger.slow(1.0, 100.0)
    told(ledger, LOST, True, 102.0)
    assert not ledger.false
    told(ledger, LOST, False, 103.0)
    told(ledger, LOST, True, 110.0)
    assert len(ledger.false) == 1


def test_what_is_shown_is_compared_as_well(ledger: Ledger) -> None:
    ledger.shown(VM, "healthy", 1.0)
    ledger.began(VM, LOST, 2.0)
    ledger.shown(VM, "failed", 10.0)
    assert not ledger.false
    ledger.shown(VM, "healthy", 11.0)
    assert len(ledger.false) == 1


def test_growth_is_seen_through_noise_and_not_where_there_is_none() -> None:
    usage = Usage()
    for second in range(100):
        noise = (second * 7919) % 13
        usage.note(float(second), {"flat": 1000.0 + noise, "leak": 1000.0 + noise + second})
    assert abs(usage.growth("flat", 20.0)) < 2
    assert 75 < usage.growth("leak", 20.0) < 83
