# SPDX-License-Identifier: Apache-2.0
"""A private RabbitMQ node: its own directories, ports, cookie and epmd; several coexist."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Callable

from tests.lab.certificates import Certificate

# Debian's and Red Hat's /usr/sbin/rabbitmq-server switches to the user rabbitmq, who may not
# enter a private directory; the script it wraps runs as whoever starts it.
_SCRIPTS = (
    Path("/usr/lib/rabbitmq/bin/rabbitmq-server"),
    Path("/opt/rabbitmq/sbin/rabbitmq-server"),
)

# An idle node must not burn the cores that the tests need.
_ERL_ARGS = "+S 1:1 +A 16 +sbwt none +sbwtdcpu none +sbwtdio none"


_ALL = ".*"


@dataclass(frozen=True)
class Tenant:
    """A virtual host with one user of the same name; rights are regular expressions."""

    name: str
    configure: str = _ALL
    write: str = _ALL
    read: str = _ALL


class BrokerError(Exception):
    """The node is not installed, did not come up or did not go away; says what to look at."""


class Broker:
    """Runs one RabbitMQ node below `directory`; what it stored survives stop() and start().

    The ports are chosen when the object is made and stay the same across restarts. `settings`
    are further lines of rabbitmq.conf. With `tenants` there are their virtual hosts and users;
    with `certificate` (see `certificates`) the node speaks TLS at `tls_port` besides.
    """

    def __init__(
        self,
        directory: Path,
        settings: str = "",
        tenants: Sequence[Tenant] = (),
        certificate: Certificate | None = None,
    ) -> None:
        self.directory = directory
        self.log = directory / "broker.out"
        self._settings = settings
        self._tenants = tenants
        self._certificate = certificate
        self.port, self.tls_port, self._dist_port, self._epmd_port = _free_ports(4)
        self.url = f"rabbit://guest:guest@127.0.0.1:{self.port}/"
        self._epmd: subprocess.Popen[bytes] | None = None
        self._node: subprocess.Popen[bytes] | None = None

    def start(self, timeout: float = 120.0) -> None:
        """Return when the node speaks AMQP; BrokerError after `timeout` seconds."""
        script, epmd = _find_script(), _find_epmd()
        (self.directory / "home").mkdir(parents=True, exist_ok=True)
        (self.directory / "enabled_plugins").write_text("[].\n")
        (self.directory / "rabbitmq.conf").write_text(self._conf())
        # A node would start an epmd of its own that outlives it: ours is there first.
        epmd_command = [epmd, "-port", str(self._epmd_port), "-address", "127.0.0.1"]
        with self.log.open("ab") as log:
            self._epmd = self._spawn(epmd_command, log.fileno())
            _wait(lambda: _answers(self._epmd_port), self._epmd, time.monotonic() + 10, self.log)
            self._node = self._spawn([str(script)], log.fileno())
        try:
            _wait(lambda: _speaks_amqp(self.port), self._node, time.monotonic() + timeout, self.log)
        except BrokerError:
            self.stop()
            raise

    def stop(self, timeout: float = 30.0) -> None:
        """End the node and its epmd; harmless when they do not run."""
        for process in (self._node, self._epmd):
            if process is not None:
                _end_group(process, timeout)
        self._node = self._epmd = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let the node stand still inside: connections stay, nobody answers."""
        if self._node is None:
            raise BrokerError("the node does not run")
        os.killpg(self._node.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self._node.pid, signal.SIGCONT)

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _conf(self) -> str:
        lines = ["log.console = true", self._settings]
        if self._tenants:
            definitions = self.directory / "definitions.json"
            definitions.write_text(json.dumps(_definitions(self._tenants)))
            lines.append(f"load_definitions = {definitions}")
        if self._certificate:
            lines += [
                f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}",
                f"ssl_options.cacertfile = {self._certificate.ca}",
                f"ssl_options.certfile = {self._certificate.certificate}",
                f"ssl_options.keyfile = {self._certificate.key}",
                "ssl_options.verify = verify_none",
            ]
        return "\n".join([*lines, ""])

    def _spawn(self, command: list[str], log: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=self._environment(),
            cwd=self.directory,
            start_new_session=True,
        )

    def _environment(self) -> dict[str, str]:
        at = self.directory
        return {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin",
            "LANG": "C.UTF-8",
            "HOME": str(at / "home"),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"broker{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(at / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(at / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(at / "enabled_plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(at / "generated"),
            "RABBITMQ_SCHEMA_DIR": str(at / "schema"),
            "RABBITMQ_MNESIA_BASE": str(at / "mnesia"),
            "RABBITMQ_LOG_BASE": str(at / "log"),
            "RABBITMQ_PID_FILE": str(at / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _ERL_ARGS,
        }


def _definitions(tenants: Sequence[Tenant]) -> dict[str, object]:
    users = [{**_user("guest"), "tags": "administrator"}, *(_user(each.name) for each in tenants)]
    rights = [
        {
            "user": user,
            "vhost": each.name,
            "configure": each.configure if user == each.name else _ALL,
            "write": each.write if user == each.name else _ALL,
            "read": each.read if user == each.name else _ALL,
        }
        for each in tenants
        for user in (each.name, "guest")
    ]
    everything = {"user": "guest", "vhost": "/", "configure": _ALL, "write": _ALL, "read": _ALL}
    return {
        "users": users,
        "vhosts": [{"name": "/"}, *({"name": each.name} for each in tenants)],
        "permissions": [everything, *rights],
    }


def _user(name: str) -> dict[str, str]:
    """A user whose password is his name."""
    salt = b"salt"
    hashed = base64.b64encode(salt + hashlib.sha256(salt + name.encode()).digest())
    return {
        "name": name,
        "password_hash": hashed.decode(),
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": "",
    }


def _find_script() -> Path:
    for script in _SCRIPTS:
        if script.exists():
            return script
    raise BrokerError("RabbitMQ is not installed: apt-get install rabbitmq-server")


def _find_epmd() -> str:
    epmd = shutil.which("epmd")
    if epmd is None:
        raise BrokerError("epmd is not installed: apt-get install rabbitmq-server")
    return epmd


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _speaks_amqp(port: int) -> bool:
    """Whether the port answers an AMQP 0-9-1 greeting with a method frame (Connection.Start)."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(1) == b"\x01"
    except OSError:
        return False


def _wait(
    ready: Callable[[], bool], process: subprocess.Popen[bytes], deadline: float, log: Path
) -> None:
    while not ready():
        if process.poll() is not None:
            raise BrokerError(f"{process.args!r} ended with {process.returncode}: see {log}")
        if time.monotonic() > deadline:
            last = log.read_text(errors="replace")[-1000:]
            raise BrokerError(f"{process.args!r} is not ready in time; last in {log}:\n{last}")
        time.sleep(0.05)


def _end_group(process: subprocess.Popen[bytes], timeout: float) -> None:
    """SIGTERM, then SIGKILL after `timeout` seconds, to the process group we started."""
    for number, patience in ((signal.SIGTERM, timeout), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
    process.wait(5.0)
