# SPDX-License-Identifier: Apache-2.0
"""The host end of one port: a unix or TCP socket that QEMU listens on, never blocking."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from pathlib import Path

from collectd_vmhb.domain import Address

#: Read at once; more waits in the kernel, so that no guest delays the others (tests/hostile).
READ_MAX = 4 * 1024
#: Unsent bytes above which whole lines are dropped: the guest reads nothing.
UNSENT_MAX = 16 * 1024
#: sockaddr_un holds this many bytes of path and a NUL.
PATH_MAX = 107
#: Seconds until the next try, by number of failures; the last repeats.
RETRIES = (0.25, 0.5, 1.0, 2.0, 5.0)

#: The kernel's sock_diag(7): the number of its protocol, its one request, what is asked for of a
#: unix socket, and the attribute that answers.
_NETLINK_SOCK_DIAG, _BY_FAMILY, _SHOW_PEER, _PEER = 4, 20, 4, 2
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBHIIIII")
#: Bytes of the kernel's own fields in an answer.
_FIELDS = 16
_ANY = 0xFFFFFFFF

#: Where to connect to who listens on every address.
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing listens here


class ChannelError(Exception):
    """The channel cannot be opened or is gone; ``errno`` as the kernel gave it, 0 for an EOF."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.errno = number


class Channel:
    """A connected channel. Raises ChannelError wherever the peer is found to be gone."""

    __slots__ = ("_socket", "_unsent")

    def __init__(self, address: Address) -> None:
        self._unsent = b""
        family = socket.AF_UNIX
        if not isinstance(address, str):
            address = (_LOOPBACK.get(address[0], address[0]), address[1])
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        try:
            self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            raise _explain(error, _written(address)) from None
        try:
            if isinstance(address, str):
                _connect(self._socket, address)
            else:
                _connect_tcp(self._socket, address)
        except OSError as error:
            self._socket.close()
            raise _explain(error, _written(address)) from None

    def fileno(self) -> int:
        """Returns the descriptor, for a selector."""
        return self._socket.fileno()

    @property
    def blocked(self) -> bool:
        """True while there is something to write that the kernel did not take yet."""
        return bool(self._unsent)

    @property
    def taken(self) -> bool | None:
        """False while QEMU has not accepted the connection: it serves one client at a time.

        None where the kernel does not tell, as of TCP.
        """
        if self._socket.family != socket.AF_UNIX:
            return None
        try:
            return _has_peer(os.fstat(self.fileno()).st_ino)
        except OSError:
            return None

    def read(self) -> bytes:
        """Returns what came, at most READ_MAX bytes; b"" if there is nothing now."""
        try:
            data = self._socket.recv(READ_MAX)
        except (BlockingIOError, InterruptedError):
            return b""
        except OSError as error:
            raise ChannelError(error.errno or 0, os.strerror(error.errno or 0)) from None
        if not data:
            raise ChannelError(0, "closed by QEMU")
        return data

    def write(self, lines: bytes) -> bool:
        """Sends whole lines, or drops them where too much is unsent; False if not all has left.

        What the kernel does not take now is finished before anything else: a guest loses the
        next message if a line ends in the middle.
        """
        if len(self._unsent) + len(lines) <= UNSENT_MAX:
            self._unsent += lines
        self.flush()
        return not self._unsent

    def flush(self) -> None:
        """Sends what is unsent, as far as the kernel takes it."""
        while self._unsent:
            try:
                sent = self._socket.send(self._unsent, socket.MSG_NOSIGNAL)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                raise ChannelError(error.errno or 0, os.strerror(error.errno or 0)) from None
            self._unsent = self._unsent[sent:] if sent < len(self._unsent) else b""

    def close(self) -> None:
        """Closes the host end; the guest's port stays."""
        self._socket.close()


def retry_after(failures: int) -> float:
    """Returns the seconds to wait after this many failures in a row."""
    return RETRIES[min(failures, len(RETRIES)) - 1]


def _connect(sock: socket.socket, path: str) -> None:
    if len(os.fsencode(path)) <= PATH_MAX:
        sock.connect(path)
        return
    # Containers put libvirt's directories so deep that the path does not fit into an address.
    directory = os.open(Path(path).parent, os.O_PATH | os.O_DIRECTORY)
    try:
        sock.connect(f"/proc/self/fd/{directory}/{Path(path).name}")
    finally:
        os.close(directory)


def _has_peer(inode: int) -> bool | None:
    """Asks the kernel whether the other end of a unix socket belongs to a process yet."""
    request = _REQUEST.pack(socket.AF_UNIX, 0, 0, _ANY, inode, _SHOW_PEER, _ANY, _ANY)
    header = _HEADER.pack(_HEADER.size + len(request), _BY_FAMILY, 1, 0, 0)
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
    with socket.socket(socket.AF_NETLINK, kind, _NETLINK_SOCK_DIAG) as kernel:
        kernel.send(header + request)
        answer = kernel.recv(1024)
    if len(answer) < _HEADER.size or _HEADER.unpack_from(answer)[1] != _BY_FAMILY:
        return None
    at = _HEADER.size + _FIELDS
    while at + 4 <= len(answer):
        size, name = struct.unpack_from("=HH", answer, at)
        if name == _PEER and size == 8:
            return bool(struct.unpack_from("=I", answer, at + 4)[0])
        at += max(4, (size + 3) & ~3)
    return None


def _connect_tcp(sock: socket.socket, address: tuple[str, int]) -> None:
    # Only an address of this very host can be bound to: no other host is ever spoken to.
    sock.bind((address[0], 0))
    if sock.getsockname()[:2] == address:
        # Nobody listens there, and TCP would connect the socket to itself.
        raise ConnectionRefusedError(errno.ECONNREFUSED, "")
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(BlockingIOError):
        sock.connect(address)


def _written(address: Address) -> str:
    return address if isinstance(address, str) else f"TCP port {address[1]} of {address[0]}"


def _explain(error: OSError, path: str) -> ChannelError:
    number = error.errno or 0
    if number in (errno.EACCES, errno.EPERM):
        text = (
            f"no right to open {path}: collectd needs CAP_DAC_OVERRIDE or QEMU's group "
            f"(docs/operations.md, Rights)"
        )
    elif number in (errno.EMFILE, errno.ENFILE):
        text = (
            f"no descriptor is left to open {path}: raise LimitNOFILE= of collectd's unit "
            f"(docs/operations.md, Rights)"
        )
    elif number == errno.EADDRNOTAVAIL:
        text = f"{path}: no address of this host, and none else is connected to"
    elif number == errno.EAGAIN:
        text = f"{path} has too many readers waiting: another program holds the channel"
    else:
        text = f"{path}: {os.strerror(number) if number else error}"
    return ChannelError(number, text)
