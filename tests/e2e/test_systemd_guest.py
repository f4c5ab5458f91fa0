# SPDX-License-Identifier: Apache-2.0
"""The agent as the service that its unit makes of it, in a guest that Debian's systemd boots."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import SPECS, Cloud
from tests.lab.guest import Guest

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]

#: A processor without hardware virtualisation may keep the guest from answering for a while.
PATIENT = {**SPECS, "vmhb:miss_threshold": "20"}
UNIT = "vmhb-guest.service"


@pytest.fixture(scope="module")
def guest(cloud: Cloud) -> Iterator[Guest]:
    """A guest of which systemd is process 1, established."""
    guest = cloud.lab.boot("early", image="systemd", extra_specs=PATIENT)
    cloud.healthy(guest, within=120)
    guest.wait_booted(60)
    guest.run("systemctl is-active --wait network-online.target || sleep 30", 60)
    yield guest
    guest.destroy()
    guest.undefine()


def shown(guest: Guest, unit: str, *properties: str) -> list[str]:
    """What systemd says of a unit."""
    wanted = " ".join(f"-p {name}" for name in properties)
    lines = guest.run(f"systemctl show {wanted} {unit}", 30).splitlines()
    values = dict(line.split("=", 1) for line in lines)
    return [values[name] for name in properties]


def said_at(guest: Guest, words: str) -> float:
    """Seconds after the kernel's start at which the agent said something first."""
    log = guest.run(f"journalctl --no-pager -o short-monotonic -u {UNIT}", 30)
    times = re.findall(rf"^\[ *([\d.]+)\] .*{words}", log, re.MULTILINE)
    assert times, log
    return float(times[0])


def ticks(guest: Guest) -> float:
    """Seconds of processor time of the agent."""
    (pid,) = shown(guest, UNIT, "MainPID")
    fields = guest.run(f"cat /proc/{pid}/stat").rpartition(") ")[2].split()
    return sum(map(int, fields[11:13])) / 100


def test_the_first_session_is_there_before_the_network(guest: Guest) -> None:
    """The network takes twenty seconds from sysinit.target on, as one that waits for DHCP."""
    (online,) = shown(guest, "network-online.target", "ActiveEnterTimestampMonotonic")
    session = said_at(guest, "session: enabled")
    assert 0 < session < int(online) / 1e6


def test_systemd_finds_nothing_wrong_with_the_unit(guest: Guest) -> None:
    assert guest.run(f"systemd-analyze verify {UNIT} 2>&1", 60) == ""


def test_the_agent_reports_itself_ready_and_alive(guest: Guest) -> None:
    names = ("Type", "ActiveState", "SubState", "WatchdogUSec", "NRestarts")
    assert shown(guest, UNIT, *names) == ["notify", "active", "running", "30s", "0"]
    (alive,) = shown(guest, UNIT, "WatchdogTimestampMonotonic")
    assert int(alive) > 0


def test_it_fits_into_a_small_guest(guest: Guest) -> None:
    (pid,) = shown(guest, UNIT, "MainPID")
    status = guest.run(f"cat /proc/{pid}/status")
    assert int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) < 16 * 1024
    assert guest.run(f"cat /proc/{pid}/oom_score_adj") == "-900"


def test_a_stop_is_a_farewell_and_no_loss(cloud: Cloud, guest: Guest) -> None:
    mark = cloud.mark()
    guest.run(f"systemctl stop {UNIT}", 30)
    log = guest.run(f"journalctl --no-pager -u {UNIT} | tail -5", 30)
    assert "Deactivated successfully" in log
    shows = guest.run("ls /run/vmhb-guest")
    assert "sock" not in shows
    time.sleep(12)  # longer than 20 misses
    guest.run(f"systemctl start {UNIT}", 60)
    cloud.healthy(guest)
    assert (guest.uuid, "heartbeat-lost", True) not in cloud.faults(mark)


def test_a_reload_reads_the_settings_again(guest: Guest) -> None:
    guest.run(f"systemctl reload {UNIT}", 30)
    guest.run(f"until journalctl -u {UNIT} | grep 'read again'; do sleep 1; done", 30)


def test_an_agent_that_hangs_is_started_again(cloud: Cloud, guest: Guest) -> None:
    guest.run(
        f"mkdir -p /run/systemd/system/{UNIT}.d;"
        f" printf '[Service]\\nWatchdogSec=4\\n' >/run/systemd/system/{UNIT}.d/short.conf;"
        f" systemctl daemon-reload; systemctl restart {UNIT}",
        60,
    )
    cloud.healthy(guest)
    (pid,) = shown(guest, UNIT, "MainPID")
    guest.run(f"kill -STOP {pid}")
    guest.run(f"until [ $(systemctl show -P NRestarts {UNIT}) = 1 ]; do sleep 1; done", 60)
    cloud.healthy(guest)
    (after,) = shown(guest, UNIT, "MainPID")
    assert after != pid


def test_the_same_image_waits_quietly_where_there_is_no_channel(cloud: Cloud) -> None:
    guest = cloud.lab.boot("none", image="systemd", extra_specs={}, controller=False)
    try:
        guest.wait_booted(120)
        guest.run(f"until systemctl is-active {UNIT}; do sleep 1; done", 60)
        guest.run("rm /etc/vmhb-guest/health.d/app; sleep 11", 20)  # until that has been noticed
        before, began = ticks(guest), time.monotonic()
        time.sleep(20)
        share = (ticks(guest) - before) / (time.monotonic() - began)
        # One that polls takes all there is. Without hardware virtualisation, beside other guests,
        # all takes many times as long as it should.
        assert share < 0.2
        log = guest.run(f"journalctl --no-pager -o cat -u {UNIT}", 30)
        assert log.count("waiting for virtio port org.openstack.vmhb.0") == 1
        assert "WARNING" not in log
    finally:
        guest.destroy()
        guest.undefine()
