# SPDX-License-Identifier: Apache-2.0
"""What image builders are given puts a working agent below a root."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

IMAGE = Path(__file__).parents[3] / "guest" / "image"
ELEMENT = IMAGE / "elements" / "vmhb-guest"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    subprocess.run([IMAGE / "install", tmp_path / "root"], check=True)
    return tmp_path / "root"


def test_the_installed_agent_runs_and_its_unit_is_enabled(root: Path) -> None:
    units = root / "etc/systemd/system"
    unit = (units / "sysinit.target.wants/vmhb-guest.service").resolve()
    assert unit == units / "vmhb-guest.service"
    (command,) = re.findall(r"^ExecStart=/(\S+)$", unit.read_text(), re.MULTILINE)
    (target,) = re.findall(r"^WantedBy=(\S+)$", unit.read_text(), re.MULTILINE)
    assert (units / f"{target}.wants").is_dir()
    shown = subprocess.run([root / command, "--version"], capture_output=True, check=True)
    assert shown.stdout.startswith(b"vmhb-guest ")


def test_it_can_be_installed_once_more(root: Path) -> None:
    subprocess.run([IMAGE / "install", root], check=True)
    assert (root / "usr/bin/vmhb-guest").exists()


def test_the_element_brings_the_same_files(root: Path, tmp_path: Path) -> None:
    """diskimage-builder sources or runs the scripts as here, but in a chroot."""
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    environment = {**os.environ, "TMP_HOOKS_PATH": str(hooks)}
    array = f"get_image_element_array() {{ echo '[vmhb-guest]={ELEMENT}'; }}; export -f"
    command = f"{array} get_image_element_array; {ELEMENT}/extra-data.d/50-vmhb-guest"
    subprocess.run(["bash", "-c", command], env=environment, check=True)
    brought = {path.relative_to(hooks / "vmhb-guest") for path in hooks.glob("vmhb-guest/**/*")}
    assert brought == {path.relative_to(root) for path in root.glob("**/*")}


def test_cloud_init_is_told_what_install_makes() -> None:
    """`cloud-init schema` judges the rest; the archive is unpacked before the unit is started."""
    config = (IMAGE / "cloud-config.yaml").read_text()
    assert config.startswith("#cloud-config\n")
    assert config.index("tar -xz") < config.index("[systemctl, start, vmhb-guest]")
