# SPDX-License-Identifier: Apache-2.0
"""The sender: nothing is lost, what an operator must know is said once, and it ends at once."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import pytest

from vitrage_notifier import sender as sender_module
from vitrage_notifier.alarm import Cleared, OpenFaults, Raised, Subject
from vitrage_notifier.outbox import SETTLE, Outbox
from vitrage_notifier.sender import (
    ADVICE,
    BACKOFF_LAST,
    BACKOFF_LEAST_PART,
    IDLE,
    REMINDER,
    Log,
    NotSentError,
    Sender,
    Transport,
)

LOST = Subject("compute-1", "6ba7b810-9dad-41d1-80b4-00c04fd430c8", "heartbeat-lost")


class FakeTransport:
    """A broker that can be away, and can hang."""

    def __init__(self) -> None:
        self.away = ""
        self.kind = "unreachable"
        self.listeners: bool | None = True
        self.got: list[tuple[str, object]] = []
        self.arrived = threading.Event()
        self.closed = threading.Event()
        self.hang: threading.Event | None = None

    def send(self, event_type: str, payload: Mapping[str, object]) -> None:
        if self.hang is not None:
            self.arrived.set()
            self.hang.wait()
        if self.away:
            raise NotSentError(self.kind, self.away)
        self.got.append((event_type, payload.get("id")))
        self.arrived.set()

    def has_listeners(self) -> bool | None:
        return self.listeners

    def close(self) -> None:
        self.closed.set()


class FakeLog:
    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned = threading.Event()

    def warning(self, text: str) -> None:
        self.said.append(text)
        self.warned.set()

    def notice(self, text: str) -> None:
        self.said.append(text)


class Scene:
    """A sender with everything around it; time stands still unless told."""

    def __init__(self, resend_interval: float = 60.0) -> None:
        self.now = 1000.0
        self.saved = 0
        self.outbox = Outbox(resend_interval, 150.0, lambda: self.now)
        self.transport = FakeTransport()
        self.log = FakeLog()
        transport: Transport = self.transport
        log: Log = self.log
        self.sender = Sender(
            self.outbox, transport, log, resend_interval, self.save, lambda: self.now
        )

    def save(self) -> None:
        self.saved += 1


@pytest.fixture(name="scene")
def _scene() -> Scene:
    return Scene()


def test_an_ok_goes_out_when_its_alarm_has_settled(scene: Scene) -> None:
    scene.outbox.take(Raised(LOST, "WARNING", 1.0, "i"))
    scene.sender.step()
    scene.outbox.take(Cleared(LOST, 2.0, "i"))
    assert scene.sender.step() == SETTLE
    scene.now += SETTLE
    assert scene.sender.step() == 0.0
    assert scene.transport.got[-1] == ("collectd.alarm.ok", "i.1")


def test_what_is_due_goes_out_one_by_one_then_it_rests(scene: Scene) -> None:
    scene.outbox.take(Raised(LOST, "WARNING", 1.0, "i"))
    assert scene.sender.step() == 0.0
    assert scene.sender.step() == IDLE
    scene.now += SETTLE
    scene.outbox.take(Raised(LOST, "FAILURE", 2.0, "i"))
    while not scene.sender.step():
        pass
    assert scene.transport.got == [
        ("collectd.alarm.warning", "i.1"),
        ("collectd.alarm.ok", "i.1"),
        ("collectd.alarm.failure", "i.2"),
    ]
    assert scene.log.said == []


def test_a_broker_that_is_away_is_said_once_and_so_is_its_return(scene: Scene) -> None:
    scene.outbox.take(Raised(LOST, "FAILURE", 1.0, "i"))
    scene.transport.away = "refused"
    for _ in range(5):
        scene.sender.step()
    scene.transport.away = ""
    scene.sender.step()
    scene.sender.step()
    assert scene.transport.got == [("collectd.alarm.failure", "i.1")]
    away, back = scene.log.said
    assert "(unreachable): refused; check the hosts" in away
    assert "the broker is back" in back
    assert scene.sender.counters.retried == 5
    assert scene.sender.counters.sent == 1
    assert scene.sender.counters.failed["unreachable"] == 5


@pytest.mark.parametrize("kind", sorted(ADVICE))
def test_each_kind_of_failure_is_counted_and_said_once_with_advice(scene: Scene, kind: str) -> None:
    scene.outbox.take(Raised(LOST, "FAILURE", 1.0, "i"))
    scene.transport.away, scene.transport.kind = "no", kind
    scene.sender.step()
    scene.sender.step()
    assert scene.sender.counters.failed == {**dict.fromkeys(ADVICE, 0), kind: 2}
    (line,) = scene.log.said
    assert line.endswith(ADVICE[kind])


def test_another_kind_of_failure_is_news(scene: Scene) -> None:
    scene.outbox.take(Raised(LOST, "FAILURE", 1.0, "i"))
    scene.transport.away = "no"
    scene.sender.step()
    scene.transport.kind = "403"
    scene.sender.step()
    assert len(scene.log.said) == 2


def test_what_is_sent_is_on_disk_before(scene: Scene) -> None:
    scene.outbox.take(Raised(LOST, "FAILURE", 1.0, "i"))
    scene.transport.away = "no"
    scene.sender.step()
    assert scene.saved == 1


def test_what_nobody_reads_is_not_repeated_until_somebody_does(scene: Scene) -> None:
    scene.transport.listeners = False
    scene.outbox.take(Raised(LOST, "FAILURE", 1.0, "i"))
    assert scene.sender.step() == 0.0  # Vitrage may find it in the queue when it is back
    scene.now += 60.0
    assert [scene.sender.step() for _ in range(3)] == [IDLE] * 3
    assert len(scene.transport.got) == 1
    scene.transport.listeners = True
    scene.sender.step()
    assert len(scene.transport.got) == 2
    gone, back = scene.log.said
    assert "is vitrage-graph running" in gone
    assert "read again" in back
    assert scene.sender.counters.unread == 3


def test_a_broker_that_does_not_tell_its_listeners_is_served_all_the_same(scene: Scene) -> None:
    scene.transport.listeners = None
    scene.outbox.take(Raised(LOST, "FAILURE", 1.0, "i"))
    scene.sender.step()
    scene.now += 60.0
    scene.sender.step()
    assert len(scene.transport.got) == 2


def test_attempts_become_rarer_up_to_a_limit_and_start_anew_after_success(scene: Scene) -> None:
    scene.outbox.take(Raised(LOST, "FAILURE", 1.0, "i"))
    scene.transport.away = "refused"
    for most in (1, 2, 4, 8, 16, 32, 60, 60, BACKOFF_LAST):
        assert BACKOFF_LEAST_PART * most <= scene.sender.step() <= most
    scene.transport.away = ""
    scene.sender.step()
    scene.now += SETTLE
    scene.transport.away = "refused"
    scene.outbox.take(Cleared(LOST, 2.0, "i"))
    assert scene.sender.step() <= 1


def test_a_long_outage_is_said_again_with_the_reason_of_the_moment(scene: Scene) -> None:
    scene.outbox.take(Raised(LOST, "FAILURE", 1.0, "i"))
    scene.transport.away = "refused"
    waited = 0.0
    while waited < REMINDER:
        waited += scene.sender.step()
    scene.transport.away = "no route"
    scene.sender.step()
    scene.sender.step()
    assert len(scene.log.said) == 2
    assert "no route" in scene.log.said[1]


def test_open_alarms_are_sent_again(scene: Scene) -> None:
    scene.outbox.take(Raised(LOST, "FAILURE", 1.0, "i"))
    scene.sender.step()
    scene.now += 60.0
    scene.sender.step()
    assert scene.transport.got == [("collectd.alarm.failure", "i.1")] * 2


def test_a_host_whose_engine_has_listed_its_faults_gives_signs_of_life(scene: Scene) -> None:
    assert scene.sender.step() == IDLE
    assert scene.transport.got == []
    scene.outbox.take(OpenFaults("compute-1", 1.0, "h", 1, 1, frozenset()))
    for _ in range(3):
        scene.sender.step()
    assert scene.transport.got == [("vmhb.alive", None)]
    scene.now += 60.0
    scene.sender.step()
    assert scene.transport.got == [("vmhb.alive", None)] * 2


def test_the_thread_sends_at_once_when_woken_and_ends_when_told(scene: Scene) -> None:
    scene.sender.start()
    scene.outbox.take(Raised(LOST, "FAILURE", 1.0, "i"))
    scene.sender.wake()
    assert scene.transport.arrived.wait(5)
    assert scene.sender.stop(5)
    assert scene.transport.closed.is_set()


def test_it_ends_at_once_while_the_broker_is_away(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender_module, "BACKOFF_FIRST", 1000.0)
    monkeypatch.setattr(sender_module, "BACKOFF_LAST", 1000.0)
    scene.outbox.take(Raised(LOST, "FAILURE", 1.0, "i"))
    scene.transport.away = "refused"
    scene.sender.start()
    assert scene.sender.stop(5)


def test_a_broker_that_hangs_does_not_hold_the_shutdown_for_ever(scene: Scene) -> None:
    scene.transport.hang = threading.Event()
    scene.outbox.take(Raised(LOST, "FAILURE", 1.0, "i"))
    scene.sender.start()
    assert scene.transport.arrived.wait(5)
    assert not scene.sender.stop(0.01)
    scene.transport.hang.set()
    assert scene.sender.stop(5)


def test_whatever_goes_wrong_is_said_and_ends_no_thread(scene: Scene) -> None:
    def break_down() -> None:
        raise RuntimeError("who would have thought")

    scene.sender._before_sending = break_down
    scene.outbox.take(Raised(LOST, "FAILURE", 1.0, "i"))
    scene.sender.start()
    assert scene.log.warned.wait(5)
    assert "who would have thought" in scene.log.said[0]
    assert not scene.transport.closed.is_set()
    assert scene.sender.stop(5)


def test_a_broker_that_is_back_is_found_within_a_period() -> None:
    scene = Scene(resend_interval=3.0)
    scene.outbox.take(Raised(LOST, "FAILURE", 1.0, "i"))
    scene.transport.away = "refused"
    assert max(scene.sender.step() for _ in range(20)) <= 3.0
