# SPDX-License-Identifier: Apache-2.0
"""Incidents -> collectd notifications, counters -> collectd values; pure.

The base fields alone name a fault (docs/operations.md, Faults); what machines want beyond that is
in the meta data. Nothing that a guest wrote leaves the host from here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Union

from collectd_vmhb.incidents import Ended, Incident
from collectd_vmhb.verdict import Health
from collectd_vmhb.wording import shown

PLUGIN = "vmhb"
#: ``type_instance`` of the handshake.
OPEN_FAULTS = "open-faults"
#: Incident ids in one part of the handshake: 20 * 39 bytes stay below the 900 bytes of meta
#: string that collectd was seen to carry whole.
IDS_PER_PART = 20
#: Bytes of the meta string that holds the evidence, as many as were seen to be carried whole.
EVIDENCE_MAX = 900
#: collectd's char[256] for a message and char[128] for names, less the terminating NUL.
MESSAGE_MAX = 255
NAME_MAX = 127

#: The value of the gauge ``health``.
HEALTH_NUMBER = {
    Health.UNKNOWN: 0,
    Health.ESTABLISHING: 1,
    Health.HEALTHY: 2,
    Health.SUSPECT: 3,
    Health.UNHEALTHY: 4,
    Health.FAILED: 5,
    Health.PAUSED: 6,
}

Meta = Mapping[str, Union[str, int, float]]


@dataclass(frozen=True)
class Note:
    """One collectd notification; ``severity`` is failure, warning or okay; ``time`` Unix time."""

    plugin_instance: str
    type_instance: str
    severity: str
    message: str
    time: float
    meta: Meta = field(default_factory=dict)


class Sample(NamedTuple):
    """One collectd value of a stock type."""

    plugin_instance: str
    type: str
    type_instance: str
    value: float


def fault_note(incident: Incident, wall: float) -> Note:
    """Says that a fault is open; the same again for the same incident says nothing new."""
    return Note(
        plugin_instance=incident.uuid,
        type_instance=cut(incident.name, NAME_MAX),
        severity=incident.severity.value,
        message=cut(f"{_who(incident)}: {incident.text}", MESSAGE_MAX),
        time=wall,
        meta=_meta(incident, incident.reason),
    )


def ended_note(ended: Ended, wall: float) -> Note:
    """Says that a fault is over, and why."""
    incident = ended.incident
    lasted = max(0.0, wall - incident.since)
    return Note(
        plugin_instance=incident.uuid,
        type_instance=cut(incident.name, NAME_MAX),
        severity="okay",
        message=cut(
            f"{_who(incident)}: {incident.name} is over after {lasted:.0f} s ({ended.reason})",
            MESSAGE_MAX,
        ),
        time=wall,
        meta=_meta(incident, ended.reason),
    )


def handshake_notes(incidents: Sequence[Incident], handshake: str, wall: float) -> list[Note]:
    """Lists every open incident of this host, so that a receiver can close all others."""
    ids = [incident.id for incident in incidents]
    parts = [ids[at : at + IDS_PER_PART] for at in range(0, len(ids), IDS_PER_PART)] or [[]]
    return [
        Note(
            plugin_instance="",
            type_instance=OPEN_FAULTS,
            severity="okay",
            message=f"{len(ids)} faults are open on this host (part {number} of {len(parts)})",
            time=wall,
            meta={
                "handshake": handshake,
                "part": number,
                "parts": len(parts),
                "incidents": json.dumps(part),
            },
        )
        for number, part in enumerate(parts, start=1)
    ]


def vm_samples(
    uuid: str,
    health: Health,
    rtt: float,
    counters: Mapping[str, int],
    maintenance: bool = False,
    figures: Mapping[str, float] | None = None,
) -> list[Sample]:
    """Returns the values of one VM; the names are listed in docs/operations.md."""
    samples = [
        Sample(uuid, "gauge", "health", HEALTH_NUMBER[health]),
        Sample(uuid, "gauge", "maintenance", float(maintenance)),
    ]
    if not math.isnan(rtt):
        samples.append(Sample(uuid, "latency", "heartbeat", rtt))
    samples += [Sample(uuid, "derive", name, count) for name, count in counters.items()]
    return samples + [Sample(uuid, "gauge", name, n) for name, n in (figures or {}).items()]


def engine_samples(
    healths: Iterable[Health],
    lateness: float,
    score: int,
    totals: Mapping[str, int],
    qualified: Mapping[str, int] | None = None,
) -> list[Sample]:
    """Returns the engine's own values: VMs by health, lateness in seconds, totals by name.

    ``qualified`` has numbers of VMs by what is true of them besides.
    """
    counts = dict.fromkeys(Health, 0)
    for health in healths:
        counts[health] += 1
    samples = [Sample("", "gauge", f"vms-{health.value}", n) for health, n in counts.items()]
    samples += [Sample("", "gauge", f"vms-{what}", n) for what, n in (qualified or {}).items()]
    samples.append(Sample("", "latency", "loop", lateness))
    samples.append(Sample("", "gauge", "awareness", score))
    samples += [Sample("", "derive", name, value) for name, value in totals.items()]
    return samples


def cut(text: str, limit: int) -> str:
    """Shortens a text to ``limit`` bytes of UTF-8 on a character boundary: collectd would not."""
    return text.encode("utf-8", "replace")[:limit].decode("utf-8", "ignore")


def _who(incident: Incident) -> str:
    if not incident.uuid:
        return "this host"
    # A tenant chooses this name, line breaks included.
    return f"VM {shown(incident.instance or incident.uuid)}"


def _meta(incident: Incident, reason: str) -> Meta:
    return {
        "incident": incident.id,
        "since": incident.since,
        "reason": reason,
        "instance_name": incident.instance,
        "project": incident.project,
        "evidence": _evidence(incident.details),
    }


def _evidence(details: Mapping[str, str]) -> str:
    """Returns as many details as fit, the longest left out first."""
    kept = dict(details)
    while len(evidence := json.dumps(kept, sort_keys=True)) > EVIDENCE_MAX:
        del kept[max(kept, key=lambda name: len(json.dumps(kept[name])))]
    return evidence
