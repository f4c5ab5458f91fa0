# SPDX-License-Identifier: Apache-2.0
"""What Vitrage's snapshots and restarts take away, and what our driver keeps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Callable

import pytest

from tests.controller.conftest import Controller, lost, until, uuid

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

#: Seconds between snapshots; the least that Vitrage allows.
SNAPSHOTS = 10
OURS = "[collectd]\ndriver = vitrage_notifier.driver.CollectdDriver\n"
MISTRAL = "[DEFAULT]\nnotifiers = mistral\n[mistral]\nnotifier = tests.lab.mistral.Notifier\n"


@pytest.fixture(name="vitrage_with")
def _vitrage_with(controller: Controller) -> Iterator[Callable[[str], Controller]]:
    def start(conf: str) -> Controller:
        controller.vitrage.conf = conf + MISTRAL
        controller.vitrage.snapshots_interval = SNAPSHOTS
        controller.vitrage.start()
        controller.vitrage.start_services("notifier")
        announce(controller)
        done = controller.command("templates", "install", "vmhb_workflow", "--workflow", "heal")
        assert done.returncode == 0, done.stderr
        return controller

    yield start
    controller.vitrage.conf = ""
    controller.vitrage.snapshots_interval = 86400
    controller.vitrage.stop()


def announce(controller: Controller) -> None:
    # Without Nova's API Vitrage takes a VM for gone when nobody speaks of it for two snapshots.
    controller.vitrage.announce_instance(uuid(1), "vm-1", "compute-1", "p-1")


def live_through(controller: Controller, count: int, meanwhile: Callable[[], None]) -> None:
    """Let Vitrage take so many snapshots."""
    wanted = controller.vitrage.snapshots() + count
    deadline = time.monotonic() + 4 * count * SNAPSHOTS
    while controller.vitrage.snapshots() < wanted:
        assert time.monotonic() < deadline, "Vitrage takes no snapshots"
        announce(controller)
        meanwhile()
        time.sleep(1)


def lists_one(controller: Controller) -> None:
    assert [row["name"] for row in controller.vitrage.alarms_now()] == ["VM heartbeat lost"]


def test_the_stock_driver_starts_a_workflow_again_for_the_same_incident(
    vitrage_with: Callable[[str], Controller],
) -> None:
    """Why a workflow has to look at the incident, and why there is a driver of ours."""
    controller = vitrage_with("")
    alarm = lost(1, "one")
    controller.raises(alarm)
    until(controller.executions, 30, "no workflow is started")
    # Not meanwhile: a snapshot spares what comes in its own second.
    live_through(controller, 1, lambda: None)
    controller.raises(alarm)
    started = {"workflow": "heal", "input": {"vm": uuid(1), "fault": f"{uuid(1)}/vmhb/one"}}
    until(lambda: len(controller.executions()) > 1, 30, "the workflow is started once")
    assert all(each == started for each in controller.executions())
    controller.clears(alarm)
    controller.lists({})
    controller.raises(alarm)
    controller.lists({"VM heartbeat lost": 1})
    live_through(controller, 1, lambda: None)
    controller.lists({}, within=5)


def test_our_driver_keeps_an_alarm_over_snapshots_and_a_restart_and_starts_its_workflow_once(
    vitrage_with: Callable[[str], Controller],
) -> None:
    controller = vitrage_with(OURS)
    alarm = lost(1, "one")
    controller.raises(alarm)
    controller.lists({"VM heartbeat lost": 1})
    (row,) = controller.vitrage.alarms_now()
    live_through(controller, 3, lambda: lists_one(controller))
    controller.vitrage.stop_services("graph")
    controller.vitrage.start_services("graph")
    live_through(controller, 1, lambda: None)
    (after,) = controller.vitrage.alarms_now()
    assert after["vitrage_id"] == row["vitrage_id"]
    controller.raises(alarm)
    time.sleep(2)
    assert controller.executions() == [
        {"workflow": "heal", "input": {"vm": uuid(1), "fault": f"{uuid(1)}/vmhb/one"}}
    ]
    controller.clears(alarm)
    controller.lists({})
