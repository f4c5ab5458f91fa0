# SPDX-License-Identifier: Apache-2.0
"""A compute node in a directory: the real collectd, and libvirt's test driver with Nova's VMs."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable
from xml.sax.saxutils import escape

from tests.integration.stand_in import Mode, StandIn
from tests.lab import unixsock

REPOSITORY = Path(__file__).parents[2]
COLLECTD = Path("/usr/sbin/collectd")
CHANNEL = "org.openstack.vmhb.0"
#: Period of collectd's reads.
READ = 0.25

#: Fast enough for a test, slow enough for a machine that has other things to do.
FAST = {
    "vmhb:enabled": "true",
    "vmhb:interval": "0.2",
    "vmhb:miss_threshold": "3",
    "vmhb:recovery_threshold": "2",
    "vmhb:grace_period": "1",
}
SETTINGS = """\
GracePeriod 1
GraceAfterResume 1
HoldDown 0
"""

Row = dict[str, Any]

_CONF = """\
Hostname "compute-1"
FQDNLookup false
BaseDir "{here}"
PIDFile "{here}/{name}.pid"
Interval {read}
LoadPlugin logfile
<Plugin logfile>
  LogLevel info
  File "{here}/{name}.log"
  PrintSeverity true
</Plugin>
LoadPlugin unixsock
<Plugin unixsock>
  SocketFile "{here}/{name}.sock"
  SocketGroup root
  DeleteSocket true
</Plugin>
LoadPlugin csv
<Plugin csv>
  DataDir "{here}/{name}.csv"
  StoreRates false
</Plugin>
LoadPlugin python
<Plugin python>
  ModulePath "{here}/modules"
  ModulePath "{repository}"
  LogTraces true
  Import "recorder"
  <Module recorder>
    Path "{here}/{name}.jsonl"
  </Module>
  Import "collectd_vmhb.plugin"
  <Module vmhb>
    LibvirtUri "{uri}"
    StateDir "{here}/state"
    ControlSocket "{here}/run/control.sock"
    Values "all"
    {settings}
  </Module>
</Plugin>
{more}
"""

_DOMAIN = """\
<domain type="test" xmlns:test="http://libvirt.org/schemas/domain/test/1.0">
  <test:runstate>{runstate}</test:runstate>
  <uuid>{uuid}</uuid><name>instance-{number:08x}</name>
  <memory>524288</memory><vcpu>1</vcpu><os><type>hvm</type></os>
  <metadata><nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1">
    <nova:name>{name}</nova:name>
    <nova:flavor name="m1">{specs}</nova:flavor>
    <nova:owner><nova:project uuid="p-1">demo</nova:project></nova:owner>
  </nova:instance></metadata>
  <devices>{channel}</devices>
