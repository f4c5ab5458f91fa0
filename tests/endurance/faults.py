# SPDX-License-Identifier: Apache-2.0
"""What is done to a host in use, each until the end of a block; see host.Host."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from tests.endurance.host import Host

HERE = Path(__file__).parent


@contextlib.contextmanager
def no_descriptors(host: Host) -> Iterator[None]:
    """collectd may open nothing more."""
    free = set()
    # What is open for a moment only, such as a file that is written, leaves its number again.
    for _ in range(50):
        used = {int(entry.name) for entry in Path(f"/proc/{host.pid}/fd").iterdir()}
        free.add(min(set(range(len(used) + 1)) - used))
        time.sleep(0.02)
    with _limited(host, resource.RLIMIT_NOFILE, min(free)):
        yield


@contextlib.contextmanager
def no_memory(host: Host) -> Iterator[None]:
    """collectd gets no more memory than it has."""
    pages = int(Path(f"/proc/{host.pid}/statm").read_text().split()[0])
    with _limited(host, resource.RLIMIT_AS, pages * resource.getpagesize()):
        yield


@contextlib.contextmanager
def full_disk(directory: Path) -> Iterator[None]:
    """There is no room left where the engine keeps its state."""
    ballast = directory / "ballast"
    with ballast.open("wb") as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
            file.flush()
    try:
        yield
    finally:
        ballast.unlink()


@contextlib.contextmanager
def hung_libvirtd(host: Host) -> Iterator[None]:
    """libvirtd is there and does nothing."""
    pid = int((host.node.run / "libvirtd.pid").read_text())
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def bring_foreign(host: Host) -> None:
    """Puts the plugin of somebody else (foreign.py) where collectd finds it."""
    _foreign(host).mkdir(parents=True)
    shutil.copy(HERE / "foreign.py", _foreign(host))


@contextlib.contextmanager
def foreign(host: Host, what: str, content: str = "") -> Iterator[None]:
    """The plugin of somebody else misbehaves."""
    switch = _foreign(host) / what
    # At once: a clock that is half written would be another one.
    switch.with_suffix(".new").write_text(content)
    switch.with_suffix(".new").rename(switch)
    try:
        yield
    finally:
        switch.unlink()


def _foreign(host: Host) -> Path:
    return host.node.collectd.directory / "foreign"


@contextlib.contextmanager
def _limited(host: Host, what: int, most: int) -> Iterator[None]:
    before = resource.prlimit(host.pid, what)
    resource.prlimit(host.pid, what, (most, before[1]))
    try:
        yield
    finally:
        resource.prlimit(host.pid, what, before)
