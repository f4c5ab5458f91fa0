# SPDX-License-Identifier: Apache-2.0
"""A real guest in QEMU, asked in turns by the engine in collectd and by libvirt's guest-ping.

Both ways end in a compiled program: `guest/c` and QEMU's agent. Needs root, and what
`script/setup test` makes: the lab's private libvirtd, kernel and guest.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import libvirt
import libvirt_qemu  # type: ignore[import-untyped]

from collectd_vmhb.control import ControlError, ask
from tests.lab import processes
from tests.lab.guest import Guest
from tests.lab.layout import LAB
from tests.lab.node import Node

#: Seconds between two pings. The engine has its own second, which this never falls in step with.
PERIOD = 1.1
#: Seconds that a ping may take.
_PATIENCE = 5
_START = (
    "qemu-ga --daemonize --path /dev/virtio-ports/org.qemu.guest_agent.0"
    " --statedir /run --pidfile /run/qemu-ga.pid"
)
_STANZA = """\
<Plugin python>
  Import "collectd_vmhb.plugin"
  <Module vmhb>
    StateDir "/run/vmhb"
  </Module>
</Plugin>
"""


class RealGuest:
    """The guest with both agents, and the collectd that watches it; a context."""

    def __enter__(self) -> RealGuest:
        self._node = Node(LAB / "bench")
        self._guest = Guest(self._node, image="qemu-ga", extra_specs={"vmhb:enabled": "true"})
        try:
            self._node.start()
            self._guest.start()
            self._guest.wait_booted()
            self._guest.run(_START)
            self._node.collectd.start(_STANZA)
            processes.wait_until(lambda: self._rtt() is not None, 60, "the guest is not healthy")
            processes.wait_until(self._pings, 60, "QEMU's guest agent does not answer")
        except BaseException:
            self._node.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._node.stop()

    def ratio(self, pings: int) -> float:
        """Returns the engine's median round trip through that of so many pings."""
        ours, theirs = [], []
        for _ in range(pings):
            time.sleep(PERIOD / 2)
            began = time.perf_counter()
            self._ping()
            theirs.append(time.perf_counter() - began)
            time.sleep(PERIOD / 2)
            rtt = self._rtt()
            if rtt is not None:
                ours.append(rtt)
        return statistics.median(ours) / statistics.median(theirs)

    def _ping(self) -> None:
        libvirt_qemu.qemuAgentCommand(self._guest.domain, '{"execute": "guest-ping"}', _PATIENCE, 0)

    def _pings(self) -> bool:
        try:
            self._ping()
        except libvirt.libvirtError:
            return False
        return True

    def _rtt(self) -> float | None:
        """Returns the last round trip in seconds, None while the guest is not healthy."""
        try:
            status: dict[str, Any] = ask(
                f"{self._node.root}/run/vmhb/control.sock", {"command": "status"}
            )
        except ControlError:
            return None
        rows = [row for row in status["vms"] if row["health"] == "healthy"]
        return rows[0]["rtt"] if rows else None
