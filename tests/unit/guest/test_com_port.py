# SPDX-License-Identifier: Apache-2.0
"""COM ports: the whole agent without what Windows lacks, and the port with a stand-in at it.

No Windows was there to try it on: what is shown is that the agent needs no more than Windows has.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vmhb_guest import loop
from vmhb_guest.loop import Loop
from vmhb_guest.port import PACE, RETRY, Port

PROGRAM = Path(__file__).with_name("without_posix.py")
GUEST = Path(__file__).parents[3] / "guest"


def start(port: int, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-S", str(PROGRAM), str(port), *arguments],
        env={**os.environ, "PYTHONPATH": str(GUEST)},
        stderr=subprocess.PIPE,
        text=True,
    )


class Host:
    """The other end of COM2."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(30)
        self._connection = connection
        self._lines = connection.makefile("rb")

    def send(self, msg_type: str, **fields: object) -> None:
        message = {"version": 3, "revision": 1, "msg_type": msg_type, "sequence": 1, **fields}
        self._connection.sendall(b"\n" + json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any]:
        line = b"\n"
        while line == b"\n":
            line = self._lines.readline()
        return dict(json.loads(line))

    def close(self) -> None:
        self._lines.close()
        self._connection.close()


def test_the_heartbeat_goes_where_there_is_no_posix(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        arguments = ["--port-path", "COM2", "--run-dir", str(tmp_path)]
        process = start(server.getsockname()[1], *arguments)
        host = Host(server.accept()[0])
    init = host.receive()
    host.send("init_ack", invocation_id=init["invocation_id"], vmhb={"caps": ["checks"]})
    for challenge in (11, 12, 13):
        host.send("challenge", heartbeat_challenge=challenge)
        answer = host.receive()
        assert (answer["heartbeat_response"], answer["heartbeat_health"]) == (challenge, "healthy")
    process.send_signal(signal.SIGTERM)
    assert host.receive()["msg_type"] == "exit"
    host.close()
    said = process.communicate()[1]
    assert process.returncode == 0
    assert "cannot fork: the heartbeat alone, without checks" in said
    assert "Traceback" not in said


def test_a_com_port_that_another_process_holds_is_said_to_be(tmp_path: Path) -> None:
    arguments = ["--port-path", "COM2", "--run-dir", str(tmp_path), "--exit-without-port", "0.1"]
    process = start(0, *arguments)
    assert process.stderr is not None
    said = [process.stderr.readline() for _ in range(4)]
    process.kill()
    process.communicate()
    assert any("is in use by another process" in line for line in said), said


def test_other_commands_say_that_they_are_not_there() -> None:
    process = start(0, "status")
    assert process.communicate()[1] == "vmhb-guest: there is no `status` on this system\n"
    assert process.returncode == 2


class Serial:
    """A COM port of a pyserial that Windows is slow to write for."""

    def __init__(self, *_: object, **__: object) -> None:
        self.incoming = b""
        self.written: list[bytes] = []
        self.out_waiting = 0
        self.gone = False

    def read(self, size: int) -> bytes:
        if self.gone:
            raise SerialException("ClearCommError failed (OSError(22, 'no such device'))")
        data, self.incoming = self.incoming[:size], self.incoming[size:]
        return data

    def write(self, data: bytes) -> int:
        self.written.append(data)
        self.out_waiting = len(data)
        return len(data)

    def close(self) -> None:
        self.out_waiting = 0


class SerialException(OSError):  # noqa: N818
    """As pyserial has it: without a number."""


@pytest.fixture
def serial(monkeypatch: pytest.MonkeyPatch) -> Serial:
    serial = Serial()
    module = SimpleNamespace(Serial=lambda *_, **__: serial, SerialException=SerialException)
    monkeypatch.setitem(sys.modules, "serial", module)
    return serial


def test_it_is_looked_at_again_and_again_as_nothing_can_be_polled(serial: Serial) -> None:
    port = Port("unused", "COM2")
    assert port.read(5.0) == b""
    assert (port.connected, port.found, port.fileno()) == (True, True, None)
    assert port.deadline == 5.0 + PACE
    serial.incoming = b"\nx\n"
    assert port.read(5.0 + PACE) == b"\nx\n"
    port.close()


def test_what_is_on_its_way_is_waited_for_and_never_overtaken(serial: Serial) -> None:
    port = Port("unused", "COM2")
    port.read(0.0)
    port.write(b"first")
    port.write(b"second")
    assert (serial.written, port.unwritten) == ([b"first"], True)
    serial.out_waiting = 0
    port.write(b"")
    assert (serial.written, port.unwritten) == ([b"first", b"second"], False)


def test_a_farewell_is_waited_for_at_rest(serial: Serial, monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []
    monkeypatch.setattr("time.sleep", rests.append)
    session: Any = SimpleNamespace(stop=lambda reason: None, data_to_send=lambda: b"exit")
    port = Port("unused", "COM2")
    port.read(0.0)
    port.write(b"answer")
    Loop(port, session, [], clock=lambda: sum(rests))._stop("stopped")
    assert serial.written == [b"answer"], "nobody has read it, so nothing overtakes it"
    assert len(rests) <= 2 + loop.FAREWELL / PACE
    assert loop.FAREWELL <= sum(rests) < 2 * loop.FAREWELL


def test_one_that_is_unplugged_is_opened_again(
    serial: Serial, capsys: pytest.CaptureFixture[str]
) -> None:
    port = Port("unused", "COM2")
    port.read(0.0)
    serial.gone = True
    assert port.read(1.0) == b""
    assert (port.connected, port.deadline) == (False, 1.0 + RETRY)
    assert "ClearCommError failed" in capsys.readouterr().err
    serial.gone = False
    port.read(1.0 + RETRY)
    assert port.connected
