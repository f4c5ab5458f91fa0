# SPDX-License-Identifier: Apache-2.0
"""Starts the lab's processes and finds them again, also when whoever started them is dead."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Callable

from tests.lab.layout import LabError


class Process:
    """A process that outlives us unless ended; unlike Popen it may be forgotten while it runs."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._status: int | None = None

    def exit_status(self) -> int | None:
        """None while it runs; minus the signal's number when a signal ended it."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status


def spawn(argv: list[str], output: Path) -> Process:
    """Start a process of the lab in a session of its own, printing into the file `output`.

    That file as standard error is also the mark by which printing_below() finds it again.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    pid = os.posix_spawn(
        argv[0],
        argv,
        {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(output), append, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    return Process(pid)


def printing_below(path: Path) -> set[int]:
    """Find the processes whose standard error is the file `path` or one below that directory.

    Neither a title that a process gives itself nor the death of its parent hides it.
    """
    return {pid for pid in _others() if _prints_below(pid, path)}


def inside(run: Path) -> set[int]:
    """Find the processes that see the directory `run` as /run, which only a node's own do."""
    return {pid for pid in _others() if sees_as_run(pid, run)}


def sees_as_run(pid: int, run: Path) -> bool:
    """Whether the directory `run` is what the process sees as /run."""
    try:
        return run.samefile(f"/proc/{pid}/root/run")
    except OSError:
        return False


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state != "Z"


def end(pids: Iterable[int], patience: float = 10.0) -> None:
    """SIGTERM, after `patience` seconds SIGKILL; return when none of them runs."""
    left = set(pids)
    for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 10.0)):
        for pid in left:
            _signal(pid, number)
        deadline = time.monotonic() + seconds
        while left and time.monotonic() < deadline:
            left = {pid for pid in left if is_alive(pid)}
            time.sleep(0.02)
    if left:
        raise LabError(f"processes {sorted(left)} survive SIGKILL")


def wait_until(ready: Callable[[], bool], timeout: float, failure: str) -> None:
    """Poll `ready` every 50 ms; LabError(`failure`) after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not ready():
        if time.monotonic() > deadline:
            raise LabError(f"{failure} (waited {timeout:g} s)")
        time.sleep(0.05)


def _others() -> set[int]:
    pids = {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    return pids - {os.getpid()}


def _prints_below(pid: int, path: Path) -> bool:
    try:
        output = Path(str(Path(f"/proc/{pid}/fd/2").readlink()).removesuffix(" (deleted)"))
    except OSError:
        return False
    return path in (output, *output.parents)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
    # A stopped process does not even die of SIGTERM.
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return
