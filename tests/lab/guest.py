# SPDX-License-Identifier: Apache-2.0
"""A guest of a private node: defined as Nova defines it, driven over its serial console."""

from __future__ import annotations

import re
import secrets
import shlex
import socket
import time
import uuid as uuids
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from xml.sax.saxutils import escape, quoteattr

import libvirt

from tests.lab import image
from tests.lab.layout import LabError
from tests.lab.node import Node

CHANNEL = "org.openstack.vmhb.0"
# MiB that an image needs, if more than 128.
_MEMORY = {"python": 192, "systemd": 320}
PROJECT = "3a860f8e599440c4a4b9bd07363d4f24"

_DOMAIN = """\
<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <metadata>
    <nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'>
      <nova:package version='34.0.0'/>
      <nova:name>{display_name}</nova:name>
      <nova:creationTime>2026-01-01 00:00:00</nova:creationTime>
      <nova:flavor name='m1.vmhb' id='vmhb1'>
        <nova:memory>{memory}</nova:memory>
        <nova:disk>0</nova:disk>
        <nova:swap>0</nova:swap>
        <nova:ephemeral>0</nova:ephemeral>
        <nova:vcpus>1</nova:vcpus>{extra_specs}
      </nova:flavor>
      <nova:owner>
        <nova:user uuid='beaacb7edc13484fbae1443499726012'>admin</nova:user>
        <nova:project uuid='{project}'>admin</nova:project>
      </nova:owner>
    </nova:instance>
  </metadata>
  <memory unit='MiB'>{memory}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{kernel}</kernel>
    <initrd>{initrd}</initrd>
    <cmdline>console=ttyS0 quiet panic=1 {cmdline}</cmdline>
  </os>
  <features><acpi/><apic/><tcg><tb-cache unit='MiB'>32</tb-cache></tcg></features>
  <clock offset='utc'/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>{on_crash}</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <serial type='unix'>
      <source mode='bind' path='{console}'/>
      <log file='{console}.log' append='off'/>
    </serial>{channels}{disks}
    <controller type='usb' index='0' model='none'/>
    <memballoon model='virtio'><stats period='10'/></memballoon>
  </devices>
</domain>
"""

# What an image with hw_qemu_guest_agent=yes gets from Nova; a channel of ours is never among it.
_GUEST_AGENT = """
    <controller type='virtio-serial' index='0'/>
    <channel type='unix'>
      <source mode='bind' path='/var/lib/libvirt/qemu/org.qemu.guest_agent.0.{name}.sock'/>
      <target type='virtio' name='org.qemu.guest_agent.0'/>
    </channel>"""

_DISK = """
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='none'/>
      <source file='{path}'/>
      <target dev='vda' bus='virtio'/>
    </disk>"""
#: Bytes of a guest's disk.
_DISK_SIZE = 64 * 2**20


