# SPDX-License-Identifier: Apache-2.0
"""From the outbox through a real RabbitMQ to where Vitrage listens."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.broker import Broker
from tests.lab.ear import Ear
from vitrage_notifier import sender as sender_module
from vitrage_notifier.alarm import Cleared, News, Raised, Subject
from vitrage_notifier.outbox import Outbox
from vitrage_notifier.sender import Sender
from vitrage_notifier.transport import OsloTransport

pytestmark = [
    pytest.mark.timeout(180),
    # Of oslo.messaging and what it stands on; theirs to repair.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

VM = "6ba7b810-9dad-41d1-80b4-00c04fd430c8"
LOST = Subject("compute-1", VM, "heartbeat-lost")
CHECK = Subject("compute-1", VM, "check.db")
HOST = Subject("compute-1", "", "engine-impaired")


class Said:
    """What an operator would read in collectd's log."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def warning(self, text: str) -> None:
        self.lines.append(text)

    def notice(self, text: str) -> None:
        self.lines.append(text)

    def wait_for(self, count: int, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while len(self.lines) < count:
            assert time.monotonic() < deadline, self.lines
            time.sleep(0.05)


class Notifier:
    """Outbox and sender as the plugin wires them, without collectd."""

    def __init__(self, url: str, directory: Path) -> None:
        self.said = Said()
        self.outbox = Outbox(directory / "outbox.sqlite")
        transport = OsloTransport(url, "vitrage_notifications", 5.0)
        self.sender = Sender(self.outbox, transport, self.said, 3600.0)

    def take(self, news: News) -> None:
        self.outbox.take(news)
        self.sender.wake()


@pytest.fixture(name="broker", scope="module")
def _broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with Broker(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.fixture(name="ear")
def _ear(broker: Broker) -> Iterator[Ear]:
    with Ear(broker.url) as ear:
        yield ear


@pytest.fixture(name="notifier")
def _notifier(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Notifier]:
    monkeypatch.setattr(sender_module, "BACKOFF_LAST", 1.0)
    notifier = Notifier(broker.url, tmp_path)
    notifier.sender.start()
    yield notifier
    assert notifier.sender.stop(10)
    notifier.outbox.close()


def test_an_alarm_arrives_where_vitrage_listens(ear: Ear, notifier: Notifier) -> None:
    notifier.take(Raised(LOST, "FAILURE", 1000.5, "i"))
    (heard,) = ear.wait_for(1, timeout=20)
    assert (heard.publisher_id, heard.event_type) == ("collectd", "collectd.alarm.failure")
    assert heard.payload == {
        "host": VM,
        "plugin": "vmhb",
        "collectd_type": "gauge",
        "type_instance": "heartbeat-lost",
        "message": "VM heartbeat lost",
        "severity": "FAILURE",
        "time": 1000.5,
        "id": "i.1",
        "graph_query_result": [{"id": VM, "vitrage_type": "nova.instance"}],
        "vmhb": {
            "version": 1,
            "host": "compute-1",
            "incident": "i",
            "generation": 1,
            "lease": 7200.0,
        },
    }
    assert notifier.said.lines == []


def test_nothing_is_lost_and_the_order_is_kept_while_the_broker_is_away(
    broker: Broker, ear: Ear, notifier: Notifier
) -> None:
    notifier.take(Raised(LOST, "FAILURE", 1.0, "a"))
    assert len(ear.wait_for(1, timeout=20)) == 1

    broker.stop()
    notifier.take(Raised(CHECK, "WARNING", 2.0, "b"))
    notifier.said.wait_for(1, timeout=20)
    notifier.take(Cleared(LOST, 3.0, "a"))
    notifier.take(Raised(HOST, "FAILURE", 4.0, "c"))
    notifier.take(Raised(CHECK, "FAILURE", 5.0, "b"))
    broker.start()

    # b.1 was tried while nobody could tell whether it arrived: so it is cleared by name.
    expected = [
        ("a.1", "FAILURE"),
        ("a.1", "OK"),
        ("c.1", "FAILURE"),
        ("b.1", "OK"),
        ("b.2", "FAILURE"),
    ]
    heard = ear.wait_for(len(expected), timeout=60)
    assert [(each.payload["id"], each.payload["severity"]) for each in heard] == expected
    away, back = notifier.said.lines
    assert "cannot send to the broker, alarms wait on disk" in away
    assert "the broker is back" in back


def test_what_waited_when_collectd_ended_goes_out_after_its_next_start(
    broker: Broker, ear: Ear, tmp_path: Path
) -> None:
    before = Notifier("rabbit://guest:guest@127.0.0.1:1/", tmp_path)
    before.sender.start()
    before.take(Raised(LOST, "FAILURE", 1.0, "a"))
    before.said.wait_for(1, timeout=20)
    assert before.sender.stop(5)
    before.outbox.close()

    after = Notifier(broker.url, tmp_path)
    after.sender.start()
    (heard,) = ear.wait_for(1, timeout=20)
    assert heard.payload["id"] == "a.1"
    assert after.sender.stop(5)
    after.outbox.close()


def test_a_refused_password_is_seen_as_a_failure(broker: Broker) -> None:
    transport = OsloTransport(broker.url.replace("guest@", "wrong@"), "vitrage_notifications", 5.0)
    with pytest.raises(Exception, match=r"ACCESS_REFUSED|403"):
        transport.send("collectd.alarm.ok", {})


def test_an_exchange_that_others_declared_otherwise_is_seen_as_a_failure(broker: Broker) -> None:
    topic = "vitrage_notifications"
    transient = OsloTransport(broker.url, topic, 5.0)
    transient.send("collectd.alarm.ok", {})
    transient.close()
    durable = OsloTransport(f"{broker.url}?amqp_durable_queues=true", topic, 5.0)
    with pytest.raises(Exception, match="PRECONDITION_FAILED"):
        durable.send("collectd.alarm.ok", {})


def test_a_broker_that_stands_still_costs_no_more_than_the_timeout(broker: Broker) -> None:
    transport = OsloTransport(broker.url, "vitrage_notifications", 2.0)
    transport.send("collectd.alarm.ok", {})
    with broker.frozen():
        began = time.monotonic()
        with pytest.raises(Exception, match=r"timed out|timeout"):
            transport.send("collectd.alarm.ok", {})
        transport.close()
        assert time.monotonic() - began < 15
