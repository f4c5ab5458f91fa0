# SPDX-License-Identifier: Apache-2.0
"""The walk to Vitrage step by step, with stand-ins at both ends; tests/controller has the real."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from vitrage_notifier import verify
from vitrage_notifier.engine_socket import EngineError
from vitrage_notifier.sender import NotSentError
from vitrage_notifier.verify import HANDOVER, BrokenLinkError, Verification, Way
from vitrage_notifier.vitrage_api import NotAvailableError, Vitrage, VitrageError

HOST_ROW = {
    "resource_name": "compute-1/vmhb/i",
    "vitrage_resource_type": "nova.host",
}


class Place:
    """Engine, notifier, broker and Vitrage, each as it is told to be."""

    def __init__(self, directory: Path) -> None:
        self.now = 0.0
        self.said: list[str] = []
        self.open = False
        self.outbox = directory / "outbox.sqlite"
        self.notifies = self.reads = self.persists = self.maps = True
        self.hosts = ["compute-1"]
        self.problem: Exception | None = None
        self.engine_gone = False
        self.in_memory_only = False
        self.graph_problem: VitrageError | None = None
        #: How often it lists the alarm before a snapshot takes it away.
        self.listings = math.inf
        with sqlite3.connect(self.outbox) as db:
            db.execute("CREATE TABLE alarm (incident TEXT)")
        db.close()

    # the engine

    def ask(self, path: Path, request: Mapping[str, Any]) -> Any:
        if self.engine_gone:
            raise EngineError("no engine answers")
        self.open = request["seconds"] > 0
        if self.open and self.notifies and not self.in_memory_only:
            with sqlite3.connect(self.outbox) as db:
                db.execute("INSERT INTO alarm VALUES ('i')")
            db.close()
        return {"incident": "i" if self.open else None}

    # the broker

    def send(self, event_type: str, payload: Mapping[str, object]) -> None:
        if isinstance(self.problem, NotSentError):
            raise self.problem

    def has_listeners(self) -> bool | None:
        return self.reads

    def close(self) -> None: ...

    # Vitrage

    def alarms(self) -> list[dict[str, Any]]:
        if isinstance(self.problem, VitrageError):
            raise self.problem
        if not self._arrives() or not self.persists or self.listings <= 0:
            return []
        self.listings -= 1
        return [HOST_ROW]

    def _arrives(self) -> bool:
        return self.open and self.notifies and self.maps

    def graph(self) -> list[dict[str, Any]]:
        if self.graph_problem is not None:
            raise self.graph_problem
        hosts = [{"id": host, "vitrage_is_placeholder": False} for host in self.hosts]
        alarms = [{**HOST_ROW, "vitrage_is_placeholder": False}] if self._arrives() else []
        return hosts + alarms

    def run(self) -> None:
        way = Way(
            Path("/control.sock"), self.outbox, self, lambda: cast(Vitrage, self), "", timeout=20.0
        )
        Verification(way, self.said.append, lambda: self.now, self.sleep).run()

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(name="place")
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    place = Place(tmp_path)
    monkeypatch.setattr(verify, "ask", place.ask)
    return place


def test_each_step_is_said_with_its_seconds(place: Place) -> None:
    place.run()
    assert [line[:24].rstrip() for line in place.said] == [
        "broker takes messages",
        "Vitrage's API answers",
        "raised by the engine",
        "taken by the notifier",
        "shown by Vitrage",
        "cleared in Vitrage",
    ]


def breaks(attribute: str, value: object) -> Callable[[Place], None]:
    return lambda place: setattr(place, attribute, value)


@pytest.mark.parametrize(
    ("break_", "link"),
    [
        (breaks("problem", NotSentError("403", "ACCESS_REFUSED")), "broker"),
        (breaks("reads", False), "topic"),
        (breaks("problem", VitrageError("refused")), "API"),
        (breaks("problem", NotAvailableError("503")), "vitrage-graph"),
        (breaks("engine_gone", True), "engine"),
        (breaks("notifies", False), "notifier"),
        (breaks("maps", False), "datasource"),
        (breaks("persists", False), "persistor"),
        (breaks("graph_problem", NotAvailableError("503")), "vitrage-graph"),
        (breaks("hosts", ["compute-1.example.org"]), "resource"),
    ],
)
def test_the_broken_link_is_named_and_no_alarm_is_left_behind(
    place: Place, break_: Callable[[Place], None], link: str
) -> None:
    break_(place)
    with pytest.raises(BrokenLinkError) as caught:
        place.run()
    assert caught.value.link == link
    assert not place.open
    assert place.now < HANDOVER + 25.0


def test_an_alarm_that_is_listed_for_a_moment_is_looked_at_all_the_same(place: Place) -> None:
    place.listings, place.hosts = 1, []
    with pytest.raises(BrokenLinkError, match="does not know compute-1"):
        place.run()


def test_a_notifier_that_keeps_alarms_in_memory_only_breaks_no_link(place: Place) -> None:
    place.in_memory_only = True
    place.run()
    assert "has no such alarm; Vitrage may have it" in "".join(place.said)
    assert place.said[-1].startswith("cleared in Vitrage")


def test_what_vitrage_does_not_have_is_not_said_to_be_its_fault_alone(place: Place) -> None:
    place.maps = False
    with pytest.raises(BrokenLinkError, match=r"queued and oldest rise, it was not sent.* URL"):
        place.run()


def test_an_interruption_ends_the_alarm(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    place.maps = False
    monkeypatch.setattr(place, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        place.run()
    assert not place.open
