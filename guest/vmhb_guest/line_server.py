# SPDX-License-Identifier: Apache-2.0
"""A unix socket that speaks line-delimited JSON with programs in the same VM, never waiting.

Programs are not trusted: a line, the number of connections and how often one is read are bounded,
and who is at the other end is what the kernel says, not what the program says.
"""

import contextlib
import errno
import json
import math
import os
import socket
import struct
from typing import Dict, List, NamedTuple, Optional

from . import log

#: The longest line, in bytes.
LINE_MAX = 1024
CONNECTIONS_MAX = 96
#: Who has been read less than so many seconds ago is read once more, and then not for as long.
READ_PERIOD = 0.1
#: Bytes read at a time.
READ_MAX = 4096
#: Seconds after which a connection that nobody has asked to keep is closed.
PATIENCE = 10.0

Message = Dict[str, object]


class Peer:
    """One connection: who is at its other end, and the line that it has begun."""

    def __init__(self, connection: socket.socket, now: float) -> None:
        connection.setblocking(False)
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        self.pid, self.uid, _ = struct.unpack("3i", credentials)
        #: Whether to keep the connection for as long as the peer does.
        self.keep = False
        self.read_at = now
        self.opened = now
        self.closed = False
        self._connection = connection
        self._rest = b""
        self._read = -math.inf

    @property
    def deadline(self) -> float:
        """When to look at it again even if it says nothing."""
        return math.inf if self.keep else self.opened + PATIENCE

    def fileno(self) -> int:
        """Return what to poll."""
        return self._connection.fileno()

    def read(self, now: float) -> List[bytes]:
        """Return the lines that have come; `closed` tells that no more will."""
        try:
            data = self._connection.recv(READ_MAX)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if now - self._read < READ_PERIOD:
            self.read_at = now + READ_PERIOD
        self._read = now
        *lines, self._rest = (self._rest + data).split(b"\n")
        if not data:
            self.close()
        elif len(self._rest) > LINE_MAX:
            self.refuse("a line has %d bytes at most" % LINE_MAX)
            self.close()
        return [line for line in lines if line.strip()]

    def answer(self, message: Message) -> None:
        """Send one line; a peer that does not read its answers does not get them."""
        with contextlib.suppress(OSError):
            self._connection.send(json.dumps(message).encode("ascii") + b"\n")

    def accept(self, **more: object) -> None:
        """Say that it is done."""
        self.answer(dict(more, ok=True))

    def refuse(self, reason: str) -> None:
        """Say why it is not done."""
        self.answer({"ok": False, "error": reason})

    def close(self) -> None:
        """Hang up."""
        self.closed = True
        self._connection.close()


class Event(NamedTuple):
    """A message of a peer; without one, the news that the peer is gone."""

    peer: Peer
    message: Optional[Message]


class LineServer:
    """Listens at `path`; a socket that cannot be made is said, and the agent goes on without."""

    def __init__(self, path: str, mode: int) -> None:
        self._path = path
        self._peers: List[Peer] = []
        self._now = -math.inf
        self._listener: Optional[socket.socket] = None
        try:
            self._listener = _listen(path, mode)
        except OSError as error:
            log.warning("no socket %s: %s", path, error.strerror or error)

    @property
    def deadline(self) -> float:
        """When `receive` has something to do by itself."""
        resting = [peer.read_at for peer in self._peers if peer.read_at > self._now]
        return min(resting + [peer.deadline for peer in self._peers], default=math.inf)

    def filenos(self) -> List[int]:
        """Return what to poll for reading."""
        filenos = [peer.fileno() for peer in self._peers if peer.read_at <= self._now]
        return filenos + ([self._listener.fileno()] if self._listener else [])

    def receive(self, now: float) -> List[Event]:
        """Return what the peers said since the last call, and who of them has gone."""
        self._now = now
        self._accept(now)
        events: List[Event] = []
        for peer in self._peers:
            if now >= peer.read_at:
                events += _read(peer, now)
            if not peer.closed and now >= peer.deadline:
                peer.refuse("nothing was asked for within %g s" % PATIENCE)
                peer.close()
            if peer.closed:
                events.append(Event(peer, None))
        self._peers = [peer for peer in self._peers if not peer.closed]
        return events

    def close(self) -> None:
        """Hang up on all, and take the socket away."""
        for peer in self._peers:
            peer.close()
        if self._listener:
            self._listener.close()
            with contextlib.suppress(OSError):
                os.unlink(self._path)

    def _accept(self, now: float) -> None:
        # A flood of connections gets its turn like everything else: 16 at a time.
        for _ in range(16 if self._listener else 0):
            try:
                connection, _ = self._listener.accept()  # type: ignore[union-attr]
                peer = Peer(connection, now)
            except OSError:
                return
            if len(self._peers) >= CONNECTIONS_MAX:
                peer.refuse("%d programs are connected: no more" % CONNECTIONS_MAX)
                peer.close()
            else:
                self._peers.append(peer)


def _read(peer: Peer, now: float) -> List[Event]:
    events = []
    for line in peer.read(now):
        try:
            message = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError):
            message = None
        if isinstance(message, dict):
            events.append(Event(peer, message))
        else:
            peer.refuse("a line is one JSON object")
    return events


def _listen(path: str, mode: int) -> socket.socket:
    if not hasattr(socket, "AF_UNIX"):
        raise OSError(errno.EAFNOSUPPORT, "this system has no unix sockets")
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    try:
        if listener.connect_ex(path) != errno.ECONNREFUSED and os.path.exists(path):
            raise OSError(errno.EADDRINUSE, "another agent listens there")
        listener.close()
        listener = socket.socket(socket.AF_UNIX)
        listener.setblocking(False)
        # What an agent left that was killed.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        listener.bind(path)
        os.chmod(path, mode)
        listener.listen(CONNECTIONS_MAX)
    except OSError:
        listener.close()
        raise
    return listener
