# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest

from collectd_vmhb.maintenance import HOST, Maintenance

WALL = 1e9


def begun(seconds: float = 60.0) -> Maintenance:
    maintenance = Maintenance()
    maintenance.begin("vm", seconds, "a new disk", 0.0, WALL)
    return maintenance


def test_a_window_covers_its_vm_until_its_end() -> None:
    maintenance = begun()
    assert maintenance.window("other") is None
    assert maintenance.due(59.9) == []
    assert maintenance.window("vm") is not None
    assert maintenance.due(60.0) == ["vm"]
    assert maintenance.window("vm") is None
    assert maintenance.deadline == math.inf


def test_a_vms_own_window_is_shown_before_the_hosts() -> None:
    maintenance = begun()
    maintenance.begin(HOST, 10.0, "new firmware", 0.0, WALL)
    reasons = [window.reason for uuid in ("vm", "other") if (window := maintenance.window(uuid))]
    assert reasons == ["a new disk", "new firmware"]
    assert maintenance.deadline == 10.0


def test_a_second_window_takes_the_place_of_the_first() -> None:
    maintenance = begun(60.0)
    maintenance.begin("vm", 5.0, "less", 0.0, WALL)
    assert maintenance.due(5.0) == ["vm"]
    assert maintenance.due(1000.0) == []


@pytest.mark.parametrize(
    ("clock", "left"),
    [
        pytest.param(WALL + 20, 40.0, id="it goes on"),
        pytest.param(WALL - 86400, 60.0, id="a clock set back does not lengthen it"),
        pytest.param(WALL + 60, None, id="it ended meanwhile"),
    ],
)
def test_a_window_is_taken_over_by_the_next_process(clock: float, left: float | None) -> None:
    after = Maintenance()
    after.load(begun().dump(), 500.0, clock)
    assert after.deadline == (math.inf if left is None else 500.0 + left)
    assert (after.window("vm") is None) is (left is None)
