# SPDX-License-Identifier: Apache-2.0
"""Opens a serial port: raw, for us alone, unblocked. The only module that needs pyserial."""

import errno
import os
import stat
import termios

#: What to say to those who lack it.
MISSING = (
    "%s is a terminal: that takes pyserial; install it with `apt install python3-serial`, "
    "`dnf install python3-pyserial` or `pip install pyserial`"
)
#: A virtual serial port has no speed; of a real one this is the fastest that is always there.
BAUD = 115200
_READ_AT_LEAST = 6


def lacks_pyserial(path: str) -> bool:
    """Tell whether the device is a terminal now, and cannot be used."""
    try:
        is_device = stat.S_ISCHR(os.stat(path).st_mode)
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY) if is_device else -1
    except OSError:
        return False
    if fd < 0:
        return False
    is_terminal = os.isatty(fd)
    os.close(fd)
    return is_terminal and not _is_there()


def open_tty(path: str) -> int:
    """Return a descriptor for the terminal; raise OSError, EBUSY if another process has it."""
    if not _is_there():
        raise OSError(errno.ENOPKG, MISSING % path)
    import serial  # type: ignore[import-untyped]

    try:
        port = serial.Serial(path, BAUD, timeout=0, exclusive=True)
    except serial.SerialException as error:
        raise _os_error(error) from None
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


def _is_there() -> bool:
    try:
        import serial  # noqa: F401
    except ImportError:
        return False
    return True


def _os_error(error: OSError) -> OSError:
    # Its lock, flock(2), is refused with "try again"; the kernel says EBUSY of an exclusive port.
    number = error.errno or errno.EBUSY
    return OSError(errno.EBUSY if number == errno.EAGAIN else number, str(error))
