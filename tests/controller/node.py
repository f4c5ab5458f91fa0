# SPDX-License-Identifier: Apache-2.0
"""A compute node at the level of notifications: collectd with our notifier, told what to say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sysconfig
import time
from collections.abc import Iterable
from pathlib import Path

from tests.lab import unixsock
from tests.lab.layout import ROOT

#: Period of re-sending on these nodes; a lease is two of them.
PERIOD = 5.0

_CONF = """\
Hostname "{host}"
FQDNLookup false
BaseDir "{at}"
PIDFile "{at}/collectd.pid"
Interval 1
LoadPlugin logfile
<Plugin logfile>
  LogLevel info
  File "{at}/collectd.log"
</Plugin>
LoadPlugin unixsock
<Plugin unixsock>
  SocketFile "{at}/collectd.sock"
  SocketGroup root
  DeleteSocket true
</Plugin>
LoadPlugin python
<Plugin python>
  ModulePath "{site_packages}"
  ModulePath "{root}"
  LogTraces true
  Import "vitrage_notifier.plugin"
  <Module vitrage_notifier>
    StateDir "{at}/state"
    TransportUrl "{url}"
    ResendInterval {period}
  </Module>
</Plugin>
"""


class Node:
    """One daemon; what it has in its outbox survives kill() and start()."""

    def __init__(self, at: Path, host: str, url: str) -> None:
        self.at = at
        self.host = host
        self._url = url
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.at.mkdir(parents=True, exist_ok=True)
        conf = self.at / "collectd.conf"
        conf.write_text(
            _CONF.format(
                at=self.at,
                host=self.host,
                url=self._url,
                root=ROOT,
                site_packages=sysconfig.get_paths()["purelib"],
                period=PERIOD,
            )
        )
        with (self.at / "collectd.out").open("ab") as out:
            self._process = subprocess.Popen(
                ["/usr/sbin/collectd", "-f", "-C", str(conf)],
                # collectd's Python finds its home by the first python3 of the PATH.
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        deadline = time.monotonic() + 20
        while not self._answers():
            assert time.monotonic() < deadline, (self.at / "collectd.log").read_text()
            time.sleep(0.05)

    def kill(self) -> None:
        """As a power cut would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(10)
            self._process = None

    def says(self, instance: str, fault: str, incident: str, severity: str = "failure") -> None:
        """What the engine says of one fault."""
        self._put(severity, fault, instance, incident=incident)

    def lists(self, incidents: Iterable[str]) -> None:
        """What the engine says after its start: what is open, and nothing else."""
        listed = json.dumps(list(incidents)).replace('"', '\\"')
        self._put(
            "okay",
            "open-faults",
            "",
            handshake=os.urandom(8).hex(),
            part="1",
            parts="1",
            incidents=f'"{listed}"',
        )

    def _put(self, severity: str, fault: str, vm: str, **meta: str) -> None:
        unixsock.put_fault(self._socket, self.host, severity, fault, vm, **meta)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.at / "collectd.log").read_text()
        return unixsock.answers(self._socket)

    @property
    def _socket(self) -> Path:
        return self.at / "collectd.sock"