@dataclass
class Guest:
    """One VM. Times out instead of hanging: LabError quotes the end of its console.

    Without `extra_specs` (None) their element is absent from the domain XML, as with Nova before
    32; empty means that the flavor has none. Without `controller` nothing can be hot-plugged.
    `agent` says whether the agent starts with the guest; `port` is the name it looks for, or a
    device. A `disk` is /dev/vda, empty and without a file system; `devices` is XML of further
    devices, `on_crash` what libvirt does after a panic that it sees.
    """

    node: Node
    name: str = "instance-00000001"
    display_name: str = "vm-1"
    image: str = "sh"
    extra_specs: Mapping[str, str] | None = field(
        default_factory=lambda: {"vmhb:enabled": "true", "vmhb:interval": "1"}
    )
    controller: bool = True
    disk: bool = False
    devices: str = ""
    on_crash: str = "destroy"
    agent: bool = True
    port: str = CHANNEL
    memory: int = 0  # MiB; 0: what the image needs
    project: str = PROJECT
    uuid: str = field(default_factory=lambda: str(uuids.uuid4()))

    @property
    def domain(self) -> libvirt.virDomain:
        """Its libvirt domain; libvirtError when it is not defined."""
        return self.node.connection.lookupByUUIDString(self.uuid)

    @property
    def pid(self) -> int:
        """The process id of its QEMU."""
        return int((self.node.run / "libvirt" / "qemu" / f"{self.name}.pid").read_text())

    @property
    def console_log(self) -> str:
        """What its serial console printed since it was started."""
        path = self.node.root / self._console[1:]
        return path.with_name(path.name + ".log").read_text(errors="replace")

    def options(self) -> dict[str, object]:
        """Return what makes another Guest of the same node speak to the same VM."""
        names = [each.name for each in fields(self) if each.name != "node"]
        return {name: getattr(self, name) for name in names}

    def xml(self) -> str:
        """Return the domain XML as it is defined."""
        built = self.node.install(image.build(self.image))
        return _DOMAIN.format(
            name=self.name,
            uuid=self.uuid,
            display_name=escape(self.display_name),
            extra_specs=self._extra_specs_xml(),
            on_crash=self.on_crash,
            memory=self.memory or _MEMORY.get(self.image, 128),
            project=self.project,
            kernel=built.kernel,
            initrd=built.initrd,
            cmdline=f"hostname={self.display_name} vmhb_port={self.port}"
            + ("" if self.agent else " vmhb_agent=off"),
            console=self._console,
            channels=(_GUEST_AGENT.format(name=self.name) if self.controller else "")
            + self.devices,
            disks=_DISK.format(path=self._make_disk()) if self.disk else "",
        )

    def define(self) -> None:
        """Make it known to libvirt."""
        self.node.connection.defineXML(self.xml())

    def start(self) -> None:
        """Define it and switch it on; it is up when wait_booted() returns."""
        self.define()
        self.domain.create()

    def wait_booted(self, timeout: float = 60.0) -> None:
        """Return when its console answers (2-4 s on an idle machine)."""
        self.run("true", timeout)

    def destroy(self) -> None:
        """Switch it off the hard way."""
        self.domain.destroy()

    def undefine(self) -> None:
        """Make libvirt forget it."""
        self.domain.undefine()

    def run(self, command: str, timeout: float = 10.0) -> str:
        """Run one line as root in the guest; return what it prints.

        LabError when it fails or does not end within `timeout` seconds (the guest may hang).
        """
        if "\n" in command:
            raise ValueError("one line only")
        with self._open_console(timeout) as console:
            limit = f"timeout -s KILL {timeout:.0f} sh -c {shlex.quote(command)}"
            status, output = console.execute(limit)
        if status:
            raise LabError(f"{self.name}: {command!r} exits with {status}: {output}")
        return output

    def start_agent(self) -> None:
        """Start the agent."""
        self.run("agent-start")

    def stop_agent(self) -> None:
        """Freeze the agent: its port stays open, nothing answers."""
        self.run("kill -STOP -$(cat /run/agent.pid)")

    def continue_agent(self) -> None:
        """Let a frozen agent go on."""
        self.run("kill -CONT -$(cat /run/agent.pid)")

    def kill_agent(self) -> None:
        """Kill the agent; it stays dead until start_agent()."""
        self.run("kill -KILL -$(cat /run/agent.pid)")

    def agent_log(self) -> str:
        """What the agent printed since boot."""
        return self.run("cat /run/agent.log")

    def break_check(self, text: str = "does not answer") -> None:
        """Break the application: check `app` turns critical; image `sh` says just "unhealthy"."""
        self.run(f"printf %s {shlex.quote(text)} >/run/app-broken")

    def mend_check(self) -> None:
        """Mend the application again."""
        self.run("rm -f /run/app-broken")

    @property
    def _console(self) -> str:
        return f"/var/lib/libvirt/qemu/{self.name}.console"

    def _make_disk(self) -> str:
        name = f"{self.name}.raw"
        with (self.node.directory / "lib" / "images" / name).open("ab") as file:
            file.truncate(_DISK_SIZE)
        return f"/var/lib/libvirt/images/{name}"

    def _open_console(self, timeout: float) -> _Console:
        address = str(self.node.root / self._console[1:])
        return _Console(self.name, address, time.monotonic() + timeout)

    def _extra_specs_xml(self) -> str:
        if self.extra_specs is None:
            return ""
        rows = "".join(
            f"<nova:extraSpec name={quoteattr(key)}>{escape(value)}</nova:extraSpec>"
            for key, value in self.extra_specs.items()
        )
        return f"<nova:extraSpecs>{rows}</nova:extraSpecs>"


class _Console:
    """A command line over a serial port: what is typed before the guest listens may be lost."""

    def __init__(self, name: str, address: str, deadline: float) -> None:
        self._name = name
        self._deadline = deadline
        self._seen = ""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(address)

    def __enter__(self) -> _Console:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def execute(self, command: str) -> tuple[int, str]:
        """Return exit status and output."""
        self._wait_until_it_listens()
        mark = secrets.token_hex(6)
        # The marks are put together by printf, so that an echo of the line is not taken for one.
        self._type(f"printf '<%s>' {mark}; {command} </dev/null; printf '<%s:%s>\\n' {mark} $?")
        found = self._expect(re.compile(f"<{mark}>(.*?)<{mark}:(\\d+)>", re.DOTALL))
        return int(found[2]), found[1].rstrip("\n")

    def _wait_until_it_listens(self) -> None:
        while True:
            mark = secrets.token_hex(6)
            self._type(f"printf '<%s>\\n' {mark}")
            if self._read(re.compile(f"<{mark}>"), min(self._deadline, time.monotonic() + 0.5)):
                return
            self._check_deadline()

    def _expect(self, pattern: re.Pattern[str]) -> re.Match[str]:
        found = self._read(pattern, self._deadline + 1)
        if found is None:
            raise self._timed_out()
        return found

    def _read(self, pattern: re.Pattern[str], deadline: float) -> re.Match[str] | None:
        while True:
            found = pattern.search(self._seen)
            left = deadline - time.monotonic()
            if found or left <= 0:
                return found
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                continue
            if not data:
                raise LabError(f"{self._name}: its console is closed, the guest is off")
            self._seen += data.decode(errors="replace")

    def _type(self, line: str) -> None:
        self._socket.settimeout(max(0.1, self._deadline - time.monotonic()))
        try:
            self._socket.sendall(line.encode() + b"\n")
        except TimeoutError:
            raise self._timed_out() from None

    def _check_deadline(self) -> None:
        if time.monotonic() > self._deadline:
            raise self._timed_out()

    def _timed_out(self) -> LabError:
        return LabError(
            f"{self._name}: the console does not answer; it ends with {self._seen[-500:]!r}"
        )
