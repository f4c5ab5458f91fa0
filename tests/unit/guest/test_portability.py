# SPDX-License-Identifier: Apache-2.0
"""What the agent promises to image builders: Python 3.6 and nothing but its standard library."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

GUEST = Path(__file__).parents[3] / "guest"
MODULES = sorted((GUEST / "vmhb_guest").glob("*.py"))


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_syntax_and_imports(module: Path) -> None:
    tree = ast.parse(module.read_text(), feature_version=(3, 6))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            imported.add((node.module or "").split(".")[0])
    allowed = {"serial"} if module.name == "tty.py" else set()
    assert imported <= sys.stdlib_module_names - {"__future__", "dataclasses"} | allowed


def test_nothing_newer_than_python_3_6_is_used() -> None:
    """Vermin knows in which version each name of the standard library appeared."""
    vermin = Path(sys.executable).with_name("vermin")
    command = [str(vermin), "-t=3.6-", "--eval-annotations", "--violations"]
    sources = [str(GUEST / "vmhb_guest"), str(GUEST / "build-pyz"), str(GUEST / "setup.py")]
    done = subprocess.run([*command, *sources], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("client", "lines"), [("sh/vmhb-guest.sh", 60), ("c/vmhb-guest.c", 150)])
def test_a_client_to_start_from_is_short(client: str, lines: int) -> None:
    assert len((GUEST / client).read_text().splitlines()) < lines
