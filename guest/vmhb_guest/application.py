# SPDX-License-Identifier: Apache-2.0
"""For applications: tell the agent that you live, in three lines.

    application = Application("billing", interval=5.0)
    ...                                 # at least every 5 s:
    application.beat()
    ...                                 # at the end, if it is a good one:
    application.close()

It never raises and never waits, whether there is an agent or not; it may be copied as it is. One
thread at a time.
"""

import json
import socket
import time
from typing import Dict, Optional

SOCKET = "/run/vmhb-guest/app.sock"
#: Seconds between two attempts to reach an agent that is not there.
RETRY = 5.0


class Application:
    """One name at the agent. If the process ends without `close`, that is reported as a crash."""

    def __init__(self, name: str, interval: Optional[float] = None, path: str = SOCKET) -> None:
        """Register; `interval` promises a beat at least every so many seconds."""
        #: What the agent refused last; empty when all is well.
        self.error = ""
        self._register = {"msg_type": "register", "name": name}  # type: Dict[str, object]
        if interval is not None:
            self._register["interval_ms"] = int(interval * 1000)
        self._path = path
        self._connection: Optional[socket.socket] = None
        self._retry_at = 0.0
        self._status = {}  # type: Dict[str, object]
        self.beat()

    def beat(self) -> None:
        """Say that the application lives; come back to an agent that was started again."""
        if self._connection is not None:
            self._hear()
        if self._connection is None and time.monotonic() >= self._retry_at:
            self._connect()
        else:
            self._send({"msg_type": "beat"})

    def status(self, status: str, text: str = "") -> None:
        """Say how the application stands: "ok", "warning", "critical" or "unknown"."""
        self._status = {"msg_type": "status", "status": status, "text": text[:200]}
        self._send(self._status)

    def close(self) -> None:
        """Take leave: the silence that follows is meant."""
        self._send({"msg_type": "deregister"})
        self._disconnect()

    def _connect(self) -> None:
        self._retry_at = time.monotonic() + RETRY
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.setblocking(False)
        try:
            self._connection.connect(self._path)
        except OSError as error:
            self.error = str(error)
            self._disconnect()
            return
        self.error = ""
        self._send(self._register)
        if self._status:
            self._send(self._status)

    def _hear(self) -> None:
        """Take the answers: they must not fill the connection, and a refusal is worth knowing."""
        try:
            answers = self._connection.recv(65536) if self._connection else b""
        except BlockingIOError:
            return
        except OSError:
            answers = b""
        for line in answers.splitlines():
            if b'"ok": false' in line:
                self.error = json.loads(line.decode("utf-8")).get("error", "")
        if not answers:
            self._disconnect()

    def _send(self, message: Dict[str, object]) -> None:
        if self._connection is None:
            return
        try:
            self._connection.send(json.dumps(message).encode("ascii") + b"\n")
        except BlockingIOError:
            return  # an agent that is held up; what it missed is one beat
        except OSError:
            self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None
