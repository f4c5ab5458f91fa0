# SPDX-License-Identifier: Apache-2.0
"""What the guest agent finds by itself, in a real guest: the audits, and applications that die."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import SPECS, Cloud
from tests.lab.guest import Guest

pytestmark = pytest.mark.timeout(180)

# What is done to this guest makes it slow: only silence for 10 s is a lost heartbeat here.
PATIENT = {**SPECS, "vmhb:miss_threshold": "20"}
# The limit of os.exec is for a guest without hardware virtualisation.
SETTINGS = (
    "[checks]\\nboot_delay = 0\\n"
    "[audits]\\ninterval = 1\\nattempts = 2\\nexec = 2 5\\nmemory = 5 20\\n"
)
# With n attempts, an audit is promised to tell within n + 1 intervals; how late it may be here.
PROMISED, ROOM = 3.0, 12.0
# What a full or a read-only root brings is in test_starving_guest.py.
PREPARE = (
    "ifconfig lo up; mkdir -p /etc; ln -sf /bin/busybox /sbin/sh;"
    f" printf '{SETTINGS}' >/etc/vmhb-guest/vmhb-guest.conf"
)
# (what breaks it, what mends it) by audit; only the agent's children use /bin/sh, not the console.
BREAKS = {
    "os.loopback": ("ifconfig lo down", "ifconfig lo up"),
    "os.exec": (
        "printf '#!/bin/busybox sh\\nexec /bin/busybox sleep 600\\n' >/hang; chmod +x /hang;"
        " ln -sf /hang /bin/sh",
        "ln -sf busybox /bin/sh; rm /hang",
    ),
    "os.fsync": (
        "mkdir -p /var/tmp; mount -t tmpfs -o size=4k small /var/tmp; echo x >/var/tmp/x",
        "umount /var/tmp",
    ),
}


@pytest.fixture(scope="module")
def guest(cloud: Cloud) -> Iterator[Guest]:
    """A guest whose agent runs the audits each second, established."""
    guest = cloud.lab.boot("health", image="python", extra_specs=PATIENT, agent=False)
    guest.wait_booted()
    guest.run(PREPARE)
    guest.start_agent()
    cloud.healthy(guest)
    yield guest
    guest.destroy()
    guest.undefine()


@pytest.mark.parametrize("check", BREAKS)
def test_an_audit_finds_it_and_the_alarm_goes_when_it_is_mended(
    cloud: Cloud, guest: Guest, check: str
) -> None:
    breaks, mends = BREAKS[check]
    broken = cloud.mark()
    guest.run(breaks)
    cloud.notified(guest, f"check.{check}", True, broken, within=PROMISED + ROOM)
    mended = cloud.mark()
    guest.run(mends)
    cloud.notified(guest, f"check.{check}", False, mended)
    assert (guest.uuid, "heartbeat-lost", True) not in cloud.faults(broken)


def test_programs_that_all_wait_for_memory_are_found(cloud: Cloud, guest: Guest) -> None:
    guest.run(
        "mkdir -p /cg; mount -t cgroup2 cg /cg; echo +memory >/cg/cgroup.subtree_control;"
        " mkdir /cg/small; echo 8M >/cg/small/memory.high"
    )
    eater = (
        'open(\\"/cg/small/cgroup.procs\\", \\"w\\").write(\\"0\\");'
        " x = [bytearray(1 << 16) for _ in range(900)]"
    )
    mark = cloud.mark()
    guest.run(f'python3 -c "{eater}" & echo $! >/run/eater')
    cloud.notified(guest, "check.os.memory", True, mark)
    guest.run("kill -9 $(cat /run/eater)")
    assert (guest.uuid, "heartbeat-lost", True) not in cloud.faults(mark)


def test_an_agent_that_is_better_off_than_all_others_does_not_hide_it(
    cloud: Cloud, guest: Guest
) -> None:
    """A real-time program takes 95 % of the CPU; the agent comes before it, the audits do not."""
    hog = (
        "import os, time; os.sched_setscheduler(0, 1, os.sched_param(50));"
        " os.sched_setscheduler(int(open(chr(47) + 'run' + chr(47) + 'agent.pid').read()), 1,"
        " os.sched_param(60)); t = time.time()\\nwhile time.time() < t + 10: pass"
    )
    mark = cloud.mark()
    guest.run(f'printf "{hog}" >/run/hog; python3 /run/hog >/dev/null 2>&1 &')
    cloud.notified(guest, "check.os.timer", True, mark)
    cloud.notified(guest, "check.os.timer", False, mark, within=40)
    assert (guest.uuid, "heartbeat-lost", True) not in cloud.faults(mark)


def test_audits_are_switched_off_while_the_agent_runs(cloud: Cloud, guest: Guest) -> None:
    """And leave the processor of this guest to the tests that follow."""
    guest.run(
        "sed -i 's/attempts = 2/enabled = off/' /etc/vmhb-guest/vmhb-guest.conf;"
        " kill -HUP $(cat /run/agent.pid)"
    )
    shown = guest.run("sleep 1; python3 -m vmhb_guest status")
    assert "app: ok" in shown
    assert "\nos." not in shown


def test_an_application_that_crashes_is_an_alarm_until_it_runs_again(
    cloud: Cloud, guest: Guest
) -> None:
    mark = cloud.mark()
    guest.run("python3 -m vmhb_guest run web -- sh -c 'sleep 1; kill -SEGV $$' || true")
    cloud.notified(guest, "check.app.web", True, mark)
    assert "SIGSEGV" in guest.run("python3 -m vmhb_guest status")
    guest.run("python3 -m vmhb_guest run web -- sleep 600 >/dev/null 2>&1 & echo $! >/run/web")
    cloud.notified(guest, "check.app.web", False, mark)
    guest.run("kill -9 $(cat /run/web)")


def test_an_application_that_hangs_is_an_alarm_until_it_goes_on(cloud: Cloud, guest: Guest) -> None:
    program = (
        "import time; from vmhb_guest.application import Application;"
        " a = Application('db', 0.5); open('/run/db-is-up', 'w')\\n"
        "while True: a.beat(); time.sleep(0.2)"
    )
    guest.run(f'printf "{program}" >/run/db.py; python3 /run/db.py & echo $! >/run/db')
    mark = cloud.mark()
    guest.run("until [ -e /run/db-is-up ]; do sleep 0.2; done; sleep 1; kill -STOP $(cat /run/db)")
    cloud.notified(guest, "check.app.db", True, mark)
    guest.run("kill -CONT $(cat /run/db)")
    cloud.notified(guest, "check.app.db", False, mark)
    guest.run("kill -9 $(cat /run/db)")
