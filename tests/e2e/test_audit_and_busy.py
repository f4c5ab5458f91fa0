# SPDX-License-Identifier: Apache-2.0
"""Audits and busy between a real guest with our agent and the engine in a real collectd."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import INTERVAL, MISSES, SPECS, TIMEOUT, Cloud
from tests.lab.guest import Guest
from tests.lab.layout import NODE_VENV

pytestmark = [pytest.mark.timeout(180), pytest.mark.long]

#: A check that looks closer when it is asked to, and measures something.
LEVEL = (
    'if [ "$VMHB_LEVEL" = detailed ]; then echo "OK: looked closely | depth=7m;;;0;10";'
    ' else echo "OK: a glance | depth=1m;;;0;10"; fi'
)
#: `app` of the image, which says more in detail.
APP = (
    '[ -e /run/app-broken ] || { echo "OK: app answers"; exit 0; };'
    ' [ "$VMHB_LEVEL" = detailed ] && echo "CRITICAL: 3 of 20 connections are stuck"'
    ' || echo "CRITICAL: no answer"; exit 2'
)


def script(name: str, line: str) -> str:
    quoted = line.replace("'", "'\\''")
    path = f"/etc/vmhb-guest/health.d/{name}"
    return f"printf '%s\\n' '#!/bin/sh' '{quoted}' >/run/new; chmod +x /run/new; mv /run/new {path}"


@pytest.fixture(scope="module")
def guest(cloud: Cloud) -> Iterator[Guest]:
    guest = cloud.lab.boot("audited", image="python", extra_specs=SPECS, agent=False)
    guest.wait_booted()
    guest.run(f"{script('level', LEVEL)}; {script('app', APP)}")
    guest.start_agent()
    cloud.healthy(guest)
    yield guest
    guest.destroy()
    guest.undefine()


def vmhb(cloud: Cloud, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the operator's command on the node."""
    inside = cloud.lab.node.command(f"{NODE_VENV}/bin/python", "-m", "collectd_vmhb.cli")
    return subprocess.run(
        [*inside, *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def explained(cloud: Cloud, wanted: str, within: float = 30.0) -> str:
    """Waits until `vmhb explain` says something of the guest, and returns all that it says."""
    deadline = time.monotonic() + within
    while wanted not in (said := vmhb(cloud, "explain", "audited").stdout):
        assert time.monotonic() < deadline, f"{wanted!r} is not in {said}"
        time.sleep(0.2)
    return said


def audited(cloud: Cloud, *arguments: str) -> dict[str, Any]:
    """Has an audit done, waiting for its turn, and returns it."""
    deadline = time.monotonic() + 30
    while (done := vmhb(cloud, "audit", "audited", "--json", *arguments)).returncode:
        assert "too soon" in done.stderr, done
        assert time.monotonic() < deadline, done
        time.sleep(1)
    audit: dict[str, Any] = json.loads(done.stdout)
    return audit


def test_an_operator_has_the_checks_of_a_guest_run(cloud: Cloud, guest: Guest) -> None:
    explained(cloud, "level: ok  OK: a glance")
    quick = audited(cloud)
    assert quick["outcome"] == "done"
    assert {check["name"]: check["text"] for check in quick["checks"]} == {
        "app": "OK: app answers",
        "level": "OK: a glance",
    }
    detailed = audited(cloud, "--check", "level", "--detailed")
    (found,) = detailed["checks"]
    assert (found["name"], found["status"]) == ("level", "ok")
    assert (found["text"], found["perfdata"]) == ("OK: looked closely", "depth=7m;;;0;10")
    soon = vmhb(cloud, "audit", "audited")
    assert (soon.returncode, soon.stdout) == (1, "")
    assert "too soon" in soon.stderr
    time.sleep(5)
    unknown = vmhb(cloud, "audit", "audited", "--check", "dusk")
    assert unknown.returncode == 1
    assert unknown.stderr == (
        "vmhb: VM audited: it has no check dusk; it has reported: app, level\n"
    )


def test_what_a_check_measures_is_a_value(cloud: Cloud, guest: Guest) -> None:
    deadline = time.monotonic() + 10
    while cloud.value(guest, "gauge-perf.level.depth") != 1.0:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_check_that_fails_is_audited_and_that_stands_with_the_fault(
    cloud: Cloud, guest: Guest
) -> None:
    mark = cloud.mark()
    guest.break_check()
    cloud.notified(guest, "check.app", True, mark)
    said = explained(cloud, "audit: app: critical  CRITICAL: 3 of 20 connections are stuck")
    assert "\n  app: critical  CRITICAL: " in said, "among the checks as among the faults"
    guest.mend_check()
    cloud.notified(guest, "check.app", False, mark)
    about = [row for row in cloud.faults(mark) if row[0] == guest.uuid]
    assert about == [(guest.uuid, "check.app", True), (guest.uuid, "check.app", False)]


def test_a_busy_guest_that_is_frozen_is_reported_when_its_time_is_over(
    cloud: Cloud, guest: Guest
) -> None:
    longest = MISSES * INTERVAL + TIMEOUT
    granted = 4 * longest
    cloud.healthy(guest)
    told = time.monotonic()
    # That takes a second, and many on a busy host; at some time meanwhile the guest is busy.
    guest.run(f"python3 -m vmhb_guest busy --for {granted} --reason 'a snapshot'", 40)
    latest = time.monotonic() + granted
    said = explained(cloud, "as the guest says: a snapshot", 5)
    assert "health       healthy" in said
    # Not before: the command itself can keep the guest from answering.
    mark = cloud.mark()
    guest.stop_agent()
    while time.monotonic() < told + granted - 0.5:
        assert cloud.faults(mark) == [], "it said that it would be silent"
        time.sleep(0.2)
    left = latest - time.monotonic()
    cloud.notified(guest, "heartbeat-lost", True, mark, within=left + longest + 5)
    guest.continue_agent()
    cloud.notified(guest, "heartbeat-lost", False, mark)
    cloud.healthy(guest)
    mark = cloud.mark()
    guest.stop_agent()
    cloud.notified(guest, "heartbeat-lost", True, mark, within=longest + 5)
    guest.continue_agent()
    cloud.notified(guest, "heartbeat-lost", False, mark)
