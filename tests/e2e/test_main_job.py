# SPDX-License-Identifier: Apache-2.0
"""From a guest that goes silent to the alarm against it in Vitrage, and back."""

from __future__ import annotations

import json
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.e2e.conftest import INTERVAL, MISSES, SPECS, TIMEOUT, Cloud
from tests.lab.guest import CHANNEL, Guest

pytestmark = pytest.mark.timeout(180)

#: What two loaded cores may add to a bound.
ROOM = 1.0


def has_channel(guest: Guest) -> bool:
    return f"name='{CHANNEL}'" in guest.domain.XMLDesc()


def until(true: object, within: float, what: str) -> float:
    """Waits for a callable to return true; returns how long that took."""
    began = time.monotonic()
    while not true():  # type: ignore[operator]
        assert time.monotonic() - began < within, what
        time.sleep(0.02)
    return time.monotonic() - began


def test_a_hang_becomes_an_alarm_against_the_vm_and_a_recovery_ends_it(
    cloud: Cloud, web: Guest, db: Guest
) -> None:
    mark = cloud.mark()
    before = time.time()
    web.stop_agent()
    after = time.time()
    row = cloud.notified(web, "heartbeat-lost", bad=True, since=mark)
    assert row["at"] - before >= (MISSES - 1) * INTERVAL + TIMEOUT - 0.1
    assert row["at"] - after <= MISSES * INTERVAL + TIMEOUT + ROOM
    assert row["host"] == "compute-0"
    assert row["meta"]["instance_name"] == "web"
    assert abs(row["meta"]["since"] - before) < INTERVAL + ROOM
    cloud.alarm("VM heartbeat lost")
    assert cloud.alarms() == [("VM heartbeat lost", web.uuid)]
    web.continue_agent()
    cloud.notified(web, "heartbeat-lost", bad=False, since=mark)
    cloud.no_alarm()
    assert {fault[:2] for fault in cloud.faults(mark)} == {(web.uuid, "heartbeat-lost")}
    assert cloud.value(db, "gauge-health") == 2.0


def test_the_sh_client_is_watched_like_the_agent(cloud: Cloud, db: Guest) -> None:
    mark = cloud.mark()
    db.kill_agent()
    cloud.notified(db, "heartbeat-lost", bad=True, since=mark)
    cloud.alarm("VM heartbeat lost")
    db.start_agent()
    cloud.notified(db, "heartbeat-lost", bad=False, since=mark)
    cloud.no_alarm()


def test_a_critical_check_becomes_an_alarm_of_its_name_without_the_guests_words(
    cloud: Cloud, web: Guest
) -> None:
    mark = cloud.mark()
    web.break_check("secret words of the tenant")
    row = cloud.notified(web, "check.app", bad=True, since=mark)
    assert "secret" not in json.dumps(row), "what a guest writes stays on its host"
    assert "secret words of the tenant" in cloud.collectd.log.read_text()
    cloud.alarm("VM health check failed: app")
    until(lambda: cloud.value(web, "gauge-health") == 4.0, 10, "not shown as unhealthy")
    web.mend_check()
    cloud.notified(web, "check.app", bad=False, since=mark)
    cloud.no_alarm()


def test_a_vm_whose_flavor_does_not_ask_stays_untouched(cloud: Cloud) -> None:
    guest = cloud.lab.boot("plain", extra_specs={})
    guest.wait_booted()
    assert not has_channel(guest)
    assert cloud.value(guest, "gauge-health") is None
    guest.destroy()
    guest.undefine()


def test_the_channel_is_there_within_a_second_of_a_start_and_again_after_a_detach(
    cloud: Cloud,
) -> None:
    mark = cloud.mark()
    guest = cloud.lab.boot("fresh", extra_specs=SPECS)
    took = until(lambda: has_channel(guest), 10, "no channel is attached")
    assert took < 1.0 + ROOM
    cloud.healthy(guest)
    channel = ElementTree.fromstring(guest.domain.XMLDesc()).find(
        f".//channel/target[@name='{CHANNEL}']/.."
    )
    assert channel is not None
    guest.domain.detachDeviceFlags(ElementTree.tostring(channel, encoding="unicode"))
    until(lambda: not has_channel(guest), 10, "the channel is not detached")
    until(lambda: has_channel(guest), 10, "the channel is not attached again")
    cloud.healthy(guest)
    guest.destroy()
    guest.undefine()
    time.sleep(MISSES * INTERVAL + 2)
    assert [f for f in cloud.faults(mark) if f[0] == guest.uuid and f[2]] in (
        [],
        [(guest.uuid, "heartbeat-lost", True)],
    ), "a detach may be a loss, destroy and undefine are none"


def test_a_vm_without_controller_gets_one_word_of_advice_and_no_heartbeat_fault(
    cloud: Cloud,
) -> None:
    mark = cloud.mark()
    guest = cloud.lab.boot("sealed", extra_specs=SPECS, controller=False)
    row = cloud.notified(guest, "cannot-monitor", bad=True, since=mark)
    assert "hw_qemu_guest_agent=yes" in row["message"]
    cloud.alarm("VM heartbeat impossible")
    time.sleep(5)
    assert cloud.faults(mark) == [(guest.uuid, "cannot-monitor", True)]
    guest.destroy()
    row = cloud.notified(guest, "cannot-monitor", bad=False, since=mark)
    assert row["meta"]["reason"] == "shut off"
    guest.undefine()
    cloud.no_alarm()


def test_a_bad_extra_spec_is_named_and_the_vm_watched_all_the_same(cloud: Cloud) -> None:
    mark = cloud.mark()
    guest = cloud.lab.boot("odd", extra_specs={**SPECS, "vmhb:recovery_threshold": "abc"})
    row = cloud.notified(guest, "bad-policy", bad=True, since=mark)
    assert "vmhb:recovery_threshold" in row["message"]
    assert "abc" in row["message"]
    cloud.alarm("VM heartbeat policy invalid")
    cloud.healthy(guest)
    guest.destroy()
    guest.undefine()
    cloud.notified(guest, "bad-policy", bad=False, since=mark)
    cloud.no_alarm()


def test_pause_reboot_and_shutdown_are_no_failure(cloud: Cloud, web: Guest) -> None:
    mark = cloud.mark()
    web.domain.suspend()
    until(lambda: cloud.value(web, "gauge-health") == 6.0, 10, "not shown as paused")
    time.sleep(MISSES * INTERVAL + 2)
    web.domain.resume()
    cloud.healthy(web)
    web.domain.reset()
    until(lambda: cloud.value(web, "gauge-health") == 1.0, 20, "not shown as establishing")
    cloud.healthy(web)
    assert cloud.faults(mark) == []


def test_libvirts_default_user_runs_the_guests(cloud: Cloud, web: Guest) -> None:
    del cloud
    owner = Path(f"/proc/{web.pid}").stat().st_uid
    assert owner != 0, "the lab must not be easier than a real node"
