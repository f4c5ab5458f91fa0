# SPDX-License-Identifier: Apache-2.0
"""Where the lab keeps what it is made of; `script/setup` fills it."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAB = ROOT / ".lab"
CACHE = LAB / "cache"
KERNEL = CACHE / "kernel"
SYSTEMD = CACHE / "systemd"
QEMU_GA = CACHE / "qemu-ga"
NODE_VENV = LAB / "venv" / "node"
DEMO_VENV = LAB / "venv" / "demo"
WHEELHOUSE = LAB / "wheelhouse-demo"
#: Where the roles install; the node sees it at the same path, and the next one finds it there.
INSTALLED = LAB / "collectd-vmhb"
VITRAGE_VENV = LAB / "venv" / "vitrage"
VITRAGE_ETC = CACHE / "vitrage-etc"
RUN = LAB / "run"


class LabError(Exception):
    """A part of the lab is missing, did not come up or did not answer; says what to look at."""


def require(path: Path) -> Path:
    """Return `path`, which setup should have made; LabError when it did not."""
    if not path.exists():
        raise LabError(f"{path} is missing: run script/setup")
    return path
