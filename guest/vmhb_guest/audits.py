# SPDX-License-Identifier: Apache-2.0
"""Tests of the operating system around the agent, each run in a child without its privileges.

The agent is protected when memory runs out and does next to nothing: it can answer while all else
in the VM starves. These do what any program does, and say how long it took.
"""

import contextlib
import os
import socket
import time
from typing import Callable, Dict, List, NamedTuple, Tuple

from .nagios import Outcome
from .status import Status

#: Names of audits begin with this; no check of the user may take it.
PREFIX = "os."
_FSTAB = "/etc/fstab"
#: Part of the root file system in most images, and kept over a reboot.
_SCRATCH = "/var/tmp"  # noqa: S108
_PRESSURE = "/proc/pressure/memory"
#: Bytes of a file that is read; a longer table of file systems has its root among the first.
_FILE_MAX = 65536
_EXIT_CODE = {Status.OK: 0, Status.WARNING: 1, Status.CRITICAL: 2, Status.UNKNOWN: 3}


class Limits(NamedTuple):
    """From where on a figure is a warning, and critical; downwards if warning is the higher."""

    warning: float
    critical: float

    def judge(self, figure: float) -> Status:
        """Return how bad the figure is."""
        sign = 1 if self.warning <= self.critical else -1
        if sign * figure >= sign * self.critical:
            return Status.CRITICAL
        return Status.WARNING if sign * figure >= sign * self.warning else Status.OK


#: Seconds; `memory` is the share of the last 10 s in which all tasks waited for memory, in %;
#: `space` is what is free on the root file system, in %; `root` knows only good and bad.
DEFAULTS: Dict[str, Limits] = {
    "timer": Limits(0.5, 2.0),
    "exec": Limits(1.0, 5.0),
    "loopback": Limits(0.5, 2.0),
    "fsync": Limits(2.0, 8.0),
    "memory": Limits(20.0, 60.0),
    "space": Limits(5.0, 2.0),
    "root": Limits(1.0, 1.0),
}


class Audit(NamedTuple):
    """One audit as the body of a child."""

    kind: str
    limits: Limits

    def run(self) -> int:
        """Run it and end as a monitoring plugin does."""
        try:
            outcome = _MEASURE[self.kind](self.limits)
        except OSError as error:
            outcome = Outcome(Status.CRITICAL, error.strerror or str(error), "")
        os.write(1, ("%s|%s" % (outcome.text, outcome.perfdata)).encode("utf-8"))
        return _EXIT_CODE[outcome.status]


def available(kind: str) -> bool:
    """Tell whether this system can be asked at all: old kernels do not measure memory pressure."""
    return kind != "memory" or os.path.exists(_PRESSURE)


def _seconds(figure: float, what: str, limits: Limits) -> Outcome:
    perfdata = "time=%.4fs;%g;%g;0" % (figure, limits.warning, limits.critical)
    return Outcome(limits.judge(figure), "%s %.3f s" % (what, figure), perfdata)


def _percent(figure: float, text: str, name: str, limits: Limits) -> Outcome:
    perfdata = "%s=%.1f%%;%g;%g;0;100" % (name, figure, limits.warning, limits.critical)
    return Outcome(limits.judge(figure), text, perfdata)


def _timer(limits: Limits) -> Outcome:
    worst = 0.0
    for _ in range(5):
        due = time.monotonic() + 0.02
        time.sleep(0.02)
        worst = max(worst, time.monotonic() - due)
    return _seconds(worst, "timers fire late by", limits)


def _exec(limits: Limits) -> Outcome:
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        try:
            os.execv("/bin/sh", ["sh", "-c", ":"])  # noqa: S606
        finally:
            os._exit(127)
    _, status = os.waitpid(pid, 0)
    if status:
        return Outcome(Status.CRITICAL, "/bin/sh does not run", "")
    return _seconds(time.monotonic() - started, "fork and exec take", limits)


def _loopback(limits: Limits) -> Outcome:
    started = time.monotonic()
    with socket.socket() as listener, socket.socket() as near:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        near.connect(listener.getsockname())
        with listener.accept()[0] as far:
            near.sendall(b"ping")
            far.sendall(far.recv(4))
            near.recv(4)
    return _seconds(time.monotonic() - started, "a round trip over loopback takes", limits)


def _fsync(limits: Limits) -> Outcome:
    directory = _SCRATCH if os.path.isdir(_SCRATCH) else "/"
    # Named after the agent, so that the next run finds what one left that was killed.
    path = os.path.join(directory, ".vmhb-guest-fsync-%d" % os.getppid())
    if os.statvfs(directory).f_flag & os.ST_RDONLY:
        return Outcome(Status.OK, "not tried: %s is read-only" % directory, "")
    started = time.monotonic()
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(fd, b"x" * 4096)
        os.fsync(fd)
    finally:
        os.unlink(path)
        os.close(fd)
    return _seconds(time.monotonic() - started, "writing 4 KiB to %s takes" % directory, limits)


def _memory(limits: Limits) -> Outcome:
    figure = stalled(_read(_PRESSURE))
    text = "all tasks waited for memory %.1f %% of the last 10 s" % figure
    return _percent(figure, text, "stalled", limits)


def stalled(pressure: str) -> float:
    """Return `full avg10` out of what the kernel says about memory pressure, in %."""
    for line in pressure.splitlines():
        kind, _, figures = line.partition(" ")
        if kind == "full":
            return float(dict(pair.split("=") for pair in figures.split())["avg10"])
    return 0.0


def _space(limits: Limits) -> Outcome:
    root = os.statvfs("/")
    counts = [("space", root.f_bavail, root.f_blocks), ("inodes", root.f_favail, root.f_files)]
    shares: List[Tuple[float, str]] = [
        (100.0 * free / total, what) for what, free, total in counts if total
    ]
    if not shares:
        return Outcome(Status.OK, "/ has no limit", "")
    figure, what = min(shares)
    return _percent(figure, "%.1f %% of the %s on / is free" % (figure, what), "free", limits)


def _root(_: Limits) -> Outcome:
    if not os.statvfs("/").f_flag & os.ST_RDONLY:
        return Outcome(Status.OK, "/ can be written", "")
    if not wanted_writable(_read(_FSTAB)):
        return Outcome(Status.OK, "/ is read-only, and %s does not want it otherwise" % _FSTAB, "")
    return Outcome(Status.CRITICAL, "/ is read-only, which %s does not want" % _FSTAB, "")


def wanted_writable(fstab: str) -> bool:
    """Tell whether the table of file systems has a root that is not read-only."""
    for line in fstab.splitlines():
        fields = line.split()
        if len(fields) >= 4 and not line.startswith("#") and fields[1] == "/":
            return "ro" not in fields[3].split(",")
    return False


def _read(path: str) -> str:
    # Without Python's layers for text files: to load them costs a child more than all the rest.
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return ""
    try:
        return os.read(fd, _FILE_MAX).decode("utf-8", "replace")
    finally:
        os.close(fd)


_MEASURE: Dict[str, Callable[[Limits], Outcome]] = {
    "timer": _timer,
    "exec": _exec,
    "loopback": _loopback,
    "fsync": _fsync,
    "memory": _memory,
    "space": _space,
    "root": _root,
}
