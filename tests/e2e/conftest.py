# SPDX-License-Identifier: Apache-2.0
"""One lab for all end-to-end tests: bringing it up takes longer than most of them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from tests.lab.collectd_daemon import Row
from tests.lab.guest import Guest
from tests.lab.lab import Lab
from tests.lab.layout import LAB
from tests.lab.product import stanza

INTERVAL, TIMEOUT, MISSES = 0.5, 0.45, 4
SPECS = {
    "vmhb:enabled": "true",
    "vmhb:interval": str(INTERVAL),
    "vmhb:miss_threshold": str(MISSES),
    "vmhb:recovery_threshold": "2",
}
OKAY = 4


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tries the lab before the product runs on its node, whatever the files are called."""
    items.sort(key=lambda item: item.path.name != "test_lab.py")


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """A broker, Vitrage and a compute node, in use by this run alone.

    Runs at the same time tell theirs apart by VMHB_LANE in the environment.
    """
    with Lab(LAB / f"e2e{os.environ.get('VMHB_LANE', '')}") as lab:
        yield lab


class Cloud:
    """The lab with the product on it, and what an operator sees of it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.collectd = lab.node.collectd
        self.stanza = stanza(lab, HoldDown=0.0, GraceAfterResume=3.0, ReconcileInterval=2.0)

    def mark(self) -> int:
        """A point in the record of notifications to wait from."""
        return len(self.collectd.notifications())

    def faults(self, since: int) -> list[tuple[str, str, bool]]:
        """(instance, fault, whether it is bad) of each notification of ours since a mark."""
        return [
            (row["plugin_instance"], row["type_instance"], row["severity"] != OKAY)
            for row in self.collectd.notifications()[since:]
            if row["plugin"] == "vmhb" and row["type_instance"] != "open-faults"
        ]

    def notified(self, guest: Guest, fault: str, bad: bool, since: int, within: float = 30) -> Row:
        """Waits for a notification about a guest."""

        def wanted(row: Row) -> bool:
            mine = (row["plugin_instance"], row["type_instance"]) == (guest.uuid, fault)
            return mine and (row["severity"] != OKAY) is bad

        return self.collectd.wait_for(wanted, within, since)

    def handshake(self, since: int) -> Row:
        """Waits until an engine has listed its open faults."""
        return self.collectd.wait_for(lambda row: row["type_instance"] == "open-faults", 30, since)

    def value(self, guest: Guest, name: str) -> float | None:
        """The newest value of a guest, or None if there is none."""
        listed = f"{self.lab.node.hostname}/vmhb-{guest.uuid}/{name}"
        if not any(line.endswith(" " + listed) for line in self.collectd.ask("LISTVAL")):
            return None
        return float(self.collectd.ask(f'GETVAL "{listed}"')[0].partition("=")[2])

    def healthy(self, guest: Guest, within: float = 90) -> None:
        """Waits until a guest is healthy and its beats go on (collectd shows their rate)."""
        deadline = time.monotonic() + within
        while not (
            self.value(guest, "gauge-health") == 2.0
            and (self.value(guest, "derive-beats") or 0.0) > 0.0
        ):
            assert time.monotonic() < deadline, f"{guest.display_name} is not healthy"
            time.sleep(0.1)

    def alarms(self) -> list[tuple[str, str]]:
        """(name, instance UUID) of every alarm that Vitrage lists."""
        return sorted(
            (row["name"], self.lab.vitrage.resource(row["vitrage_resource_id"])["Data Source ID"])
            for row in self.lab.vitrage.alarms_now()
        )

    def alarm(self, name: str, within: float = 30) -> None:
        """Waits until Vitrage lists exactly one alarm, of this name."""
        self.lab.vitrage.wait_for(lambda rows: [row["name"] for row in rows] == [name], within)

    def no_alarm(self, within: float = 30) -> None:
        """Waits until Vitrage lists no alarm."""
        self.lab.vitrage.wait_for(lambda rows: not rows, within)

    def vitrage_answers(self, within: float = 60) -> None:
        """Waits until Vitrage has found its broker again: until then its API gives errors."""
        self.lab.vitrage.alarms_now(within)


@pytest.fixture(scope="session")
def cloud(lab: Lab) -> Iterator[Cloud]:
    """The product runs on the lab's node."""
    cloud = Cloud(lab)
    lab.node.collectd.start(cloud.stanza)
    yield cloud
    lab.node.collectd.stop()


@pytest.fixture(scope="session")
def web(cloud: Cloud) -> Guest:
    """A guest with the Python agent and a health check, established."""
    guest = cloud.lab.boot("web", image="python", extra_specs=SPECS)
    cloud.healthy(guest)
    return guest


@pytest.fixture(scope="session")
def db(cloud: Cloud) -> Guest:
    """A guest with the sh client, established."""
    guest = cloud.lab.boot("db", image="sh", extra_specs=SPECS)
    cloud.healthy(guest)
    return guest
