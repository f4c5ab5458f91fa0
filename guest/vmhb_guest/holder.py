# SPDX-License-Identifier: Apache-2.0
"""Finds out which process has a device open, to tell people why we cannot have it."""

import contextlib
import os

from .text import clean

_NAME_MAX = 32


def holder_of(path: str, proc: str = "/proc") -> str:
    """Return in words who holds the device: another user's processes are hidden from all but root.

    It looks at every open file of the system, so do not call it often.
    """
    device = os.path.realpath(path)
    with contextlib.suppress(OSError):  # early in the boot there is no /proc
        for pid in sorted(filter(str.isdigit, os.listdir(proc)), key=int):
            if int(pid) != os.getpid() and _has_open(os.path.join(proc, pid), device):
                return "process %s%s" % (pid, _name(os.path.join(proc, pid)))
    return "another process, which we cannot see"


def _has_open(process: str, device: str) -> bool:
    with contextlib.suppress(OSError):
        for fd in os.listdir(os.path.join(process, "fd")):
            with contextlib.suppress(OSError):
                if os.readlink(os.path.join(process, "fd", fd)) == device:
                    return True
    return False


def _name(process: str) -> str:
    try:
        with open(os.path.join(process, "comm"), encoding="utf-8", errors="replace") as name:
            return " (%s)" % clean(name.read(), _NAME_MAX)
    except OSError:
        return ""
