# SPDX-License-Identifier: Apache-2.0
"""collectd notifications of plugin ``vmhb`` in, Vitrage's events out; pure.

What the notifier knows of the engine is written here, and nowhere else: the notification's
fields and meta keys. What it knows of Vitrage's collectd datasource is `Alarm.event`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, Union

#: The ``plugin`` of the notifications that are ours; everybody else's are ignored.
PLUGIN = "vmhb"

FAILURE, WARNING, OKAY = 1, 2, 4
_SEVERITIES = {FAILURE: "FAILURE", WARNING: "WARNING"}

#: ``type_instance`` -> name of the alarm. Vitrage's templates match on the names: they are stable.
_NAMES = {
    "heartbeat-lost": "VM heartbeat lost",
    "not-established": "VM heartbeat not established",
    "cannot-monitor": "VM heartbeat impossible",
    "bad-policy": "VM heartbeat policy invalid",
    "guest-misbehaves": "VM heartbeat agent misbehaves",
    "engine-impaired": "VM heartbeat engine impaired",
    "engine-silent": "VM heartbeat engine silent",
    "verification": "VM heartbeat verification",
}
_CHECK = re.compile(r"check\.([A-Za-z0-9_.-]{1,48})")
_HANDSHAKE = "open-faults"

#: Event type of what is sent for a host and is no alarm.
SIGN_OF_LIFE = "vmhb.alive"
#: A lease in periods of re-sending: it ends when two renewals in a row are missing.
LEASE_PERIODS = 2.0

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_INCIDENT = re.compile(r"[A-Za-z0-9-]{1,64}")

#: More parts than any host needs; a bound on what one broken notification can make us remember.
_MAX_PARTS = 1000


class Notification(Protocol):
    """What collectd hands to a notification callback."""

    host: str
    plugin: str
    plugin_instance: str
    type_instance: str
    severity: int
    time: float

    @property
    def meta(self) -> Mapping[str, str | int | float | bool]:
        """What is there for machines."""


class NotOursError(Exception):
    """A notification of plugin vmhb that makes no sense; the text says why."""


@dataclass(frozen=True)
class Subject:
    """What a fault is about; at most one incident is open per subject."""

    host: str
    #: UUID of the instance; empty: the host itself is at fault.
    instance: str
    fault: str


@dataclass(frozen=True)
class Raised:
    """The fault is there, or is there still, or changed its severity."""

    subject: Subject
    severity: str
    #: Seconds since the epoch.
    time: float
    #: None: a carrier dropped the meta data.
    incident: str | None


@dataclass(frozen=True)
class Cleared:
    """The fault is gone."""

    subject: Subject
    time: float
    incident: str | None


@dataclass(frozen=True)
class OpenFaults:
    """One part of the list of all incidents that an engine holds open."""

    host: str
    time: float
    handshake: str
    part: int
    parts: int
    incidents: frozenset[str]


News = Union[Raised, Cleared, OpenFaults]

#: Event type and payload, as oslo.messaging's notifications have them.
Event = tuple[str, dict[str, object]]


@dataclass(frozen=True)
class Alarm:
    """One alarm as Vitrage has it: one generation of an incident."""

    incident: str
    #: Rises with each change of severity: Vitrage shows for ever what it saw first under an id.
    generation: int
    subject: Subject
    severity: str
    #: Seconds since the epoch at which the alarm was raised, or was cleared.
    time: float

    @property
    def id(self) -> str:
        """Name the alarm towards Vitrage; never used again once cleared."""
        return f"{self.incident}.{self.generation}"

    def event(self, wanted: bool, lease: float) -> Event:
        """Return what raises the alarm for `lease` seconds, or clears it when not wanted."""
        severity = self.severity if wanted else "OK"
        subject = self.subject
        resource = subject.instance or subject.host
        kind = "nova.instance" if subject.instance else "nova.host"
        payload: dict[str, object] = {
            "host": resource,
            "plugin": PLUGIN,
            # Vitrage makes it the end of the alarm's resource_name, which templates can read.
            "plugin_instance": self.incident,
            "collectd_type": "gauge",
            "type_instance": subject.fault,
            "message": name_of(subject.fault),
            "severity": severity,
            "time": self.time,
            "id": self.id,
            # Vitrage fills this key in by looking for the resource's name, which is not unique
            # and changes; with an entry of empty type in collectd_conf.yaml it keeps ours.
            "graph_query_result": [{"id": resource, "vitrage_type": kind}],
            # Not for Vitrage, which passes over it, but for `vmhb-vitrage sweep`.
            "vmhb": {
                "version": 1,
                "host": subject.host,
                "incident": self.incident,
                "generation": self.generation,
                "lease": lease if wanted else 0.0,
            },
        }
        return f"collectd.alarm.{severity.lower()}", payload


def sign_of_life(host: str, period: float, open_alarms: int, now: float) -> Event:
    """Return the event that says that the engine of `host` lives, sent each `period` seconds.

    No datasource of Vitrage asks for events of this type: Vitrage passes over it.
    """
    vmhb = {"version": 1, "host": host, "period": period, "open": open_alarms}
    return SIGN_OF_LIFE, {"time": now, "vmhb": vmhb}


def name_of(fault: str) -> str:
    """Return the alarm's name for a ``type_instance``; NotOursError when there is no such fault."""
    check = _CHECK.fullmatch(fault)
    if check:
        return f"VM health check failed: {check.group(1)}"
    try:
        return _NAMES[fault]
    except KeyError:
        raise NotOursError(f"type_instance {fault!r} is no fault that is known here") from None


