# SPDX-License-Identifier: Apache-2.0
"""The plugin inside the real collectd daemon, fed through its unixsock plugin."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Callable

import pytest

from tests.lab.broker import Broker
from tests.lab.ear import Ear

pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore::DeprecationWarning")]

COLLECTD = "/usr/sbin/collectd"
ROOT = Path(__file__).parents[2]
VM = "6ba7b810-9dad-41d1-80b4-00c04fd430c8"
NOBODY = "rabbit://vmhb:s3cret@127.0.0.1:1/"

CONF = """\
Hostname "compute-1"
FQDNLookup false
BaseDir "{at}"
PIDFile "{at}/collectd.pid"
Interval 1
LoadPlugin logfile
<Plugin logfile>
  LogLevel info
  File "{at}/{log}"
  PrintSeverity true
</Plugin>
{unixsock}
LoadPlugin python
<Plugin python>
  ModulePath "{site_packages}"
  ModulePath "{root}"
  LogTraces true
  Import "vitrage_notifier.plugin"
  <Module vitrage_notifier>
    StateDir "{at}/state"
    {stanza}
  </Module>
</Plugin>
"""

UNIXSOCK = """\
LoadPlugin unixsock
<Plugin unixsock>
  SocketFile "{at}/collectd.sock"
  SocketGroup root
  DeleteSocket true
