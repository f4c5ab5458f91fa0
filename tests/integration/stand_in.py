# SPDX-License-Identifier: Apache-2.0
"""Stands in for a guest: listens where QEMU would, and speaks the published protocol, or worse.

It uses nothing of the product, so that both cannot share a mistake.
"""

from __future__ import annotations

import contextlib
import enum
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

#: How soon a stand-in notices that its mode was changed or that it is to stop.
_TURN = 0.02


@enum.unique
class Mode(enum.Enum):
    """How the stand-in behaves; may be changed while it runs."""

    HEALTHY = "answers each challenge"
    SILENT = "reads, never answers"
    FLOOD = "sends garbage as fast as it is read"
    HALF_LINE = "sends half a line, then nothing"
    NAN = "sends numbers that are none"
    TOO_LONG = "sends lines far above the limit"
    WRONG = "answers with values of its own"
    EXTENDED = "speaks the whole extension, as its attributes say"
    SURROGATE = "reports a failing check with half a surrogate pair in its text"
    CLOSES = "closes each connection at once"


class StandIn:
    """One guest's end of one channel, served by a thread of its own until `stop`."""

    def __init__(self, path: Path | None, mode: Mode = Mode.HEALTHY) -> None:
        """Listens on a unix socket, or without a path on a TCP port of the loopback."""
        self.mode = mode
        self.path = path
        self.connections = 0
        self.answers = 0
        #: Of an extended guest: how its one check stands, and what it measures.
        self.status = "ok"
        self.perfdata = ""
        #: It says that it is busy for so long.
        self.busy_ms = 0
        #: What it says of an audit; None: nothing, ever.
        self.finding: str | None = "looked closely"
        self._sequence = 0
        self._stopping = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        self._listener.bind(str(path) if path else ("127.0.0.1", 0))
        # QEMU serves one connection; others wait.
        self._listener.listen(1)
        self._listener.settimeout(_TURN)
        #: Where it listens, as a socket's address.
        self.address = self._listener.getsockname()
        self._thread = threading.Thread(target=self._run, name="stand-in", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread and takes the socket away, as when the VM is gone."""
        self._stopping.set()
        self._thread.join()
        self._listener.close()
        if self.path:
            self.path.unlink()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            self.connections += 1
            connection.settimeout(_TURN)
            with connection, contextlib.suppress(ConnectionError):
                self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        if self.mode is Mode.CLOSES:
            return
        self._say(connection, self._init())
        if self.mode is Mode.HALF_LINE:
            connection.sendall(b'\n{"version":3,"revision":1,"msg_type":"challenge_resp')
        unread = b""
        while not self._stopping.is_set():
            if self.mode is Mode.CLOSES:
                return
            if self.mode is Mode.FLOOD:
                with contextlib.suppress(TimeoutError):
                    connection.sendall(b'\n{"version":3,"msg_type":"challenge_response",[' * 200)
            try:
                data = connection.recv(65536)
            except TimeoutError:
                continue
            if not data:
                return
            *lines, unread = (unread + data).split(b"\n")
            for line in filter(None, lines):
                self._take(connection, json.loads(line))

    def _take(self, connection: socket.socket, message: Mapping[str, Any]) -> None:
        if message["msg_type"] == "nack" and self.mode in (Mode.HEALTHY, Mode.EXTENDED):
            self._say(connection, self._init())
        elif message["msg_type"] == "audit":
            if self.finding is not None:
                self._say(connection, self._audited(message))
        elif message["msg_type"] == "challenge":
            for answer in self._answers(message["heartbeat_challenge"]):
                self._say(connection, answer)
                self.answers += 1

    def _answers(self, challenge: int) -> Iterator[str]:
        if self.mode is Mode.HEALTHY:
            yield self._answer(challenge)
        elif self.mode is Mode.EXTENDED:
            checks = [self._check(self.status, "a glance")]
            ours: dict[str, Any] = {"checks": checks, "rev": 1, "more": False}
            if self.busy_ms:
                ours["busy"] = {"reason": "fsck\x1b[31m", "for_ms": self.busy_ms}
            yield self._answer(challenge, vmhb=ours)
        elif self.mode is Mode.NAN:
            yield self._answer(challenge).replace(str(challenge), "NaN")
            yield self._answer(challenge).replace(str(challenge), "1e999")
        elif self.mode is Mode.TOO_LONG:
            yield self._answer(challenge, log_msg="x" * 100_000)
        elif self.mode is Mode.WRONG:
            yield self._answer(challenge % 1000 + 1)
        elif self.mode is Mode.SURROGATE:
            check = {
                "name": "app",
                "status": "critical",
                "text": "half \ud800 pair",
                "perfdata": "",
            }
            report = {"checks": [{**check, "since_ms": 0, "duration_ms": 1}], "more": False}
            yield self._answer(challenge, vmhb=report)

    def _check(self, status: str, text: str) -> dict[str, Any]:
        figures = {"perfdata": self.perfdata, "since_ms": 0, "duration_ms": 12}
        return {"name": "app", "status": status, "text": text, **figures}

    def _audited(self, audit: Mapping[str, Any]) -> str:
        known = audit["check"] in ("", "app")
        found = [self._check(self.status, f"{audit['level']}: {self.finding}")] if known else []
        outcome = "done" if known else "unknown_check"
        answer = {"id": audit["id"], "outcome": outcome, "log_msg": ""}
        return self._message("audit_result", **answer, checks=found, more=False)

    def _init(self) -> str:
        caps = ["checks", "audit", "busy"] if self.mode is Mode.EXTENDED else ["checks"]
        ours = {"vmhb": {"caps": caps, "max_line": 16384}}
        return self._message(
            "init",
            invocation_id=7,
            name="stand-in",
            heartbeat_interval_ms=1000,
            vote_secs=8,
            shutdown_notice_secs=8,
            suspend_notice_secs=8,
            resume_notice_secs=8,
            corrective_action="log",
            **(ours if self.mode in (Mode.SURROGATE, Mode.EXTENDED) else {}),
        )

    def _answer(self, challenge: int, log_msg: str = "", **more: Any) -> str:
        return self._message(
            "challenge_response",
            heartbeat_response=challenge,
            heartbeat_health="healthy",
            corrective_action="log",
            log_msg=log_msg,
            **more,
        )

    def _message(self, msg_type: str, **fields: Any) -> str:
        self._sequence += 1
        head = {"version": 3, "revision": 1, "msg_type": msg_type, "sequence": self._sequence}
        return json.dumps({**head, **fields})

    def _say(self, connection: socket.socket, text: str) -> None:
        with contextlib.suppress(TimeoutError):
            connection.sendall(b"\n" + text.encode() + b"\n")
