# SPDX-License-Identifier: Apache-2.0
"""Turns signals into something the loop can poll, so that none is missed and none interrupts."""

import os
import signal
from typing import Iterable, List


class SignalPipe:
    """Collects the given signals of this process in a pipe. One at a time; main thread only."""

    def __init__(self, signals: Iterable[int]) -> None:
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        os.set_blocking(self._write_end, False)
        self._previous = {number: signal.signal(number, _ignore) for number in signals}
        self._previous_fd = signal.set_wakeup_fd(self._write_end)

    def fileno(self) -> int:
        """Return what to poll."""
        return self._read_end

    def take(self) -> List[int]:
        """Return the signals that arrived since the last call."""
        try:
            return list(os.read(self._read_end, 4096))
        except BlockingIOError:
            return []

    def close(self) -> None:
        """Give the signals back."""
        signal.set_wakeup_fd(self._previous_fd)
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        os.close(self._read_end)
        os.close(self._write_end)


def _ignore(_number: int, _frame: object) -> None:
    """Take the signal; the pipe has already been told."""
