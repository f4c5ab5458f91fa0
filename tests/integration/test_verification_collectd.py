# SPDX-License-Identifier: Apache-2.0
"""A synthetic fault in the real collectd: it comes, and it always goes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.collectd_node import Node
from vitrage_notifier.engine_socket import EngineError, ask

pytestmark = pytest.mark.timeout(60)

WARNING, OKAY = 2, 4
NAME = "verification"


@pytest.fixture(name="node")
def _node() -> Iterator[Node]:
    with tempfile.TemporaryDirectory(prefix="vmhb-") as directory:
        node = Node(Path(directory))
        yield node
        node.close()


def verify(node: Node, vm: str, seconds: float) -> Any:
    socket = node.directory / "run/control.sock"
    return ask(socket, {"command": "verify", "vm": vm, "seconds": seconds})


def start(node: Node) -> None:
    node.start()
    node.wait(lambda: (node.directory / "run/control.sock").exists(), "no control socket")
    node.wait(lambda: any(r["type_instance"] == "open-faults" for r in node.rows()), "no scan")


def test_it_ends_by_itself_when_nobody_ends_it(node: Node) -> None:
    vm = node.vm("web")
    start(node)
    incident = verify(node, vm.uuid, 1.0)["incident"]
    row = node.wait_row(NAME, WARNING, vm.uuid)
    assert row["meta"]["incident"] == incident
    assert "nothing is wrong" in row["message"]
    assert node.wait_row(NAME, OKAY, vm.uuid)["meta"]["incident"] == incident
    assert [each[0] for each in node.about(vm)] == [NAME, NAME], "it is no miss of the VM"


def test_it_ends_at_once_when_told_whatever_the_hold_down(node: Node) -> None:
    start(node)
    verify(node, "", 600.0)
    node.wait_row(NAME, WARNING)
    assert verify(node, "", 0.0) == {"incident": None}
    node.wait_row(NAME, OKAY)


def test_one_that_a_dying_collectd_left_behind_is_ended_by_the_next(node: Node) -> None:
    start(node)
    incident = verify(node, "", 600.0)["incident"]
    node.wait_row(NAME, WARNING)
    # A slow disk has it after the notification; `controller/test_killed.py` dies before that.
    saved = node.directory / "state/engine.json"
    node.wait(lambda: incident in saved.read_text(), "it is never saved")
    node.kill()
    mark = len(node.rows())
    start(node)
    node.wait_row(NAME, OKAY, since=mark)


def test_what_a_maintenance_withholds_is_said_to_be_withheld(node: Node) -> None:
    vm = node.vm("web")
    start(node)
    socket = node.directory / "run/control.sock"
    pause = {"command": "pause", "vm": "", "seconds": 60, "reason": "a new disk"}
    ask(socket, pause)
    with pytest.raises(EngineError, match="a maintenance withholds every fault"):
        verify(node, vm.uuid, 60.0)
    ask(socket, {"command": "resume", "vm": ""})
    assert node.about(vm) == []