</domain>
"""

_RUNNING, _PAUSED = 1, 3


@dataclass
class Vm:
    """One instance of the node: what libvirt says of it, and who sits inside."""

    name: str
    number: int
    #: None: an older Nova made it, which does not say.
    specs: Mapping[str, str] | None = field(default_factory=lambda: dict(FAST))
    #: None: no channel, hence no virtio-serial controller.
    path: Path | None = None
    guest: StandIn | None = None
    paused: bool = False

    @property
    def uuid(self) -> str:
        return f"6ba7b810-9dad-41d1-80b4-{self.number:012x}"

    def xml(self) -> str:
        source = f'<source mode="bind" path="{self.path}"/><target type="virtio" name="{CHANNEL}"/>'
        return _DOMAIN.format(
            runstate=_PAUSED if self.paused else _RUNNING,
            uuid=self.uuid,
            number=self.number,
            name=escape(self.name),
            specs="" if self.specs is None else _extra_specs(self.specs),
            channel=f'<channel type="unix">{source}</channel>' if self.path else "",
        )


def _extra_specs(specs: Mapping[str, str]) -> str:
    rows = "".join(
        f'<nova:extraSpec name="{key}">{escape(value)}</nova:extraSpec>'
        for key, value in specs.items()
    )
    return f"<nova:extraSpecs>{rows}</nova:extraSpecs>"


class Node:
    """The directory, its VMs and its daemon; `close` ends whatever was begun."""

    def __init__(self, directory: Path) -> None:
        assert COLLECTD.exists(), "collectd is missing: apt-get install collectd-core"
        binding = "apt-get install python3-libvirt"
        assert importlib.util.find_spec("libvirt"), f"the libvirt binding is missing: {binding}"
        self.directory = directory
        self.vms: dict[str, Vm] = {}
        self.pid = 0
        self._process: subprocess.Popen[bytes] | None = None
        (directory / "modules").mkdir()
        # Alone in its directory: collectd's Python must not find the lab's other modules.
        shutil.copy(REPOSITORY / "tests/lab/recorder.py", directory / "modules")

    def vm(
        self,
        name: str,
        mode: Mode | None = Mode.HEALTHY,
        specs: Mapping[str, str] | None = FAST,
        channel: bool = True,
        paused: bool = False,
    ) -> Vm:
        """Adds an instance; without a ``mode`` nobody listens on its channel."""
        vm = self.vms[name] = Vm(name, len(self.vms) + 1, specs, paused=paused)
        if channel:
            vm.path = self.directory / f"{vm.number}.sock"
            vm.guest = None if mode is None else StandIn(vm.path, mode)
        return vm

    def guest(self, name: str) -> StandIn:
        """Returns who sits inside a VM."""
        guest = self.vms[name].guest
        assert guest is not None
        return guest

    # -- the daemon -------------------------------------------------------------------------

    def start(
        self,
        settings: str = SETTINGS,
        more: str = "",
        uri: str = "",
        foreground: bool = True,
    ) -> None:
        """Starts collectd; returns when its socket answers."""
        conf = self._configure("node", settings, more, uri)
        process = self._process = self._run(["-f"] if foreground else [], conf)
        if not foreground:
            assert process.wait(10) == 0, self.log()
            self.wait(lambda: (self.directory / "node.pid").exists(), "no pid file")
        self.pid = process.pid if foreground else int((self.directory / "node.pid").read_text())
        self.wait(self.answers, "collectd does not answer")

    def gate(self, more: str = "") -> tuple[int, str]:
        """Runs ``collectd -T`` beside the daemon, on the same state; returns status and log."""
        conf = self._configure("gate", SETTINGS, more, "")
        status = self._run(["-T"], conf).wait(10)
        return status, (self.directory / "gate.log").read_text()

    def stop(self) -> float:
        """Ends collectd as an init system would; returns the seconds that it took."""
        began = time.monotonic()
        os.kill(self.pid, signal.SIGTERM)
        self._gone()
        return time.monotonic() - began

    def kill(self) -> None:
        """Ends collectd as a power cut would."""
        os.kill(self.pid, signal.SIGKILL)
        self._gone()

    def close(self) -> None:
        """Ends the daemon and all stand-ins."""
        if self.pid:
            self.kill()
        for vm in self.vms.values():
            if vm.guest is not None:
                vm.guest.stop()

    def _configure(self, name: str, settings: str, more: str, uri: str) -> Path:
        (self.directory / "node.xml").write_text(
            "<node>" + "".join(vm.xml() for vm in self.vms.values()) + "</node>"
        )
        conf = self.directory / f"{name}.conf"
        conf.write_text(
            _CONF.format(
                here=self.directory,
                name=name,
                read=READ,
                repository=REPOSITORY,
                uri=uri or f"test://{self.directory}/node.xml",
                settings=settings.replace("\n", "\n    "),
                more=more,
            )
        )
        return conf

    def _run(self, flags: list[str], conf: Path) -> subprocess.Popen[bytes]:
        with conf.with_suffix(".err").open("ab") as output:
            return subprocess.Popen(
                [str(COLLECTD), *flags, "-C", str(conf)],
                # collectd's Python takes its home from the first python3 of the PATH.
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _gone(self) -> None:
        if self._process is not None and self._process.pid == self.pid:
            self._process.wait(10)
        self.wait(lambda: not Path(f"/proc/{self.pid}").exists(), "collectd does not end", 10.0)
        self.pid = 0

    # -- what can be seen of it -------------------------------------------------------------

    def log(self) -> str:
        """Returns collectd's log."""
        return (self.directory / "node.log").read_text()

    def errors(self) -> list[str]:
        """Returns the log's lines that tell of an error."""
        lines = [line for line in self.log().splitlines() if "[error]" in line]
        # collectd names the thread of a connection to its socket, which may be gone by then.
        return [line for line in lines if "set_thread_name" not in line]

    def rss(self) -> int:
        """Returns the daemon's resident memory in bytes."""
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def answers(self) -> bool:
        """Whether collectd's socket answers."""
        return unixsock.answers(self.directory / "node.sock")

    def ask(self, line: str) -> list[str]:
        """Sends a command to collectd's socket and returns the lines of the answer."""
        return unixsock.ask(self.directory / "node.sock", line)

    def value(self, vm: Vm, name: str) -> float:
        """Returns a value of a VM as it was dispatched last, NaN if there was none."""
        files = sorted(
            (self.directory / "node.csv/compute-1" / f"vmhb-{vm.uuid}").glob(f"{name}-2*")
        )
        rows = files[-1].read_text().split() if files else []
        return float(rows[-1].rpartition(",")[2]) if len(rows) > 1 else float("nan")

    def rows(self, since: int = 0) -> list[Row]:
        """Returns the notifications of all daemons of this node, from number ``since`` on."""
        try:
            text = (self.directory / "node.jsonl").read_text()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in text.split("\n")[:-1]][since:]

    def about(self, vm: Vm, since: int = 0) -> list[tuple[str, int]]:
        """Returns (fault, severity) of each notification about one VM."""
        rows = self.rows(since)
        return [
            (row["type_instance"], row["severity"])
            for row in rows
            if row["plugin_instance"] == vm.uuid
        ]

    def wait_row(
        self, fault: str, severity: int, uuid: str = "", since: int = 0, timeout: float = 6.0
    ) -> Row:
        """Returns the first such notification."""
        found: list[Row] = []

        def look() -> bool:
            wanted = (fault, severity, uuid)
            found[:] = [
                row
                for row in self.rows(since)
                if (row["type_instance"], row["severity"], row["plugin_instance"]) == wanted
            ]
            return bool(found)

        self.wait(look, f"no {fault} of severity {severity}", timeout)
        return found[0]

    def wait_health(self, vm: Vm, health: int, timeout: float = 6.0) -> None:
        """Returns when the gauge ``health`` of a VM has this value."""
        self.wait(
            lambda: self.value(vm, "gauge-health") == health,
            f"VM {vm.name} does not get health {health}",
            timeout,
        )

    def wait_established(self, vm: Vm) -> None:
        """Returns when the disk knows that a VM was established."""
        state = self.directory / "state/engine.json"
        self.wait(
            lambda: state.exists() and vm.uuid in json.loads(state.read_text())["established"],
            f"VM {vm.name} is not established",
        )

    def wait(self, ready: Callable[[], bool], failure: str, timeout: float = 6.0) -> None:
        """Returns when something is so; fails with ``failure`` if it never is."""
        deadline = time.monotonic() + timeout
        while not ready():
            assert time.monotonic() < deadline, (
                f"{failure} within {timeout:g} s\n{self.rows()}\n{self.log()}"
            )
            time.sleep(0.03)
