# SPDX-License-Identifier: Apache-2.0
"""A stream of bytes -> lines of bounded length."""

from __future__ import annotations

#: Longest line in bytes: without our extension what the published end sends at most
#: (StarlingX guest_heartbeat_msg_defs.h), with it the cap that we announce.
BASE_MAX_LINE = 1056
MAX_LINE = 16 * 1024


class TooLong:
    """Stands in the result for a line that was dropped because it outgrew the limit."""


class LineSplitter:
    """Cuts a byte stream at newlines and holds at most one unfinished line of ``limit`` bytes.

    Messages stand between newlines on both sides, so empty lines mean nothing and are left out.
    """

    __slots__ = ("_dropping", "_rest", "limit")

    def __init__(self, limit: int = MAX_LINE) -> None:
        self.limit = limit
        self._rest = b""
        self._dropping = False

    @property
    def at_start(self) -> bool:
        """True between two lines: what comes next begins one."""
        return not self._rest and not self._dropping

    def feed(self, data: bytes) -> list[bytes | TooLong]:
        """Takes bytes as they came and returns the lines that they complete."""
        *ended, rest = (self._rest + data).split(b"\n")
        lines: list[bytes | TooLong] = []
        if self._dropping and ended:
            self._dropping = False
            del ended[0]
        # Empty ones, of which a guest can send thousands at a time, are passed over at no cost.
        for line in filter(None, ended):
            if len(line) > self.limit:
                lines.append(TooLong())
            elif line.strip():
                lines.append(line)
        if self._dropping:
            rest = b""
        elif len(rest) > self.limit:
            lines.append(TooLong())
            self._dropping, rest = True, b""
        self._rest = rest
        return lines

    def reset(self) -> None:
        """Forgets the unfinished line: the stream begins anew."""
        self._rest = b""
        self._dropping = False
