# SPDX-License-Identifier: Apache-2.0
"""The control socket between clients of every kind and an engine that a test plays."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import pytest

from collectd_vmhb import control
from collectd_vmhb.control import (
    CLIENTS_MAX,
    REASON_MAX,
    REQUEST_MAX,
    ControlError,
    ControlServer,
    answer,
    ask,
)
from collectd_vmhb.maintenance import LONGEST
from collectd_vmhb.wording import Refusal


class Desk:
    """Knows one VM, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def status(self) -> dict[str, Any]:
        return {"vms": ["x" * 200_000]}

    def explain(self, uuid: str) -> dict[str, Any]:
        if uuid == "busy":
            raise futures.TimeoutError
        if uuid == "broken":
            raise RuntimeError("a bug")
        if uuid != "vm":
            raise LookupError(f"no VM {uuid} is monitored here")
        return {"uuid": uuid}

    def audit(self, uuid: str, check: str, detailed: bool, timeout: float | None) -> dict[str, Any]:
        if check == "soon":
            raise Refusal("too soon")
        self.asked.append(("audit", uuid, check, detailed, timeout))
        return {"id": 7}

    def pause(self, uuid: str, seconds: float, reason: str) -> dict[str, Any]:
        self.asked.append(("pause", uuid, seconds, reason))
        return {"until": 1.0}

    def resume(self, uuid: str) -> None:
        self.asked.append(("resume", uuid))

    def detach(self, uuid: str) -> str:
        if uuid != "vm":
            raise Refusal("it is monitored")
        self.asked.append(("detach", uuid))
        return "org.openstack.vmhb.0"

    def verify(self, uuid: str, seconds: float) -> dict[str, Any]:
        if uuid == "observed":
            raise Refusal("Mode is observe")
        self.asked.append(("verify", uuid, seconds))
        return {"incident": "i"}


def said(request: object) -> dict[str, Any]:
    line = request if isinstance(request, bytes) else json.dumps(request).encode()
    return answer(Desk(), line)


AUDIT = {"command": "audit", "vm": "vm"}
PAUSE = {"command": "pause", "vm": "vm", "seconds": 60, "reason": "a new disk"}


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (b"\xff\xfe", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        ([], "no JSON object"),
        ({}, "command must be"),
        ({"command": ["status"]}, "command must be"),
        ({"command": "explain"}, "vm must be"),
        ({"command": "explain", "vm": 7}, "vm must be"),
        ({"command": "explain", "vm": "other"}, "no VM other"),
        ({"command": "explain", "vm": "busy"}, "too busy"),
        ({"command": "detach", "vm": "other"}, "it is monitored"),
        ({"command": "explain", "vm": "broken"}, "collectd's log"),
        ({**AUDIT, "vm": None}, "vm must be"),
        ({**AUDIT, "check": 7}, "the name of a check"),
        ({**AUDIT, "check": "a b"}, "the name of a check"),
        ({**AUDIT, "check": "x" * 49}, "the name of a check"),
        ({**AUDIT, "check": "soon"}, "too soon"),
        ({**AUDIT, "detailed": 1}, "detailed must be"),
        ({**AUDIT, "seconds": 0}, "1 s to 10 min"),
        ({**AUDIT, "seconds": 601}, "1 s to 10 min"),
        ({**AUDIT, "seconds": float("nan")}, "1 s to 10 min"),
        ({**PAUSE, "seconds": 0}, "at most 30 days"),
        ({**PAUSE, "seconds": -1}, "at most 30 days"),
        ({**PAUSE, "seconds": LONGEST + 1}, "at most 30 days"),
        ({**PAUSE, "seconds": float("nan")}, "at most 30 days"),
        ({**PAUSE, "seconds": "60"}, "at most 30 days"),
        ({"command": "verify", "vm": "", "seconds": 601}, "at most 600 s"),
        ({"command": "verify", "vm": ""}, "at most 600 s"),
        ({"command": "verify", "vm": "observed", "seconds": 60}, "Mode is observe"),
        ({**PAUSE, "reason": " "}, "reason"),
        ({**PAUSE, "reason": None}, "reason"),
        ({**PAUSE, "reason": "x" * (REASON_MAX + 1)}, "reason"),
    ],
)
def test_a_request_that_cannot_be_done_is_answered_with_the_reason(
    request_: object, error: str
) -> None:
    reply = said(request_)
    assert list(reply) == ["error"]
    assert error in reply["error"]


