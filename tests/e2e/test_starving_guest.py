# SPDX-License-Identifier: Apache-2.0
"""A guest that answers each challenge while nothing else in it works: the audits tell."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import SPECS, Cloud
from tests.lab.guest import Guest

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]

#: What is done to this guest makes it slow: only silence for 30 s is a lost heartbeat here.
PATIENT = {**SPECS, "vmhb:miss_threshold": "60"}
UNHEALTHY = 4.0
#: Of the audits, in seconds; and what two loaded cores without hardware virtualisation may add.
#: The promise is to be UNHEALTHY within two intervals.
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
#: Logs go to another file system than the root, which is to be made read-only.
PREPARE = (
    "mkdir -p /var/tmp; mke2fs /dev/vda >/dev/null && mount -t ext4 /dev/vda /var/tmp;"
    " ifconfig lo up; mount -t tmpfs run /run; echo 'none / tmpfs defaults 0 0' >/etc/fstab;"
)
#: (what breaks it, what mends it) by audit.
BREAKS = {
    "os.space": ("dd if=/dev/zero of=/fill bs=64k 2>/dev/null; true", "rm /fill"),
    "os.root": ("mount -o remount,ro /", "mount -o remount,rw /"),
}
#: Linux gives no process a number below 300 again once it has given that one. A limit barely above
#: leaves a single number for good: to the child of an audit, and then not to that of `os.exec`.
PID_MAX = 400
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
        f"{PREPARE} printf '{SETTINGS}' >/etc/vmhb-guest/vmhb-guest.conf; printf '{BOMB}' >/bomb",
        30,
    )
    guest.start_agent()
    cloud.healthy(guest)
    guest.run("until python3 -m vmhb_guest status | grep -q '^os.exec: ok'; do sleep 1; done", 60)
    yield guest
    guest.destroy()
    guest.undefine()


def assert_told_in_time(cloud: Cloud, guest: Guest, check: str, mark: int) -> None:
    """The VM is UNHEALTHY soon after now, for that check, and its acks go on."""
    cloud.notified(guest, f"check.{check}", bad=True, since=mark, within=2 * INTERVAL + ROOM)
    deadline = time.monotonic() + ROOM
    while not is_unhealthy_and_answers(cloud, guest):
        assert time.monotonic() < deadline, "not shown as unhealthy, or its beats have ended"
        time.sleep(0.1)


def is_unhealthy_and_answers(cloud: Cloud, guest: Guest) -> bool:
    beats_per_second = cloud.value(guest, "derive-beats") or 0.0
    return cloud.value(guest, "gauge-health") == UNHEALTHY and beats_per_second > 0.0


@pytest.mark.parametrize("check", BREAKS)
def test_a_root_that_cannot_be_written(cloud: Cloud, guest: Guest, check: str) -> None:
    breaks, mends = BREAKS[check]
    mark = cloud.mark()
    guest.run(breaks, 30)
    assert_told_in_time(cloud, guest, check, mark)
    guest.run(mends)
    cloud.notified(guest, f"check.{check}", bad=False, since=mark)
    assert (guest.uuid, "heartbeat-lost", True) not in cloud.faults(mark)


def test_a_disk_that_does_not_answer(cloud: Cloud, guest: Guest) -> None:
    mark = cloud.mark()
    throttle(guest, 1)
    assert_told_in_time(cloud, guest, "os.fsync", mark)
    assert "timed out" in guest.run("python3 -m vmhb_guest status | grep ^os.fsync", 40)
    throttle(guest, 0)
    cloud.notified(guest, "check.os.fsync", bad=False, since=mark, within=60)
    assert (guest.uuid, "heartbeat-lost", True) not in cloud.faults(mark)


def test_a_fork_bomb(cloud: Cloud, guest: Guest) -> None:
    mark = cloud.mark()
    guest.run(f"echo {PID_MAX} >/proc/sys/kernel/pid_max; python3 /bomb >/dev/null 2>&1 &")
    assert_told_in_time(cloud, guest, "os.exec", mark)
    cloud.notified(guest, "check.os.root", bad=True, since=mark)
    for check in ("os.exec", "os.root"):
        cloud.notified(guest, f"check.{check}", bad=False, since=mark, within=60)
    assert (guest.uuid, "heartbeat-lost", True) not in cloud.faults(mark)


def throttle(guest: Guest, bytes_per_second: int) -> None:
    """Makes the guest's disk so slow; 0 takes the limit away."""
    guest.domain.setBlockIoTune("vda", {"total_bytes_sec": bytes_per_second})
