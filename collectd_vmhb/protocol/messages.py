# SPDX-License-Identifier: Apache-2.0
"""One line <-> one message: types, ranges and what is forgiven.

A guest is untrusted and may be any implementation. What it sends is therefore read leniently
where a known peer needs it, checked strictly where a value is used, and cleaned before it can
reach a log. Whatever the bytes, `decode` returns a message or raises `ProtocolError`.
"""

from __future__ import annotations

import enum
import functools
import json
import re
from dataclasses import dataclass, replace
from sys import getsizeof
from typing import Any, Callable, NoReturn, Union

VERSION = 3
REVISION = 1

#: heartbeat_challenge is a C int at the other end; larger values are clamped there.
CHALLENGE_MAX = 2**31 - 1
#: A longer log_msg in a nack ends the published client (strcpy into char[224]).
NACK_TEXT_MAX = 200
#: Bounds of what one guest may report (docs/protocol.md, Limits).
CHECKS_MAX = 64
OBJECTS_MAX = 512
TEXT_MAX = 1024
PERFDATA_MAX = 512
AGE_MAX_MS = 10 * 365 * 24 * 3600 * 1000
REASON_MAX = 191
#: What a guest may say about an audit as a whole.
OUTCOMES = ("done", "timeout", "unknown_check", "refused")

CHECK_NAME = re.compile(r"[A-Za-z0-9_.-]{1,48}")
#: Control, line and paragraph separators, bidi overrides, and half surrogate pairs.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]+")
_UNESCAPED = re.compile(r'\s*:\s*"(?P<said>.*)', re.DOTALL)


class ProtocolError(ValueError):
    """A line that is no message of the protocol; the text says why, for a nack and the log."""


class _NoJSONError(ProtocolError):
    """A line that is no JSON, though it may hold a message."""


@enum.unique
class CheckStatus(enum.Enum):
    """Outcome of a health check, in the words of the monitoring plugins' convention."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Check:
    """One health check's hard status; ``age`` and ``duration`` in seconds, texts cleaned."""

    __slots__ = ("age", "duration", "name", "perfdata", "status", "text")

    name: str
    status: CheckStatus
    text: str
    perfdata: str
    age: float
    duration: float

    @property
    def size(self) -> int:
        """Bytes of memory that its texts take: four for each character if one is an emoji."""
        return getsizeof(self.text) + getsizeof(self.perfdata)

    @property
    def bare(self) -> Check:
        """The same without its texts."""
        return replace(self, text="", perfdata="")


@dataclass(frozen=True)
class CheckReport:
    """Checks that changed, or a part of all of them; ``more`` announces the next part."""

    checks: tuple[Check, ...]
    more: bool


@dataclass(frozen=True)
class BusyClaim:
    """The guest will be slow on purpose for so many seconds; 0: it is not any more."""

    reason: str
    seconds: float


@dataclass(frozen=True)
class Init:
    """The guest asks for a session; ``caps`` is None for a guest without our extension."""

    invocation_id: int
    name: str
    interval_ms: int
    caps: frozenset[str] | None
    max_line: int


@dataclass(frozen=True)
class ChallengeResponse:
    """The guest's answer; ``well_formed`` is False where it had to be read around an error."""

    response: int
    healthy: bool
    log_msg: str
    report: CheckReport | None
    well_formed: bool = True
    busy: BusyClaim | None = None


@dataclass(frozen=True)
class AuditResult:
    """The answer to an audit, or a part of it; ``more`` announces the next part."""

    id: int
    outcome: str
    log_msg: str
    checks: tuple[Check, ...]
    more: bool


@dataclass(frozen=True)
class Exit:
    """The guest leaves on purpose."""

    log_msg: str


@dataclass(frozen=True)
class Unsupported:
    """A well-formed message that this end does not handle."""

    msg_type: str


Message = Union[Init, ChallengeResponse, AuditResult, Exit, Unsupported]


