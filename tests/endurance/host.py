# SPDX-License-Identifier: Apache-2.0
"""A compute node of stand-ins: a real collectd with the shipped engine, and a real libvirtd.

libvirtd serves its test driver, so that domains come and go with events, and no QEMU is needed. A
real guest is a domain of that driver, too: one whose channel is that of a QEMU.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import libvirt

from bench.process import Child
from bench.subject import domain_xml, number_of, uuid
from collectd_vmhb.control import ControlError, ask
from tests.endurance.ledger import INTERVAL, MISSES, RECOVERY, TIMEOUT
from tests.lab import processes
from tests.lab.guest import CHANNEL, Guest
from tests.lab.layout import LAB, LabError
from tests.lab.node import Node

SPECS = {
    "vmhb:enabled": "true",
    "vmhb:interval": str(INTERVAL),
    "vmhb:timeout": str(TIMEOUT),
    "vmhb:miss_threshold": str(MISSES),
    "vmhb:recovery_threshold": str(RECOVERY),
}
#: Seconds between two reads of all values.
READ = 5.0
OKAY = 4
#: Where each guest listens, as libvirtd sees it.
GUESTS = Path("/run/guests")
_CHANNEL = f"""
    <channel type='unix'>
      <source mode='bind' path='{GUESTS}/{{}}.sock'/>
      <target type='virtio' name='{CHANNEL}'/>
    </channel>"""
_STANZA = """\
<Plugin python>
{before}
  Import "collectd_vmhb.plugin"
  <Module vmhb>
    LibvirtUri "test+unix:///default?socket=/run/libvirt/libvirt-sock"
    StateDir "{state}"
    GraceAfterResume 5
    ReconcileInterval 10
    HoldDown 0
  </Module>
