# SPDX-License-Identifier: Apache-2.0
"""Opens a serial port: raw, for us alone, unblocked. The only module that needs pyserial."""

import errno
import os
import re
import stat
from typing import Any

#: What to say to those who lack it.
MISSING = (
    "%s is a terminal: that takes pyserial; install it with `apt install python3-serial`, "
    "`dnf install python3-pyserial` or `pip install pyserial`"
)
#: A virtual serial port has no speed; of a real one this is the fastest that is always there.
BAUD = 115200
_COM = re.compile(r"(\\\\\.\\)?COM[0-9]{1,3}", re.IGNORECASE)
_READ_AT_LEAST = 6


def is_com(path: str) -> bool:
    """Tell whether this is how Windows names a serial port."""
    return _COM.fullmatch(path) is not None


def lacks_pyserial(path: str) -> bool:
    """Tell whether the device is a serial port now, and cannot be used."""
    return (is_com(path) or _is_terminal(path)) and not _is_there()


def _is_terminal(path: str) -> bool:
    try:
        is_device = stat.S_ISCHR(os.stat(path).st_mode)
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY) if is_device else -1
    except OSError:
        return False
    if fd < 0:
        return False
    is_terminal = os.isatty(fd)
    os.close(fd)
    return is_terminal


def open_tty(path: str) -> int:
    """Return a descriptor for the terminal; raise OSError, EBUSY if another process has it."""
    import termios  # which Windows lacks

    port = open_serial(path, exclusive=True)
    try:
        fd = os.dup(port.fileno())
    finally:
        port.close()
    # pyserial lets a read return 0 bytes when nothing is there, which would look like a hang-up.
    attributes = termios.tcgetattr(fd)
    attributes[_READ_AT_LEAST][termios.VMIN] = 1
    termios.tcsetattr(fd, termios.TCSANOW, attributes)
    os.set_blocking(fd, False)
    return fd


def open_serial(path: str, **options: object) -> Any:
    """Return a serial.Serial that does not wait when it reads; raise OSError as `open_tty` does."""
    if not _is_there():
        raise OSError(errno.ENODEV, MISSING % path)
    import serial  # type: ignore[import-untyped]

    try:
        return serial.Serial(path, BAUD, timeout=0, **options)
    except serial.SerialException as error:
        raise os_error(error) from None


def _is_there() -> bool:
    try:
        import serial  # noqa: F401
    except ImportError:
        return False
    return True


def os_error(error: OSError) -> OSError:
    """Return pyserial's error with a number and a text.

    Its lock, flock(2), is refused with "try again"; the kernel says EBUSY of an exclusive port.
    Windows refuses access to a port that is open, and pyserial tells that in words alone.
    """
    number = error.errno or (errno.EBUSY if "PermissionError" in str(error) else errno.EIO)
    return OSError(errno.EBUSY if number == errno.EAGAIN else number, str(error))
