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
}
NAMED = set(re.findall(r"(\w+)::(test_\w+)", PAGE))


def names_in(file: str) -> set[tuple[str, str]]:
    source = (ROOT / FILES[file]).read_text("utf-8")
    return {(file, name) for name in re.findall(r"^def (test_\w+)", source, re.MULTILINE)}


def test_each_row_names_a_test_that_is_there() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")]
    unproved = [row for row in rows if "::test_" not in row and not row.startswith("| event |")]
    assert len(rows) > 30
    assert unproved == []
    assert set() == NAMED - set().union(*map(names_in, FILES))


def test_each_test_of_the_life_of_a_vm_has_its_row() -> None:
    assert set() == (names_in("e2e") | names_in("simulation")) - NAMED
