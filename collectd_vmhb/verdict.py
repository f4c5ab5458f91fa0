# SPDX-License-Identifier: Apache-2.0
"""What the engine says about a VM: its health, and the faults that begin, change and end."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Union


@enum.unique
class Health(enum.Enum):
    """The state of one monitored VM, in the words that users see."""

    #: Nothing is known yet: no channel is connected.
    UNKNOWN = "unknown"
    #: Connected; waiting for the first answer, silence is still forgiven.
    ESTABLISHING = "establishing"
    #: The last challenge was answered and every health check is well.
    HEALTHY = "healthy"
    #: Challenges are being missed, fewer than the policy's miss_threshold in a row.
    SUSPECT = "suspect"
    #: The guest answers, and reports a failing health check.
    UNHEALTHY = "unhealthy"
    #: The heartbeat is lost.
    FAILED = "failed"
    #: The VM is not meant to run now (paused, saved, migrating, shut off): silence is planned.
    PAUSED = "paused"


@enum.unique
class Severity(enum.Enum):
    """How bad a fault is; the values are collectd's own words."""

    FAILURE = "failure"
    WARNING = "warning"


#: ``type_instance`` of each fault, the stable half of its identity (docs/operations.md).
HEARTBEAT_LOST = "heartbeat-lost"
NOT_ESTABLISHED = "not-established"
CANNOT_MONITOR = "cannot-monitor"
BAD_POLICY = "bad-policy"
GUEST_MISBEHAVES = "guest-misbehaves"
ENGINE_IMPAIRED = "engine-impaired"
VERIFICATION = "verification"
CHECK_PREFIX = "check."


@dataclass(frozen=True)
class FaultRaised:
    """A fault begins, or continues with another severity.

    ``uuid`` is the instance, or "" for a fault of this host. ``since`` is on the monotonic clock.
    ``guest_text`` is what the guest says about it: for the log of this host, never beyond.
    """

    uuid: str
    name: str
    severity: Severity
    text: str
    since: float
    reason: str
    details: Mapping[str, str] = field(default_factory=dict)
    guest_text: str = ""


@dataclass(frozen=True)
class FaultCleared:
    """A fault ends; ``reason`` says why (recovered, deleted, disabled, shut off ...)."""

    uuid: str
    name: str
    reason: str


FaultEvent = Union[FaultRaised, FaultCleared]
