# SPDX-License-Identifier: Apache-2.0
"""Our guest clients keep the rules of the protocol, as vmhb-conformance tells it.

All clients are tried at the same time: most of it is waiting.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import shutil
import socket
import subprocess
import sys
import threading
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from tests.integration.pty_port import PtyPort

pytestmark = pytest.mark.timeout(150)

#: Rules on what the client in C does not offer.
NOT_OFFERED = (
    "an audit that is asked for wrongly is refused",
    "an audit has each check run once",
    "an audit of no check there is says so",
    "busy is told in each response until it is over",
)
GUEST = Path(__file__).parents[2] / "guest"


def agent(device: Path, directory: Path) -> list[str]:
    health = directory / "health.d"
    health.mkdir()
    (health / "app").write_text("#!/bin/sh\necho up\n")
    (health / "app").chmod(0o755)
    config = directory / "vmhb-guest.conf"
    config.write_text(
        f"[agent]\nrun_dir = {directory / 'run'}\n[checks]\nhealth_dir = {health}\nboot_delay = 0\n"
    )
    return [sys.executable, "-m", "vmhb_guest", f"--port-path={device}", f"--config={config}"]


def shell_client(device: Path, directory: Path) -> list[str]:
    return ["dash", str(GUEST / "sh/vmhb-guest.sh"), str(device)]


def c_client(device: Path, directory: Path) -> list[str]:
    """The C client, built as guest/c/README.md says."""
    assert shutil.which("cc"), "no C compiler: apt-get install gcc libc6-dev"
    readme = (GUEST / "c/README.md").read_text("utf-8")
    rule = next(line for line in readme.splitlines() if "$(CC)" in line)
    program, status = directory / "vmhb-guest", directory / "app.status"
    words = {"$(CC)": "cc", "$@": str(program), "$<": str(GUEST / "c/vmhb-guest.c")}
    subprocess.run([words.get(word, word) for word in rule.split()], check=True)
    status.write_text('ok "up" \\ running\n')
    return [str(program), str(device), "app", str(status)]


class Trial:
    """One client at a port of its own, and the tester at the other end."""

    def __init__(self, command: Any, directory: Path, *arguments: str) -> None:
        directory.mkdir()
        self.port = PtyPort(directory)
        env = {**os.environ, "VMHB_UNHEALTHY": str(directory / "unhealthy")}
        self.client = subprocess.Popen(
            command(self.port.device, directory), cwd=GUEST, env=env, stderr=subprocess.DEVNULL
        )
        stop = f"--stop-command=kill {self.client.pid}"
        busy = f"{sys.executable} -m vmhb_guest busy --for 2 --run-dir {directory / 'run'}"
        self.tester = conformance(
            self.port.socket, "--quick", "--json", stop, f"--busy-command={busy}", *arguments
        )

    def end(self) -> None:
        for process in (self.tester, self.client):
            process.kill()
            process.communicate()
        self.port.remove()


def conformance(path: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "vmhb_conformance", f"--socket={path}", *arguments],
        cwd=GUEST,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class SinfulGuest:
    """Heeds init_ack, challenges and nacks, and breaks rules that the tester must find."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._acked = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """To be called when the tester has gone."""
        self._thread.join(10)
        self._listener.close()

    def _run(self) -> None:
        self._host, _ = self._listener.accept()
        self._init()
        rest = b""
        with contextlib.suppress(OSError), self._host:
            while data := self._host.recv(65536):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    with contextlib.suppress(
                        ValueError, LookupError, AttributeError, RecursionError
                    ):
                        self._receive(json.loads(line))

    def _receive(self, message: dict[str, Any]) -> None:
        msg_type = message.get("msg_type")
        if msg_type == "init_ack":  # Sin: whoever's init it was.
            self._acked = True
        elif msg_type == "challenge":  # Sins: before init_ack too, of any version, no log_msg.
            value = message["heartbeat_challenge"]
            answer = f'"heartbeat_response":{value},"heartbeat_health":"healthy"'
            self._send("challenge_response", f'{answer},"corrective_action":"none"')
        elif msg_type == "nack":  # Sin: whatever it says.
            self._init()

    def _init(self) -> None:
        noughts = ("vote", "shutdown_notice", "suspend_notice", "resume_notice", "restart")
        seconds = "".join(f'"{name}_secs":0,' for name in noughts)
        fields = f'{seconds}"heartbeat_interval_ms":1000,"corrective_action":"log"'
        # Sins: the same id each time, and a name that is not ASCII.
        self._send("init", f'"invocation_id":7,"name":"büro",{fields}')

    def _send(self, msg_type: str, fields: str) -> None:
        header = f'"version":3,"revision":1,"msg_type":"{msg_type}","sequence":1'
        self._host.sendall(f"{{{header},{fields}}}\n".encode())  # Sin: no newline before.


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Trial]]:
    directory = tmp_path_factory.mktemp("conformance")
    trials = {
        "agent": Trial(agent, directory / "agent"),
        "sh": Trial(shell_client, directory / "sh", "--base"),
        "c": Trial(c_client, directory / "c"),
    }
    yield trials
    for trial in trials.values():
        trial.end()


@pytest.fixture(scope="module")
def sinner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    path = tmp_path_factory.mktemp("sinner") / "port.sock"
    guest = SinfulGuest(path)
    process = conformance(path, "--quick", "--base", "--timeout=0.5")
    yield process
    process.kill()
    process.communicate()
    guest.end()


@pytest.mark.parametrize("client", ["agent", "sh", "c"])
def test_a_client_of_ours_keeps_every_rule(
    client: str, trials: dict[str, Trial], sinner: subprocess.Popen[str]
) -> None:
    out, table = trials[client].tester.communicate(timeout=140)
    ended = {rule["rule"]: rule["status"] for rule in json.loads(out)["rules"]}
    others = {name: how for name, how in ended.items() if how != "passed"}
    # Nobody is asked for what he did not offer.
    assert others == dict.fromkeys(NOT_OFFERED if client == "c" else (), "not run"), table
    assert trials[client].tester.returncode == 0
    assert "the agent says goodbye" in ended
    assert ("a session begins with a full report" in ended) == (client != "sh")


def test_a_guest_that_breaks_rules_is_told_which(sinner: subprocess.Popen[str]) -> None:
    table, errors = sinner.communicate(timeout=140)
    assert errors == ""
    assert sinner.returncode == 1
    failed = {line[21:] for line in table.splitlines() if line.startswith("FAILED")}
    assert failed >= {
        "a challenge before init_ack is ignored",
        "a version before 3 is dropped",
        "any other nack changes nothing",
        "every message stands between newlines, in one line of ASCII",
        "every message is a JSON object with the fields of its type",
        "each init has a new invocation_id",
    }
    assert "challenge_response has no log_msg" in table
    assert "passed    base       a burst of queued challenges is answered in order" in table


@pytest.mark.parametrize("client", [agent, shell_client, c_client])
def test_a_port_plugged_in_before_the_client_missed_it_is_found(
    client: Callable[[Path, Path], list[str]], tmp_path: Path
) -> None:
    device, later = tmp_path / "port", tmp_path / "later"
    ends = [pty.openpty() for _ in range(2)]
    for (_, far), path in zip(ends, (device, later)):
        tty.setraw(far)
        path.symlink_to(os.ttyname(far))
    process = subprocess.Popen(client(device, tmp_path), cwd=GUEST, stderr=subprocess.DEVNULL)
    try:
        for near, far in ends:
            heard = b""
            while b'"init"' not in heard:
                assert select.select([near], [], [], 10)[0], f"heard {heard!r}"
                heard += os.read(near, 65536)
            if later.exists():
                later.replace(device)
            os.close(near)
            os.close(far)
    finally:
        process.kill()
        process.communicate()


def test_a_guest_that_goes_away_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "port.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        process = conformance(path)
        connection, _ = listener.accept()
        connection.close()
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert errors == f"vmhb-conformance: {path}: closed at the other end\n"
