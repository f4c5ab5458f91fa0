# SPDX-License-Identifier: Apache-2.0
"""VMs share moments where they are few, and are spread evenly where they are many."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from collectd_vmhb.correlation import MASS_MIN
from collectd_vmhb.phases import GROUP, MOMENTS, Phases


def parts(phases: Phases, count: int) -> Counter[float]:
    return Counter(phases.of(f"vm-{number}") for number in range(count))


def test_a_few_vms_share_one_moment_and_cannot_look_like_a_mass() -> None:
    assert set(parts(Phases(), GROUP).values()) == {GROUP}
    assert GROUP < MASS_MIN


def test_the_moments_of_a_small_host_are_far_apart() -> None:
    used = sorted(parts(Phases(), 8 * GROUP))
    gaps = [later - earlier for earlier, later in zip(used, [*used[1:], used[0] + 1])]
    assert len(used) == 8
    assert min(gaps) > 0.04


def test_many_vms_are_spread_evenly() -> None:
    full = parts(Phases(), 50 * MOMENTS)
    assert len(full) == MOMENTS
    assert set(full.values()) == {50}
    assert all(0 <= part < 1 for part in full)


def test_a_vm_keeps_its_part_until_it_is_forgotten() -> None:
    phases = Phases()
    before = parts(phases, 3 * GROUP)
    assert parts(phases, 3 * GROUP) == before
    part = phases.of("vm-0")
    phases.forget("vm-0")
    assert phases.of("another") == part


@given(st.lists(st.integers(0, 30), max_size=200))
def test_however_vms_come_and_go_nobody_is_counted_twice(numbers: list[int]) -> None:
    phases = Phases()
    there: set[int] = set()
    for number in numbers:
        if number in there:
            there.remove(number)
            phases.forget(f"vm-{number}")
        else:
            there.add(number)
            phases.of(f"vm-{number}")
    shared = Counter(phases.of(f"vm-{number}") for number in there)
    assert all(count <= GROUP for count in shared.values())
