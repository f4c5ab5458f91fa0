# SPDX-License-Identifier: Apache-2.0
"""The guest end of the channel: a virtio-serial port found by name, read and written unblocked.

What such a port does (Linux virtio_console): one opener at a time, else EBUSY; read() returns
b"" and poll() reports POLLHUP all the time while no host is connected; ENODEV once it has been
unplugged. Hence nobody polls the port while the host is away: it is asked every RETRY seconds.
"""

import errno
import math
import os
from typing import Optional

from . import log
from .device import Device, open_device
from .holder import holder_of

#: Seconds between two attempts to open the port or to find the host at its other end.
RETRY = 0.5
#: Seconds between two looks at a device that cannot be polled.
PACE = 0.05


def find_port(name: str, root: str = "/") -> Optional[str]:
    """Return the device of the virtio port `name`, or None; works with and without udev."""
    link = os.path.join(root, "dev/virtio-ports", name)
    if os.path.exists(link):
        return link
    classes = os.path.join(root, "sys/class/virtio-ports")
    try:
        devices = sorted(os.listdir(classes))
    except OSError:
        return None
    for device in devices:
        if _read_name(os.path.join(classes, device, "name")) == name:
            return os.path.join(root, "dev", device)
    return None


def _read_name(path: str) -> Optional[str]:
    try:
        with open(path) as name:
            return name.read().strip()
    except (OSError, ValueError):
        return None


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


class Port:
    """Keeps a port open through hot-plug, unplug and hosts that come and go.

    A serial port is the same with one difference: it cannot tell whether a host is at its other
    end, and counts as connected while it is open.
    """

    def __init__(self, name: str, path: Optional[str] = None, root: str = "/") -> None:
        """Take the port's name, or the path of a device to use in its place."""
        #: Whether there is a host at the other end, as far as the last read could tell.
        self.connected = False
        #: Whether there has ever been such a port.
        self.found = False
        self._name = name
        self._given_path = path
        self._root = root
        self._path = ""
        self._inode = 0
        self._device: Optional[Device] = None
        self._unwritten = b""
        self._look_at = -math.inf
        self._said = ""
        self._is_held = False

    @property
    def deadline(self) -> Optional[float]:
        """When `read` should try again; None while `fileno` can be polled instead."""
        return self._look_at if self.fileno() is None else None

    @property
    def unwritten(self) -> bool:
        """Whether bytes wait until the port takes more."""
        return bool(self._unwritten)

    def fileno(self) -> Optional[int]:
        """Return what to poll, or None when polling would spin or is impossible."""
        return self._device.fileno() if self._device and self.connected else None

    def read(self, now: float) -> bytes:
        """Return what the host sent, b"" for nothing; notice a host that came or went."""
        if not self.connected and now < self._look_at:
            return b""
        if self._device is None:
            self._device = self._open()
        data = b"" if self._device is None else self._read(self._device)
        self._look_at = now + (PACE if self.connected else RETRY)
        return data

    def write(self, data: bytes) -> None:
        """Write what the port takes now, after what waited from before, and keep the rest."""
        self._unwritten += data
        if self._device is None or not self._unwritten:
            return
        try:
            written = self._device.write(self._unwritten)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(error)
            return
        self._unwritten = self._unwritten[written:]

    def close(self) -> None:
        """Let the port go."""
        self.connected = False
        self._unwritten = b""
        if self._device is not None:
            self._device.close()
            self._device = None

    def _open(self) -> Optional[Device]:
        path = self._given_path or find_port(self._name, self._root)
        if path is None:
            self._say("waiting for virtio port %s" % self._name)
            return None
        self._path, self._inode = path, _inode(path)
        self.found = self.found or self._inode != 0
        try:
            device = open_device(path)
        except OSError as error:
            self._lose(error)
            return None
        self._is_held = False
        self.found = True
        return device

    def _read(self, device: Device) -> bytes:
        try:
            data = device.read()
        except BlockingIOError:
            self._connect()
            return b""
        except OSError as error:
            self._lose(error)
            return b""
        if data:
            self._connect()
        else:
            self._disconnect()
        return data

    def _connect(self) -> None:
        if not self.connected:
            self._say("host connected to port %s" % self._name)
        self.connected = True

    def _disconnect(self) -> None:
        """Stay open without a host: closing would only make the hypervisor report it."""
        self._say("waiting for the host on port %s" % self._name)
        self.connected = False
        self._unwritten = b""
        if _inode(self._path) != self._inode:
            self.close()  # it is gone, or another one of its name

    def _lose(self, error: OSError) -> None:
        if error.errno == errno.EBUSY:
            self._complain_of_holder()
        else:
            self._say("port %s: %s" % (self._name, error.strerror))
        self.close()

    def _complain_of_holder(self) -> None:
        if not self._is_held:
            words = "port %s is in use by %s: only one can open it"
            self._say(words % (self._name, holder_of(self._path)))
        self._is_held = True

    def _say(self, what: str) -> None:
        """Log a change of standing, not each retry that finds it unchanged."""
        if what != self._said:
            log.info("%s", what)
        self._said = what
