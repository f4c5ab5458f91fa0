# SPDX-License-Identifier: Apache-2.0
"""docs/security.md claims nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/security.md").read_text("utf-8")


def test_every_proof_is_a_test_of_ours() -> None:
    there = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
    }
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 30
    assert named <= there


def test_every_defence_has_its_proof() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")]
    tables = [row for row in rows if "proved by" not in row]
    assert tables
    for row in tables:
        assert "`test_" in row or "the same |" in row, row


def test_the_engine_needs_nothing_but_python() -> None:
    project = (ROOT / "pyproject.toml").read_text("utf-8").partition("[project]")[2]
    assert re.search(r"^dependencies = \[\]$", project, re.MULTILINE)


def test_the_capabilities_of_the_drop_in_are_those_that_were_tried() -> None:
    tried = (ROOT / "docs/operations.md").read_text("utf-8")
    (line,) = re.findall(r"^CapabilityBoundingSet=.*$", PAGE, re.MULTILINE)
    assert line in tried.splitlines()
