# SPDX-License-Identifier: Apache-2.0
"""Turns signals into something the loop can poll, so that none is missed and none interrupts."""

import signal
import socket
from typing import Iterable, List


def known(*names: str) -> List[signal.Signals]:
    """Return those of the named signals that this system has: Windows lacks most."""
    return [getattr(signal, name) for name in names if hasattr(signal, name)]


class SignalPipe:
    """Collects the given signals of this process in a pipe. One at a time; main thread only.

    The pipe is a pair of sockets, as Windows can poll nothing else.
    """

    def __init__(self, signals: Iterable[int]) -> None:
        self._read_end, self._write_end = socket.socketpair()
        self._read_end.setblocking(False)
        self._write_end.setblocking(False)
        self._previous = {number: signal.signal(number, _ignore) for number in signals}
        self._previous_fd = signal.set_wakeup_fd(self._write_end.fileno())

    def fileno(self) -> int:
        """Return what to poll."""
        return self._read_end.fileno()

    def take(self) -> List[int]:
        """Return the signals that arrived since the last call."""
        try:
            return list(self._read_end.recv(4096))
        except BlockingIOError:
            return []

    def close(self) -> None:
        """Give the signals back."""
        signal.set_wakeup_fd(self._previous_fd)
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        self._read_end.close()
        self._write_end.close()


def _ignore(_number: int, _frame: object) -> None:
    """Take the signal; the pipe has already been told."""
