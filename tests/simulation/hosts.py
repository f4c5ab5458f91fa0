# SPDX-License-Identifier: Apache-2.0
"""Hosts whose VMs all answer, to begin a story with."""

from __future__ import annotations

from collectd_vmhb.settings import Settings
from tests.simulation.cloud import Cloud
from tests.simulation.node import Node
from tests.simulation.vm import Vm

HOST = Settings(hold_down=0.0)
SPECS = {"vmhb:enabled": "true", "vmhb:miss_threshold": "5"}
#: Counted from a hang, and after the end of a grace period.
LATEST = 5 * 1.0 + 0.9 + 0.1
LATEST_AFTER_GRACE = LATEST + 1.6
#: With the two rounds for which a mass is held back.
LATEST_OF_MANY = LATEST + 2 * 1.0


def host_of(cloud: Cloud, count: int, interval: str = "1", name: str = "vm") -> Node:
    """Returns a host whose VMs all answer."""
    node = Node(cloud, HOST)
    node.start()
    cloud.run(1.0)
    for number in range(count):
        Vm(node, f"{name}-{number}", {**SPECS, "vmhb:interval": interval}).start(2.0)
    cloud.run(10.0)
    assert {node.health(uuid) for uuid in node.vms} <= {"healthy"}
    return node


def told(node: Node) -> list[tuple[str, str]]:
    """Returns whose fault was told, and which, in the order in which it was."""
    return [(uuid, fault) for _, uuid, fault, _ in node.alarms.raised]


def ends(node: Node) -> list[str]:
    """Returns why each of the faults has ended."""
    return [reason for _, _, _, reason in node.alarms.ended]
