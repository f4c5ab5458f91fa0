# SPDX-License-Identifier: Apache-2.0
"""What is measured of a program that watches the stand-in guests, the same way for each."""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

INTERVAL = 1.0
TIMEOUT = 0.5
MISSES = 3

#: The extra specs of the VMs' flavor.
SPECS = {
    "vmhb:enabled": "true",
    "vmhb:interval": str(INTERVAL),
    "vmhb:timeout": str(TIMEOUT),
    "vmhb:miss_threshold": str(MISSES),
}
_DOMAIN = """\
<domain type="test">
  <uuid>{uuid}</uuid><name>instance-{number:08x}</name>
  <memory>524288</memory><vcpu>1</vcpu><os><type>hvm</type></os>
  <metadata><nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1">
    <nova:name>vm-{number}</nova:name>
    <nova:flavor name="m1"><nova:extraSpecs>{specs}</nova:extraSpecs></nova:flavor>
    <nova:owner><nova:project uuid="6f70656e737461636b">demo</nova:project></nova:owner>
  </nova:instance></metadata>
  <devices>
    <controller type="virtio-serial" index="0"/>
    <channel type="unix">
      <source mode="bind" path="{directory}/{number}.sock"/>
      <target type="virtio" name="org.openstack.vmhb.0"/>
    </channel>
  </devices>
</domain>
"""


class Subject(Protocol):
    """A program under measurement; `run` is called in a thread of its own."""

    def run(self) -> None:
        """Watches the guests until `stop`."""

    def stop(self) -> None:
        """Makes `run` return."""

    def counters(self) -> dict[str, float]:
        """Returns beats, misses and wake-ups since the start, among others."""

    def exchanges(self) -> dict[int, list[tuple[float, float]]]:
        """Returns of each guest when it was challenged last and how long that took, NaN: missed."""

    def declared(self) -> dict[int, float]:
        """Returns when which guest was declared lost."""


def phase(number: int) -> float:
    """Returns a guest's place in the interval, 0 ... 1."""
    return zlib.crc32(uuid(number).encode()) / 2**32


def uuid(number: int) -> str:
    """Returns the UUID of a guest's VM."""
    return f"6ba7b810-9dad-41d1-80b4-{number:012x}"


def domain_xml(number: int, directory: Path, specs: Mapping[str, str]) -> str:
    """Returns a VM as libvirt and Nova describe it; its guest listens in ``directory``."""
    rows = "".join(
        f'<nova:extraSpec name="{name}">{value}</nova:extraSpec>' for name, value in specs.items()
    )
    return _DOMAIN.format(number=number, uuid=uuid(number), directory=directory, specs=rows)


def number_of(uuid: str) -> int:
    """Returns the number of the guest with this UUID."""
    return int(uuid[-12:], 16)


def rss() -> int:
    """Returns this process's resident memory in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def serve(build: Callable[[Path, int], Subject]) -> None:
    """Runs a subject and answers the orders on standard input, one JSON line each."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    empty = rss()
    subject = build(Path(sys.argv[1]), int(sys.argv[2]))
    thread = threading.Thread(target=subject.run)
    thread.start()
    clock = time.pthread_getcpuclockid(thread.ident or 0)
    answers: dict[str, Callable[[], Any]] = {
        "mark": lambda: {
            "at": time.monotonic(),
            # Read before the counters, which make the engine list all its values.
            "rss": rss() - empty,
            "cpu": time.clock_gettime(clock),
            "process_cpu": time.process_time(),
            **subject.counters(),
        },
        "exchanges": subject.exchanges,
        "declared": subject.declared,
    }
    for line in sys.stdin:
        print(json.dumps(answers[line.strip()]()), flush=True)
    subject.stop()
    thread.join()
