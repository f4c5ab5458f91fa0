# SPDX-License-Identifier: Apache-2.0
"""`vmhb-vitrage reconcile`: what this node believes, beside what Vitrage shows of it.

A difference need not be an error: an alarm may be on its way, or Vitrage may just have forgotten
all of them, as it does at each of its snapshots. One that lasts longer than two periods is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vitrage_notifier.alarm import PLUGIN, NotOursError, name_of
from vitrage_notifier.vitrage_api import Row

EQUAL, DIFFERENT, CANNOT_TELL = 0, 1, 2


@dataclass(frozen=True, order=True)
class Line:
    """One alarm that is on both sides, or on one."""

    #: UUID of the instance, or name of the host.
    resource: str
    alarm: str
    incident: str
    believed: str
    shown: str

    @property
    def differs(self) -> bool:
        """Whether the two sides say different things."""
        return self.believed != self.shown


def compare(status: Mapping[str, Any], rows: Iterable[Row], host: str) -> list[Line]:
    """Return a line per alarm of this host and its VMs; `status` is the engine's answer."""
    believed = dict(_believed(status, host))
    incidents = {incident for _, _, incident in believed}
    ours = {*_instances(status), host}
    shown = {
        (parts[0], str(row["name"]), parts[2]): str(row["severity"])
        for row in rows
        if len(parts := str(row.get("resource_name")).split("/")) == 3
        and parts[1] == PLUGIN
        and (parts[0] in ours or parts[2] in incidents)
    }
    return sorted(
        Line(*key, believed.get(key, "-"), shown.get(key, "-")) for key in {*believed, *shown}
    )


def table(lines: Iterable[Line]) -> str:
    """Return the lines as a table; what differs is marked."""
    rows = [("", "RESOURCE", "ALARM", "INCIDENT", "THIS NODE", "VITRAGE")]
    rows += [
        (
            "!" if line.differs else "",
            line.resource,
            line.alarm,
            line.incident,
            line.believed,
            line.shown,
        )
        for line in lines
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows
    )


def _believed(status: Mapping[str, Any], host: str) -> Iterator[tuple[tuple[str, str, str], str]]:
    faults = [(host, fault) for fault in status["engine"]["faults"]]
    faults += [(vm["uuid"], fault) for vm in status["vms"] for fault in vm["faults"]]
    for resource, fault in faults:
        if fault["incident"] is None:
            continue  # a maintenance withholds it
        try:
            name = name_of(fault["name"])
        except NotOursError:
            name = fault["name"]
        yield (resource, name, fault["incident"]), fault["severity"].upper()


def _instances(status: Mapping[str, Any]) -> set[str]:
    return {vm["uuid"] for vm in [*status["vms"], *status["unmonitored"]]}
