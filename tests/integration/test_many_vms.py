# SPDX-License-Identifier: Apache-2.0
"""200 VMs in the real collectd: the engine is starved, then half of them fall silent at once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from collectd_vmhb.control import ControlError, ask
from tests.integration.collectd_node import REPOSITORY, Node

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]

VMS, STARVED = 200, 10.0
SPECS = {"vmhb:enabled": "true", "vmhb:interval": "1", "vmhb:miss_threshold": "3"}
FAILURE = 1


@pytest.fixture(name="guests")
def _guests() -> Iterator[tuple[Node, subprocess.Popen[str]]]:
    """A node with so many VMs, all of them healthy, and who sits inside all of them."""
    directory = Path(tempfile.mkdtemp(prefix="vmhb-"))
    node = Node(directory)
    # Its number 0 is nobody's.
    command = [sys.executable, "-m", "bench.guests", str(directory), str(VMS + 1)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=REPOSITORY, **pipes) as inside:  # type: ignore[call-overload]
        try:
            assert inside.stdout.readline() == "ready\n"
            for number in range(1, VMS + 1):
                node.vm(f"vm-{number}", mode=None, specs=SPECS)
            node.start(settings="GracePeriod 1\nGraceAfterResume 1\nHoldDown 0\nAttachRate 1000")
            node.wait(lambda: healthy(node) == VMS, "not all are healthy", 40.0)
            yield node, inside
        finally:
            node.close()
            inside.stdin.close()
    shutil.rmtree(directory)


def healthy(node: Node) -> int:
    try:
        status = ask(str(node.directory / "run/control.sock"), {"command": "status"})
    except ControlError:
        return 0
    return Counter(row["health"] for row in status["vms"])["healthy"]


def told(node: Node) -> list[tuple[str, str]]:
    """(instance, fault) of each bad notification."""
    return [
        (row["plugin_instance"], row["type_instance"])
        for row in node.rows()
        if row["severity"] == FAILURE
    ]


def test_a_starved_engine_blames_nobody_and_then_misses_nobody(
    guests: tuple[Node, subprocess.Popen[str]],
) -> None:
    node, inside = guests
    os.kill(node.pid, signal.SIGSTOP)
    time.sleep(STARVED)
    os.kill(node.pid, signal.SIGCONT)
    time.sleep(8.0)
    assert told(node) == []
    node.wait(lambda: healthy(node) == VMS, "not all are healthy again", 40.0)

    assert inside.stdin is not None
    inside.stdin.write(json.dumps({"do": "hang", "count": VMS // 2 + 1}) + "\n")
    inside.stdin.flush()
    node.wait(lambda: len(told(node)) > VMS // 2, "not all losses are told", 40.0)
    hung = {vm.uuid for vm in node.vms.values() if vm.number <= VMS // 2}
    assert told(node)[0] == ("", "engine-impaired"), "the host comes first"
    assert sorted(told(node)[1:]) == sorted((uuid, "heartbeat-lost") for uuid in hung)
