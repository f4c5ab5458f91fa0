# SPDX-License-Identifier: Apache-2.0
"""The ``<Module vitrage_notifier>`` block -> Settings; every error names its key."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol, Union
from urllib.parse import unquote

Value = Union[str, float, bool]


class Node(Protocol):
    """One node of collectd's configuration."""

    @property
    def key(self) -> str:
        """The word that begins the line or block."""

    @property
    def values(self) -> tuple[Value, ...]:
        """What follows it; numbers are float."""

    @property
    def children(self) -> Sequence[Node]:
        """The lines in the block."""


@dataclass(frozen=True)
class Settings:
    """What the operator decides; durations are seconds."""

    #: oslo.messaging's transport URL of the broker that Vitrage listens on; holds a password.
    transport_url: str
    topic: str = "vitrage_notifications"
    #: Holds the outbox and the lock; the engine's directory, unless told otherwise.
    state_dir: Path = Path("/var/lib/vmhb")
    #: Period in which open alarms are sent again: Vitrage drops them at each of its snapshots.
    resend_interval: float = 60.0
    #: How long the broker may take to answer.
    send_timeout: float = 10.0

    def __repr__(self) -> str:
        """Show everything but the password."""
        shown = [(each.name, getattr(self, each.name)) for each in fields(self)]
        return self.redact(f"Settings({', '.join(f'{name}={value}' for name, value in shown)})")

    def redact(self, text: str) -> str:
        """Return `text` without the passwords of the transport URL."""
        for secret in self._secrets():
            text = text.replace(secret, "***")
        return text

    def _secrets(self) -> list[str]:
        authority = self.transport_url.partition("://")[2]
        # Several brokers are separated by commas; each may have a password of its own.
        logins = [host.rpartition("@")[0] for host in authority.split(",")]
        passwords = [login.partition(":")[2] for login in logins]
        # Errors may show a password decoded.
        return [each for raw in passwords if raw for each in (raw, unquote(raw))]


#: Key of the stanza -> field; for durations, the least and the most it may be.
_TEXTS = {"TransportUrl": "transport_url", "Topic": "topic", "StateDir": "state_dir"}
_SECONDS = {
    "ResendInterval": ("resend_interval", 1.0, 3600.0),
    "SendTimeout": ("send_timeout", 1.0, 300.0),
}
_KEYS = {key.lower(): key for key in (*_TEXTS, *_SECONDS)}


def read_settings(block: Node) -> tuple[Settings | None, list[str]]:
    """Return the settings, or None and what is wrong: each line begins with the key."""
    values: dict[str, str | float | Path] = {}
    errors = [error for node in block.children for error in _read_key(node, values)]
    seen = {node.key.lower() for node in block.children}
    if "transporturl" not in seen:
        errors.append('TransportUrl: is missing; write TransportUrl "rabbit://USER:PASSWORD@HOST/"')
    return (None if errors else Settings(**values)), errors  # type: ignore[arg-type]


def _read_key(node: Node, values: dict[str, str | float | Path]) -> list[str]:
    """Put the value of one line into `values`; return what is wrong with it."""
    key = _KEYS.get(node.key.lower())
    if key is None or node.children:
        return [f"{node.key}: is not known; known are {', '.join(sorted(_KEYS.values()))}"]
    field = _TEXTS.get(key) or _SECONDS[key][0]
    if field in values:
        return [f"{key}: is given twice"]
    if len(node.values) != 1:
        return [f"{key}: takes one value"]
    try:
        values[field] = _checked(key, node.values[0])
    except ValueError as problem:
        return [f"{key}: {problem}"]
    return []


def _checked(key: str, value: Value) -> str | float | Path:
    if key in _SECONDS:
        _, least, most = _SECONDS[key]
        if isinstance(value, (str, bool)) or not least <= value <= most:
            raise ValueError(f"takes seconds from {least:g} to {most:g}, without quotes")
        return value
    if not isinstance(value, str) or not value:
        raise ValueError("takes a text in quotes")
    if key == "StateDir":
        if not Path(value).is_absolute():
            raise ValueError(f"takes an absolute path, not {value!r}")
        return Path(value)
    if key == "TransportUrl" and not re.match("[a-z][a-z0-9+]*://", value):
        # The value is not repeated: it may hold a password.
        raise ValueError("is no URL such as rabbit://USER:PASSWORD@HOST:5672/")
    return value
