# SPDX-License-Identifier: Apache-2.0
"""Applications at the agent's socket: real sockets, our own clock."""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from vmhb_guest.application import Application
from vmhb_guest.applications import COMEBACK, LINGER, USER_MAX, Applications
from vmhb_guest.directory import CHECKS_MAX
from vmhb_guest.line_server import CONNECTIONS_MAX, PATIENCE, LineServer
from vmhb_guest.memory import Memory

GUEST = Path(__file__).parents[3] / "guest"


class Program:
    """Somebody at the socket, who speaks raw lines."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(path)
        self._answers = self.socket.makefile("rb")

    def say(self, msg_type: str, **fields: object) -> None:
        self.raw(json.dumps({"msg_type": msg_type, **fields}).encode() + b"\n")

    def raw(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> dict[str, Any]:
        return dict(json.loads(self._answers.readline()))

    def crash(self) -> None:
        self._answers.close()
        self.socket.close()


class Bench:
    """The agent's side, and what it has told the session so far."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "run" / "app.sock")
        self.server = LineServer(self.path, 0o666)
        self.other_checks = 0
        self.applications = Applications(self.server, lambda: self.other_checks)
        self.told: dict[str, tuple[str, str]] = {}
        self.programs: list[Program] = []

    def program(self) -> Program:
        self.programs.append(Program(self.path))
        return self.programs[-1]

    def registered(self, name: str, now: float = 0.0, **fields: object) -> Program:
        program = self.program()
        program.say("register", name=name, **fields)
        self.tick(now)
        assert program.answer() == {"ok": True}
        return program

    def tick(self, now: float) -> None:
        for result in self.applications.tick(now):
            self.told[result.name] = (result.status.value, result.text)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    for program in bench.programs:
        program.crash()
    bench.applications.stop()


def test_anybody_may_connect(bench: Bench) -> None:
    assert stat.S_IMODE(Path(bench.path).stat().st_mode) == 0o666


def test_an_application_is_a_check(bench: Bench) -> None:
    program = bench.registered("db")
    assert bench.applications.names == {"app.db"}
    assert bench.told == {"app.db": ("ok", f"registered by process {os.getpid()}")}
    program.say("status", status="warning", text="lag of\t9 s")
    bench.tick(1.0)
    assert program.answer() == {"ok": True}
    assert bench.told["app.db"] == ("warning", "lag of 9 s")


def test_a_crash_is_critical_until_it_registers_again(bench: Bench) -> None:
    program = bench.registered("db")
    program.say("status", status="critical", text="out of files")
    bench.tick(1.0)
    program.crash()
    bench.tick(2.0)
    text = f"process {os.getpid()} has ended without deregistering: out of files"
    assert bench.told["app.db"] == ("critical", text)
    bench.tick(1000.0)
    bench.registered("db", 1001.0)
    assert bench.told["app.db"][0] == "ok"


def test_a_hang_is_critical_after_two_intervals_until_it_speaks(bench: Bench) -> None:
    program = bench.registered("db", interval_ms=1000)
    program.say("beat")
    bench.tick(1.5)
    assert bench.applications.deadline == 3.5
    bench.tick(3.4)
    assert bench.told["app.db"][0] == "ok"
    bench.tick(3.5)
    text = f"process {os.getpid()} is silent: every 1 s was promised"
    assert bench.told["app.db"] == ("critical", text)
    program.say("beat")
    bench.tick(9.0)
    assert bench.told["app.db"][0] == "ok"


def test_who_promised_no_beat_need_not_speak(bench: Bench) -> None:
    bench.registered("db")
    bench.tick(1e6)
    assert bench.told["app.db"][0] == "ok"


def test_a_pause_of_the_whole_vm_is_no_hang(bench: Bench) -> None:
    bench.registered("db", interval_ms=1000)
    bench.tick(60.0)
    assert bench.told["app.db"][0] == "ok"
    bench.tick(62.0)
    assert bench.told["app.db"][0] == "critical"


