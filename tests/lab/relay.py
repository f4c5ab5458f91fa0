# SPDX-License-Identifier: Apache-2.0
"""Stands between a client and a server, and can let their connections go dead without a word."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType


class Relay:
    """Forwards each connection to `port` of this machine; a url leads here by `self.port`."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._pairs: list[_Pair] = []

    def cut(self) -> int:
        """Forward no more on the connections there are, which stay open; return how many.

        So does a firewall that has forgotten them. Those that come later are forwarded.
        """
        live = [pair for pair in self._pairs if not pair.is_cut]
        for pair in live:
            pair.is_cut = True
        return len(live)

    def __enter__(self) -> Relay:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Wakes who waits in accept(), which close() alone does not.
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for pair in self._pairs:
            pair.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                pair = _Pair(client, socket.create_connection(("127.0.0.1", self._target)))
                self._pairs.append(pair)
                pair.start()


class _Pair:
    """A client's connection, and ours to the server in its place."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.is_cut = False
        self._ends = (client, server)

    def start(self) -> None:
        for source, sink in (self._ends, self._ends[::-1]):
            threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    def close(self) -> None:
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not self.is_cut:
                    sink.sendall(data)
            if not self.is_cut:
                sink.shutdown(socket.SHUT_WR)
