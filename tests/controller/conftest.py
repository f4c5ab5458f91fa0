# SPDX-License-Identifier: Apache-2.0
"""A real broker and a real Vitrage, and the command `vmhb-vitrage` beside them."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sysconfig
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

import pytest

from tests.integration.collectd_node import Node, Vm
from tests.lab.broker import Broker, Tenant
from tests.lab.certificates import make_certificate
from tests.lab.layout import ROOT, VITRAGE_VENV, require
from tests.lab.vitrage import Vitrage
from vitrage_notifier.alarm import Alarm, Event, Subject

# oslo.messaging brings eventlet along, which warns of itself; tests take warnings for errors.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from vitrage_notifier.transport import OsloTransport

HOSTS = ("compute-1", "compute-2")
TOPIC = "vitrage_notifications"
LEASE = 120.0
#: The rights that docs/vitrage.md gives to the sweep's user, in a virtual host without Vitrage.
SWEEPER = Tenant(
    "sweeper",
    configure=r"^(openstack|vmhb-sweep|vitrage_notifications\.info)$",
    write=r"^(openstack|vmhb-sweep|vitrage_notifications\.info)$",
    read=r"^(openstack|vmhb-sweep)$",
)
TENANTS = [
    SWEEPER,
    replace(SWEEPER, name="quorum"),
    replace(SWEEPER, name="no-configure", configure="^$"),
    replace(SWEEPER, name="no-write", write=r"^vmhb-sweep$"),
    replace(SWEEPER, name="no-read", read="^openstack$"),
]


def uuid(number: int) -> str:
    return f"6ba7b810-9dad-41d1-80b4-{number:012x}"


def lost(number: int, incident: str, host: str = "compute-1") -> Alarm:
    """The alarm of a VM whose heartbeat is lost."""
    return Alarm(incident, 1, Subject(host, uuid(number), "heartbeat-lost"), "FAILURE", time.time())


def impaired(incident: str, host: str = "compute-1") -> Alarm:
    """The alarm of a host."""
    return Alarm(incident, 1, Subject(host, "", "engine-impaired"), "FAILURE", time.time())


class Controller:
    """The broker, Vitrage, and whoever sends or asks."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.certificate = make_certificate(directory / "certificate")
        self.broker = Broker(directory / "broker", tenants=TENANTS, certificate=self.certificate)
        self.broker.start()
        self.vitrage = Vitrage(directory / "vitrage", self.broker.url)
        self.vitrage.hosts = HOSTS
        self.transport = OsloTransport(self.broker.url, TOPIC, 10.0)

    def close(self) -> None:
        self.transport.close()
        self.vitrage.stop()
        self.broker.stop()

    def send(self, event: Event) -> None:
        self.transport.send(*event)

    def raises(self, *alarms: Alarm) -> None:
        for alarm in alarms:
            self.send(alarm.event(True, LEASE))

    def clears(self, *alarms: Alarm) -> None:
        for alarm in alarms:
            self.send(alarm.event(False, LEASE))

    def command(self, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run `vmhb-vitrage` as an operator does."""
        return subprocess.run(
            self.argv(*argv),
            env=self.env(**env),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=180,
        )

    def argv(self, *argv: str) -> list[str]:
        python = require(VITRAGE_VENV) / "bin" / "python"
        return [str(python), "-m", "vitrage_notifier.cli", *argv]

    def env(self, **env: str) -> dict[str, str]:
        path = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
        return {**path, **self.vitrage.cli_env(), **env}

    def lists(self, expected: dict[str, int], within: float = 20) -> None:
        """Wait until Vitrage lists just these alarms."""
        self.vitrage.wait_for(lambda rows: Counter(row["name"] for row in rows) == expected, within)

    def states(self) -> dict[str, str]:
        """The state of each resource, by UUID or host name."""
        return {row["Data Source ID"]: row["State"] for row in self.vitrage.resources()}

    def executions(self) -> list[dict[str, Any]]:
        """What Mistral was to start."""
        notes = self.vitrage.directory / "mistral.jsonl"
        return (
            [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []
        )


def until(ready: Callable[[], object], within: float, what: str | Callable[[], str]) -> None:
    deadline = time.monotonic() + within
    while not ready():
        assert time.monotonic() < deadline, what if isinstance(what, str) else what()
        time.sleep(0.1)


@pytest.fixture(scope="session")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    """One broker and one Vitrage for all tests here, which `be_ready` before they use it."""
    controller = Controller(tmp_path_factory.mktemp("controller"))
    yield controller
    controller.close()
    # A broker that stops leaves sockets behind in the library, which only say so when they go.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


NOTIFIER = """\
<Plugin python>
  ModulePath "{site_packages}"
  Import "vitrage_notifier.plugin"
  <Module vitrage_notifier>
    StateDir "{state}"
    TransportUrlFile "{url}"
    Topic "{topic}"
  </Module>
</Plugin>
"""
TOPIC = "vitrage_notifications"


class Compute:
    """The node, and the command as run on it."""

    def __init__(self, controller: Controller, at: Path) -> None:
        self.controller = controller
        self.node = Node(at)
        self.vm: Vm = self.node.vm("web")
        self.state = at / "state"
        self.url = at / "url"
        self.url.touch(mode=0o600)
        self.with_url(controller.broker.url)

    def with_url(self, url: str) -> None:
        self.url.write_text(url + "\n")

    def start(self, settings: str = "", notifier: bool = True, topic: str = TOPIC) -> None:
        stanza = NOTIFIER.format(
            site_packages=sysconfig.get_paths()["purelib"],
            state=self.state,
            url=self.url,
            topic=topic,
        )
        self.node.start(settings=settings, more=stanza if notifier else "")
        until(lambda: (self.state / "engine.json").exists(), 10, self.node.log())

    def verify(self, *argv: str, topic: str = TOPIC, **env: str) -> tuple[int, str]:
        done = self.controller.command(
            "verify",
            *("--control-socket", str(self.node.directory / "run/control.sock")),
            *("--state-dir", str(self.state)),
            *("--transport-url-file", str(self.url)),
            *("--topic", topic),
            *("--timeout", "10"),
            *argv,
            **env,
        )
        assert done.stderr == ""
        return done.returncode, done.stdout

    def reconcile(self) -> tuple[int, str]:
        done = self.controller.command(
            "reconcile",
            *("--control-socket", str(self.node.directory / "run/control.sock")),
            *("--hostname", "compute-1"),
        )
        return done.returncode, done.stdout + done.stderr


@pytest.fixture(name="compute")
def _compute(controller: Controller) -> Iterator[Compute]:
    # A unix socket's path has to be short.
    with tempfile.TemporaryDirectory(prefix="vmhb-") as directory:
        compute = Compute(controller, Path(directory))
        yield compute
        compute.node.close()
