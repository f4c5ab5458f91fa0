# SPDX-License-Identifier: Apache-2.0
"""A child of the agent in a process group of its own, never waited for.

The agent forks, and does not wait for an exec either: reading a program from a disk that hangs may
take for ever, and then it is the child that hangs.
"""

import contextlib
import os
import signal
import time
from typing import Callable, Optional

from .signals import known

#: Bytes of output we keep; the first line of a plugin is far shorter. The rest is read and lost.
OUTPUT_MAX = 8192
_CHUNK = 65536
#: What a child ends with when its body raised: the code of "unknown" among monitoring plugins.
_RAISED = 3
#: Those that Python ignores and programs expect. What the agent catches, exec gives back.
_IGNORED = known("SIGPIPE", "SIGXFSZ")


class Process:
    """A child that runs `body`; the caller polls it, and kills it when it takes too long."""

    def __init__(self, body: Callable[[], int]) -> None:
        """Start the child; `body` returns its exit code. Raise OSError when the system refuses."""
        self.output = b""
        self._returncode: Optional[int] = None
        self._at_end = False
        self._pipe, child_end = os.pipe()
        try:
            self._pid = _fork(body, child_end)
        except OSError:
            os.close(self._pipe)
            raise
        finally:
            os.close(child_end)
        os.set_blocking(self._pipe, False)

    def fileno(self) -> Optional[int]:
        """Return what to poll for output, or None when no more will come."""
        return None if self._at_end else self._pipe

    def poll(self) -> Optional[int]:
        """Read what there is; return the exit code, or minus the signal, once it has ended."""
        # Ask first, read then: what it wrote before it ended is then all in the pipe.
        ended = self._reap()
        self._read()
        if ended:
            self._close()
        return self._returncode

    def kill(self) -> None:
        """Kill the child and all it started; it ends when the kernel lets it."""
        if self._reap():
            return
        # Whom we may not kill, e.g. what runs through sudo, lingers, and counts as late.
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)

    def wait(self, seconds: float) -> None:
        """Give a killed child that long to be gone, for a tidy end of the agent."""
        give_up = time.monotonic() + seconds
        while not self._reap() and time.monotonic() < give_up:
            time.sleep(0.01)
        self._close()

    def _reap(self) -> bool:
        if self._returncode is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                exited = os.WIFEXITED(status)
                self._returncode = os.WEXITSTATUS(status) if exited else -os.WTERMSIG(status)
        return self._returncode is not None

    def _read(self) -> None:
        # One chunk beyond what a pipe holds is enough to empty it and cannot go on for ever.
        for _ in range(2):
            if self._at_end:
                return
            try:
                data = os.read(self._pipe, _CHUNK)
            except BlockingIOError:
                return
            self.output = (self.output + data)[:OUTPUT_MAX]
            if not data:
                self._close()

    def _close(self) -> None:
        if not self._at_end:
            os.close(self._pipe)
        self._at_end = True


def _fork(body: Callable[[], int], output: int) -> int:
    """Return the pid in the agent; the child never comes back from here."""
    pid = os.fork()
    if pid:
        return pid
    code = _RAISED
    try:
        _leave_the_agent(output)
        code = body()
    except Exception as error:
        os.write(1, ("%s: %s" % (type(error).__name__, error)).encode("utf-8", "replace"))
    finally:
        os._exit(code)


def _leave_the_agent(output: int) -> None:
    """Drop all that the child inherited and must not keep, above all the port."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for number, target in ((0, nothing), (1, output), (2, nothing)):
        os.dup2(target, number)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            os.closerange(int(name), int(name) + 1)  # unlike close(), minds none that is gone
    signal.set_wakeup_fd(-1)
    for number in _IGNORED:
        signal.signal(number, signal.SIG_DFL)
    os.chdir("/")
    _give_up_protection()


def _give_up_protection() -> None:
    """Be as mortal and as patient as everything else in the VM: the agent is neither."""
    try:
        if os.getpriority(os.PRIO_PROCESS, 0) < 0:
            os.setpriority(os.PRIO_PROCESS, 0, 0)
        if os.sched_getscheduler(0) != os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        adjustment = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(adjustment, b"0")
        os.close(adjustment)
    except OSError:
        return  # no /proc, or no right to: the child runs all the same
