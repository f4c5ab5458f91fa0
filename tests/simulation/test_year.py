# SPDX-License-Identifier: Apache-2.0
"""A year of planned operations raises no alarm, and no failure among them is missed (year.py).

VMHB_SEED=TEXT repeats a run; without it each run has a year of its own.
"""

from __future__ import annotations

import os
import sys

import pytest

from tests.simulation.year import FAILURES_A_VM, HOST_YEAR, VM_YEAR, VMS_A_HOST, play_all

EVENTS_A_VM = sum(VM_YEAR.values()) + sum(HOST_YEAR.values()) / VMS_A_HOST


@pytest.mark.parametrize(
    "vms",
    [
        pytest.param(40, marks=pytest.mark.timeout(240)),
        pytest.param(500, marks=[pytest.mark.long, pytest.mark.timeout(600)]),
    ],
)
def test_a_year_of_a_busy_cloud(vms: int, capfd: pytest.CaptureFixture[str]) -> None:
    seed = os.environ.get("VMHB_SEED") or str(int.from_bytes(os.urandom(4), "big"))
    with capfd.disabled():
        sys.stdout.write(f"\na year of {vms} VMs, VMHB_SEED={seed}\n")
    tally = play_all(seed, vms, processes=2)
    assert (tally.events, tally.failures) == (vms * EVENTS_A_VM, vms * FAILURES_A_VM)
    assert tally.false == []
    assert tally.missed == []


@pytest.mark.timeout(120)
def test_who_is_not_told_of_states_raises_false_alarms_in_the_same_year() -> None:
    aware, blind = (play_all("blind", 4, processes=2, aware=aware) for aware in (True, False))
    assert aware.false == []
    assert len(blind.false) > 0.1 * blind.events
