# SPDX-License-Identifier: Apache-2.0
"""What a lost heartbeat says of its domain on real QEMU: each kind of silence reads differently.

Not shown here: packets (the guests have no network), halts (QEMU counts them under KVM alone),
and a domain that libvirt stopped for an I/O error.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from collectd_vmhb import display
from collectd_vmhb.control import ask
from tests.e2e.conftest import Cloud
from tests.lab.guest import Guest

pytestmark = [pytest.mark.long, pytest.mark.timeout(120)]

LOST = "heartbeat-lost"
SPECS = {
    "vmhb:enabled": "true",
    "vmhb:interval": "0.5",
    "vmhb:miss_threshold": "8",
    "vmhb:recovery_threshold": "2",
}
#: Whatever else this machine does must not starve the guest.
ABOVE_OTHERS = -15
#: Reads another part of the disk five times a second: no cache has it.
READS = "n=0; while :; do n=$((n + 1)); dd if=/dev/vda of=/dev/null bs=4k count=1 skip=$n; {}; done"


@pytest.fixture(scope="module")
def vm(cloud: Cloud) -> Iterator[Guest]:
    """A guest with a disk, which all tests leave healthy."""
    guest = cloud.lab.boot("evidence", extra_specs=SPECS, disk=True)
    weigh(guest.pid, ABOVE_OTHERS)
    yield guest
    guest.destroy()
    guest.undefine()


@pytest.fixture
def healthy(cloud: Cloud, vm: Guest) -> Guest:
    """The guest, established."""
    cloud.healthy(vm)
    return vm


def lost(cloud: Cloud, guest: Guest, mark: int) -> dict[str, Any]:
    """Waits for the lost heartbeat; the evidence in its meta data, with its message."""
    row = cloud.notified(guest, LOST, bad=True, since=mark)
    assert len(row["meta"]["evidence"]) <= 900
    evidence: dict[str, Any] = json.loads(row["meta"]["evidence"])
    assert evidence["exchanges"].count(":-") >= 8
    return {**evidence, "message": row["message"]}


def explained(cloud: Cloud, guest: Guest) -> str:
    """What `vmhb explain` prints."""
    path = f"{cloud.lab.node.root}/run/vmhb/control.sock"
    return display.account(ask(path, {"command": "explain", "vm": guest.uuid}), time.time())


def in_background(guest: Guest, command: str) -> None:
    guest.run(f"({command}) >/dev/null 2>&1 & echo $! >/run/background.pid")


def end_background(guest: Guest) -> None:
    guest.run("kill $(cat /run/background.pid)")


@contextlib.contextmanager
def agent_stopped(cloud: Cloud, guest: Guest, mark: int) -> Iterator[None]:
    """The agent is frozen; at the end it goes on, and that is told."""
    guest.stop_agent()
    try:
        yield
    finally:
        guest.continue_agent()
    cloud.notified(guest, LOST, bad=False, since=mark)


def test_a_guest_that_works_on_while_its_agent_is_stopped(cloud: Cloud, healthy: Guest) -> None:
    mark = cloud.mark()
    in_background(healthy, READS.format("sleep 0.2"))
    with agent_stopped(cloud, healthy, mark):
        evidence = lost(cloud, healthy, mark)
        text = explained(cloud, healthy)
    end_background(healthy)
    assert evidence["reading"] == "agent-silent"
    assert "disk requests were done" in evidence["measured"]
    assert evidence["message"].endswith("the guest goes on, its agent alone is silent")
    assert "next: the guest's console or ssh should work" in text
    assert text.count("unanswered\n") >= 8
    assert "measured     from" in text


def test_a_disk_that_hardly_answers(cloud: Cloud, healthy: Guest) -> None:
    mark = cloud.mark()
    # Half of what one read asks for.
    healthy.domain.setBlockIoTune("vda", {"total_bytes_sec": 2048})
    in_background(healthy, READS.format(":"))
    try:
        with agent_stopped(cloud, healthy, mark):
            evidence = lost(cloud, healthy, mark)
    finally:
        healthy.domain.setBlockIoTune("vda", {"total_bytes_sec": 0})
    end_background(healthy)
    assert evidence["reading"] == "io-stuck", evidence["measured"]
    assert "its disk I/O is stuck" in evidence["message"]


def test_a_disk_that_does_not_answer_at_all_can_only_be_suspected(
    cloud: Cloud, healthy: Guest
) -> None:
    mark = cloud.mark()
    healthy.domain.setBlockIoTune("vda", {"total_bytes_sec": 1})
    in_background(healthy, READS.format(":"))
    time.sleep(1)
    try:
        with agent_stopped(cloud, healthy, mark):
            evidence = lost(cloud, healthy, mark)
    finally:
        healthy.domain.setBlockIoTune("vda", {"total_bytes_sec": 0})
    end_background(healthy)
    assert evidence["reading"] == "waiting", evidence["measured"]
    assert " 0 disk requests were done" in evidence["measured"]


def weigh(process: int, nice: int) -> None:
    """Sets the weight of a process among those of other sessions, where the kernel has that."""
    autogroup = Path(f"/proc/{process}/autogroup")
    if autogroup.exists():
        autogroup.write_text(str(nice))


@contextlib.contextmanager
def starved(process: int) -> Iterator[None]:
    """Leaves a process next to nothing of one processor, which somebody else takes."""
    cpu = max(os.sched_getaffinity(0))
    loop = [f"taskset -c {cpu} sh -c 'while :; do :; done'"]
    subprocess.run(["taskset", "-apc", str(cpu), str(process)], check=True, capture_output=True)
    subprocess.run(["chrt", "--all-tasks", "-i", "-p", "0", str(process)], check=True)
    weigh(process, 19)
    with subprocess.Popen(loop, shell=True, start_new_session=True) as other:
        try:
            yield
        finally:
            os.killpg(other.pid, signal.SIGKILL)
    weigh(process, ABOVE_OTHERS)
    subprocess.run(["chrt", "--all-tasks", "-o", "-p", "0", str(process)], check=True)
    every = ",".join(map(str, os.sched_getaffinity(0)))
    subprocess.run(["taskset", "-apc", every, str(process)], check=True, capture_output=True)


def test_a_guest_whose_host_gives_it_no_time(cloud: Cloud, healthy: Guest) -> None:
    mark = cloud.mark()
    in_background(healthy, "while :; do :; done")
    with starved(healthy.pid):
        evidence = lost(cloud, healthy, mark)
    cloud.notified(healthy, LOST, bad=False, since=mark)
    end_background(healthy)
    assert evidence["reading"] == "starved", evidence["measured"]
    assert "this host gives its vCPUs too little time" in evidence["message"]


def test_a_qemu_that_is_stopped_holds_up_neither_the_fault_nor_another_look(
    cloud: Cloud, healthy: Guest
) -> None:
    mark = cloud.mark()
    os.kill(healthy.pid, signal.SIGSTOP)
    try:
        evidence = lost(cloud, healthy, mark)
        time.sleep(0.5)
        text = explained(cloud, healthy)
    finally:
        os.kill(healthy.pid, signal.SIGCONT)
    cloud.notified(healthy, LOST, bad=False, since=mark)
    assert evidence["reading"] == "qemu-silent", evidence["measured"]
    assert "its vCPU ran 0.00 s" in evidence["measured"]
    assert "QEMU itself does not answer" in evidence["message"]
    assert "next: ps -o stat,wchan of its QEMU" in text


def test_a_kernel_that_halts_for_good(cloud: Cloud, healthy: Guest) -> None:
    mark = cloud.mark()
    in_background(healthy, "sleep 0.2; halt -f")
    evidence = lost(cloud, healthy, mark)
    healthy.domain.reset()
    cloud.notified(healthy, LOST, bad=False, since=mark, within=60)
    assert evidence["reading"] == "hung", evidence["measured"]
    assert "its vCPU ran 0.00 s" in evidence["measured"]


def test_a_kernel_that_panics_and_stays_so(cloud: Cloud, healthy: Guest) -> None:
    mark = cloud.mark()
    healthy.run("echo 0 >/proc/sys/kernel/panic")
    in_background(healthy, "sleep 0.2; echo c >/proc/sysrq-trigger")
    evidence = lost(cloud, healthy, mark)
    # What was known then outlives the engine.
    cloud.collectd.stop()
    again = cloud.mark()
    cloud.collectd.start(cloud.stanza)
    repeated = cloud.notified(healthy, LOST, bad=True, since=again)
    text = explained(cloud, healthy)
    healthy.domain.reset()
    cloud.notified(healthy, LOST, bad=False, since=again, within=60)
    assert evidence["reading"] == "hung", evidence["measured"]
    assert "the guest looks hung" in evidence["message"]
    assert json.loads(repeated["meta"]["evidence"])["reading"] == "hung"
    assert "seen: when it was raised, from" in text
    assert "next: look at its console for a panic" in text
