# SPDX-License-Identifier: Apache-2.0
"""The agent as one file runs without anything beside it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from vmhb_guest import __version__

BUILD = Path(__file__).parents[3] / "guest" / "build-pyz"


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_one_file_is_the_whole_agent(tmp_path: Path) -> None:
    assert run(str(BUILD), cwd=tmp_path).returncode == 0
    assert run(str(BUILD), "again.pyz", cwd=tmp_path).returncode == 0
    agent = tmp_path / "vmhb-guest.pyz"
    assert agent.read_bytes() == (tmp_path / "again.pyz").read_bytes()
    assert run(str(agent), "--version", cwd=tmp_path).stdout == f"vmhb-guest {__version__}\n"
    failed = run(str(agent), "status", "--run-dir", str(tmp_path), cwd=tmp_path)
    assert failed.returncode == 2
    assert run(str(agent), "run", "x", "--", "sh", "-c", "exit 3", cwd=tmp_path).returncode == 3
