# SPDX-License-Identifier: Apache-2.0
"""Do we hear what is said? Before others are called silent, we make sure that it is not us; pure.

We speak to ourselves through the broker. While our own words come back, what others say comes as
well, and what waited in our queue before them was heard already. While they do not (the broker is
away, this process stood still, another one takes our messages), time does not count.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping

ECHO = "vmhb.echo"
#: Words that may be missing in a row until we take ourselves for deaf.
PATIENCE = 3
NEVER = float("-inf")


class Hearing:
    """Says whether we hear all that comes into `pool`; the clock is the caller's, and monotonic."""

    def __init__(self, interval: float, pool: str) -> None:
        self._interval = interval
        self._pool = pool
        self._token = str(uuid.uuid4())
        self._number = 0
        self._said = NEVER
        self._heard = NEVER
        self._rival = NEVER
        self._began: float | None = None

    def word(self, now: float) -> tuple[str, dict[str, object]] | None:
        """Return what is to be said now, if anything; call `said` when it was."""
        if now < self._said + self._interval:
            return None
        self._number += 1
        words = {"version": 1, "echo": self._token, "number": self._number, "pool": self._pool}
        return ECHO, {"vmhb": words}

    def said(self, now: float) -> None:
        """Note that the broker has it."""
        self._said = now
        if self._began is None:
            self._began = now

    def hear(self, payload: object, now: float) -> None:
        """Take an echo, ours or another's."""
        vmhb = payload.get("vmhb") if isinstance(payload, Mapping) else None
        if not isinstance(vmhb, Mapping) or vmhb.get("pool") != self._pool:
            return
        if vmhb.get("echo") == self._token:
            if vmhb.get("number") == self._number:
                # As of then: what others said since may still be waiting.
                self._heard = self._said
        elif self._heard > NEVER:
            # Before our first word came back it may have been one of an earlier process.
            self._rival = now

    def hears(self, now: float) -> bool:
        """Whether our own words came back lately, and nobody takes a part of the messages."""
        return now - self._heard <= PATIENCE * self._interval and not self._shares(now)

    def obstacle(self, now: float) -> str:
        """Say why we do not hear; empty while that is too early to say."""
        if self._shares(now):
            return f"another sweep listens in the pool {self._pool}: end one of them"
        if self._began is None or now - max(self._began, self._heard) <= PATIENCE * self._interval:
            return ""
        return "what is said does not come back: see the log of the broker"

    def _shares(self, now: float) -> bool:
        return now - self._rival <= 4 * PATIENCE * self._interval
