# SPDX-License-Identifier: Apache-2.0
"""Whatever is restarted, killed or away: no false alarm, no stale one, nothing lost."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import INTERVAL, MISSES, Cloud
from tests.lab.guest import Guest

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(autouse=True)
def _as_before(cloud: Cloud, web: Guest) -> Iterator[None]:
    """A test that fails half-way leaves the others a cloud that works."""
    yield
    web.continue_agent()
    if not cloud.collectd.pid:
        cloud.collectd.start(cloud.stanza)
    cloud.healthy(web)


def again(cloud: Cloud, meanwhile: float = 0.0) -> int:
    """Kills collectd with -9 and starts it; returns a mark from before the start."""
    cloud.collectd.kill(signal.SIGKILL)
    time.sleep(meanwhile)
    mark = cloud.mark()
    cloud.collectd.start(cloud.stanza)
    return mark


def incidents(cloud: Cloud, mark: int) -> list[str]:
    listed: list[str] = json.loads(cloud.handshake(mark)["meta"]["incidents"])
    return listed


def test_collectd_killed_with_healthy_vms(cloud: Cloud, web: Guest, db: Guest) -> None:
    mark = again(cloud)
    assert incidents(cloud, mark) == []
    cloud.healthy(web)
    cloud.healthy(db)
    time.sleep(5)
    assert cloud.faults(mark) == []
    assert cloud.alarms() == []


def test_collectd_killed_while_a_fault_is_open(cloud: Cloud, web: Guest) -> None:
    mark = cloud.mark()
    web.stop_agent()
    first = cloud.notified(web, "heartbeat-lost", bad=True, since=mark)
    cloud.alarm("VM heartbeat lost")
    mark = again(cloud)
    assert incidents(cloud, mark) == [first["meta"]["incident"]], "the same incident goes on"
    time.sleep(5)
    assert cloud.faults(mark) == [(web.uuid, "heartbeat-lost", True)], "told again, once"
    assert cloud.alarms() == [("VM heartbeat lost", web.uuid)]
    web.continue_agent()
    cloud.notified(web, "heartbeat-lost", bad=False, since=mark)
    cloud.no_alarm()


def test_a_fault_that_ends_while_collectd_is_dead_leaves_no_stale_alarm(
    cloud: Cloud, web: Guest
) -> None:
    mark = cloud.mark()
    web.stop_agent()
    cloud.notified(web, "heartbeat-lost", bad=True, since=mark)
    cloud.alarm("VM heartbeat lost")
    cloud.collectd.kill(signal.SIGKILL)
    web.continue_agent()
    time.sleep(2)
    mark = cloud.mark()
    cloud.collectd.start(cloud.stanza)
    cloud.notified(web, "heartbeat-lost", bad=False, since=mark)
    cloud.no_alarm()


def test_collectd_killed_just_after_a_fault_has_cleared(cloud: Cloud, web: Guest) -> None:
    mark = cloud.mark()
    web.stop_agent()
    cloud.notified(web, "heartbeat-lost", bad=True, since=mark)
    web.continue_agent()
    cloud.notified(web, "heartbeat-lost", bad=False, since=mark)
    mark = again(cloud)
    assert incidents(cloud, mark) == []
    cloud.healthy(web)
    cloud.no_alarm()
    time.sleep(3)
    assert cloud.faults(mark) == []


def test_a_vm_that_hangs_while_collectd_is_dead_is_found(cloud: Cloud, web: Guest) -> None:
    cloud.healthy(web)
    time.sleep(2)  # until it is on disk that this VM answers
    cloud.collectd.kill(signal.SIGKILL)
    web.stop_agent()
    mark = cloud.mark()
    cloud.collectd.start(cloud.stanza)
    # GraceAfterResume is 3 s here.
    cloud.notified(web, "heartbeat-lost", bad=True, since=mark, within=3 + MISSES * INTERVAL + 5)
    cloud.alarm("VM heartbeat lost")
    web.continue_agent()
    cloud.notified(web, "heartbeat-lost", bad=False, since=mark)
    cloud.no_alarm()


def test_a_collectd_that_only_tries_its_configuration_disturbs_nothing(
    cloud: Cloud, web: Guest
) -> None:
    mark = cloud.mark()
    # unixsock itself would take the daemon's socket away, whatever our plugins do.
    conf = (cloud.collectd.directory / "collectd.conf").read_text()
    tried_conf = re.sub(
        r"LoadPlugin unixsock\n<Plugin unixsock>.*?</Plugin>\n", "", conf, flags=re.DOTALL
    )
    (cloud.collectd.directory / "try.conf").write_text(tried_conf)
    argv = cloud.lab.node.command(
        "/usr/sbin/collectd", "-T", "-C", "/run/collectd/try.conf", "-P", "/run/try.pid"
    )
    tried = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    assert tried.returncode == 0, tried.stderr
    assert "another engine holds" in cloud.collectd.log.read_text()
    cloud.healthy(web)
    assert cloud.faults(mark) == []
    assert not [r for r in cloud.collectd.notifications()[mark:] if r["plugin"] == "vmhb"]


def test_libvirtd_away_is_said_once_and_the_heartbeat_goes_on(cloud: Cloud, web: Guest) -> None:
    mark = cloud.mark()
    log = cloud.collectd.log.read_text()
    cloud.lab.node.kill_libvirtd(signal.SIGKILL)
    time.sleep(4)
    cloud.healthy(web, within=5)
    cloud.lab.node.start_libvirtd()
    deadline = time.monotonic() + 20
    while "libvirt answers again" not in cloud.collectd.log.read_text()[len(log) :]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert cloud.collectd.log.read_text()[len(log) :].count("libvirt is away") == 1
    cloud.healthy(web)
    assert cloud.faults(mark) == []


def test_an_alarm_raised_while_the_broker_is_away_arrives_when_it_is_back(
    cloud: Cloud, web: Guest
) -> None:
    mark = cloud.mark()
    cloud.lab.broker.stop()
    web.stop_agent()
    cloud.notified(web, "heartbeat-lost", bad=True, since=mark)
    cloud.lab.broker.start()
    cloud.vitrage_answers()
    cloud.alarm("VM heartbeat lost", within=90)
    web.continue_agent()
    cloud.notified(web, "heartbeat-lost", bad=False, since=mark)
    cloud.no_alarm(within=60)


def test_it_works_beside_collectds_own_virt_plugin(cloud: Cloud, web: Guest) -> None:
    cloud.collectd.stop()
    mark = cloud.mark()
    virt = 'LoadPlugin virt\n<Plugin virt>\n  Connection "qemu:///system"\n</Plugin>\n'
    cloud.collectd.start(virt + cloud.stanza)
    cloud.healthy(web)
    web.domain.suspend()
    deadline = time.monotonic() + 10
    while cloud.value(web, "gauge-health") != 6.0:
        assert time.monotonic() < deadline, "the pause is not seen"
        time.sleep(0.1)
    web.domain.resume()
    cloud.healthy(web)
    assert cloud.faults(mark) == []
    assert any("/virt" in line for line in cloud.collectd.ask("LISTVAL"))
    cloud.collectd.stop()
    cloud.collectd.start(cloud.stanza)
    cloud.healthy(web)
