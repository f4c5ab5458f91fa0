# SPDX-License-Identifier: Apache-2.0
"""Runs the agent without all that Windows lacks, and with a stand-in for pyserial at COM2.

Run as a program: without_posix.py TCP_PORT ARGUMENT ...; COM2 leads to that port of 127.0.0.1, and
port 0 means that another process holds it.
"""

from __future__ import annotations

import _socket
import errno
import importlib
import os
import pkgutil
import select
import sys
import types

_MODULES = ("termios", "fcntl", "pty", "tty", "grp", "pwd", "resource", "syslog", "readline")
_NAMES = {
    # Before `signal`, `socket` and `selectors` look what there is.
    importlib.import_module("_signal"): "SIGHUP SIGCHLD SIGPIPE SIGXFSZ SIGUSR1 SIGUSR2 SIGKILL"
    " SIG_BLOCK SIG_SETMASK pthread_sigmask sigtimedwait",
    _socket: "AF_UNIX SO_PEERCRED SOCK_NONBLOCK SOCK_CLOEXEC socketpair",
    select: "poll epoll",
    errno: "ENOPKG",
    os: "fork forkpty set_blocking setsid setuid setgid initgroups geteuid getuid killpg statvfs"
    " ST_RDONLY getpriority setpriority PRIO_PROCESS sched_getscheduler sched_setscheduler"
    " sched_param SCHED_OTHER O_NONBLOCK O_NOCTTY openpty mkfifo WNOHANG WIFEXITED WEXITSTATUS"
    " WTERMSIG getrandom GRND_NONBLOCK",
}


def hide() -> None:
    """Take away what POSIX alone has: `mypy --platform win32` knows what that is."""
    assert not {"signal", "socket", "selectors"} & set(sys.modules), "too late to hide anything"
    for name in _MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    for module, names in _NAMES.items():
        for name in names.split():
            delattr(module, name)


def put_serial(port: int) -> None:
    """Make `import serial` find what the agent uses of pyserial on Windows, and no more."""
    import socket

    class SerialException(OSError):  # noqa: N818
        pass

    class Serial:
        out_waiting = 0

        def __init__(self, path: str, baud: int, *, timeout: int, write_timeout: int) -> None:
            assert (path, timeout, write_timeout) == ("COM2", 0, 0)
            if not port:
                cause = "PermissionError(13, 'Access is denied.', None, 5)"
                raise SerialException(f"could not open port 'COM2': {cause}")
            self._host = socket.create_connection(("127.0.0.1", port))
            self._host.setblocking(False)

        def read(self, size: int) -> bytes:
            try:
                return self._host.recv(size)
            except BlockingIOError:
                return b""

        def write(self, data: bytes) -> int:
            self._host.sendall(data)
            return len(data)

        def close(self) -> None:
            self._host.close()

    module = types.ModuleType("serial")
    vars(module).update(Serial=Serial, SerialException=SerialException)
    sys.modules["serial"] = module


def main() -> int:
    """Import every module of the agent, then be the agent."""
    import vmhb_guest

    for module in pkgutil.iter_modules(vmhb_guest.__path__):
        importlib.import_module(f"vmhb_guest.{module.name}")
    return int(importlib.import_module("vmhb_guest.__main__").main(sys.argv[2:]))


if __name__ == "__main__":
    hide()
    put_serial(int(sys.argv[1]))
    sys.exit(main())
