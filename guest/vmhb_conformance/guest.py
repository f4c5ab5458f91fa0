# SPDX-License-Identifier: Apache-2.0
"""The live guest at the other end of a port: its messages, and what every one of them must hold."""

import json
import time
from collections import OrderedDict, deque
from typing import Any, Deque, Dict, List, Optional, Tuple

from . import shape
from .port import Port

#: Lines of the published protocol, in bytes with both newlines.
BASE_MAX_LINE = 1056
#: What we announce as the longest line that we take.
MAX_LINE = 16384
#: Seconds between two init, which the protocol puts at 1; less our own delays in reading.
INIT_PACE = 0.8

#: Seconds that a read takes at most, so that we know since when nothing had come.
LOOK = 0.05

#: Rules that hold for every message, whatever the case; in the order of the table.
CONDUCT = OrderedDict(
    [
        ("framed", "every message stands between newlines, in one line of ASCII"),
        ("shape", "every message is a JSON object with the fields of its type"),
        ("length", "no line is longer than agreed"),
        ("agreed", "nothing of the extension is used unless it was agreed"),
        ("pace", "init comes once a second at most"),
        ("new id", "each init has a new invocation_id"),
    ]
)


class Guest:
    """Reads the guest's messages in order and notes where they break a rule of CONDUCT."""

    def __init__(self, port: Port) -> None:
        self.port = port
        #: What the guest calls itself, and what it speaks beyond the published protocol.
        self.name = ""
        self.caps: List[str] = []
        self.extended = False
        self.interval = 1.0
        #: The ids of all init so far; the last is the current one.
        self.init_ids: List[int] = []
        #: Rule -> (what was expected, what was seen), for the first time it was broken.
        self.offences: Dict[str, Tuple[str, str]] = {}
        #: When the last read began: what comes with the next has come since then.
        self._looked_at = 0.0
        self._agreed = False
        self._max_line = BASE_MAX_LINE
        self._schema = shape.load()
        self._messages: Deque[Dict[str, Any]] = deque()
        self._connect_afresh()

    def connect(self) -> None:
        """Open the port; what an earlier connection left is forgotten."""
        self.port.open()
        self._connect_afresh()

    def hang_up(self) -> None:
        """Close the port."""
        self.port.close()
        self._messages.clear()

    def say(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.port.write(data)

    def send(self, msg_type: str, **fields: object) -> None:
        """Send one message."""
        message = {"version": 3, "revision": 1, "msg_type": msg_type, "sequence": 1}
        message.update(fields)
        self.say(b"\n" + json.dumps(message, separators=(",", ":")).encode("ascii") + b"\n")

    def agree(self, extended: bool) -> None:
        """Take whether the session that is acknowledged now may use the extension."""
        self._agreed = extended
        self._max_line = MAX_LINE if extended else BASE_MAX_LINE

    def next(self, until: float) -> Optional[Dict[str, Any]]:
        """Return the next message, or None if none has come by `until` (monotonic seconds)."""
        while not self._messages:
            began = time.monotonic()
            left = until - began
            data = self.port.read(min(left, LOOK))
            self._take(data)
            self._looked_at = began
            if left <= 0 and not self._messages:
                return None
        return self._messages.popleft()

    def put_back(self, message: Dict[str, Any]) -> None:
        """Have a message returned by `next` once more."""
        self._messages.appendleft(message)

    def forget(self) -> None:
        """Forget the messages that nobody asked for yet."""
        while self.next(0.0) is not None:
            pass

    def _connect_afresh(self) -> None:
        self._rest = b""
        self._after_blank = False
        # The first line can be the end of one that an earlier connection began to read.
        self._first = True
        self._init_at = -INIT_PACE
        self._messages.clear()

    def _take(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line:
                self._take_line(line)
            self._after_blank = not line
            self._first = False
        if self._rest and len(self._rest) > 4 * MAX_LINE:
            self._offend("length", "at most %d bytes" % self._max_line, "a line without end")
            self._rest = b""

    def _take_line(self, line: bytes) -> None:
        try:
            message = json.loads(line.decode("utf-8"))
            if not isinstance(message, dict):
                raise ValueError("no object")
        except ValueError as error:
            if not self._first:
                self._offend("shape", "JSON", "%s: %s" % (error, _shown(line)))
            return
        if not self._after_blank:
            self._offend("framed", "a newline before it", _shown(line))
        if not all(byte < 128 for byte in line):
            self._offend("framed", "ASCII alone", _shown(line))
        if len(line) + 2 > self._max_line:
            self._offend(
                "length", "at most %d bytes" % self._max_line, "%d bytes" % (len(line) + 2)
            )
        fault = shape.first_fault(message, self._schema)
        if fault is not None:
            self._offend("shape", "as in docs/protocol.schema.json", fault)
        elif message["msg_type"] == "init":
            self._introduce(message)
        elif "vmhb" in message and not self._agreed:
            self._offend("agreed", "no vmhb", _shown(line))
        self._messages.append(message)

    def _introduce(self, init: Dict[str, Any]) -> None:
        now = time.monotonic()
        # What is held against the guest is the longest that may lie between the two: this process
        # may have been held up itself, and the first have waited to be read.
        if now - self._init_at < INIT_PACE:
            self._offend("pace", "a second between", "init after %.2f s" % (now - self._init_at))
        if init["invocation_id"] in self.init_ids[-1:]:
            self._offend("new id", "another id", "%d again" % init["invocation_id"])
        self._init_at = self._looked_at
        self.init_ids.append(init["invocation_id"])
        self.name = init["name"]
        self.interval = init["heartbeat_interval_ms"] / 1000.0
        self.extended = "vmhb" in init
        self.caps = init.get("vmhb", {}).get("caps", [])

    def _offend(self, rule: str, expected: str, seen: str) -> None:
        self.offences.setdefault(rule, (expected, seen))


def _shown(line: bytes) -> str:
    text = line.decode("ascii", "backslashreplace")
    return text if len(text) <= 120 else text[:117] + "..."
