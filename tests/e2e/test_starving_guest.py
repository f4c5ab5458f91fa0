# SPDX-License-Identifier: Apache-2.0
"""A guest that answers each challenge while nothing else in it works: the audits tell."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import SPECS, Cloud
from tests.lab.guest import Guest

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]

#: What is done to this guest makes it slow: only silence for 30 s is a lost heartbeat here.
PATIENT = {**SPECS, "vmhb:miss_threshold": "60"}
#: Of the audits, in seconds; and what two loaded cores without hardware virtualisation may add.
INTERVAL, ROOM = 5.0, 5.0
SETTINGS = (
    f"[checks]\\nboot_delay = 0\\n[audits]\\ninterval = {INTERVAL}\\n"
    "exec = 4 4\\nloopback = 4 4\\ntimer = 4 4\\n"
)
DISK = """
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='/var/lib/libvirt/images/starving.disk'/>
      <target dev='vda' bus='virtio'/>
    </disk>"""
#: Takes every process that there may be for 20 s, and whatever becomes free meanwhile.
BOMB = (
    "import os, time; end = time.time() + 20\\n"
    "while time.time() < end:\\n"
    "    try:\\n"
    "        if os.fork() == 0: time.sleep(max(0, end - time.time())); os._exit(0)\\n"
    "    except OSError: time.sleep(0.01)\\n"
)


@pytest.fixture(scope="module")
def guest(cloud: Cloud) -> Iterator[Guest]:
    """A guest with a disk below /var/tmp, established."""
    disk = cloud.lab.node.directory / "lib" / "images" / "starving.disk"
    with disk.open("wb") as file:
        file.truncate(16 << 20)
    guest = cloud.lab.boot(
        "starving", image="python", extra_specs=PATIENT, agent=False, memory=320, devices=DISK
    )
    guest.wait_booted()
    guest.run(
        "mkdir -p /var/tmp; mke2fs /dev/vda >/dev/null && mount -t ext4 /dev/vda /var/tmp;"
        " ifconfig lo up;"
        f" printf '{SETTINGS}' >/etc/vmhb-guest/vmhb-guest.conf; printf '{BOMB}' >/bomb",
        30,
    )
    guest.start_agent()
    cloud.healthy(guest)
    guest.run("until python3 -m vmhb_guest status | grep -q '^os.exec: ok'; do sleep 1; done", 60)
    yield guest
    guest.destroy()
    guest.undefine()


def assert_told_in_time(row: dict[str, object], broken_at: float) -> None:
    took = float(str(row["at"])) - broken_at
    assert took < 2 * INTERVAL + ROOM


def test_a_disk_that_does_not_answer(cloud: Cloud, guest: Guest) -> None:
    mark = cloud.mark()
    throttle(guest, 1)
    broken_at = time.time()
    row = cloud.notified(guest, "check.os.fsync", bad=True, since=mark)
    assert_told_in_time(row, broken_at)
    assert "timed out" in guest.run("python3 -m vmhb_guest status | grep ^os.fsync", 40)
    assert cloud.value(guest, "gauge-health") == 4.0
    throttle(guest, 0)
    cloud.notified(guest, "check.os.fsync", bad=False, since=mark, within=60)
    assert (guest.uuid, "heartbeat-lost", True) not in cloud.faults(mark)


def test_a_fork_bomb(cloud: Cloud, guest: Guest) -> None:
    mark = cloud.mark()
    guest.run("echo 301 >/proc/sys/kernel/pid_max; python3 /bomb >/dev/null 2>&1 &")
    broken_at = time.time()
    row = cloud.notified(guest, "check.os.exec", bad=True, since=mark)
    assert_told_in_time(row, broken_at)
    cloud.notified(guest, "check.os.root", bad=True, since=mark)
    cloud.notified(guest, "check.os.root", bad=False, since=mark, within=60)
    assert (guest.uuid, "heartbeat-lost", True) not in cloud.faults(mark)


def throttle(guest: Guest, bytes_per_second: int) -> None:
    """Makes the guest's disk so slow; 0 takes the limit away."""
    guest.domain.setBlockIoTune("vda", {"total_bytes_sec": bytes_per_second})
