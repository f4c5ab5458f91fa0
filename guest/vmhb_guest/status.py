# SPDX-License-Identifier: Apache-2.0
"""What a health check can say: the words that both the checks and the session use."""

from enum import Enum
from typing import NamedTuple


class Status(Enum):
    """The outcome of a health check; the value is the word on the wire."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"
    UNKNOWN = "unknown"


#: From harmless to worst: what we do not know is not as bad as what we know to be wrong.
SEVERITY = [Status.OK, Status.UNKNOWN, Status.WARNING, Status.CRITICAL]


class CheckResult(NamedTuple):
    """The standing of one health check, once it has been failing or passing long enough."""

    name: str
    status: Status
    text: str
    perfdata: str
    #: When this status began, in seconds of the monotonic clock.
    since: float
    #: How long the last run took, in seconds.
    duration: float
