# SPDX-License-Identifier: Apache-2.0
"""A virtio port without QEMU: a unix socket for the host, a device for a real guest client.

As long as a host is connected, the device is a raw pseudo terminal. When the host goes, the
terminal is hung up and the device vanishes, so that the client notices and waits.
"""

from __future__ import annotations

import contextlib
import os
import pty
import select
import socket
import threading
import tty
from pathlib import Path

#: How soon the port notices that it is to be taken away.
_TURN = 0.05


class PtyPort:
    """One port in a directory of its own, served by a thread until `remove`."""

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "port.sock"
        self.device = directory / "port"
        self._stopping = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.socket))
        self._listener.listen(1)
        self._listener.settimeout(_TURN)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def remove(self) -> None:
        self._stopping.set()
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                host, _ = self._listener.accept()
                with host:
                    self._serve(host)

    def _serve(self, host: socket.socket) -> None:
        near, far = pty.openpty()
        tty.setraw(far)
        self.device.symlink_to(os.ttyname(far))
        try:
            self._relay(host, near)
        finally:
            self.device.unlink()
            os.close(near)
            os.close(far)

    def _relay(self, host: socket.socket, near: int) -> None:
        while not self._stopping.is_set():
            readable = select.select([host.fileno(), near], [], [], _TURN)[0]
            if host.fileno() in readable:
                data = host.recv(4096)
                if not data:
                    return
                while data:
                    data = data[os.write(near, data) :]
            if near in readable:
                with contextlib.suppress(BrokenPipeError):
                    host.sendall(os.read(near, 65536))
