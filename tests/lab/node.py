# SPDX-License-Identifier: Apache-2.0
"""A private compute node on this machine: libvirtd, its guests and collectd, walled off.

It lives in a mount and a UTS namespace of its own, in which /run and libvirt's directories are
directories below ours. The host's libvirt, its /etc and its /run are not touched, several nodes
live side by side, and the product finds every path where a real node has it.
"""

from __future__ import annotations

import os
import shutil
import signal
import uuid
from pathlib import Path

import libvirt

from tests.lab import processes
from tests.lab.collectd_daemon import Collectd
from tests.lab.image import Image
from tests.lab.layout import CACHE, LabError

# What a node has of its own: name below its directory, and where the node itself sees it.
_OWN = {
    "run": "/run",
    "lib": "/var/lib/libvirt",
    "log": "/var/log/libvirt",
    "etc": "/etc/libvirt",
}

# User, group and security driver stay libvirt's defaults on purpose: the owner and mode of the
# channel's directory and socket are part of what is tested. The rest keeps the node away from
# the host's control groups, from virtlogd, and from file attributes that nobody would remove.
_QEMU_CONF = """\
cgroup_controllers = []
stdio_handler = "file"
remember_owner = 0
"""

_LIBVIRTD_CONF = """\
host_uuid = "{uuid}"
auth_unix_ro = "none"
auth_unix_rw = "none"
"""

# Where only root may open the KVM device libvirt probes QEMU again and again, 4 s each time.
_HOLD = """\
set -e
while [ $# -gt 1 ]; do
    mount --bind "$1" "$2"
    shift 2
done
if [ -c /dev/kvm ] && mknod -m 0660 /run/kvm c 10 232; then
    chgrp kvm /run/kvm
    mount --bind /run/kvm /dev/kvm
fi
hostname "$1"
echo $$ >/run/holder.pid
exec sleep infinity
"""


# Every failure raises; libvirt would also print it.
libvirt.registerErrorHandler(lambda *_: None, None)


def _qemu_conf() -> str:
    """Return libvirt's defaults, but for what this lab cannot have."""
    if Path("/sys/kernel/security/apparmor").exists():
        # The host's profiles name the host's paths, not those that the node sees.
        return _QEMU_CONF + 'security_driver = "none"\n'
    return _QEMU_CONF


class Node:
    """One compute node below `directory`; `hostname` is what collectd and Nova call it.

    A second object for the same directory speaks to the same node, also from another process.
    """

    def __init__(self, directory: Path, hostname: str = "compute-0") -> None:
        self.directory = directory
        self.hostname = hostname
        self.run = directory / "run"  # the node's /run
        self.log = directory / "holder.log"
        self.collectd = Collectd(self)
        self._connection: libvirt.virConnect | None = None

    @property
    def holder(self) -> int:
        """The process that keeps the namespaces; LabError when the node is down."""
        try:
            pid = int((self.run / "holder.pid").read_text())
        except (OSError, ValueError):
            pid = 0
        if not (pid and processes.sees_as_run(pid, self.run)):
            raise LabError(f"the node {self.hostname} is not up ({self.directory})")
        return pid

    @property
    def root(self) -> Path:
        """The node's root directory, seen from here: short enough for a socket's address."""
        return Path(f"/proc/{self.holder}/root")

    @property
    def uri(self) -> str:
        """Where libvirt clients outside the node find its libvirtd."""
        return f"qemu+unix:///system?socket={self.root}/run/libvirt/libvirt-sock"

    @property
    def connection(self) -> libvirt.virConnect:
        """A writable connection to its libvirtd, opened anew when the last one broke."""
        if self._connection is None or not self._connection.isAlive():
            self._connection = libvirt.open(self.uri)
        return self._connection

    def start(self) -> None:
        """Make the node and start its libvirtd; about 1 s, 5 s the first time (QEMU is probed)."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)
        self._make_directories()
        self._make_namespaces()
        self.start_libvirtd()

    def stop(self) -> None:
        """End every process of the node, guests too; its mounts go with them, its logs stay."""
        self.disconnect()
        processes.end(processes.inside(self.run))

    def start_libvirtd(self, *options: str) -> None:
        """Start libvirtd and wait until it answers; it finds the guests that still run."""
        log = self.directory / "log" / "libvirtd.log"
        processes.spawn(self.command("/usr/sbin/libvirtd", *options), log)
        processes.wait_until(self._answers, 30, f"libvirtd does not answer: see {log}")

    def kill_libvirtd(self, number: int = signal.SIGTERM) -> None:
        """End libvirtd with a signal; the guests and their channels live on."""
        self.disconnect()
        pid = int((self.run / "libvirtd.pid").read_text())
        os.kill(pid, number)
        processes.wait_until(lambda: not processes.is_alive(pid), 10, "libvirtd does not end")

    def disconnect(self) -> None:
        """Let go of libvirtd; who asks next connects anew."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except libvirt.libvirtError:
                return

    def command(self, *argv: str) -> list[str]:
        """Return a command that runs `argv` inside the node."""
        return ["/usr/bin/nsenter", "-t", str(self.holder), "-m", "-u", "-r", "--", *argv]

    def install(self, image: Image) -> Image:
        """Copy an image to where the node's QEMU may read it; return its paths in the node."""
        for file in (image.kernel, image.initrd):
            copy = self.directory / "lib" / "images" / file.name
            if not copy.exists():
                shutil.copyfile(file, copy)
        inside = Path("/var/lib/libvirt/images")
        return Image(inside / image.kernel.name, inside / image.initrd.name)

    def _make_directories(self) -> None:
        for path in ("run/lock", "lib/images", "lib/qemu", "log/qemu", "etc"):
            (self.directory / path).mkdir(parents=True)
        (CACHE / "libvirt").mkdir(parents=True, exist_ok=True)
        (self.directory / "etc" / "qemu.conf").write_text(_qemu_conf())
        (self.directory / "etc" / "libvirtd.conf").write_text(
            _LIBVIRTD_CONF.format(uuid=uuid.uuid5(uuid.NAMESPACE_DNS, self.hostname))
        )

    def _make_namespaces(self) -> None:
        mounts = [(self.directory / name, path) for name, path in _OWN.items()]
        mounts.append((CACHE / "libvirt", "/var/cache/libvirt"))
        pairs = [str(part) for mount in mounts for part in mount]
        argv = ["/usr/bin/unshare", "--mount", "--uts", "--propagation", "private"]
        argv += ["/bin/sh", "-c", _HOLD, "hold", *pairs, self.hostname]
        holder = processes.spawn(argv, self.log)
        processes.wait_until(
            lambda: (self.run / "holder.pid").exists() or holder.exit_status() is not None,
            10,
            f"the node's namespaces are not made: see {self.log}",
        )
        if holder.exit_status() is not None:
            raise LabError(f"the node's namespaces cannot be made: {self.log.read_text().strip()}")

    def _answers(self) -> bool:
        try:
            return self.connection.getLibVersion() > 0
        except libvirt.libvirtError:
            return False
