# SPDX-License-Identifier: Apache-2.0
"""docs/lifecycle.md names a test for each of its rows, and each of the tests has its row."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "lifecycle.md").read_text("utf-8")
FILES = {
    "e2e": "tests/e2e/test_lifecycle.py",
    "main": "tests/e2e/test_main_job.py",
    "restarts": "tests/e2e/test_restarts.py",
    "ways": "tests/e2e/test_ways_in.py",
    "many": "tests/integration/test_many_vms.py",
    "simulation": "tests/simulation/test_lifecycle.py",
    "events": "tests/simulation/test_events.py",
    "operations": "tests/simulation/test_operations.py",
}
#: Those on a virtual clock; the others are on real parts.
SIMULATED = {"simulation", "events", "operations"}
NAMED = set(re.findall(r"(\w+)::(test_\w+)", PAGE))


ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and "| event |" not in line]


def kinds_of(row: str) -> set[str]:
    return {kind for kind, _ in re.findall(r"(\w+)::(test_\w+)", row)}


def names_in(file: str) -> set[tuple[str, str]]:
    source = (ROOT / FILES[file]).read_text("utf-8")
    return {(file, name) for name in re.findall(r"^def (test_\w+)", source, re.MULTILINE)}


def test_each_row_names_tests_that_are_there() -> None:
    assert len(ROWS) > 60
    assert set() == NAMED - set().union(*map(names_in, FILES))


def test_each_row_is_simulated() -> None:
    assert [row for row in ROWS if not kinds_of(row) & SIMULATED] == []


def test_what_a_single_vm_can_do_is_seen_on_real_parts() -> None:
    # What takes many VMs, many hosts or hours is simulated alone.
    simulated_alone = [row for row in ROWS if kinds_of(row) <= SIMULATED]
    assert len(simulated_alone) <= 26


def test_each_test_of_the_life_of_a_vm_has_its_row() -> None:
    files = ("e2e", "simulation", "events", "operations")
    assert set() == set().union(*map(names_in, files)) - NAMED
