# SPDX-License-Identifier: Apache-2.0
"""From the outbox through a real RabbitMQ to where Vitrage listens."""

from __future__ import annotations

import gc
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import kombu
import pytest

from tests.lab.broker import Broker, Tenant
from tests.lab.certificates import Certificate, make_certificate
from tests.lab.ear import Ear
from tests.lab.relay import Relay
from vitrage_notifier import outbox as outbox_module
from vitrage_notifier import sender as sender_module
from vitrage_notifier.alarm import Cleared, News, Raised, Subject
from vitrage_notifier.listener import Listener
from vitrage_notifier.outbox import Outbox
from vitrage_notifier.sender import NotSentError, Sender
from vitrage_notifier.store import Store
from vitrage_notifier.transport import OsloTransport

pytestmark = [
    pytest.mark.timeout(180),
    # Of oslo.messaging and what it stands on; theirs to repair.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

VM = "6ba7b810-9dad-41d1-80b4-00c04fd430c8"
LOST = Subject("compute-1", VM, "heartbeat-lost")
CHECK = Subject("compute-1", VM, "check.db")
HOST = Subject("compute-1", "", "engine-impaired")
TOPIC = "vitrage_notifications"

README = Path(__file__).parents[2] / "vitrage_notifier/README.md"
CONFIGURE_AND_WRITE = r"^(openstack|vitrage_notifications\.info)$"
READ = "^openstack$"
NOTHING = "^$"
TENANTS = (
    Tenant("minimal", CONFIGURE_AND_WRITE, CONFIGURE_AND_WRITE, READ),
    Tenant("no-configure", NOTHING, CONFIGURE_AND_WRITE, READ),
    Tenant("no-write", CONFIGURE_AND_WRITE, NOTHING, READ),
    Tenant("no-read", CONFIGURE_AND_WRITE, CONFIGURE_AND_WRITE, NOTHING),
    Tenant("durable"),
    Tenant("quorum"),
    Tenant("transient"),
    Tenant("unread"),
    Tenant("deleted"),
    Tenant("refused"),
)


def url_of(broker: Broker, tenant: str) -> str:
    return f"rabbit://{tenant}:{tenant}@127.0.0.1:{broker.port}/{tenant}"


def tls(ca: Path) -> str:
    return f"?ssl=true&ssl_ca_file={ca}"


class Said:
    """What an operator would read in collectd's log."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def error(self, text: str) -> None:
        self.lines.append(text)

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
    """Outbox, store and sender as the plugin wires them, without collectd."""

    def __init__(
        self, url: str, directory: Path, resend: float = 3600.0, send_timeout: float = 5.0
    ) -> None:
        self.said = Said()
        self.outbox = Outbox(resend, 0.0)
        self.store = Store(self.outbox, directory / "outbox.sqlite", self.said)
        transport = OsloTransport(url, TOPIC, send_timeout)
        self.sender = Sender(self.outbox, transport, self.said, resend, self.store.settle)

    def start(self) -> None:
        self.store.start()
        self.sender.start()

    def stop(self) -> None:
        assert self.sender.stop(10)
        assert self.store.stop()

    def take(self, news: News) -> None:
        self.outbox.take(news)
        self.sender.wake()


def until(true: Callable[[], bool], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture(autouse=True)
def _collect() -> Iterator[None]:
    """kombu leaves the sockets of attempts that failed to the garbage collector."""
    yield
    gc.collect()


@pytest.fixture(name="certificate", scope="module")
def _certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(name="broker", scope="module")
def _broker(tmp_path_factory: pytest.TempPathFactory, certificate: Certificate) -> Iterator[Broker]:
    directory = tmp_path_factory.mktemp("broker")
    with Broker(directory, tenants=TENANTS, certificate=certificate) as broker:
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
    notifier.start()
    yield notifier
    notifier.stop()


def test_an_alarm_arrives_where_vitrage_listens(ear: Ear, notifier: Notifier) -> None:
    notifier.take(Raised(LOST, "FAILURE", 1000.5, "i"))
    (heard,) = ear.wait_for(1, timeout=20)
    assert (heard.publisher_id, heard.event_type) == ("collectd", "collectd.alarm.failure")
    assert heard.payload == {
        "host": VM,
        "plugin": "vmhb",
        "plugin_instance": "i",
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
    broker: Broker, ear: Ear, notifier: Notifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "SETTLE", 0.0)
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
    assert "cannot send to the broker, alarms wait (unreachable)" in away
    assert "the broker is back" in back


def test_what_waited_when_collectd_ended_goes_out_after_its_next_start(
    broker: Broker, ear: Ear, tmp_path: Path
) -> None:
    before = Notifier("rabbit://guest:guest@127.0.0.1:1/", tmp_path)
    before.start()
    before.take(Raised(LOST, "FAILURE", 1.0, "a"))
    before.said.wait_for(1, timeout=20)
    before.stop()

    after = Notifier(broker.url, tmp_path)
    after.start()
    (heard,) = ear.wait_for(1, timeout=20)
    assert heard.payload["id"] == "a.1"
    after.stop()


def failure(url: str, timeout: float = 5.0) -> NotSentError:
    """Try to send once; return how that fails."""
    transport = OsloTransport(url, TOPIC, timeout)
    transport.open()
    with pytest.raises(NotSentError) as failed:
        transport.send("collectd.alarm.ok", {})
    return failed.value


def succeed(url: str) -> None:
    transport = OsloTransport(url, TOPIC, 5.0)
    transport.send("collectd.alarm.ok", {})
    assert transport.has_listeners() is not None
    transport.send("collectd.alarm.ok", {})
    transport.close()


def test_a_refused_password_is_a_403(broker: Broker) -> None:
    problem = failure(broker.url.replace("guest@", "wr0ng@"))
    assert problem.kind == "403"
    assert "wr0ng" not in str(problem)


def test_a_virtual_host_that_is_not_there_is_a_403(broker: Broker) -> None:
    problem = failure(broker.url + "nowhere")
    assert problem.kind == "403"
    assert "vhost nowhere not found" in str(problem)


def test_the_rights_that_the_readme_names_are_enough(broker: Broker) -> None:
    url = url_of(broker, "minimal")
    with Ear(broker.url + "minimal") as ear:
        succeed(url)
        assert len(ear.wait_for(2, timeout=20)) == 2
    assert all(right in README.read_text() for right in (CONFIGURE_AND_WRITE, READ))


@pytest.mark.parametrize("tenant", ["no-configure", "no-write", "no-read"])
def test_each_right_that_is_missing_is_a_403(broker: Broker, tenant: str) -> None:
    problem = failure(url_of(broker, tenant))
    assert problem.kind == "403"


@pytest.mark.parametrize(
    ("vhost", "option"),
    [("durable", "?amqp_durable_queues=true"), ("quorum", "?rabbit_quorum_queue=true")],
)
def test_queues_as_others_have_them(broker: Broker, vhost: str, option: str) -> None:
    url = url_of(broker, vhost)
    with Ear(url + option) as ear:
        problem = failure(url)
        assert problem.kind == "406"
        assert "PRECONDITION_FAILED" in str(problem)
        succeed(url + option)
        assert len(ear.wait_for(2, timeout=20)) == 2


def test_quorum_queues_that_others_do_not_have_are_a_406(broker: Broker) -> None:
    url = url_of(broker, "transient")
    with Ear(url):
        succeed(url)
        assert failure(url + "?rabbit_quorum_queue=true").kind == "406"


def test_a_host_that_is_down_leaves_the_others(broker: Broker, ear: Ear) -> None:
    succeed(f"rabbit://guest:guest@127.0.0.1:1,guest:guest@127.0.0.1:{broker.port}/")
    assert len(ear.wait_for(2, timeout=20)) == 2


def test_tls_with_the_authority_that_signed(broker: Broker, certificate: Certificate) -> None:
    succeed(f"rabbit://guest:guest@127.0.0.1:{broker.tls_port}/{tls(certificate.ca)}")


def test_tls_with_another_authority_is_refused(broker: Broker, tmp_path: Path) -> None:
    stranger = make_certificate(tmp_path / "stranger")
    problem = failure(f"rabbit://guest:guest@127.0.0.1:{broker.tls_port}/{tls(stranger.ca)}")
    assert problem.kind == "tls"


def test_tls_where_nobody_speaks_it_is_said(broker: Broker, certificate: Certificate) -> None:
    assert failure(broker.url + tls(certificate.ca)).kind == "tls"


def test_nobody_and_somebody_who_reads_are_told_apart(broker: Broker) -> None:
    url = url_of(broker, "unread")
    transport = OsloTransport(url, TOPIC, 5.0)
    transport.send("collectd.alarm.ok", {})
    assert transport.has_listeners() is False
    with Ear(url) as ear:
        assert len(ear.wait_for(1, timeout=20)) == 1
        assert transport.has_listeners() is True
    transport.close()


def test_a_queue_that_somebody_deleted_is_made_again(broker: Broker) -> None:
    url = url_of(broker, "deleted")
    transport = OsloTransport(url, TOPIC, 5.0)
    transport.send("collectd.alarm.ok", {})
    with kombu.Connection(url.replace("rabbit:", "amqp:")) as connection:
        connection.channel().queue_delete(f"{TOPIC}.info")
    for _ in range(3):
        assert transport.has_listeners() is False
    transport.send("collectd.alarm.ok", {})
    with Ear(url) as ear:
        assert len(ear.wait_for(1, timeout=20)) == 1
        assert transport.has_listeners() is True
    transport.close()


def test_a_listener_that_is_refused_hears_as_soon_as_it_is_not(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    url = url_of(broker, "refused")
    with kombu.Connection(url.replace("rabbit:", "amqp:")) as connection:
        channel = connection.channel()
        channel.queue_declare("pool", durable=True, auto_delete=False)
        listener = Listener(url, TOPIC, "pool")
        listener.start()
        until(lambda: "cannot listen (406)" in caplog.text, 20)
        channel.queue_delete("pool")
    transport = OsloTransport(url, TOPIC, 5.0)

    def hears() -> bool:
        transport.send("vmhb.echo", {"vmhb": {}})
        return not listener.heard.empty()

    until(hears, 20)
    transport.close()
    assert caplog.text.count("cannot listen") == 1


def test_a_broker_that_stands_still_costs_no_more_than_the_timeout(broker: Broker) -> None:
    transport = OsloTransport(broker.url, TOPIC, 2.0)
    transport.send("collectd.alarm.ok", {})
    with broker.frozen():
        began = time.monotonic()
        with pytest.raises(NotSentError) as failed:
            transport.send("collectd.alarm.ok", {})
        assert time.monotonic() - began < 15
    assert failed.value.kind == "unconfirmed"


def test_on_a_connection_that_died_without_a_word_nothing_is_lost(
    broker: Broker, ear: Ear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a firewall does that has forgotten it: neither end is told."""
    monkeypatch.setattr(sender_module, "BACKOFF_LAST", 1.0)
    with Relay(broker.port) as relay:
        url = broker.url.replace(str(broker.port), str(relay.port))
        notifier = Notifier(url, tmp_path, send_timeout=2.0)
        notifier.start()

        def heard() -> list[tuple[object, object]]:
            # Tests before this one send without anybody to hear it.
            alarms = [each.payload for each in ear.wait_for(0, 0.0) if each.payload]
            return [(alarm["id"], alarm["severity"]) for alarm in alarms]

        notifier.take(Raised(LOST, "FAILURE", 1.0, "a"))
        until(lambda: heard() == [("a.1", "FAILURE")], 20)
        assert relay.cut() > 0
        notifier.take(Raised(CHECK, "WARNING", 2.0, "b"))
        notifier.take(Cleared(LOST, 3.0, "a"))
        until(lambda: heard()[1:] == [("b.1", "WARNING"), ("a.1", "OK")], 60)
        notifier.stop()


@pytest.mark.long
def test_a_listener_hears_again_after_its_connection_died_without_a_word(broker: Broker) -> None:
    with Relay(broker.port) as relay:
        url = broker.url.replace(str(broker.port), str(relay.port))
        listener = Listener(f"{url}?heartbeat_timeout_threshold=4", TOPIC, "pool-behind-a-wall")
        listener.start()
        transport = OsloTransport(broker.url, TOPIC, 5.0)

        def hears() -> bool:
            transport.send("vmhb.echo", {"vmhb": {}})
            return not listener.heard.empty()

        until(hears, 20)
        assert relay.cut() > 0
        while not listener.heard.empty():
            listener.heard.get()
        until(hears, 60)
        transport.close()
        listener._listener.stop()
        listener._listener.wait()


@pytest.mark.long
def test_a_broker_out_of_memory_takes_and_does_not_confirm(tmp_path: Path) -> None:
    # It blocks who publishes, and goes on with its heartbeats.
    with Broker(tmp_path, "vm_memory_high_watermark.absolute = 1KB\n") as broker:
        began = time.monotonic()
        problem = failure(broker.url, timeout=3.0)
        assert problem.kind == "unconfirmed"
        assert time.monotonic() - began < 20


def test_somebody_who_accepts_and_never_speaks_costs_no_more_than_some_timeouts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        began = time.monotonic()
        problem = failure(f"rabbit://guest:guest@127.0.0.1:{port}/", timeout=1.0)
        assert problem.kind == "unreachable"
        assert time.monotonic() - began < 30
