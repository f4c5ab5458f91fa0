# SPDX-License-Identifier: Apache-2.0
"""Speaks to collectd's plugin unixsock: the tests' eyes into a daemon, and its mouth."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from tests.lab.layout import LabError


def ask(path: Path, line: str) -> list[str]:
    """Send a command (LISTVAL, GETVAL "…", PUTNOTIF …); return the lines of the answer.

    OSError when nobody listens, LabError when collectd refuses.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(path))
        with connection.makefile("rw") as stream:
            stream.write(line + "\n")
            stream.flush()
            status = stream.readline().rstrip()
            count, _, _ = status.partition(" ")
            # A daemon that ends closes the connection without a word.
            if not count or int(count) < 0:
                raise LabError(f"collectd refuses {line!r}: {status}")
            return [stream.readline().rstrip() for _ in range(int(count))]


def answers(path: Path) -> bool:
    """Whether a daemon listens and answers."""
    try:
        ask(path, "LISTVAL")
    except (OSError, LabError):
        return False
    return True


def put_fault(path: Path, host: str, severity: str, fault: str, vm: str, **meta: str) -> None:
    """Dispatch a notification of plugin vmhb as `host`'s engine would; no `vm`: of the host."""
    instance = f"plugin_instance={vm} " if vm else ""
    ask(
        path,
        f"PUTNOTIF severity={severity} time={time.time():.3f} host={host} plugin=vmhb "
        f'{instance}type=gauge type_instance={fault} message="no answer" '
        + " ".join(f"s:{key}={value}" for key, value in meta.items()),
    )
