# SPDX-License-Identifier: Apache-2.0
"""The commands as users run them: the agent and the shell client, each at a pseudo terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

GUEST = Path(__file__).parents[3] / "guest"


class Host:
    """The other end of a port: sends messages, reads what comes back."""

    def __init__(self) -> None:
        self.fd, self.guest_fd = pty.openpty()
        tty.setraw(self.guest_fd)
        self.path = os.ttyname(self.guest_fd)
        self._rest = b""
        self._messages: list[dict[str, Any]] = []

    def send(self, msg_type: str, **fields: object) -> None:
        message = {"version": 3, "revision": 1, "msg_type": msg_type, "sequence": 1, **fields}
        os.write(self.fd, b"\n%s\n" % json.dumps(message, separators=(",", ":")).encode())

    def receive(self) -> dict[str, Any]:
        while not self._messages:
            assert select.select([self.fd], [], [], 10)[0], "the guest is silent"
            *lines, self._rest = (self._rest + os.read(self.fd, 65536)).split(b"\n")
            self._messages += [json.loads(line) for line in lines if line]
        return self._messages.pop(0)

    def establish(self, **fields: object) -> None:
        init = self.receive()
        assert init["msg_type"] == "init"
        self.send("init_ack", invocation_id=init["invocation_id"], **fields)


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    os.close(host.fd)
    os.close(host.guest_fd)


@pytest.fixture(autouse=True)
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where no agent of this machine has its sockets."""
    path = tmp_path / ".run"
    monkeypatch.setenv("TEST_RUN_DIR", str(path))
    return path


class Started(subprocess.Popen[str]):
    """An agent that does not outlive its test, even one that fails."""

    def __exit__(self, *failure: Any) -> None:
        self.kill()
        super().__exit__(*failure)


def agent(*arguments: str, **env: str) -> Started:
    arguments = (f"--run-dir={os.environ['TEST_RUN_DIR']}", *arguments)
    return Started(
        [sys.executable, "-m", "vmhb_guest", *arguments],
        cwd=GUEST,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_agent_answers_reports_and_says_goodbye(host: Host, tmp_path: Path) -> None:
    check = tmp_path / "app"
    check.write_text("#!/bin/sh\necho 'app is gone | up=0'\nexit 2\n")
    check.chmod(0o755)
    config = tmp_path / ".conf"
    config.write_text(
        f"[checks]\nhealth_dir = {tmp_path}\nboot_delay = 0\n[audits]\nenabled = off\n"
    )
    notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notified.bind(str(tmp_path / ".notify"))
    arguments = [f"--port-path={host.path}", f"--config={config}"]
    environment = {"NOTIFY_SOCKET": str(tmp_path / ".notify")}
    with notified, agent(*arguments, **environment) as process:
        host.establish(vmhb={"caps": ["checks"], "max_line": 16384})
        assert notified.recv(99) == b"READY=1"
        told: list[dict[str, Any]] = []
        for challenge in range(1, 1000):
            host.send("challenge", heartbeat_challenge=challenge)
            answer = host.receive()
            assert answer["heartbeat_response"] == challenge
            told += answer.get("vmhb", {"checks": []})["checks"]
            if told:
                break
        assert answer["heartbeat_health"] == "unhealthy"
        assert answer["log_msg"] == "app: app is gone"
        assert (told[0]["name"], told[0]["status"], told[0]["perfdata"]) == (
            "app",
            "critical",
            "up=0",
        )
        process.send_signal(signal.SIGTERM)
        goodbye = host.receive()
        assert (goodbye["msg_type"], goodbye["log_msg"]) == ("exit", "stopped by SIGTERM")
        _, log = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "Traceback" not in log


def test_the_agent_waits_quietly_for_a_port_that_is_not_there(tmp_path: Path) -> None:
    with agent(f"--port-path={tmp_path}/none", f"--health-dir={tmp_path}") as process:
        assert process.stderr is not None
        assert "No such file" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=10)
    assert (process.returncode, log) == (0, "")