def test_an_audit_is_asked_for_as_it_was_said() -> None:
    desk = Desk()
    request = {**AUDIT, "check": "app", "detailed": True, "seconds": 2.5}
    assert answer(desk, json.dumps(request).encode()) == {"ok": {"id": 7}}
    assert answer(desk, json.dumps(AUDIT).encode()) == {"ok": {"id": 7}}
    assert desk.asked == [("audit", "vm", "app", True, 2.5), ("audit", "vm", "", False, None)]


def test_requests_reach_the_engine_as_they_were_meant() -> None:
    desk = Desk()
    assert answer(desk, json.dumps(PAUSE).encode()) == {"ok": {"until": 1.0}}
    assert answer(desk, b'{"command": "resume", "vm": ""}') == {"ok": None}
    assert answer(desk, b'{"command": "detach", "vm": "vm"}') == {"ok": "org.openstack.vmhb.0"}
    verify = {"command": "verify", "vm": "vm", "seconds": 60}
    assert answer(desk, json.dumps(verify).encode()) == {"ok": {"incident": "i"}}
    assert desk.asked == [
        ("pause", "vm", 60.0, "a new disk"),
        ("resume", ""),
        ("detach", "vm"),
        ("verify", "vm", 60.0),
    ]


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "run" / "control.sock"
    server = ControlServer(path, lambda line: answer(Desk(), line))
    server.start()
    yield path
    server.stop(5.0)
    assert not path.exists()


def connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(5)
    client.connect(str(path))
    return client


def test_the_socket_and_its_directory_are_for_root_alone(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_long_answer_arrives_whole(path: Path) -> None:
    assert ask(str(path), {"command": "status"}) == Desk().status()


def test_a_refusal_reaches_the_asker(path: Path) -> None:
    with pytest.raises(ControlError, match="no VM other"):
        ask(str(path), {"command": "explain", "vm": "other"})


def test_several_requests_on_one_connection_are_answered_in_order(path: Path) -> None:
    with connect(path) as client, client.makefile("rwb") as stream:
        stream.write(b'garbage\n{"command": "explain", "vm": "vm"}\n{"command": "sta')
        stream.flush()
        assert "error" in json.loads(stream.readline())
        assert json.loads(stream.readline()) == {"ok": {"uuid": "vm"}}
        stream.write(b'tus"}\n')
        stream.flush()
        assert json.loads(stream.readline()) == {"ok": Desk().status()}


def test_a_line_without_an_end_costs_the_connection(path: Path) -> None:
    with connect(path) as client:
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            client.sendall(b"x" * REQUEST_MAX * 100)
        assert ask(str(path), {"command": "explain", "vm": "vm"})


def test_more_clients_than_there_is_room_for_do_not_shut_the_operator_out(path: Path) -> None:
    idle = [connect(path) for _ in range(3 * CLIENTS_MAX)]
    assert ask(str(path), {"command": "explain", "vm": "vm"}) == {"uuid": "vm"}
    assert idle[0].recv(1) == b"", "whoever was idle longest is gone"
    for client in idle:
        client.close()


def test_who_says_nothing_or_reads_nothing_is_dropped(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "IDLE_MAX", 0.2)
    with connect(path) as silent, connect(path) as deaf:
        deaf.sendall(b'{"command": "status"}\n' * 20)
        assert silent.recv(1) == b""
        time.sleep(0.3)
        while data := deaf.recv(65536):
            assert len(data) <= 65536


@pytest.mark.parametrize("reply", [b"", b"[]\n", b"{}\n", b"\xff\n"])
def test_whoever_else_serves_the_socket_is_told_apart(tmp_path: Path, reply: bytes) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as other, futures.ThreadPoolExecutor(1) as pool:
        other.bind(str(path))
        other.listen()

        def serve() -> None:
            with other.accept()[0] as client:
                client.recv(1000)
                client.sendall(reply)

        pool.submit(serve)
        with pytest.raises(ControlError, match="no engine of ours"):
            ask(str(path), {"command": "status"})


def test_a_directory_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ControlError, match=r"no control socket at .*ControlSocket"):
        ControlServer(tmp_path / "file" / "control.sock", lambda line: {})
