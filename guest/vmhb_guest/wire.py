# SPDX-License-Identifier: Apache-2.0
"""Turns bytes into messages and messages into bytes; knows no clock, no port and no session.

The wire is the guest-heartbeat protocol, version 3 revision 1, that StarlingX published: one
JSON object a line, framed by a newline on both sides so that a reader can resynchronise.
"""

import json
from typing import Dict, List, NamedTuple, Optional

VERSION = 3
REVISION = 1
#: The longest line a peer without our extension takes, in bytes with both newlines (published).
BASE_MAX_LINE = 1056
#: The longest line we take or send, in bytes.
MAX_LINE = 16384
MAX_INT31 = 2**31 - 1


class WireError(Exception):
    """A line that is no message for us; its text says why."""


class Message(NamedTuple):
    """One message of the host: its type, and its fields as they came, types unchecked."""

    msg_type: str
    fields: Dict[str, object]


class LineDecoder:
    """Cuts a stream of bytes into lines, holding at most MAX_LINE bytes of an unfinished one."""

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False
        #: Lines that were longer than MAX_LINE and therefore thrown away.
        self.overlong = 0

    def feed(self, data: bytes) -> List[bytes]:
        """Return the lines that `data` finishes, without their ends and without blank ones."""
        pieces = (self._rest + data).split(b"\n")
        self._rest = pieces.pop()
        lines = [line for line in map(self._admit, pieces) if line]
        if len(self._rest) > MAX_LINE:
            self._skip()
        return lines

    def _admit(self, piece: bytes) -> bytes:
        if self._skipping:
            self._skipping = False
            return b""
        if len(piece) > MAX_LINE:
            self.overlong += 1
            return b""
        return piece.strip()

    def _skip(self) -> None:
        if not self._skipping:
            self.overlong += 1
        self._skipping = True
        self._rest = b""


def decode(line: bytes) -> Message:
    """Return the message in one line; raise WireError when it holds none."""
    try:
        fields = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise WireError("not JSON: %s" % error) from None
    if not isinstance(fields, dict):
        raise WireError("not a JSON object")
    version = integer(fields, "version", 0, MAX_INT31)
    if version is None or version < VERSION:
        raise WireError("version %d or later expected" % VERSION)
    msg_type = fields.get("msg_type")
    if not isinstance(msg_type, str):
        raise WireError("no msg_type")
    return Message(msg_type, fields)


def encode(msg_type: str, sequence: int, fields: Dict[str, object]) -> bytes:
    """Return one framed line, ASCII only: readers in C need not know Unicode."""
    message: Dict[str, object] = {"version": VERSION, "revision": REVISION, "msg_type": msg_type}
    message["sequence"] = sequence
    message.update(fields)
    return b"\n" + compact(message) + b"\n"


def compact(value: object) -> bytes:
    """Return `value` as JSON without blanks."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def integer(fields: Dict[str, object], key: str, low: int, high: int) -> Optional[int]:
    """Return fields[key] when it is an integer (true is none) in low..high, else None."""
    value = fields.get(key)
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return value
    return None
