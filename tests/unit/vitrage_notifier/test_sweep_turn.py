# SPDX-License-Identifier: Apache-2.0
"""The sweep's turns: it speaks only while it can be sure that it hears."""

from __future__ import annotations

import logging
import queue
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Callable

import pytest

from vitrage_notifier import sweep as sweep_module
from vitrage_notifier.alarm import Alarm, Event, Subject
from vitrage_notifier.hearing import ECHO, Hearing
from vitrage_notifier.leases import Leases
from vitrage_notifier.sender import NotSentError
from vitrage_notifier.sweep import Sweep

TERM, ECHO_INTERVAL = 60.0, 5.0
LOST = Alarm("i", 1, Subject("compute-1", "", "engine-impaired"), "FAILURE", 1000.0)


class Bus:
    """Broker and Vitrage: what is sent comes back to the sweep, unless something is in the way."""

    def __init__(self) -> None:
        self.heard: queue.Queue[tuple[str, object]] = queue.Queue()
        self.sent: list[tuple[str, object]] = []
        self.away = False
        self.deaf = False
        self.read: bool | None = True
        #: Seconds that the broker takes for a message.
        self.pace = 0.0
        self.passes: Callable[[float], None] = lambda seconds: None

    def send(self, event_type: str, payload: Mapping[str, object]) -> None:
        if self.away:
            raise NotSentError("unreachable", "refused")
        if not self.deaf:
            self.heard.put((event_type, payload))
        if event_type != ECHO:
            self.passes(self.pace)
            self.sent.append((event_type, payload["id"]))

    def has_listeners(self) -> bool | None:
        if self.away:
            raise NotSentError("unreachable", "refused")
        return self.read

    def close(self) -> None: ...


class Scene:
    def __init__(self, path: Path) -> None:
        self.now = 100.0
        self.bus = Bus()
        self.leases = Leases(path, self.now, 30.0, 30.0, wall=lambda: 1790000000.0)
        hearing = Hearing(ECHO_INTERVAL, "pool")
        self.sweep = Sweep(
            self.leases, hearing, self.bus.heard, self.bus, grace=0.0, clock=lambda: self.now
        )

    def live(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.now += 1.0
            self.sweep.turn(wait=0.0)

    def passes(self, seconds: float) -> None:
        self.now += seconds

    def hear(self, event: Event) -> None:
        self.bus.heard.put(event)


@pytest.fixture(name="scene")
def _scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path / "sweep.sqlite")
    yield scene
    scene.leases.close()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


def test_an_orphan_is_cleared_when_its_lease_is_over(scene: Scene) -> None:
    scene.hear(LOST.event(True, TERM))
    scene.live(TERM - 5)
    assert scene.bus.sent == []
    scene.live(10)
    assert scene.bus.sent == [("collectd.alarm.ok", "i.1")]


@pytest.mark.parametrize("obstacle", ["away", "deaf", "unread"])
def test_while_something_is_in_the_way_nobody_is_accused_and_time_does_not_count(
    scene: Scene, obstacle: str, caplog: pytest.LogCaptureFixture
) -> None:
    scene.hear(LOST.event(True, TERM))
    scene.live(10)
    scene.bus.away, scene.bus.deaf = obstacle == "away", obstacle == "deaf"
    scene.bus.read = obstacle != "unread"
    scene.live(20 * TERM)
    assert scene.bus.sent == []
    assert len(said(caplog)) == 2, "it begins to hear, and then says once that it does not"
    scene.bus.away = scene.bus.deaf = False
    scene.bus.read = True
    scene.live(TERM - 5)
    assert scene.bus.sent == [], "everybody has a full term"
    scene.live(15)
    assert scene.bus.sent == [("collectd.alarm.ok", "i.1")]


def test_after_it_stood_still_itself_it_first_hears_what_came_meanwhile(scene: Scene) -> None:
    scene.hear(LOST.event(True, TERM))
    scene.live(10)
    scene.now += 3600.0
    scene.live(TERM - 5)
    assert scene.bus.sent == []


def test_an_old_echo_does_not_count_as_hearing_what_is_still_waiting(scene: Scene) -> None:
    scene.hear(LOST.event(True, TERM))
    scene.live(10)
    (echo,) = [each for each in [scene.sweep._hearing.word(scene.now + 60)] if each]
    scene.now += 3600.0
    scene.hear(echo)
    scene.bus.deaf = True
    scene.live(60)
    assert scene.bus.sent == []


def test_another_sweep_in_the_pool_takes_messages_away_hence_nobody_is_accused(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.hear(LOST.event(True, TERM))
    scene.live(10)
    for _ in range(40):
        scene.hear((ECHO, {"vmhb": {"version": 1, "echo": "another", "pool": "pool"}}))
        scene.live(ECHO_INTERVAL)
    assert scene.bus.sent == []
    assert "another sweep listens in the pool pool: end one of them" in said(caplog)[-1]


def test_a_sweep_in_a_pool_of_its_own_disturbs_nobody(scene: Scene) -> None:
    scene.hear(LOST.event(True, TERM))
    for _ in range(20):
        scene.hear((ECHO, {"vmhb": {"version": 1, "echo": "another", "pool": "other"}}))
        scene.live(ECHO_INTERVAL)
    assert set(scene.bus.sent) == {("collectd.alarm.ok", "i.1")}


def test_what_could_not_be_sent_is_sent_later(scene: Scene) -> None:
    scene.hear(LOST.event(True, TERM))
    scene.live(10)
    scene.now += TERM - 15
    scene.live(2)
    scene.bus.away = True
    scene.live(3)
    scene.bus.away = False
    scene.live(2 * TERM)
    assert ("collectd.alarm.ok", "i.1") in scene.bus.sent


@pytest.mark.parametrize(("pace", "most"), [(0.0, 10), (0.5, 4)])
def test_thousands_of_orphans_do_not_keep_it_from_listening(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, pace: float, most: int
) -> None:
    monkeypatch.setattr(sweep_module, "MOST_SENT", 10)
    scene.live(2)
    for number in range(25):
        scene.hear(Alarm(f"i{number}", 1, LOST.subject, "FAILURE", 1.0).event(True, TERM))
    scene.live(TERM)
    assert scene.bus.sent == []
    scene.bus.pace = pace
    monkeypatch.setattr(scene.bus, "passes", scene.passes)
    scene.live(1)
    assert len(scene.bus.sent) == most
    scene.live(7)
    assert len(set(scene.bus.sent)) == 25, "what is left goes out in the next turns"
