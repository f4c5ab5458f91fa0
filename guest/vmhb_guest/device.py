# SPDX-License-Identifier: Apache-2.0
"""An open device, read and written without waiting: one that can be polled, or a COM port.

`read` raises BlockingIOError when nothing has come, and returns b"" when nobody is at the other
end; `write` returns how many bytes were taken. Both raise OSError when the device is gone.
"""

import os
from typing import Optional, Union

from . import tty

#: Bytes taken at a time.
CHUNK = 65536


class Descriptor:
    """A virtio port or a terminal, by its file descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> Optional[int]:
        """Return what to poll."""
        return self._fd

    def read(self) -> bytes:
        """Return what has come."""
        return os.read(self._fd, CHUNK)

    def write(self, data: bytes) -> int:
        """Return how much was taken."""
        return os.write(self._fd, data)

    def close(self) -> None:
        """Let it go."""
        os.close(self._fd)


class ComPort:
    """A serial port of Windows, which nobody can tell whether a host is at its other end."""

    def __init__(self, path: str) -> None:
        """Open it; raise OSError, EBUSY if another process has it."""
        self._serial = tty.open_serial(path, write_timeout=0)
        self._leaving = b""

    def fileno(self) -> Optional[int]:
        """Return None, as there is nothing to poll: who waits for it looks again and again."""
        return None

    def read(self) -> bytes:
        """Return what has come."""
        try:
            data: bytes = self._serial.read(CHUNK)
        except OSError as error:
            raise tty.os_error(error) from None
        if not data:
            raise BlockingIOError
        return data

    def write(self, data: bytes) -> int:
        """Take all or, while the last is still on its way, nothing.

        Windows reads the bytes from where they lie meanwhile, so they are kept until then.
        """
        try:
            if self._serial.out_waiting:
                raise BlockingIOError
            self._leaving = data
            return int(self._serial.write(data))
        except BlockingIOError:
            raise
        except OSError as error:
            raise tty.os_error(error) from None

    def close(self) -> None:
        """Let it go."""
        self._serial.close()


Device = Union[Descriptor, ComPort]


def open_device(path: str) -> Device:
    """Return the open device; raise OSError."""
    if tty.is_com(path):
        return ComPort(path)
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY)
    if os.isatty(fd):
        os.close(fd)
        fd = tty.open_tty(path)
    return Descriptor(fd)