def read(notification: Notification) -> News:
    """Return what a notification of plugin vmhb says; NotOursError when it makes no sense."""
    host = _text("host", notification.host)
    if not host:
        raise NotOursError("host is empty")
    fault = _text("type_instance", notification.type_instance)
    if fault == _HANDSHAKE:
        return _read_handshake(host, notification)
    name_of(fault)
    instance = _text("plugin_instance", notification.plugin_instance)
    if instance and not _UUID.fullmatch(instance):
        raise NotOursError(f"plugin_instance {instance!r} is no instance UUID")
    subject = Subject(host, instance, fault)
    incident = _read_incident(notification.meta)
    if notification.severity == OKAY:
        return Cleared(subject, notification.time, incident)
    try:
        severity = _SEVERITIES[notification.severity]
    except KeyError:
        raise NotOursError(f"severity {notification.severity!r} is unknown") from None
    return Raised(subject, severity, notification.time, incident)


def _read_incident(meta: Mapping[str, object]) -> str | None:
    incident = meta.get("incident")
    if incident is None:
        return None
    if not isinstance(incident, str) or not _INCIDENT.fullmatch(incident):
        raise NotOursError(f"meta incident {incident!r} is no identifier")
    return incident


def _read_handshake(host: str, notification: Notification) -> OpenFaults:
    meta = notification.meta
    part, parts = _whole(meta, "part"), _whole(meta, "parts")
    if not 1 <= part <= parts <= _MAX_PARTS:
        raise NotOursError(f"meta part {part} of {parts} is out of range")
    try:
        incidents = json.loads(_text("meta incidents", meta.get("incidents")))
    except (ValueError, RecursionError):
        incidents = None
    if not isinstance(incidents, list) or not all(isinstance(each, str) for each in incidents):
        raise NotOursError("meta incidents is no JSON list of strings")
    handshake = _text("meta handshake", meta.get("handshake"))
    return OpenFaults(host, notification.time, handshake, part, parts, frozenset(incidents))


def _whole(meta: Mapping[str, object], key: str) -> int:
    # Numbers may arrive as float, or as text from carriers that know text alone.
    try:
        return int(float(str(meta.get(key))))
    except (ValueError, OverflowError):
        raise NotOursError(f"meta {key} is no whole number") from None


def _text(name: str, value: object) -> str:
    # collectd delivers bytes where its limit of 127 bytes cut a character in two.
    if not isinstance(value, str):
        raise NotOursError(f"{name} is no text: {value!r}")
    return value