def test_check_config_says_what_would_run(tmp_path: Path) -> None:
    config = tmp_path / ".conf"
    config.write_text(
        f"[checks]\nhealth_dir = {tmp_path}\n[check:gone]\nattempts = 2\n"
        "[audits]\ntimer = off\nexec = off\nloopback = off\nmemory = off\nspace = off\nroot = off\n"
    )
    (tmp_path / "disk").touch()
    (tmp_path / "load").touch(0o755)
    with agent("--check-config", "--config", str(config)) as process:
        out, _ = process.communicate(timeout=10)
    assert process.returncode == 1
    assert out == (
        "port org.openstack.vmhb.0\n"
        "check disk: every 30 s, at most 10 s, hard after 1\n"
        "check load: every 30 s, at most 10 s, hard after 1\n"
        "check os.fsync: every 30 s, at most 20 s, hard after 1\n"
        f"check disk: {tmp_path}/disk cannot be run: is it executable?\n"
        "check gone: no such file, and no command\n"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config", "/nonexistent"], "cannot read /nonexistent: No such file"),
        (["--port-name", "a/b"], "a port name has 1 to 64 of"),
        (["--health-dir", "relative"], "an absolute path expected"),
    ],
)
def test_a_mistake_is_told_without_traceback(arguments: list[str], words: str) -> None:
    with agent(*arguments) as process:
        _, log = process.communicate(timeout=10)
    assert process.returncode == 2
    assert words in log
    assert "Traceback" not in log


@pytest.mark.parametrize("shell", [["busybox", "sh"], ["dash"]], ids=["busybox", "dash"])
def test_the_shell_client_speaks_the_published_protocol(
    host: Host, tmp_path: Path, shell: list[str]
) -> None:
    flag = tmp_path / "unhealthy"
    env = {**os.environ, "VMHB_UNHEALTHY": str(flag)}
    with subprocess.Popen([*shell, str(GUEST / "sh/vmhb-guest.sh"), host.path], env=env) as process:
        host.establish()
        host.send("challenge", heartbeat_challenge=2**31 - 1)
        answer = host.receive()
        assert (answer["heartbeat_response"], answer["heartbeat_health"]) == (2**31 - 1, "healthy")
        flag.write_bytes(b'disk "sda"\tis C:\\temp\nb\xc3\xbc\x01' + b"x" * 300)
        host.send("challenge", heartbeat_challenge=1)
        answer = host.receive()
        assert (answer["heartbeat_health"], answer["corrective_action"]) == ("unhealthy", "log")
        assert answer["log_msg"].startswith('disk "sda" is C:\\temp bxxx')
        assert len(answer["log_msg"]) == 190
        host.send("nack", invocation_id=1, log_msg="no session: send init")
        assert host.receive()["msg_type"] == "init"
        process.terminate()
        assert host.receive()["msg_type"] == "exit"
    assert process.returncode == 0