</Plugin>
"""


class Host:
    """The node, its VMs and its collectd; a context that leaves nothing behind."""

    def __init__(self, name: str = "endurance") -> None:
        self.node = Node(LAB / name)
        self.state = "/run/vmhb"
        self.there: set[int] = set()
        #: Those of them that run in QEMU.
        self.real: dict[int, Guest] = {}
        self._read = 0

    def __enter__(self) -> Host:
        try:
            self.node.start()
            self.guests_at = self.node.run / "guests"
            self.guests_at.mkdir()
            inside = [sys.executable, "-m", "tests.endurance.guests", str(self.guests_at)]
            self._guests = Child(inside)
            # Of libvirtd's test driver as long as anybody is connected: it forgets all otherwise.
            uri = f"test+unix:///default?socket={self.node.root}/run/libvirt/libvirt-sock"
            self._libvirt = libvirt.open(uri)
            for domain in self._libvirt.listAllDomains():
                domain.destroy()
                domain.undefine()
        except BaseException:
            self.node.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._guests.__exit__(*error)
        self.node.stop()

    # -- the VMs ----------------------------------------------------------------------------

    def join(self, numbers: Sequence[int]) -> float:
        """Starts VMs; returns when, in monotonic seconds."""
        at: float = self.order("add", numbers)
        for number in numbers:
            self._make_known(number)
        return at

    def join_real(self, numbers: Sequence[int]) -> None:
        """Boots guests in QEMU, with the agent, and has collectd's libvirt know them."""
        for number in numbers:
            guest = self.real[number] = Guest(
                self.node,
                name=f"instance-{number:08x}",
                display_name=f"real-{number}",
                image="python",
                devices=_CHANNEL.format(number),
            )
            guest.start()
        for number in numbers:
            self.real[number].wait_booted()
            self._make_known(number)

    def _make_known(self, number: int) -> None:
        self._libvirt.createXML(domain_xml(number, GUESTS, SPECS), 0)
        self.there.add(number)

    def leave(self, numbers: Sequence[int]) -> float:
        """Destroys VMs as fast as libvirt does; returns when the first was."""
        self.there.difference_update(numbers)
        at: float = self.order("remove", numbers)
        for number in numbers:
            self._libvirt.lookupByUUIDString(uuid(number)).destroy()
        return at

    def hang(self, number: int) -> float:
        """A guest answers no more; returns from when on."""
        if number in self.real:
            os.kill(self.real[number].pid, signal.SIGSTOP)
            return time.monotonic()
        at: float = self.order("hang", [number])
        return at

    def wake(self, number: int) -> float:
        """A guest that hung answers again; returns from when on."""
        if number in self.real:
            os.kill(self.real[number].pid, signal.SIGCONT)
            return time.monotonic()
        at: float = self.order("wake", [number])
        return at

    def order(self, what: str, numbers: Sequence[int]) -> Any:
        """Has stand-ins do something (see guests.ORDERS)."""
        return self._guests.ask(json.dumps([what, list(numbers)]))

    # -- collectd ---------------------------------------------------------------------------

    def start(self) -> None:
        """Starts collectd, with the plugin of somebody else if there is one (faults.py)."""
        foreign = self.node.collectd.directory / "foreign"
        before = ""
        if foreign.exists():
            before = '  ModulePath "/run/collectd/foreign"\n  Import "foreign"'
        conf = _STANZA.format(before=before, state=self.state)
        self.node.collectd.start(conf, interval=READ)

    @property
    def pid(self) -> int:
        """collectd's process id."""
        return self.node.collectd.pid

    def status(self) -> dict[str, Any]:
        """Returns what ``vmhb status --json`` shows; LabError if the engine does not answer."""
        socket = f"{self.node.root}/run/vmhb/control.sock"
        try:
            shown: dict[str, Any] = ask(socket, {"command": "status"})
        except ControlError as error:
            raise LabError(str(error)) from None
        return shown

    def healths(self) -> dict[int, str]:
        """Returns the health that is shown of each VM."""
        return {number_of(row["uuid"]): row["health"] for row in self.status()["vms"]}

    def all_healthy(self) -> bool:
        """Whether every VM is there and healthy."""
        try:
            healths = self.healths()
        except LabError:
            return False
        return set(healths) == self.there and set(healths.values()) <= {"healthy"}

    def wait_healthy(self, timeout: float = 120.0) -> float:
        """Returns how long it took until all VMs are."""
        began = time.monotonic()
        processes.wait_until(self.all_healthy, timeout, f"not all of {len(self.there)} are healthy")
        return time.monotonic() - began

    def news(self) -> Iterator[tuple[str, str, bool, str]]:
        """Gives each notification of ours since the last call: UUID, fault, is it bad, text."""
        try:
            with self.node.collectd.notifications_file.open() as file:
                file.seek(self._read)
                whole, newline, _ = file.read().rpartition("\n")
        except FileNotFoundError:
            return
        self._read += len((whole + newline).encode())
        for line in whole.splitlines():
            row = json.loads(line)
            if row["plugin"] == "vmhb" and row["type_instance"] != "open-faults":
                bad = row["severity"] != OKAY
                yield row["plugin_instance"], row["type_instance"], bad, row["message"]

    def errors(self) -> list[str]:
        """Returns the lines of collectd's log that tell of an error."""
        lines = self.node.collectd.log.read_text().splitlines()
        # collectd names the thread of a connection to its socket, which may be gone by then.
        return [line for line in lines if "[error]" in line and "set_thread_name" not in line]

    def usage(self) -> dict[str, float]:
        """Returns what collectd holds: memory in KiB, threads, and descriptors beyond channels."""
        process = Path(f"/proc/{self.pid}")
        pages = int((process / "statm").read_text().split()[1])
        descriptors = len(list((process / "fd").iterdir()))
        return {
            "memory": pages * os.sysconf("SC_PAGE_SIZE") / 1024,
            "threads": float(len(list((process / "task").iterdir()))),
            "descriptors": float(descriptors - len(self.there)),
        }
