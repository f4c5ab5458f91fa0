# SPDX-License-Identifier: Apache-2.0
"""`vitrage alarm list` shows the faults that are open now, whatever Vitrage does and undergoes.

The node is the real collectd with the notifier; who raises faults is a stand-in for the engine.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import tempfile
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Callable

import kombu
import pytest

from tests.integration.notifier_node import Collectd, wait_for
from tests.lab.broker import Broker
from tests.lab.layout import LabError
from tests.lab.vitrage import Row, Vitrage
from vitrage_notifier.alarm import Alarm, Subject, name_of

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(480),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

#: Seconds; the notifier's, short for the test.
RESEND = 5
#: Seconds between two snapshots where they are the subject; 10 is the least that Vitrage takes.
SNAPSHOTS = 15
#: The same where a hundred alarms are open, which a busy machine takes seconds to list again.
SNAPSHOTS_OF_MANY = 40
#: There, many are open under identities that Vitrage brought back from before a snapshot: each
#: is listed after the next one, unless it was sent again in the second of that one.
RESEND_OF_MANY = 15
NEVER = 86400
#: What Vitrage reads.
QUEUE = "vitrage_notifications.info"
#: What a message needs through RabbitMQ, Vitrage's three services and a busy machine.
SLACK = 20.0

Fault = tuple[str, str, str]

_LOG = logging.getLogger(__name__)


@pytest.fixture(name="broker", scope="module")
def _broker() -> Iterator[Broker]:
    with tempfile.TemporaryDirectory() as directory, Broker(Path(directory)) as broker:
        yield broker


@pytest.fixture(name="vitrage", scope="module")
def _vitrage(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vitrage]:
    vitrage = Vitrage(tmp_path_factory.mktemp("vitrage"), broker.url)
    vitrage.start(120.0)
    yield vitrage
    vitrage.stop()


@pytest.fixture(name="collectd")
def _collectd(tmp_path: Path, broker: Broker, vitrage: Vitrage) -> Iterator[Collectd]:
    collectd = Collectd(tmp_path)
    start(collectd, broker)
    try:
        yield collectd
        collectd.introduce([])
        vitrage.wait_for(lambda rows: not rows, SLACK + SNAPSHOTS_OF_MANY)
    finally:
        collectd.stop()


def start(collectd: Collectd, broker: Broker, resend: int = RESEND) -> None:
    collectd.start(
        f'TransportUrl "{broker.url}"\n    ResendInterval {resend}\n    RepeatOkFor {6 * resend}'
    )


def new_vm() -> str:
    return str(uuid.uuid4())


def shown(rows: list[Row]) -> list[Fault]:
    """(VM or host, alarm's name, severity) of each alarm that Vitrage lists."""
    return sorted(
        (row["resource_name"].partition("/")[0], row["name"], row["severity"]) for row in rows
    )


def lost(vm: str, severity: str = "FAILURE") -> Fault:
    return (vm, "VM heartbeat lost", severity)


def test_what_a_snapshot_drops_is_back_within_the_period(
    collectd: Collectd, vitrage: Vitrage
) -> None:
    vm = new_vm()
    collectd.notify("failure", vm=vm)
    (first,) = vitrage.wait_for(lambda rows: shown(rows) == [lost(vm)], SLACK)
    vitrage.restart_graph(SNAPSHOTS)
    before = vitrage.snapshots()
    wait_for(lambda: vitrage.snapshots() > before, lambda: "no snapshot", 2 * SNAPSHOTS)
    began = time.monotonic()
    vitrage.wait_for(
        lambda rows: shown(rows) == [lost(vm)] and rows[0]["vitrage_id"] != first["vitrage_id"],
        RESEND + SLACK,
    )
    _LOG.info("back after %.1f s", time.monotonic() - began)
    vitrage.restart_graph(NEVER)


def test_nothing_is_listed_while_the_persistor_is_away(
    collectd: Collectd, vitrage: Vitrage
) -> None:
    vm = new_vm()
    vitrage.stop_services("persistor")
    collectd.notify("failure", vm=vm)
    wait_for(lambda: collectd.value("derive-sent") >= 2, collectd.log)
    assert vitrage.alarms_now(SLACK) == []
    vitrage.start_services("persistor")
    vitrage.wait_for(lambda rows: shown(rows) == [lost(vm)], SLACK)


def test_an_escalation_shows(collectd: Collectd, vitrage: Vitrage) -> None:
    vm = new_vm()
    for severity in ("WARNING", "FAILURE", "WARNING"):
        collectd.notify(severity.lower(), vm=vm)
        now = [lost(vm, severity)]
        vitrage.wait_for(lambda rows: shown(rows) == now, SLACK)  # noqa: B023


def test_a_fault_that_comes_again_around_a_restart_is_listed_again(
    collectd: Collectd, vitrage: Vitrage
) -> None:
    vm = new_vm()
    collectd.notify("failure", vm=vm, incident="first")
    vitrage.wait_for(lambda rows: shown(rows) == [lost(vm)], SLACK)
    collectd.notify("okay", vm=vm, incident="first")
    vitrage.wait_for(lambda rows: not rows, SLACK)
    vitrage.restart_graph(NEVER)
    collectd.notify("failure", vm=vm, incident="second")
    vitrage.wait_for(lambda rows: shown(rows) == [lost(vm)], SLACK)


def test_with_the_same_id_it_would_not_be_listed(vitrage: Vitrage, broker: Broker) -> None:
    # Its import brings eventlet along, which warns of itself; tests take warnings for errors.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from vitrage_notifier.transport import OsloTransport

    # Why ids are never used again. Were this to fail, Vitrage would have been repaired.
    alarm = Alarm(new_vm(), 1, Subject("c", new_vm(), "heartbeat-lost"), "FAILURE", time.time())
    transport = OsloTransport(broker.url, "vitrage_notifications", 10.0)
    transport.send(*alarm.event(True, 60.0))
    vitrage.wait_for(lambda rows: len(rows) == 1, SLACK)
    transport.send(*alarm.event(False, 60.0))
    vitrage.wait_for(lambda rows: not rows, SLACK)
    vitrage.restart_graph(NEVER)
    transport.send(*alarm.event(True, 60.0))
    other = Alarm(new_vm(), 1, alarm.subject, "WARNING", time.time())
    transport.send(*other.event(True, 60.0))
    (row,) = vitrage.wait_for(lambda rows: len(rows) == 1, SLACK)
    assert row["severity"] == "WARNING"
    transport.send(*alarm.event(False, 60.0))
    transport.send(*other.event(False, 60.0))
    vitrage.wait_for(lambda rows: not rows, SLACK)
    transport.close()


def test_two_vms_of_one_name_are_told_apart_and_each_tenant_sees_his_own(
    collectd: Collectd, vitrage: Vitrage
) -> None:
    mine, yours = new_vm(), new_vm()
    vitrage.announce_instance(mine, "web", "compute-1", "project-1")
    vitrage.announce_instance(yours, "web", "compute-1", "project-2")
    collectd.notify("failure", vm=mine, incident="mine")
    collectd.notify("warning", vm=yours, incident="yours")
    rows = vitrage.wait_for(
        lambda rows: shown(rows) == sorted([lost(mine), lost(yours, "WARNING")]), SLACK
    )
    ids = {row["vitrage_resource_project_id"]: row["vitrage_resource_id"] for row in rows}
    assert vitrage.resource(ids["project-1"])["ID"] == ids["project-1"]
    assert ids["project-1"] != ids["project-2"]
    seen = {
        project: shown(vitrage.alarms_now(SLACK, project))
        for project in ("project-1", "project-2", "project-3")
    }
    assert seen == {
        "project-1": [lost(mine)],
        "project-2": [lost(yours, "WARNING")],
        "project-3": [],
    }


def test_an_alarm_from_before_vitrage_knew_the_vm_finds_its_tenant(
    collectd: Collectd, vitrage: Vitrage
) -> None:
    vm = new_vm()
    collectd.notify("failure", vm=vm)
    vitrage.wait_for(lambda rows: shown(rows) == [lost(vm)], SLACK)
    vitrage.announce_instance(vm, "web", "compute-1", "project-1")
    vitrage.wait_for(lambda rows: shown(rows) == [lost(vm)], SLACK, project="project-1")


def test_the_alarm_of_a_vm_that_was_deleted_is_cleared(
    collectd: Collectd, vitrage: Vitrage
) -> None:
    vm = new_vm()
    vitrage.announce_instance(vm, "web", "compute-1", "project-1")
    collectd.notify("failure", vm=vm)
    vitrage.wait_for(lambda rows: shown(rows) == [lost(vm)], SLACK)
    vitrage.forget_instance(vm, "web", "compute-1", "project-1")
    # The engine says so with the reason "deleted", "disabled" or "migrated": Vitrage would not.
    collectd.put("okay", "heartbeat-lost", vm, incident="i", reason="deleted")
    vitrage.wait_for(lambda rows: not rows, SLACK)


def test_a_fault_that_the_engine_no_longer_lists_is_cleared(
    collectd: Collectd, vitrage: Vitrage
) -> None:
    stays, goes = new_vm(), new_vm()
    collectd.notify("failure", vm=stays, incident="stays")
    collectd.notify("failure", vm=goes, incident="goes")
    vitrage.wait_for(lambda rows: len(rows) == 2, SLACK)
    collectd.introduce(["stays"])
    vitrage.wait_for(lambda rows: shown(rows) == [lost(stays)], SLACK)


def test_a_fault_of_the_host_is_against_the_host(collectd: Collectd, vitrage: Vitrage) -> None:
    collectd.notify("failure", "engine-impaired", vm="")
    (row,) = vitrage.wait_for(lambda rows: bool(rows), SLACK)
    assert shown([row]) == [("compute-1", "VM heartbeat engine impaired", "FAILURE")]
    assert row["vitrage_resource_type"] == "nova.host"


def test_an_ok_that_the_broker_lost_is_said_again(
    collectd: Collectd, vitrage: Vitrage, broker: Broker
) -> None:
    vm = new_vm()
    collectd.notify("failure", vm=vm)
    vitrage.wait_for(lambda rows: shown(rows) == [lost(vm)], SLACK)
    with standing_still(vitrage.graph_pids()):
        sent = collectd.value("derive-sent")
        collectd.notify("okay", vm=vm)
        wait_for(lambda: collectd.value("derive-sent") > sent, collectd.log)
        forget_what_is_queued(broker)
    vitrage.wait_for(lambda rows: not rows, RESEND + SLACK)


@contextmanager
def standing_still(pids: set[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def forget_what_is_queued(broker: Broker) -> None:
    """What a restart of RabbitMQ does to a queue that is not durable."""
    with kombu.Connection(broker.url.replace("rabbit:", "amqp:")) as connection:
        connection.channel().queue_purge(QUEUE)


def wait_until_read(broker: Broker) -> None:
    """Until vitrage-graph is back: what it reads in one moment has not been apart for Vitrage."""

    def is_read() -> bool:
        with kombu.Connection(broker.url.replace("rabbit:", "amqp:")) as connection:
            try:
                queue = connection.channel().queue_declare(QUEUE, passive=True)
            except connection.channel_errors:
                return False
            return queue.consumer_count > 0 and queue.message_count == 0

    wait_for(is_read, lambda: "vitrage-graph does not read what is sent", 60)


class Engine:
    """Keeps the truth, and tells it as the engine does: changes, and all of it after a start."""

    FAULTS = ("heartbeat-lost", "check.db", "check.web")
    #: Seconds for which a fault stays as it is; the engine's own hold-down is ten times that.
    HOLD_DOWN = 3.0

    def __init__(self, collectd: Collectd, vms: int) -> None:
        self.collectd = collectd
        self.random = random.Random(5)
        #: (VM, fault) -> when it changed last, by the monotonic clock.
        self.changed = {
            (vm, fault): 0.0 for vm in [new_vm() for _ in range(vms)] for fault in self.FAULTS
        }
        #: (VM, fault) -> incident and severity.
        self.open: dict[tuple[str, str], tuple[str, str]] = {}
        self.changes = 0

    def change(self, count: int) -> None:
        for _ in range(count):
            # A quick machine has changed all of them meanwhile.
            time.sleep(max(0.0, min(self.changed.values()) + self.HOLD_DOWN - time.monotonic()))
            before = time.monotonic() - self.HOLD_DOWN
            vm, fault = self.random.choice(
                [key for key, at in self.changed.items() if at <= before]
            )
            if (vm, fault) not in self.open or self.random.random() < 0.3:
                self.raise_(vm, fault, self.random.choice(["WARNING", "FAILURE"]))
            else:
                self.clear(vm, fault)

    def raise_(self, vm: str, fault: str, severity: str) -> None:
        incident = self.open.get((vm, fault), (str(uuid.uuid4()), ""))[0]
        self.open[vm, fault] = (incident, severity)
        self.collectd.notify(severity.lower(), fault, incident, vm)
        self.changed[vm, fault] = time.monotonic()
        self.changes += 1

    def clear(self, vm: str, fault: str) -> None:
        incident, _ = self.open.pop((vm, fault))
        self.collectd.notify("okay", fault, incident, vm)
        self.changed[vm, fault] = time.monotonic()
        self.changes += 1

    def start_again(self) -> None:
        for (vm, fault), (incident, severity) in self.open.items():
            self.collectd.notify(severity.lower(), fault, incident, vm)
        self.collectd.introduce([incident for incident, _ in self.open.values()])

    def means(self) -> list[Fault]:
        return sorted(
            (vm, name_of(fault), severity) for (vm, fault), (_, severity) in self.open.items()
        )


@pytest.mark.timeout(600)
def test_after_all_that_can_happen_the_list_equals_the_truth(
    collectd: Collectd, vitrage: Vitrage, broker: Broker
) -> None:
    vitrage.restart_graph(SNAPSHOTS_OF_MANY)
    engine = Engine(collectd, vms=50)

    def die_and_start_again() -> None:
        collectd.kill()
        start(collectd, broker, RESEND_OF_MANY)
        engine.start_again()

    die_and_start_again()

    engine.change(60)
    broker.stop()
    engine.change(60)
    broker.start()
    wait_until_read(broker)
    engine.change(50)
    die_and_start_again()
    engine.change(50)

    # Between a clear and the next raise of the same fault: a snapshot, then a restart.
    disturbances: list[Callable[[], None]] = [
        lambda: wait_for_snapshot(vitrage),
        lambda: vitrage.restart_graph(SNAPSHOTS_OF_MANY),
    ]
    for disturb in disturbances:
        (vm, fault) = next(iter(engine.open))
        engine.clear(vm, fault)
        time.sleep(RESEND_OF_MANY)
        disturb()
        engine.raise_(vm, fault, "FAILURE")
        engine.change(48)

    broker.stop()
    engine.change(60)
    die_and_start_again()
    engine.change(60)
    broker.start()
    wait_until_read(broker)
    engine.change(500 - engine.changes)

    began = time.monotonic()
    # Where Vitrage restarts between its snapshot and our re-send, as the README says: within two
    # of its snapshot intervals and our period.
    wait_for_truth(vitrage, engine.means(), 2 * SNAPSHOTS_OF_MANY + RESEND_OF_MANY + 2 * SLACK)
    _LOG.info("%d open, equal after %.1f s", len(engine.open), time.monotonic() - began)
    assert engine.changes == 500

    # A snapshot may have taken alarms away; but nothing is listed that is over.
    for rows in vitrage.watch(SNAPSHOTS_OF_MANY):
        assert set(shown(rows)) <= set(engine.means())

    held = collectd.held()
    worst = max(held, key=lambda each: each.by_us)
    _LOG.info("%d notifications, held at most for %s", len(held), worst)
    assert len(held) >= 500
    assert worst.by_us < 0.05
    vitrage.restart_graph(NEVER)


def wait_for_truth(vitrage: Vitrage, truth: list[Fault], timeout: float) -> None:
    """Returns when just that is listed; says each time by how much it is not."""
    seen: tuple[list[Fault], list[Fault]] | None = None

    def is_true(rows: list[Row]) -> bool:
        nonlocal seen
        listed, meant = Counter(shown(rows)), Counter(truth)
        before, seen = seen, (sorted(meant - listed), sorted(listed - meant))
        if seen != before:
            _LOG.info("of %d missing %d, false %s", len(truth), len(seen[0]), seen[1])
        return not any(seen)

    try:
        vitrage.wait_for(is_true, timeout)
    except LabError:
        assert seen is not None, "Vitrage never answered"
        missing, false = seen
        raise AssertionError(f"after {timeout:g} s missing {missing}, false {false}") from None


def wait_for_snapshot(vitrage: Vitrage) -> None:
    before = vitrage.snapshots()
    wait_for(lambda: vitrage.snapshots() > before, lambda: "no snapshot", 2 * SNAPSHOTS_OF_MANY)
