# SPDX-License-Identifier: Apache-2.0
"""One run of a health check as a process of its own group, never waited for."""

import os
import signal
import subprocess
from typing import IO, Optional, cast

#: Bytes of output we keep; the first line of a plugin is far shorter. The rest is read and lost.
OUTPUT_MAX = 8192
_CHUNK = 65536
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Process:
    """A started check; the caller polls it, and kills it when it takes too long."""

    def __init__(self, path: str, name: str) -> None:
        """Start the executable at `path`; raise OSError when the system refuses."""
        self.output = b""
        self._popen = subprocess.Popen(  # noqa: S603
            [path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={"PATH": _PATH, "LC_ALL": "C", "HOME": "/", "VMHB_CHECK": name},
            start_new_session=True,
        )
        self._pipe = cast(IO[bytes], self._popen.stdout)
        self._at_end = False
        os.set_blocking(self._pipe.fileno(), False)
        _make_killable(self._popen.pid)

    def fileno(self) -> Optional[int]:
        """Return what to poll for output, or None when no more will come."""
        return None if self._at_end else self._pipe.fileno()

    def poll(self) -> Optional[int]:
        """Read what there is; return the exit code, or minus the signal, once it has ended."""
        # Ask first, read then: what it wrote before it ended is then all in the pipe.
        returncode = self._popen.poll()
        self._read()
        if returncode is not None:
            self._pipe.close()
            self._at_end = True
        return returncode

    def kill(self) -> None:
        """Kill the check and all it started; it ends when the kernel lets it."""
        if self._popen.poll() is not None:
            return
        try:
            os.killpg(self._popen.pid, signal.SIGKILL)
        except PermissionError:
            return  # it runs as somebody else, e.g. through sudo: it lingers, and counts as late

    def wait(self, seconds: float) -> None:
        """Give a killed check that long to be gone, for a tidy end of the agent."""
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return
        finally:
            self._pipe.close()

    def _read(self) -> None:
        # One chunk beyond what a pipe holds is enough to empty it and cannot go on for ever.
        for _ in range(2):
            if self._at_end or self._pipe.closed:
                return
            try:
                data = os.read(self._pipe.fileno(), _CHUNK)
            except BlockingIOError:
                return
            self._at_end = not data
            self.output = (self.output + data)[:OUTPUT_MAX]


def _make_killable(pid: int) -> None:
    """Undo for the check what protects the agent when memory runs out."""
    try:
        with open("/proc/%d/oom_score_adj" % pid, "w") as adjustment:
            adjustment.write("0")
    except OSError:
        return  # no /proc, or already gone: the check runs all the same
