# SPDX-License-Identifier: Apache-2.0
"""The operator's way into a running engine: a unix socket for root, one line of JSON each way.

Request: {"command": "status" | "explain" | "audit" | "pause" | "resume" | "detach" | "verify",
...}. Answer: {"ok": ...}, or {"error": TEXT}. The server has a thread of its own, so that no client
can delay a heartbeat; what it keeps of clients is bounded in number, bytes and time. `ask` is the
other end.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import socket
import stat
import threading
import time
from collections.abc import Callable, Mapping
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from collectd_vmhb import verification
from collectd_vmhb.audits import TIMEOUT_MAX
from collectd_vmhb.maintenance import LONGEST
from collectd_vmhb.protocol import CHECK_NAME
from collectd_vmhb.wording import Refusal

log = logging.getLogger(__name__)

#: Clients at once; one more takes the place of whoever has been idle longest.
CLIENTS_MAX = 8
#: Connections that may wait until the thread has its turn: beyond, connecting fails at once.
BACKLOG = 128
#: Longest request in bytes.
REQUEST_MAX = 64 * 1024
#: Seconds after which a client that neither asks nor reads is dropped.
IDLE_MAX = 10.0
#: Seconds that `ask` waits for an answer.
ANSWER_MAX = 5.0
#: Longest reason of a maintenance in characters.
REASON_MAX = 200


class ControlError(Exception):
    """What was asked cannot be done; the text says why and what to do."""


class Desk(Protocol):
    """What any thread may ask of the engine; LookupError for a VM that it does not know."""

    def status(self) -> dict[str, Any]:
        """Returns the state of the engine and a row for each VM."""

    def explain(self, uuid: str) -> dict[str, Any]:
        """Returns all that is known of one VM."""

    def audit(self, uuid: str, check: str, detailed: bool, timeout: float | None) -> dict[str, Any]:
        """Has a guest run a check now, or all for ""; Refusal if that cannot be."""

    def pause(self, uuid: str, seconds: float, reason: str) -> dict[str, Any]:
        """Begins a maintenance of one VM, or of the host for ""; returns it."""

    def resume(self, uuid: str) -> None:
        """Ends a maintenance."""

    def detach(self, uuid: str) -> str:
        """Takes our channel out of a VM and returns its name; Refusal if that is not to be."""

    def verify(self, uuid: str, seconds: float) -> dict[str, Any]:
        """Raises a synthetic fault for some seconds, or ends it for 0; returns its incident."""


def answer(desk: Desk, line: bytes) -> dict[str, Any]:
    """Does what one request says and returns what to answer; raises nothing."""
    try:
        return {"ok": _obey(desk, _request(line))}
    except ControlError as error:
        return {"error": str(error)}
    except LookupError as error:
        return {"error": str(error.args[0])}
    except Refusal as refusal:
        return {"error": str(refusal)}
    except futures.TimeoutError:
        return {"error": "the engine is too busy to answer; try again, and see collectd's log"}
    except Exception as error:
        log.exception("a request at the control socket failed")
        return {"error": f"the engine failed to answer ({error!r}); see collectd's log"}


def _request(line: bytes) -> Mapping[str, Any]:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise ControlError("the request is no JSON") from None
    if not isinstance(request, dict):
        raise ControlError("the request is no JSON object")
    return request


def _obey(desk: Desk, request: Mapping[str, Any]) -> Any:
    command = request.get("command")
    if command == "status":
        return desk.status()
    if command not in ("explain", "audit", "pause", "resume", "detach", "verify"):
        raise ControlError(
            "command must be status, explain, audit, pause, resume, detach or verify"
        )
    vm = request.get("vm")
    if not isinstance(vm, str):
        raise ControlError("vm must be a UUID")
    if command == "explain":
        return desk.explain(vm)
    if command == "resume":
        return desk.resume(vm)
    if command == "detach":
        return desk.detach(vm)
    return {"audit": _audit, "pause": _pause, "verify": _verify}[command](desk, vm, request)


def _audit(desk: Desk, vm: str, request: Mapping[str, Any]) -> dict[str, Any]:
    check, detailed = request.get("check", ""), request.get("detailed", False)
    timeout = request.get("seconds")
    if not isinstance(check, str) or (check and not CHECK_NAME.fullmatch(check)):
        raise ControlError("the name of a check is 1 to 48 of A-Z a-z 0-9 _ . -")
    if not isinstance(detailed, bool):
        raise ControlError("detailed must be true or false")
    if timeout is not None and not (
        isinstance(timeout, (int, float)) and 1 <= timeout <= TIMEOUT_MAX
    ):
        raise ControlError(f"an audit may take 1 s to {TIMEOUT_MAX / 60:.0f} min")
    return desk.audit(vm, check, detailed, timeout)


def _verify(desk: Desk, vm: str, request: Mapping[str, Any]) -> dict[str, Any]:
    seconds = request.get("seconds")
    if not isinstance(seconds, (int, float)) or not 0 <= seconds <= verification.LONGEST:
        raise ControlError(f"a verification lasts at most {verification.LONGEST:.0f} s")
    return desk.verify(vm, float(seconds))


def _pause(desk: Desk, vm: str, request: Mapping[str, Any]) -> dict[str, Any]:
    seconds, reason = request.get("seconds"), request.get("reason")
    if not isinstance(seconds, (int, float)) or not 0 < seconds <= LONGEST:
        raise ControlError(f"a maintenance lasts at most {LONGEST / 86400:.0f} days")
    if not isinstance(reason, str) or not reason.strip() or len(reason) > REASON_MAX:
        raise ControlError(f"a maintenance has a reason of 1 to {REASON_MAX} characters")
    return desk.pause(vm, float(seconds), reason)


# -- the engine's end -----------------------------------------------------------------------


@dataclass(eq=False)
class _Client:
    """One connection, and when it did something last."""

    socket: socket.socket
    active: float
    unread: bytes = b""
    unsent: bytes = b""


class ControlServer:
    """Serves the socket from a thread of its own, from `start` to `stop`."""

    def __init__(self, path: Path, reply: Callable[[bytes], dict[str, Any]]) -> None:
        """Opens the socket; raises ControlError if that is not possible."""
        self._path = path
        self._reply = reply
        self._clients: list[_Client] = []
        self._stopping = False
        self._listener = _listen(path)
        self._wakes, self._waker = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wakes, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="vmhb-control", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Ends the thread within ``timeout`` seconds and takes the socket away."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._waker.send(b"\0")
        self._thread.join(timeout)
        with contextlib.suppress(OSError):
            self._path.unlink()

    def _run(self) -> None:
        while not self._stopping:
            self._turn_and_survive()
        for client in list(self._clients):
            self._drop(client)
        for end in (self._listener, self._wakes, self._waker):
            end.close()
        self._selector.close()

    def _turn_and_survive(self) -> None:
        try:
            self._turn()
        except Exception:
            log.exception("the control socket goes on after an error")
            time.sleep(1.0)

    def _turn(self) -> None:
        now = time.monotonic()
        oldest = min((client.active for client in self._clients), default=None)
        wait = None if oldest is None else max(0.0, oldest + IDLE_MAX - now)
        for key, _ in self._selector.select(wait):
            if key.fileobj is self._listener:
                self._accept()
            elif isinstance(key.data, _Client) and key.data in self._clients:
                self._attend(key.data)
        now = time.monotonic()
        for client in [c for c in self._clients if now - c.active >= IDLE_MAX]:
            self._drop(client)

    def _accept(self) -> None:
        try:
            connection = self._listener.accept()[0]
        except OSError:
            # Gone again already, or no descriptor is left: others must not pay for that.
            time.sleep(0.05)
            return
        connection.setblocking(False)
        if len(self._clients) >= CLIENTS_MAX:
            self._drop(min(self._clients, key=lambda client: client.active))
        client = _Client(connection, time.monotonic())
        self._clients.append(client)
        self._selector.register(connection, selectors.EVENT_READ, client)

    def _attend(self, client: _Client) -> None:
        """Reads or writes what is possible; answers one request at a time."""
        try:
            if client.unsent:
                client.unsent = client.unsent[client.socket.send(client.unsent) :]
            else:
                data = client.socket.recv(REQUEST_MAX)
                if not data:
                    self._drop(client)
                    return
                client.unread += data
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._drop(client)
            return
        client.active = time.monotonic()
        if not client.unsent:
            self._serve(client)

    def _serve(self, client: _Client) -> None:
        line, newline, rest = client.unread.partition(b"\n")
        if newline and len(line) <= REQUEST_MAX:
            client.unread = rest
            client.unsent = json.dumps(self._reply(line)).encode("ascii") + b"\n"
        elif len(line) > REQUEST_MAX:
            self._drop(client)
            return
        events = selectors.EVENT_WRITE if client.unsent else selectors.EVENT_READ
        self._selector.modify(client.socket, events, client)

    def _drop(self, client: _Client) -> None:
        self._clients.remove(client)
        self._selector.unregister(client.socket)
        client.socket.close()


def _listen(path: Path) -> socket.socket:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_stale(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Before bind: Linux makes the file with the socket's own mode, never wider.
            os.fchmod(listener.fileno(), 0o600)
            listener.bind(str(path))
            listener.listen(BACKLOG)
            listener.setblocking(False)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ControlError(
            f"no control socket at {path} ({error.strerror}): the command vmhb cannot be used; "
            f"correct ControlSocket or the rights on its directory"
        ) from None
    return listener


def _remove_stale(path: Path) -> None:
    """Takes away the socket of an engine that is dead; raises ControlError for anything else."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ControlError(f"no control socket at {path}: a file that is no socket is in the way")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass
    raise ControlError(
        f"no control socket at {path}: another process serves it; "
        f"give this engine a ControlSocket of its own"
    )


# -- the operator's end ---------------------------------------------------------------------


def ask(path: str, request: Mapping[str, Any]) -> Any:
    """Returns the engine's answer to a request; raises ControlError with what to do."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_MAX)
        try:
            connection.connect(path)
            connection.sendall(json.dumps(request).encode("ascii") + b"\n")
            with connection.makefile("rb") as stream:
                line = stream.readline()
        except PermissionError:
            raise ControlError(f"no right to open {path}: run vmhb as root") from None
        except socket.timeout:
            raise ControlError(
                f"the engine at {path} does not answer within {ANSWER_MAX:.0f} s: "
                f"see collectd's log"
            ) from None
        except OSError as error:
            raise ControlError(
                f"no engine answers at {path} ({error.strerror or error}): is collectd running, "
                f"and what does it say of vmhb? systemctl status collectd"
            ) from None
    return _content(line, path)


def _content(line: bytes, path: str) -> Any:
    try:
        reply = json.loads(line)
        if "error" in reply:
            raise ControlError(reply["error"])
        return reply["ok"]
    except (ValueError, TypeError, KeyError):
        raise ControlError(f"whoever serves {path} is no engine of ours") from None
