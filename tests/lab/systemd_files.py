# SPDX-License-Identifier: Apache-2.0
"""Which files of Debian's systemd and udev a lab guest has; `script/setup test` unpacks them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.lab.layout import SYSTEMD, require

#: Those whose libraries are needed as well.
PROGRAMS = {
    "/lib/systemd/systemd",
    "/lib/systemd/systemd-journald",
    "/lib/systemd/systemd-shutdown",
    "/bin/journalctl",
    "/bin/systemctl",
    "/bin/systemd-analyze",
    "/bin/systemd-escape",
    "/bin/systemd-notify",
    "/bin/udevadm",
}
_UNITS = (
    "basic.target",
    "final.target",
    "local-fs-pre.target",
    "local-fs.target",
    "multi-user.target",
    "network-online.target",
    "network-pre.target",
    "network.target",
    "paths.target",
    "poweroff.target",
    "shutdown.target",
    "slices.target",
    "sockets.target",
    "swap.target",
    "sysinit.target",
    "systemd-journald-dev-log.socket",
    "systemd-journald.service",
    "systemd-journald.socket",
    "systemd-poweroff.service",
    "systemd-udev-trigger.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "systemd-udevd.service",
    "timers.target",
    "umount.target",
)
_RULES = ("50-udev-default.rules", "99-systemd.rules")
LIBRARIES = (
    SYSTEMD / "lib/x86_64-linux-gnu",
    SYSTEMD / "usr/lib/x86_64-linux-gnu",
    SYSTEMD / "usr/lib/x86_64-linux-gnu/systemd",
)


def found() -> Iterator[tuple[Path, str]]:
    """Yield each file and where it goes in the guest."""
    require(SYSTEMD)
    paths = {*PROGRAMS, *(f"/lib/systemd/system/{unit}" for unit in _UNITS)}
    paths |= {f"/lib/udev/rules.d/{rules}" for rules in _RULES}
    for path in sorted(paths):
        file = SYSTEMD / path[1:]
        yield require(file if file.exists() else SYSTEMD / "usr" / path[1:]), path
