# SPDX-License-Identifier: Apache-2.0
"""docs/states.md shows the transitions that the code has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "states.md").read_text("utf-8")


def test_the_page_is_current() -> None:
    check = subprocess.run(
        [sys.executable, str(ROOT / "script" / "draw-states"), "--check"],
        capture_output=True,
        text=True,
    )
    assert (check.returncode, check.stderr) == (0, "")


def test_an_arrow_names_all_its_causes_and_a_state_that_stays_has_none() -> None:
    assert "    suspect --> failed: last miss\n" in PAGE
    assert "    open --> waiting_init: exit\n" in PAGE
    assert "    suspect --> establishing: start, reboot, exit\n" in PAGE
    assert "suspect --> suspect" not in PAGE