def ask(run_dir: Path, *arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "vmhb_guest", "status", "--run-dir", str(run_dir), *arguments],
        cwd=GUEST,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def log_until(process: subprocess.Popen[str], words: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return
    pytest.fail(f"the agent ended without saying {words!r}")


def test_status_shows_port_session_checks_and_applications(
    host: Host, tmp_path: Path, run_dir: Path
) -> None:
    config = tmp_path / ".conf"
    config.write_text(
        f"[checks]\nhealth_dir = {tmp_path}\nboot_delay = 0\n[audits]\nenabled = off\n"
        "[check:disk]\ncommand = echo full; exit 2\n[check:slow]\ncommand = sleep 60\n"
    )
    with agent(f"--port-path={host.path}", f"--config={config}") as process:
        host.establish()
        log_until(process, "disk: critical: full")
        code, out, _ = ask(run_dir)
        assert code == 0
        assert re.sub(r"for \d+ s", "for N s", out).splitlines() == [
            f"port {host.path}: connected",
            "session: enabled, interval 1 s",
            "disk: critical for N s: full",
            "slow: no result yet",
        ]
        _, out, _ = ask(run_dir, "--json")
        assert json.loads(out)["checks"][0]["name"] == "disk"
        process.terminate()
        process.communicate(timeout=10)
    assert list(run_dir.iterdir()) == []


def test_busy_reaches_the_host_that_wants_to_know(
    host: Host, tmp_path: Path, run_dir: Path
) -> None:
    def busy(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "vmhb_guest", "busy", "--run-dir", str(run_dir)]
        done = subprocess.run(
            [*command, *arguments], cwd=GUEST, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stderr

    with agent(f"--port-path={host.path}", f"--health-dir={tmp_path}") as process:
        log_until(process, "waiting for init_ack")
        code, error = busy("--for", "120")
        assert (code, error) == (1, "vmhb-guest: this compute node does not want to know\n")
        assert busy("--for", "-1")[0] == 1
        host.establish(vmhb={"caps": ["busy"], "max_line": 16384})
        log_until(process, "enabled")
        assert busy("--for", "120", "--reason", "fsck") == (0, "")
        host.send("challenge", heartbeat_challenge=1)
        told = host.receive()["vmhb"]["busy"]
        assert told["reason"] == "fsck"
        assert 100000 < told["for_ms"] <= 120000
        process.terminate()
        process.communicate(timeout=10)


def test_status_without_an_agent_says_so(run_dir: Path) -> None:
    code, out, error = ask(run_dir)
    assert (code, out) == (2, "")
    assert f"no agent answers at {run_dir}/control.sock" in error
    assert "Traceback" not in error


def test_sighup_reads_the_settings_again_and_refuses_wrong_ones(
    host: Host, tmp_path: Path, run_dir: Path
) -> None:
    config = tmp_path / ".conf"
    good = f"[checks]\nhealth_dir = {tmp_path}\nboot_delay = 0\n[audits]\nenabled = off\n"
    config.write_text(good + "[check:disk]\ncommand = echo full; exit 2\n")
    with agent(f"--port-path={host.path}", f"--config={config}") as process:
        log_until(process, "disk: critical: full")
        config.write_text("[checks]\nparallel = many\n")
        process.send_signal(signal.SIGHUP)
        log_until(process, "the settings stay as they were: ")
        assert "disk: critical" in ask(run_dir)[1]
        config.write_text(good + "[check:net]\ncommand = echo up\n[agent]\ninterval = 2\n")
        process.send_signal(signal.SIGHUP)
        log_until(process, "interval has changed, which takes a restart")
        log_until(process, "net: ok: up")
        assert "disk" not in ask(run_dir)[1]
        process.terminate()
        process.communicate(timeout=10)
    assert process.returncode == 0


def test_an_image_without_the_channel_can_do_without_the_agent(tmp_path: Path) -> None:
    arguments = ["--port-name=no.such.port", "--exit-without-port=0.1"]
    with agent(*arguments, f"--health-dir={tmp_path}") as process:
        process.communicate(timeout=10)
    assert process.returncode == 69


def test_a_sign_of_life_goes_to_the_watchdog_of_systemd(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / ".notify"))
        notified.settimeout(10)
        environment = {"NOTIFY_SOCKET": str(tmp_path / ".notify"), "WATCHDOG_USEC": "200000"}
        with agent(f"--health-dir={tmp_path}", **environment) as process:
            words = [notified.recv(99) for _ in range(3)]
            process.terminate()
            process.communicate(timeout=10)
    assert words == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]


def test_a_terminal_without_pyserial_says_what_to_install(host: Host, tmp_path: Path) -> None:
    (tmp_path / "serial.py").write_text("raise ImportError\n")
    environment = {"PYTHONPATH": str(tmp_path)}
    with agent(f"--port-path={host.path}", **environment) as process:
        _, log = process.communicate(timeout=10)
    assert process.returncode == 2
    assert "apt install python3-serial" in log
    assert "Traceback" not in log