def clean_text(text: str, limit: int) -> str:
    """Makes a guest's text safe to print: one line, no control or bidi characters, bounded."""
    return _CONTROL.sub(" ", text).strip()[:limit]


def encode(msg_type: str, sequence: int, **fields: Any) -> bytes:
    """Builds one line to a guest, framed by newlines on both sides as the published ends do."""
    message = {"version": VERSION, "revision": REVISION, "msg_type": msg_type, "sequence": sequence}
    message.update(fields)
    return b"\n" + _ENCODER.encode(message).encode("ascii") + b"\n"


def decode(line: bytes) -> Message:
    """Reads one line from a guest; raises ProtocolError for anything that is no message."""
    # Each object costs a call; so many are in no message, whatever stands in its texts.
    if line.count(b"{") > OBJECTS_MAX:
        raise ProtocolError("too many objects")
    text = line.decode("utf-8", "replace")
    try:
        fields = _parse(text)
    except _NoJSONError:
        return _rescue(text)
    return _read(fields)


def _parse(text: str) -> Any:
    try:
        return _DECODER.decode(text)
    except ProtocolError:
        raise
    except RecursionError:
        raise ProtocolError("nested too deep") from None
    except ValueError:
        raise _NoJSONError("not JSON") from None


def _read(fields: Any) -> Message:
    if not isinstance(fields, dict):
        raise ProtocolError("not a JSON object")
    if _integer(fields, "version", 0, CHALLENGE_MAX) < VERSION:
        raise ProtocolError(f"bad version: {fields['version']}, expect version: {VERSION}")
    msg_type = _string(fields, "msg_type")
    read = _READERS.get(msg_type)
    return read(fields) if read else Unsupported(clean_text(msg_type, 31))


def _first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # A log_msg that is not escaped can repeat an earlier key: the genuine one came first.
    return dict(reversed(pairs))


def _refuse_constant(name: str) -> NoReturn:
    raise ProtocolError(f"{name} is no JSON")


def _rescue(text: str) -> ChallengeResponse:
    """Reads an answer around the text in it that the published client did not escape.

    It is the last field: those before it are whole, and they tell that the guest is alive.
    """
    head, _, tail = text.partition('"log_msg"')
    unescaped = _UNESCAPED.fullmatch(tail)
    if unescaped is None:
        raise ProtocolError("not JSON")
    message = _read(_parse(head.rstrip().removesuffix(",") + "}"))
    if not isinstance(message, ChallengeResponse):
        raise ProtocolError("not JSON")
    said = clean_text(unescaped["said"].rstrip().removesuffix("}").rstrip('"'), TEXT_MAX)
    return replace(message, log_msg=said, well_formed=False)


def _integer(fields: dict[str, Any], key: str, low: int, high: int) -> int:
    value = fields.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ProtocolError(f"failed to parse {key}")
    return value


def _string(fields: dict[str, Any], key: str, default: str | None = None) -> str:
    value = fields.get(key, default)
    if not isinstance(value, str):
        raise ProtocolError(f"failed to parse {key}")
    return value


def _object(fields: dict[str, Any], key: str) -> dict[str, Any] | None:
    value = fields.get(key)
    if value is not None and not isinstance(value, dict):
        raise ProtocolError(f"failed to parse {key}")
    return value


def _read_init(fields: dict[str, Any]) -> Init:
    ours = _object(fields, "vmhb")
    caps: frozenset[str] | None = None
    max_line = 0
    if ours is not None:
        listed = ours.get("caps")
        if not isinstance(listed, list):
            raise ProtocolError("failed to parse vmhb.caps")
        caps = frozenset(cap for cap in listed if isinstance(cap, str))
        max_line = _integer(ours, "max_line", 256, CHALLENGE_MAX)
    return Init(
        invocation_id=_integer(fields, "invocation_id", 0, CHALLENGE_MAX),
        name=clean_text(_string(fields, "name", ""), 64),
        interval_ms=_integer(fields, "heartbeat_interval_ms", 0, CHALLENGE_MAX),
        caps=caps,
        max_line=max_line,
    )


