# SPDX-License-Identifier: Apache-2.0
"""The engine inside the real collectd, beside the usual plugins; libvirt's test driver has the VMs.

All values of each VM are read every READ seconds and sent over the network plugin.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.goals import part
from bench.process import REPOSITORY, SUBJECTS, Child, guests
from bench.subject import MISSES, SPECS, TIMEOUT, domain_xml, number_of
from collectd_vmhb.control import ControlError, ask

COLLECTD = Path("/usr/sbin/collectd")
READ = 5
#: What a compute node's collectd usually has besides.
USUAL = ("cpu", "df", "disk", "interface", "load", "memory", "processes", "swap", "uptime", "users")

_CONF = """\
Hostname "compute-1"
FQDNLookup false
BaseDir "{here}"
PIDFile "{here}/collectd.pid"
Interval {read}
LoadPlugin logfile
<Plugin logfile>
  LogLevel notice
  File "{here}/collectd.log"
</Plugin>
{usual}
LoadPlugin network
<Plugin network>
  Server "127.0.0.1" "{port}"
</Plugin>
LoadPlugin python
<Plugin python>
  ModulePath "{here}/modules"
  ModulePath "{repository}"
  LogTraces true
  Import "recorder"
  <Module recorder>
    Path "{here}/notifications.jsonl"
  </Module>
  Import "collectd_vmhb.plugin"
  <Module vmhb>
    LibvirtUri "test://{here}/node.xml"
    StateDir "{here}/state"
    ControlSocket "{here}/run/control.sock"
  </Module>
</Plugin>
"""
#: The discard port: what is sent there is nobody's.
_PORT = 9


class Daemon:
    """collectd and its guests, from the start to the end of both."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __enter__(self) -> Daemon:
        if not COLLECTD.exists():
            sys.exit("collectd is missing: apt-get install collectd-core python3-libvirt")
        self._directory = tempfile.TemporaryDirectory(prefix="vmhb-bench-")
        self._here = Path(self._directory.name)
        self._guests: Child = guests(self._here, self._count)
        self._configure()
        self._process = subprocess.Popen(
            [str(COLLECTD), "-f", "-C", str(self._here / "collectd.conf")],
            # collectd's Python takes its home from the first python3 of the PATH.
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.sched_setaffinity(self._process.pid, {SUBJECTS})
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.wait(20)
        self._guests.__exit__(*error)
        self._directory.cleanup()

    def _configure(self) -> None:
        domains = "".join(domain_xml(number, self._here, SPECS) for number in range(self._count))
        (self._here / "node.xml").write_text(f"<node>{domains}</node>")
        (self._here / "modules").mkdir()
        recorder = (REPOSITORY / "tests/lab/recorder.py").read_text()
        # Values go to the network plugin alone: a writer in Python would cost more than all else.
        recorder = recorder.partition("# collectd complains")[0]
        (self._here / "modules/recorder.py").write_text(recorder)
        (self._here / "collectd.conf").write_text(
            _CONF.format(
                here=self._here,
                read=READ,
                repository=REPOSITORY,
                port=_PORT,
                usual="\n".join(f"LoadPlugin {name}" for name in USUAL),
            )
        )

    def settle(self) -> None:
        """Waits until every guest is healthy, and two reads more."""
        deadline = time.monotonic() + 90
        while sum(row["health"] == "healthy" for row in self._rows()) < self._count:
            if time.monotonic() > deadline:
                raise RuntimeError((self._here / "collectd.log").read_text()[-2000:])
            time.sleep(1)
        time.sleep(2 * READ)

    def cores(self, seconds: float) -> float:
        """Returns how many processors the whole of collectd uses; nobody asks it meanwhile."""
        before, began = self._processor_time(), time.monotonic()
        time.sleep(seconds)
        return (self._processor_time() - before) / (time.monotonic() - began)

    def rtt_p99(self, looks: int) -> float:
        """Returns a round trip that 99 % of the heartbeats keep below, in seconds."""
        rtts = []
        for _ in range(looks):
            time.sleep(2)
            rtts += [row["rtt"] for row in self._rows() if row["rtt"] is not None]
        return part(rtts, 0.99)

    def declared(self, count: int) -> list[float]:
        """Hangs so many guests; returns by how much each loss was declared after its time.

        Nothing if they are not all declared soon: the engine finds this host late, and waits.
        """
        self._guests.ask('{"do": "report"}')
        hung_at = self._guests.ask(json.dumps({"do": "hang", "count": count}))["hung_at"]
        time.sleep(MISSES + TIMEOUT + 2)
        challenged = self._guests.ask('{"do": "report"}')
        # What turns the wall clock into the monotonic one.
        wall = time.time() - time.monotonic()
        errors: list[float] = []
        for row in self._lost():
            read = [at for at in challenged[str(number_of(row["plugin_instance"]))] if at > hung_at]
            errors.append(row["time"] - wall - read[MISSES - 1] - TIMEOUT)
        return errors if len(errors) == count else []

    def _lost(self) -> list[dict[str, Any]]:
        rows = (self._here / "notifications.jsonl").read_text().splitlines()
        found = [json.loads(row) for row in rows]
        return [row for row in found if row["type_instance"] == "heartbeat-lost"]

    def _rows(self) -> list[dict[str, Any]]:
        try:
            rows: list[dict[str, Any]] = ask(
                str(self._here / "run/control.sock"), {"command": "status"}
            )["vms"]
        except ControlError:
            return []
        return rows

    def _processor_time(self) -> float:
        """Returns the seconds that all threads have run; /proc/PID/stat counts in hundredths."""
        tasks = Path(f"/proc/{self._process.pid}/task").glob("*/schedstat")
        ran: list[int] = [int(task.read_text().split()[0]) for task in tasks]
        return sum(ran) / 1e9


def measure(count: int, seconds: float) -> dict[str, float]:
    """Returns the figures of one round inside collectd."""
    with Daemon(count) as daemon:
        daemon.settle()
        figures = {
            "collectd_cores": daemon.cores(max(seconds, 4 * READ)),
            "collectd_rtt_p99_ms": daemon.rtt_p99(looks=4) * 1e3,
        }
        errors = daemon.declared(round(count / 10))
        if errors:
            figures["collectd_declared_max_ms"] = max(errors) * 1e3
        return figures
