# SPDX-License-Identifier: Apache-2.0
"""The guest-heartbeat wire protocol, version 3 revision 1, host end: bytes in, events out.

Knows no clock, no socket and no policy; ``docs/protocol.md`` is its specification and
``tests/vectors/host.jsonl`` the executable form of it.
"""

from collectd_vmhb.protocol.lines import LineSplitter, TooLong
from collectd_vmhb.protocol.messages import (
    CHALLENGE_MAX,
    CHECK_NAME,
    BusyClaim,
    Check,
    CheckReport,
    CheckStatus,
    ProtocolError,
    clean_text,
)
from collectd_vmhb.protocol.session import (
    CAPS,
    Answered,
    Audited,
    Closed,
    Match,
    Opened,
    Refused,
    Session,
    SessionEvent,
)

__all__ = [
    "CAPS",
    "CHALLENGE_MAX",
    "CHECK_NAME",
    "Answered",
    "Audited",
    "BusyClaim",
    "Check",
    "CheckReport",
    "CheckStatus",
    "Closed",
    "LineSplitter",
    "Match",
    "Opened",
    "ProtocolError",
    "Refused",
    "Session",
    "SessionEvent",
    "TooLong",
    "clean_text",
]