def _read_challenge_response(fields: dict[str, Any]) -> ChallengeResponse:
    health = _string(fields, "heartbeat_health")
    if health not in ("healthy", "unhealthy"):
        raise ProtocolError("failed to parse heartbeat_health")
    ours = _object(fields, "vmhb")
    return ChallengeResponse(
        response=_integer(fields, "heartbeat_response", 0, CHALLENGE_MAX),
        healthy=health == "healthy",
        log_msg=clean_text(_string(fields, "log_msg", ""), TEXT_MAX),
        report=_read_report(ours),
        busy=_read_busy(ours),
    )


def _read_report(ours: dict[str, Any] | None) -> CheckReport | None:
    if ours is None or "checks" not in ours:
        return None
    checks, more = _read_checks(ours["checks"], ours.get("more", False))
    return CheckReport(checks, more)


def _read_checks(checks: Any, more: Any) -> tuple[tuple[Check, ...], bool]:
    if not isinstance(checks, list) or len(checks) > CHECKS_MAX or not isinstance(more, bool):
        raise ProtocolError("failed to parse checks")
    return tuple(_read_check(check) for check in checks), more


def _read_check(fields: Any) -> Check:
    if not isinstance(fields, dict):
        raise ProtocolError("failed to parse checks")
    name = _string(fields, "name")
    if not CHECK_NAME.fullmatch(name):
        raise ProtocolError("failed to parse the name of a check")
    try:
        status = CheckStatus(_string(fields, "status"))
    except ValueError:
        raise ProtocolError(f"failed to parse status of check {name}") from None
    return Check(
        name=_shared(name),
        status=status,
        text=clean_text(_string(fields, "text", ""), TEXT_MAX),
        perfdata=clean_text(_string(fields, "perfdata", ""), PERFDATA_MAX),
        age=_integer(fields, "since_ms", 0, AGE_MAX_MS) / 1000,
        duration=_integer(fields, "duration_ms", 0, AGE_MAX_MS) / 1000,
    )


@functools.lru_cache(maxsize=256)
def _shared(name: str) -> str:
    """Returns one string for equal ones: many VMs have checks of the same name.

    Not `sys.intern`, which keeps what a guest invents for ever on some versions of CPython.
    """
    return name


def _read_busy(ours: dict[str, Any] | None) -> BusyClaim | None:
    busy = _object(ours, "busy") if ours is not None else None
    if busy is None:
        return None
    return BusyClaim(
        reason=clean_text(_string(busy, "reason"), REASON_MAX),
        seconds=_integer(busy, "for_ms", 0, AGE_MAX_MS) / 1000,
    )


def _read_audit_result(fields: dict[str, Any]) -> AuditResult:
    outcome = _string(fields, "outcome")
    if outcome not in OUTCOMES:
        raise ProtocolError("failed to parse outcome")
    checks, more = _read_checks(fields.get("checks", []), fields.get("more", False))
    return AuditResult(
        id=_integer(fields, "id", 1, CHALLENGE_MAX),
        outcome=outcome,
        log_msg=clean_text(_string(fields, "log_msg", ""), TEXT_MAX),
        checks=checks,
        more=more,
    )


def _read_exit(fields: dict[str, Any]) -> Exit:
    return Exit(clean_text(_string(fields, "log_msg", ""), TEXT_MAX))


#: Built once: `json.loads` and `json.dumps` with arguments build one for every line.
_DECODER = json.JSONDecoder(
    strict=False, object_pairs_hook=_first_wins, parse_constant=_refuse_constant
)
_ENCODER = json.JSONEncoder(separators=(",", ":"))

_READERS: dict[str, Callable[[dict[str, Any]], Message]] = {
    "init": _read_init,
    "challenge_response": _read_challenge_response,
    "audit_result": _read_audit_result,
    "exit": _read_exit,
}
