# SPDX-License-Identifier: Apache-2.0
"""The plugin inside the real collectd daemon, fed through its unixsock plugin."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Callable

import pytest

from tests.integration.notifier_node import NOBODY, VM, Collectd, wait_for
from tests.lab.broker import Broker
from tests.lab.ear import Ear

pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@contextmanager
def read_only(directory: Path) -> Iterator[Callable[[], None]]:
    """Put a read-only file system there; what is yielded makes it writable."""

    def mount(*options: str) -> None:
        subprocess.run(["mount", *options, str(directory)], check=True)

    mount("-t", "tmpfs", "-o", "ro,mode=0700,size=4m", "vmhb-test")
    try:
        yield lambda: mount("-o", "remount,rw")
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


@pytest.fixture(name="broker", scope="module")
def _broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with Broker(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.fixture(name="collectd")
def _collectd(tmp_path: Path) -> Iterator[Collectd]:
    collectd = Collectd(tmp_path)
    yield collectd
    collectd.stop()


def test_a_notification_lands_in_the_outbox_while_the_broker_is_away(collectd: Collectd) -> None:
    collectd.start(f'TransportUrl "{NOBODY}"')
    # The socket answers before our init has run: what comes this early must not be lost either.
    collectd.notify("failure")
    wait_for(lambda: "alarms wait (unreachable)" in collectd.log(), collectd.log)
    assert collectd.outbox() == [("i", VM, "FAILURE")]
    assert collectd.stop() < 6
    assert "s3cret" not in collectd.log()
    assert "Traceback" not in collectd.log()


def test_a_notification_reaches_the_broker(collectd: Collectd, broker: Broker) -> None:
    with Ear(broker.url) as ear:
        collectd.start(f'TransportUrl "{broker.url}"')
        collectd.notify("warning", "check.db")
        assert len(ear.wait_for(1, timeout=20)) == 1, collectd.log()
        collectd.notify("okay", "check.db")
        heard = ear.wait_for(2, timeout=20)
        assert [(each.event_type, each.payload["id"]) for each in heard] == [
            ("collectd.alarm.warning", "i.1"),
            ("collectd.alarm.ok", "i.1"),
        ]
        assert heard[0].payload["message"] == "VM health check failed: db"
        wait_for(lambda: collectd.value("derive-sent") == 2, collectd.log)
        assert collectd.value("queue_length-queued") == 0
        assert collectd.stop() < 6


def test_a_disk_that_somebody_holds_holds_up_no_thread_that_dispatches(
    collectd: Collectd,
) -> None:
    collectd.start(f'TransportUrl "{NOBODY}"')
    collectd.notify("failure")
    wait_for(lambda: collectd.outbox() == [("i", VM, "FAILURE")], collectd.log)
    database = sqlite3.connect(str(collectd.at / "state" / "outbox.sqlite"), isolation_level=None)
    database.execute("BEGIN EXCLUSIVE")
    for number in range(20):
        collectd.notify("failure", f"check.{number}", f"i-{number}")
    wait_for(lambda: collectd.value("gauge-on-disk") == 0, collectd.log)
    wait_for(lambda: collectd.value("gauge-open") == 21, collectd.log)
    wait_for(lambda: "cannot be written, alarms are kept in memory" in collectd.log(), collectd.log)
    database.execute("ROLLBACK")
    database.close()
    wait_for(lambda: collectd.value("gauge-on-disk") == 1, collectd.log)
    assert len(collectd.outbox()) == 21
    assert len(collectd.held()) >= 21
    assert max(held.by_us for held in collectd.held()) < 0.05
    log = collectd.log()
    assert log.count("cannot be written, alarms are kept in memory") == 1
    assert "alarms are kept in memory only: " in log
    assert "the outbox is on disk again" in log


def test_a_read_only_disk_is_survived_and_repaired(collectd: Collectd) -> None:
    state = collectd.at / "state"
    state.mkdir(mode=0o700)
    with read_only(state) as writable_again:
        collectd.start(f'TransportUrl "{NOBODY}"')
        collectd.notify("failure")
        wait_for(lambda: collectd.value("gauge-open") == 1, collectd.log)
        wait_for(lambda: "Read-only file system" in collectd.log(), collectd.log)
        writable_again()
        wait_for(lambda: "can be written again" in collectd.log(), collectd.log)
        assert collectd.outbox() == [("i", VM, "FAILURE")]
        assert collectd.stop() < 6


def test_a_kill_loses_nothing_that_was_taken(collectd: Collectd, broker: Broker) -> None:
    collectd.start(f'TransportUrl "{NOBODY}"')
    for number in range(50):
        collectd.notify("failure", f"check.{number}", f"i-{number}")
    wait_for(lambda: len(collectd.outbox()) == 50, collectd.log)
    collectd.kill()
    with Ear(broker.url) as ear:
        collectd.start(f'TransportUrl "{broker.url}"')
        heard = ear.wait_for(50, timeout=30)
        assert [each.payload["id"] for each in heard] == [f"i-{n}.1" for n in range(50)]


def test_strangers_and_nonsense_on_the_bus_change_nothing(collectd: Collectd) -> None:
    collectd.start(f'TransportUrl "{NOBODY}"')
    cut = "x" * 126 + "\u00e9"  # collectd cuts at 127 bytes, and hands on bytes
    for line in (
        "plugin=cpu type=gauge type_instance=heartbeat-lost",
        f"plugin=vmhb type=gauge type_instance={cut}",
        "plugin=vmhb type=gauge type_instance=mystery",
        "plugin=vmhb type=gauge type_instance=check.a plugin_instance=vm-1",
        f"plugin=vmhb type=gauge type_instance=open-faults plugin_instance={VM}",
    ):
        collectd.ask(f'PUTNOTIF severity=failure time=1 host=compute-1 {line} message="x"')
    collectd.notify("failure")
    wait_for(lambda: collectd.value("derive-ignored") == 4, collectd.log)
    assert collectd.outbox() == [("i", VM, "FAILURE")]
    assert "Traceback" not in collectd.log()


def test_a_bad_stanza_names_the_key_and_collectd_keeps_running(collectd: Collectd) -> None:
    collectd.start('TransportUrl "nonsense"\n    ResendIntervall 5')
    collectd.notify("failure")
    log = collectd.log()
    assert "vitrage_notifier: TransportUrl: is no URL" in log
    assert "vitrage_notifier: ResendIntervall: is not known" in log
    assert not (collectd.at / "state").exists()


def test_the_config_gate_beside_the_daemon_disturbs_nothing(collectd: Collectd) -> None:
    collectd.start(f'TransportUrl "{NOBODY}"')
    collectd.notify("failure")
    wait_for(lambda: "alarms wait (unreachable)" in collectd.log(), collectd.log)
    assert collectd.gate(f'TransportUrl "{NOBODY}"') == 0
    assert "another collectd serves" in collectd.log("gate.log")
    collectd.notify("okay")
    assert collectd.outbox() == [("i", VM, "FAILURE")]


def test_the_sender_lives_on_after_the_fork(collectd: Collectd) -> None:
    with collectd.in_the_background(f'TransportUrl "{NOBODY}"'):
        wait_for(collectd.answers, collectd.log)
        collectd.notify("failure")
        wait_for(lambda: "alarms wait (unreachable)" in collectd.log(), collectd.log)
