# SPDX-License-Identifier: Apache-2.0
"""collectd is killed after Vitrage was told of a fault, and before the engine's disk had it."""

from __future__ import annotations

import pytest

from tests.controller.conftest import Compute, Controller, until
from vitrage_notifier.engine_socket import ask

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(180),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

WITHIN = 30.0


def test_an_alarm_of_which_the_next_engine_knows_nothing_is_cleared(
    controller: Controller, compute: Compute
) -> None:
    controller.vitrage.be_ready()
    compute.start()
    saved = compute.state / "engine.json"
    compute.node.wait(
        lambda: any(row["type_instance"] == "open-faults" for row in compute.node.rows()), "no scan"
    )
    before = saved.read_bytes()
    socket = compute.node.directory / "run/control.sock"
    incident = ask(socket, {"command": "verify", "vm": "", "seconds": 600})["incident"]
    controller.lists({"VM heartbeat verification": 1}, WITHIN)
    until(lambda: incident in saved.read_text(), 10, compute.node.log())
    compute.node.kill()
    # What a disk leaves behind that took longer than a notification waits for it.
    saved.write_bytes(before)
    compute.start()
    controller.lists({}, WITHIN)