def test_after_a_leave_nothing_remains_but_a_while(bench: Bench) -> None:
    program = bench.registered("db", interval_ms=1000)
    program.say("deregister")
    bench.tick(1.0)
    assert program.answer() == {"ok": True}
    program.crash()
    bench.tick(5.0)
    assert bench.told["app.db"] == ("ok", "deregistered")
    bench.tick(1.0 + LINGER)
    assert bench.applications.names == set()


def test_names_are_forgotten_together(bench: Bench) -> None:
    """Each time costs the session with the host."""
    for number, now in enumerate([0.0, 3.0, 6.0]):
        program = bench.registered(f"job{number}", now)
        program.say("deregister")
        bench.tick(now + 0.2)
    bench.tick(LINGER + 0.2)
    assert bench.applications.names == {"app.job1", "app.job2"}
    assert bench.applications.deadline == 2 * LINGER + 0.2
    bench.tick(LINGER + 9.0)
    assert bench.applications.names == {"app.job1", "app.job2"}
    bench.tick(2 * LINGER + 0.2)
    assert bench.applications.names == set()


def test_an_application_cannot_fill_the_log(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    program = bench.registered("db")
    for number in range(20):
        program.say("status", status=("warning", "ok")[number % 2])
        bench.tick(0.2 + number * 0.11)
    assert len(capsys.readouterr().err.splitlines()) <= 3


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"garbage", "a line is one JSON object"),
        (b"[" * 1000, "a line is one JSON object"),
        (b"\xff\x00", "a line is one JSON object"),
        (b"x" * 1025, "a line has 1024 bytes at most"),
        (b'{"msg_type":"dance"}', "msg_type must be one of beat, deregister, register, status"),
        (b'{"msg_type":{}}', "msg_type must be one of beat, deregister, register, status"),
        (b'{"msg_type":"beat"}', "register first"),
        (b'{"msg_type":"register"}', "name must match"),
        (b'{"msg_type":"register","name":"a b"}', "name must match"),
        (
            b'{"msg_type":"register","name":"a","interval_ms":true}',
            "interval_ms must be an integer",
        ),
        (b'{"msg_type":"register","name":"a","interval_ms":10}', "interval_ms must be an integer"),
        (b'{"msg_type":"register","name":"db"}', "db is registered by process "),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_garbage_and_a_taken_name_are_refused_with_one_line(
    bench: Bench, line: bytes, error: str
) -> None:
    bench.registered("db")
    program = bench.program()
    program.raw(line + b"\n" * (len(line) < 1025))
    bench.tick(1.0)
    answer = program.answer()
    assert answer["ok"] is False
    assert answer["error"].startswith(error)
    assert bench.applications.names == {"app.db"}


def test_a_wrong_status_is_refused(bench: Bench) -> None:
    program = bench.registered("db")
    wrong: list[dict[str, object]] = [{"status": "fine"}, {"status": "ok", "text": 1}, {}]
    for now, fields in enumerate(wrong, 1):
        program.say("status", **fields)
        bench.tick(float(now))
        assert program.answer()["ok"] is False
    assert bench.told["app.db"][0] == "ok"


def test_there_is_room_for_as_many_as_the_host_takes(bench: Bench) -> None:
    bench.other_checks = 10
    for number in range(CHECKS_MAX - 10):
        bench.registered(f"a{number}")
    program = bench.program()
    program.say("register", name="one-more")
    bench.tick(1.0)
    assert program.answer()["error"] == "there are 64 checks: the host takes no more"


def test_a_user_can_neither_use_up_all_names_nor_hide_the_crash_of_another(bench: Bench) -> None:
    """Needs root, to be somebody else."""
    bench.registered("db").crash()
    script = f"""
import socket, sys
for number in range({USER_MAX + 1}):
    connection = socket.socket(socket.AF_UNIX); connection.connect({bench.path!r})
    globals()[f"keep{{number}}"] = connection
    connection.send(b'{{"msg_type":"register","name":"n%d"}}\\n' % number)
    print(connection.recv(99).decode(), end="", flush=True)
connection.send(b'{{"msg_type":"register","name":"db"}}\\n')
print(connection.recv(99).decode(), end="", flush=True)
"""
    for parent in (Path(bench.path), *Path(bench.path).parents[:-2]):
        parent.chmod(parent.stat().st_mode | 0o755)
    daemon = pwd.getpwnam("daemon")
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, user=daemon.pw_uid) as process:
        now = 0.0
        while process.poll() is None:
            now += 0.2
            bench.tick(now)
            time.sleep(0.005)
        assert process.stdout is not None
        answers = [json.loads(line) for line in process.stdout]
    assert [answer["ok"] for answer in answers] == [True] * USER_MAX + [False, False]
    assert answers[-2]["error"] == f"user {daemon.pw_uid} has {USER_MAX} applications: no more"
    assert answers[-1]["error"] == "db belongs to user 0"


