# SPDX-License-Identifier: Apache-2.0
"""A compute node of which only the notifier runs, in the real collectd, fed through unixsock."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sysconfig
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, NamedTuple

from tests.lab import unixsock

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
LoadPlugin csv
<Plugin csv>
  DataDir "{at}/csv"
  StoreRates false
</Plugin>
LoadPlugin python
<Plugin python>
  ModulePath "{site_packages}"
  ModulePath "{root}"
  LogTraces true
  Import "tests.lab.stopwatch"
  <Module stopwatch>
    Path "{at}/stopwatch.jsonl"
  </Module>
  Import "vitrage_notifier.plugin"
  Import "tests.lab.stopwatch_end"
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


class Held(NamedTuple):
    """How long one notification held its thread, in seconds; see `tests.lab.stopwatch`."""

    seconds: float
    without_processor: float

    @property
    def by_us(self) -> float:
        """What was not the machine's doing."""
        return self.seconds - self.without_processor


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

    def kill(self) -> None:
        """End it as a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(20)
        self.process = None

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
        return unixsock.answers(self._socket)

    def ask(self, line: str) -> list[str]:
        return unixsock.ask(self._socket, line)

    def notify(
        self, severity: str, fault: str = "heartbeat-lost", incident: str = "i", vm: str = VM
    ) -> None:
        """Dispatch what the engine would; an empty `vm` is the host."""
        self.put(severity, fault, vm, incident=incident)

    def introduce(self, incidents: Sequence[str]) -> None:
        """List the open incidents, as the engine does after its start."""
        parts = [incidents[at : at + 10] for at in range(0, len(incidents), 10)] or [[]]
        handshake = str(uuid.uuid4())
        for number, part in enumerate(parts, start=1):
            listed = json.dumps(list(part)).replace('"', '\\"')
            self.put(
                "okay",
                "open-faults",
                "",
                handshake=handshake,
                part=str(number),
                parts=str(len(parts)),
                incidents=f'"{listed}"',
            )

    def put(self, severity: str, fault: str, vm: str, **meta: str) -> None:
        """Dispatch a notification of plugin vmhb."""
        unixsock.put_fault(self._socket, "compute-1", severity, fault, vm, **meta)

    @property
    def _socket(self) -> Path:
        return self.at / "collectd.sock"

    def log(self, name: str = "collectd.log") -> str:
        path = self.at / name
        return (path if path.exists() else self.at / "collectd.out").read_text(errors="replace")

    def values(self, name: str) -> list[float]:
        """Return a value of the notifier as it was dispatched from time to time."""
        files = sorted((self.at / "csv/compute-1/vitrage_notifier").glob(f"{name}-2*"))
        lines = [line for file in files for line in file.read_text().split()]
        return [float(line.rpartition(",")[2]) for line in lines if not line.startswith("epoch")]

    def value(self, name: str) -> float:
        """Return the last of them; NaN before the first."""
        values = self.values(name)
        return values[-1] if values else float("nan")

    def held(self) -> list[Held]:
        """How long each notification held the thread that dispatched it."""
        text = (self.at / "stopwatch.jsonl").read_text()
        # What follows the last newline is still being written.
        return [Held(*json.loads(line)) for line in text.split("\n")[:-1]]

    def outbox(self) -> list[tuple[str, str, str]]:
        path = self.at / "state" / "outbox.sqlite"
        if not path.exists():
            return []
        database = sqlite3.connect(str(path))
        try:
            return database.execute("SELECT incident, instance, severity FROM alarm").fetchall()
        except sqlite3.OperationalError:
            return []  # it was not made yet
        finally:
            database.close()
