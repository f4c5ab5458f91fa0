# SPDX-License-Identifier: Apache-2.0
"""The example check: how full the root file system is, by df's word."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

CHECK = Path(__file__).parents[3] / "guest" / "health.d" / "root-space"


@pytest.mark.parametrize(
    ("df", "code", "text"),
    [
        ("/dev/vda1 1000 840 160 84% /", 0, "/ is 84% full | used=84%;85;95;0;100"),
        ("/dev/vda1 1000 850 150 85% /", 1, "/ is 85% full | used=85%;85;95;0;100"),
        ("/dev/vda1 1000 950 50 95% /", 2, "/ is 95% full | used=95%;85;95;0;100"),
        ("rootfs 0 0 0 - /", 3, "df does not tell how full / is"),
        ("", 3, "df does not tell how full / is"),
    ],
)
@pytest.mark.parametrize("shell", ["dash", "busybox sh"])
def test_root_space(tmp_path: Path, shell: str, df: str, code: int, text: str) -> None:
    stand_in = tmp_path / "df"
    stand_in.write_text(f"#!/bin/sh\necho Filesystem 1024-blocks Used\necho '{df}'\n")
    stand_in.chmod(0o755)
    run = subprocess.run(
        # As a function: busybox would prefer its own df to one in PATH.
        [*shell.split(), "-c", f"df() {{ {stand_in}; }}; . {CHECK}"],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout.strip()) == (code, text)