def test_too_many_connections_are_refused_and_idle_ones_hung_up_on(bench: Bench) -> None:
    for number in range(CONNECTIONS_MAX):
        bench.program()
        bench.tick(number / 1000)
    more = bench.program()
    bench.tick(0.1)
    assert more.answer()["error"] == f"{CONNECTIONS_MAX} programs are connected: no more"
    bench.tick(PATIENCE + 0.1)
    assert bench.programs[0].answer()["error"] == f"nothing was asked for within {PATIENCE:g} s"
    assert len(bench.applications.filenos()) == 1


def test_a_flood_does_not_keep_the_agent_busy(bench: Bench) -> None:
    program = bench.registered("db")
    bench.tick(1.0)
    program.raw(b'{"msg_type":"beat"}\n' * 1000)
    bench.tick(1.0)
    bench.tick(1.0)
    assert len(bench.applications.filenos()) == 1, "the flood is polled at once again"
    assert bench.applications.deadline == 1.1


def test_a_socket_of_a_killed_agent_is_replaced_and_that_of_a_live_one_is_not(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    second = LineServer(bench.path, 0o666)
    assert "another agent listens there" in capsys.readouterr().err
    assert second.filenos() == []
    second.close()
    bench.registered("still-works")
    left = socket.socket(socket.AF_UNIX)
    left.bind(bench.path + ".left")
    left.close()
    third = LineServer(bench.path + ".left", 0o666)
    assert len(third.filenos()) == 1
    third.close()


def test_the_helper_for_python_registers_beats_and_leaves(bench: Bench) -> None:
    application = Application("billing", interval=5.0, path=bench.path)
    bench.tick(0.0)
    application.status("warning", "queue is long")
    bench.tick(1.0)
    assert bench.told["app.billing"] == ("warning", "queue is long")
    application.beat()
    bench.tick(10.5)
    assert bench.told["app.billing"][0] == "warning"
    application.close()
    bench.tick(11.0)
    bench.tick(11.1)
    assert bench.told["app.billing"] == ("ok", "deregistered")


def test_the_helper_does_without_an_agent_and_finds_a_new_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    application = Application("billing", path=bench.path + ".none")
    application.beat()
    application.status("ok", "all is well")
    assert "No such file" in application.error
    server = LineServer(bench.path + ".none", 0o666)
    applications = Applications(server)
    clock[0] += 10.0
    application.beat()
    (result,) = applications.tick(0.0)
    assert (result.name, result.text, application.error) == ("app.billing", "all is well", "")
    applications.stop()
    application.beat()
    application.close()


def test_the_helper_tells_why_it_was_refused(bench: Bench) -> None:
    bench.registered("billing")
    application = Application("billing", path=bench.path)
    bench.tick(1.0)
    application.beat()
    assert application.error == f"billing is registered by process {os.getpid()}"
    application.close()


def wrapped(bench: Bench, *command: str) -> subprocess.Popen[str]:
    arguments = ["-m", "vmhb_guest", "run", "--socket", bench.path, "job", "--", *command]
    return subprocess.Popen(
        [sys.executable, *arguments], cwd=GUEST, text=True, stderr=subprocess.PIPE
    )


def until(bench: Bench, wanted: Callable[[], bool]) -> None:
    """Let the agent go on until something is so; its clock stands still in the meantime."""
    give_up = time.monotonic() + 10
    now = 0.0
    while not wanted():
        assert time.monotonic() < give_up
        bench.tick(now)
        now += 0.11
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("command", "code", "told"),
    [
        (["true"], 0, "deregistered"),
        (["sh", "-c", "exit 3"], 3, "has ended without deregistering: exit code 3"),
        (["sh", "-c", "kill -SEGV $$"], 139, "has ended without deregistering: SIGSEGV"),
        (["/no/such/program"], 127, "has ended without deregistering: exit code 127"),
    ],
)
def test_the_wrapper_tells_how_a_program_ended(
    bench: Bench, command: list[str], code: int, told: str
) -> None:
    with wrapped(bench, *command) as process:
        until(bench, lambda: bench.told.get("app.job", ("", ""))[1].endswith(told))
    assert process.returncode == code