</Plugin>
"""


def wait_for(ready: Callable[[], object], failure: Callable[[], str], timeout: float = 20) -> None:
    deadline = time.monotonic() + timeout
    while not ready():
        assert time.monotonic() < deadline, failure()
        time.sleep(0.02)


class Collectd:
    """A private daemon below a directory of the test."""

    def __init__(self, at: Path) -> None:
        assert shutil.which(COLLECTD), "apt-get install --no-install-recommends collectd-core"
        self.at = at
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, stanza: str) -> None:
        conf = self.write("collectd.conf", "collectd.log", stanza, UNIXSOCK.format(at=self.at))
        self.process = self.spawn("-f", "-C", str(conf))
        wait_for(self.answers, self.log)

    @contextmanager
    def in_the_background(self, stanza: str) -> Iterator[None]:
        """Let it fork and leave its terminal, as an init script does; no `-f`."""
        conf = self.write("collectd.conf", "collectd.log", stanza, UNIXSOCK.format(at=self.at))
        assert self.spawn("-C", str(conf)).wait(20) == 0
        pid_file = self.at / "collectd.pid"
        wait_for(lambda: pid_file.exists() and pid_file.read_text(), self.log)
        pid = int(pid_file.read_text())
        try:
            yield
        finally:
            os.kill(pid, signal.SIGTERM)
            # The last thing that it does.
            wait_for(lambda: not pid_file.exists(), self.log)

    def gate(self, stanza: str) -> int:
        """Run `collectd -T`, which tries a configuration beside the daemon."""
        conf = self.write("gate.conf", "gate.log", stanza, "")
        return self.spawn("-f", "-T", "-C", str(conf)).wait(20)

    def stop(self) -> float:
        """End it; return the seconds that took."""
        if self.process is None:
            return 0.0
        began = time.monotonic()
        self.process.terminate()
        try:
            assert self.process.wait(20) == 0
        finally:
            self.process.kill()
            self.process = None
        return time.monotonic() - began

    def write(self, name: str, log: str, stanza: str, unixsock: str) -> Path:
        site_packages = sysconfig.get_paths()["purelib"]
        conf = self.at / name
        conf.write_text(
            CONF.format(
                at=self.at,
                log=log,
                stanza=stanza,
                unixsock=unixsock,
                root=ROOT,
                site_packages=site_packages,
            )
        )
        return conf

    def spawn(self, *options: str) -> subprocess.Popen[bytes]:
        # collectd's Python finds its home by the first python3 of the PATH: not a venv's.
        with (self.at / "collectd.out").open("ab") as out:
            return subprocess.Popen(
                [COLLECTD, *options],
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    def answers(self) -> bool:
        assert self.process is None or self.process.poll() is None, self.log()
        try:
            return self.ask("LISTVAL") != ""
        except OSError:
            return False

    def ask(self, line: str) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(self.at / "collectd.sock"))
            connection.sendall(line.encode() + b"\n")
            return connection.recv(4096).decode()

    def notify(self, severity: str, fault: str = "heartbeat-lost", incident: str = "i") -> None:
        answer = self.ask(
            f"PUTNOTIF severity={severity} time={time.time():.3f} host=compute-1 plugin=vmhb "
            f'plugin_instance={VM} type=gauge type_instance={fault} message="no answer" '
            f"s:incident={incident}"
        )
        assert answer.startswith("0"), answer

    def log(self, name: str = "collectd.log") -> str:
        path = self.at / name
        return path.read_text() if path.exists() else (self.at / "collectd.out").read_text()

    def outbox(self) -> list[tuple[str, str, str]]:
        database = sqlite3.connect(str(self.at / "state" / "outbox.sqlite"))
        try:
            return database.execute("SELECT incident, instance, severity FROM alarm").fetchall()
        finally:
            database.close()


@pytest.fixture(name="collectd")
def _collectd(tmp_path: Path) -> Iterator[Collectd]:
    collectd = Collectd(tmp_path)
    yield collectd
    collectd.stop()


def test_a_notification_lands_in_the_outbox_while_the_broker_is_away(collectd: Collectd) -> None:
    collectd.start(f'TransportUrl "{NOBODY}"')
    # The socket answers before our init has run: what comes this early must not be lost either.
    collectd.notify("failure")
    wait_for(lambda: "alarms wait on disk" in collectd.log(), collectd.log)
    assert collectd.outbox() == [("i", VM, "FAILURE")]
    assert collectd.stop() < 6
    assert "s3cret" not in collectd.log()
    assert "Traceback" not in collectd.log()


def test_a_notification_reaches_the_broker(collectd: Collectd, tmp_path: Path) -> None:
    with Broker(tmp_path / "broker") as broker, Ear(broker.url) as ear:
        collectd.start(f'TransportUrl "{broker.url}"')
        collectd.notify("warning", "check.db")
        assert len(ear.wait_for(1, timeout=20)) == 1, collectd.log()
        collectd.notify("okay", "check.db")
        heard = ear.wait_for(2, timeout=20)
        assert [(each.event_type, each.payload["id"]) for each in heard] == [
            ("collectd.alarm.warning", "i.1"),
            ("collectd.alarm.ok", "i.1"),
        ]
        assert heard[0].payload["message"] == "VM health check failed: db"
        assert collectd.stop() < 6


def test_a_bad_stanza_names_the_key_and_collectd_keeps_running(collectd: Collectd) -> None:
    collectd.start('TransportUrl "nonsense"\n    ResendIntervall 5')
    collectd.notify("failure")
    log = collectd.log()
    assert "vitrage_notifier: TransportUrl: is no URL" in log
    assert "vitrage_notifier: ResendIntervall: is not known" in log
    assert not (collectd.at / "state").exists()


def test_the_config_gate_beside_the_daemon_disturbs_nothing(collectd: Collectd) -> None:
    collectd.start(f'TransportUrl "{NOBODY}"')
    collectd.notify("failure")
    wait_for(lambda: "alarms wait on disk" in collectd.log(), collectd.log)
    assert collectd.gate(f'TransportUrl "{NOBODY}"') == 0
    assert "another collectd serves" in collectd.log("gate.log")
    collectd.notify("okay")
    assert collectd.outbox() == [("i", VM, "FAILURE")]


def test_the_sender_lives_on_after_the_fork(collectd: Collectd) -> None:
    with collectd.in_the_background(f'TransportUrl "{NOBODY}"'):
        wait_for(collectd.answers, collectd.log)
        collectd.notify("failure")
        wait_for(lambda: "alarms wait on disk" in collectd.log(), collectd.log)
