# SPDX-License-Identifier: Apache-2.0
"""collectd on a private compute node, with a recorder of all notifications beside the product."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any, Callable, Protocol

from tests.lab import processes, unixsock
from tests.lab.layout import NODE_VENV, LabError, require

Row = dict[str, Any]

# collectd's embedded Python finds its home by the first python3 of the PATH, hence the one that
# processes.spawn() sets. Paths are those that the node sees.
_CONF = """\
Hostname "{hostname}"
FQDNLookup false
BaseDir "/run/collectd"
PIDFile "/run/collectd/collectd.pid"
Interval {interval:g}
LoadPlugin logfile
<Plugin logfile>
  LogLevel info
  File "/run/collectd/collectd.log"
  PrintSeverity true
</Plugin>
LoadPlugin unixsock
<Plugin unixsock>
  SocketFile "/run/collectd/collectd.sock"
  SocketGroup root
  SocketPerms 0600
  DeleteSocket true
</Plugin>
LoadPlugin python
<Plugin python>
  ModulePath "/run/collectd/modules"
  LogTraces true
  Import "recorder"
  <Module recorder>
    Path "/run/collectd/notifications.jsonl"
  </Module>
</Plugin>
"""
_PRODUCT = """\
<Plugin python>
  ModulePath "{site_packages}"
</Plugin>
"""


class _Place(Protocol):
    """What a daemon needs to know of its node."""

    directory: Path
    hostname: str
    run: Path

    @property
    def root(self) -> Path: ...

    def command(self, *argv: str) -> list[str]: ...


class Collectd:
    """The daemon of one node; stopped and started as often as a test likes.

    Below /run/collectd on the node lie log, configuration, pid, socket and notifications; what
    the product keeps, state and control socket, belongs below /run/vmhb.
    """

    def __init__(self, node: _Place) -> None:
        self._node = node
        self.directory = node.run / "collectd"
        self.log = self.directory / "collectd.log"
        self.notifications_file = self.directory / "notifications.jsonl"

    @property
    def pid(self) -> int:
        """Its process id, 0 while it does not run."""
        try:
            pid = int((self.directory / "daemon.pid").read_text())
        except (OSError, ValueError):
            return 0
        is_ours = processes.is_alive(pid) and processes.sees_as_run(pid, self._node.run)
        return pid if is_ours else 0

    def start(self, conf: str = "", timeout: float = 15.0, interval: float = 1.0) -> None:
        """Start it with `conf` appended to what the lab needs; return when its socket answers.

        `conf` may import the product's modules. `interval` is that of its reads in seconds.
        """
        if self.pid:
            raise LabError(f"collectd runs already on {self._node.hostname}: pid {self.pid}")
        (site_packages,) = require(NODE_VENV).glob("lib/python3.*/site-packages")
        self.configure(_PRODUCT.format(site_packages=site_packages) + conf, interval)
        self.run(timeout)

    def configure(self, conf: str, interval: float = 1.0) -> None:
        """Write its configuration, for run(): `conf` appended to what the lab needs."""
        (self.directory / "modules").mkdir(parents=True, exist_ok=True)
        # Alone in its directory: collectd's Python must not find the lab's other modules.
        shutil.copy(Path(__file__).parent / "recorder.py", self.directory / "modules")
        lab = _CONF.format(hostname=self._node.hostname, interval=interval)
        (self.directory / "collectd.conf").write_text(lab + conf)

    def run(self, timeout: float = 15.0) -> None:
        """Start it with the configuration that is there; return when its socket answers."""
        argv = self._node.command("/usr/sbin/collectd", "-f", "-C", "/run/collectd/collectd.conf")
        output = self.directory / "collectd.out"
        daemon = processes.spawn(argv, output)
        (self.directory / "daemon.pid").write_text(f"{daemon.pid}\n")
        processes.wait_until(
            lambda: unixsock.answers(self._socket) or daemon.exit_status() is not None,
            timeout,
            f"collectd does not answer: see {self.log} and {output}",
        )
        if daemon.exit_status() is not None:
            raise LabError(
                f"collectd ended with {daemon.exit_status()}: see {self.log} and {output}"
            )

    def stop(self, timeout: float = 15.0) -> None:
        """End it as an init system would; LabError when it does not end by itself."""
        pid = self.pid
        if pid:
            os.kill(pid, signal.SIGTERM)
            processes.wait_until(
                lambda: not self.pid, timeout, f"collectd does not stop: see {self.log}"
            )

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal; after SIGKILL, return when it is gone."""
        pid = self.pid
        if not pid:
            raise LabError(f"collectd does not run on {self._node.hostname}")
        os.kill(pid, number)
        if number == signal.SIGKILL:
            processes.wait_until(lambda: not self.pid, 5, "collectd survives SIGKILL")

    def ask(self, line: str) -> list[str]:
        """Send a command to its socket (LISTVAL, GETVAL "…", PUTNOTIF …); return the answer."""
        return unixsock.ask(self._socket, line)

    def notifications(self) -> list[Row]:
        """All that were dispatched since the node was made, oldest first."""
        try:
            text = self.notifications_file.read_text()
        except FileNotFoundError:
            return []
        # What follows the last newline is still being written.
        return [json.loads(line) for line in text.split("\n")[:-1]]

    def wait_for(self, wanted: Callable[[Row], bool], timeout: float, since: int = 0) -> Row:
        """Return the first notification from number `since` on that is `wanted`."""
        deadline = time.monotonic() + timeout
        while True:
            rows = self.notifications()[since:]
            for row in rows:
                if wanted(row):
                    return row
            if time.monotonic() > deadline:
                seen = [(row["type_instance"], row["severity"], row["message"]) for row in rows]
                raise LabError(f"no such notification within {timeout:g} s; there were {seen}")
            time.sleep(0.02)

    @property
    def _socket(self) -> Path:
        return self._node.root / "run/collectd/collectd.sock"