def test_the_wrapper_passes_signals_on(bench: Bench, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    job = f"trap 'exit 0' TERM; : >{ready}; while :; do sleep 0.01; done"
    with wrapped(bench, "sh", "-c", job) as process:
        until(bench, lambda: "app.job" in bench.told and ready.exists())
        process.send_signal(signal.SIGTERM)
        until(bench, lambda: bench.told["app.job"] == ("ok", "deregistered"))
    assert process.returncode == 0


def test_the_wrapper_wants_a_command() -> None:
    command = [sys.executable, "-m", "vmhb_guest", "run", "job"]
    done = subprocess.run(command, cwd=GUEST, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "say what to run after --" in done.stderr


class Restarted(Bench):
    """The agent's side with a memory, as often as it is started."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        memory = Memory(str(directory / "run" / "applications.json"))
        self.applications = Applications(self.server, memory=memory)

    def stop(self) -> None:
        self.applications.stop()
        for program in self.programs:
            program.crash()


def test_a_crash_is_not_forgotten_when_the_agent_is_started_again(tmp_path: Path) -> None:
    first = Restarted(tmp_path)
    first.registered("db").crash()
    first.tick(5.0)
    crashed = first.told["app.db"]
    first.stop()
    second = Restarted(tmp_path)
    (result,) = second.applications.tick(60.0)
    assert (result.name, result.status.value, result.text) == ("app.db", *crashed)
    assert result.since == 5.0
    second.registered("db", now=61.0)
    assert second.told["app.db"][0] == "ok"
    second.stop()
    third = Restarted(tmp_path)
    third.tick(70.0)
    assert third.told == {}, "an application that promised no word and runs needs no memory"
    third.stop()


def test_one_that_promised_to_be_heard_of_must_come_back(tmp_path: Path) -> None:
    first = Restarted(tmp_path)
    first.registered("db", interval_ms=1000)
    first.registered("web", interval_ms=1000)
    first.stop()
    second = Restarted(tmp_path)
    second.tick(100.0)
    assert {status for status, _ in second.told.values()} == {"ok"}
    second.registered("web", now=105.0, interval_ms=60000)
    second.tick(100.0 + COMEBACK)
    assert second.told["app.web"][0] == "ok"
    assert second.told["app.db"][0] == "critical"
    second.stop()


def test_who_took_leave_is_not_awaited(tmp_path: Path) -> None:
    first = Restarted(tmp_path)
    first.registered("db", interval_ms=1000).say("deregister")
    first.tick(1.0)
    first.stop()
    second = Restarted(tmp_path)
    second.tick(100.0)
    assert second.told == {}
    second.stop()


@pytest.mark.parametrize("content", ["", "{", "[1]", '[{"name": "x"}]', '{"a": 1}'])
def test_a_memory_that_is_damaged_stops_nobody(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "applications.json").write_text(content)
    agent = Restarted(tmp_path)
    agent.registered("db", interval_ms=1000)
    assert agent.told["app.db"][0] == "ok"
    assert "applications.json: cannot be read" in capsys.readouterr().err
    agent.stop()


def test_a_memory_that_cannot_be_kept_stops_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = Restarted(tmp_path)
    (tmp_path / "run" / "applications.json.new").mkdir()
    for name in ("db", "web"):
        agent.registered(name, interval_ms=1000)
    assert set(agent.told) == {"app.db", "app.web"}
    assert capsys.readouterr().err.count("cannot be written: Is a directory") == 1
    agent.stop()
