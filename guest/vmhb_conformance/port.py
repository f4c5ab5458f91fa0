# SPDX-License-Identifier: Apache-2.0
"""The host's end of a guest's port: a unix socket or a tty, and where a domain has its own."""

import os
import select
import socket
import time
import tty
from typing import Optional
from xml.etree import ElementTree

#: Seconds that the guest's side may take to accept what is written.
WRITE_TIMEOUT = 10.0
CHUNK = 65536


class PortError(Exception):
    """The port cannot be used; the text says why, in one line for the user."""


class Port:
    """A byte stream to the guest; opened and closed as a host comes and goes."""

    #: Whether the guest can notice that this end was closed.
    can_hang_up = True

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1

    def open(self) -> None:
        """Connect; raise PortError."""
        try:
            self._fd = self._connect()
        except OSError as error:
            raise PortError("%s: %s" % (self.path, error.strerror or error)) from None

    def close(self) -> None:
        """Go, as a host does that is stopped."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def read(self, timeout: float) -> bytes:
        """Return what came within `timeout` seconds, or nothing; raise PortError at the end."""
        if not select.select([self._fd], [], [], max(0.0, timeout))[0]:
            return b""
        try:
            data = os.read(self._fd, CHUNK)
        except OSError as error:
            raise PortError("%s: %s" % (self.path, error.strerror)) from None
        if not data:
            raise PortError("%s: closed at the other end" % self.path)
        return data

    def write(self, data: bytes) -> None:
        """Write all of it; raise PortError if the guest's side does not take it."""
        give_up = time.monotonic() + WRITE_TIMEOUT
        while data:
            if not select.select([], [self._fd], [], max(0.0, give_up - time.monotonic()))[1]:
                raise PortError("%s: takes no more bytes: nobody reads in the guest" % self.path)
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise PortError("%s: %s" % (self.path, error.strerror)) from None

    def _connect(self) -> int:
        raise NotImplementedError


class SocketPort(Port):
    """A unix socket at which QEMU, or a stand-in for it, listens."""

    def _connect(self) -> int:
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            stream.connect(self.path)
            stream.setblocking(False)
            return stream.detach()
        finally:
            stream.close()


class TtyPort(Port):
    """A serial line or pseudo terminal; its other end does not notice that this one was closed."""

    can_hang_up = False

    def _connect(self) -> int:
        fd = os.open(self.path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        if os.isatty(fd):
            tty.setraw(fd)
        return fd


def domain_socket(name: str, uri: Optional[str], port_name: str) -> str:
    """Return the path of the socket of a running libvirt domain's port; raise PortError."""
    try:
        # Here, as nothing but --domain needs it.
        import libvirt
    except ImportError:
        raise PortError("--domain needs python3-libvirt; or give --socket PATH") from None
    # Errors are reported here, once; by default libvirt prints them as well.
    libvirt.registerErrorHandler(lambda context, error: None, None)
    try:
        connection = libvirt.openReadOnly(uri)
        try:
            xml = connection.lookupByName(name).XMLDesc()
        finally:
            connection.close()
    except libvirt.libvirtError as error:
        raise PortError("domain %s: %s" % (name, error)) from None
    return socket_in_xml(xml, name, port_name)


def socket_in_xml(xml: str, name: str, port_name: str) -> str:
    """Return the path of a port's socket in a live domain XML; raise PortError."""
    channels = {}
    root = ElementTree.fromstring(xml)  # noqa: S314 - libvirt wrote it
    for channel in root.iterfind("devices/channel"):
        target, source = channel.find("target[@type='virtio']"), channel.find("source")
        if target is not None:
            channels[target.get("name")] = None if source is None else source.get("path")
    if port_name not in channels:
        there = ", ".join(sorted(str(channel) for channel in channels)) or "none"
        raise PortError(
            "domain %s has no channel %s (it has: %s); see --port-name" % (name, port_name, there)
        )
    path = channels[port_name]
    if not path:
        raise PortError("channel %s of domain %s has no socket: is it running?" % (port_name, name))
    return path
