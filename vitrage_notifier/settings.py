# SPDX-License-Identifier: Apache-2.0
"""The ``<Module vitrage_notifier>`` block -> Settings; every error names its key."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Protocol, Union
from urllib.parse import parse_qsl, unquote, urlsplit

Value = Union[str, float, bool]

#: Characters of a transport URL: some twenty brokers with long passwords.
MAX_URL = 4096
#: A name or an address, and a port.
_HOST = re.compile(
    r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]+)?\])(?::[0-9]{1,5})?"
    r"|[0-9A-Fa-f]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f.]*"
)
_ESCAPES = "in a password, write # ? @ , as %23 %3F %40 %2C, and have no / in it"


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
    transport_url: str = ""
    #: The file that holds it instead, for root alone.
    transport_url_file: Path | None = None
    topic: str = "vitrage_notifications"
    #: Holds the outbox and the lock; the engine's directory, unless told otherwise.
    state_dir: Path = Path("/var/lib/vmhb")
    #: Period in which open alarms are sent again: Vitrage drops them at each of its snapshots.
    resend_interval: float = 60.0
    #: How long the OK of a cleared alarm is repeated, once per such period.
    repeat_ok_for: float = 900.0
    #: How long the broker may take to answer.
    send_timeout: float = 10.0

    def __repr__(self) -> str:
        """Show everything but the password."""
        shown = [(each.name, getattr(self, each.name)) for each in fields(self)]
        return self.redact(f"Settings({', '.join(f'{name}={value}' for name, value in shown)})")

    def redact(self, text: str) -> str:
        """Return `text` without the passwords of the transport URL."""
        # The longest first: one may begin like another.
        for secret in sorted(self._secrets(), key=len, reverse=True):
            text = text.replace(secret, "***")
        return text

    @property
    def trusts_any_broker(self) -> bool:
        """Whether the URL asks for TLS, and names nobody whose certificates count."""
        query = urlsplit(self.transport_url).query
        options = {key.lower(): value.lower() for key, value in parse_qsl(query)}
        return options.get("ssl") in ("true", "1", "yes", "on") and "ssl_ca_file" not in options

    def _secrets(self) -> list[str]:
        authority = self.transport_url.partition("://")[2]
        # Several brokers are separated by commas; each may have a password of its own.
        logins = [host.rpartition("@")[0] for host in authority.split(",")]
        passwords = [login.partition(":")[2] for login in logins]
        # Errors may show a password decoded.
        return [each for raw in passwords if raw for each in (raw, unquote(raw))]


#: Key of the stanza -> field; for durations, the least and the most it may be.
_TEXTS = {
    "TransportUrl": "transport_url",
    "TransportUrlFile": "transport_url_file",
    "Topic": "topic",
    "StateDir": "state_dir",
}
_PATHS = ("TransportUrlFile", "StateDir")
_SECONDS = {
    "ResendInterval": ("resend_interval", 1.0, 120.0),
    "RepeatOkFor": ("repeat_ok_for", 0.0, 86400.0),
    "SendTimeout": ("send_timeout", 1.0, 300.0),
}
_KEYS = {key.lower(): key for key in (*_TEXTS, *_SECONDS)}


def read_settings(block: Node) -> tuple[Settings | None, list[str]]:
    """Return the settings, or None and what is wrong: each line begins with the key."""
    values: dict[str, str | float | Path] = {}
    errors = [error for node in block.children for error in _read_key(node, values)]
    seen = {node.key.lower() for node in block.children}
    if "transporturl" in seen and "transporturlfile" in seen:
        errors.append("TransportUrlFile: is given besides TransportUrl; keep one of them")
    if "transporturl" not in seen and "transporturlfile" not in seen:
        errors.append(
            "TransportUrlFile: is missing; name a file for root alone that holds "
            "rabbit://USER:PASSWORD@HOST:5672/"
        )
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
    if key in _PATHS:
        if not Path(value).is_absolute():
            raise ValueError(f"takes an absolute path, not {value!r}")
        return Path(value)
    return _checked_url(value) if key == "TransportUrl" else value


def with_url(settings: Settings) -> Settings:
    """Return the settings with the URL that the file holds; ValueError says what is wrong."""
    path = settings.transport_url_file
    if path is None:
        return settings
    try:
        with path.open(encoding="utf-8") as file:
            found = os.fstat(file.fileno())
            text = file.read(MAX_URL + 1).strip()
    except (OSError, UnicodeDecodeError) as problem:
        raise ValueError(f"TransportUrlFile: cannot be read: {problem}") from None
    if found.st_mode & 0o077 or found.st_uid not in (0, os.geteuid()):
        mode = stat.S_IMODE(found.st_mode)
        raise ValueError(
            f"TransportUrlFile: {path} has owner {found.st_uid} and mode {mode:04o}: others could "
            f"read the password; run: chown root {path} && chmod 0600 {path}"
        )
    try:
        return replace(settings, transport_url=_checked_url(text))
    except ValueError as problem:
        raise ValueError(f"TransportUrlFile: what {path} holds {problem}") from None


def _checked_url(url: str) -> str:
    # The value is not repeated: it may hold a password.
    if not re.match(r"[a-z][a-z0-9+]*://", url) or re.search(r"\s", url) or len(url) > MAX_URL:
        raise ValueError("is no URL such as rabbit://USER:PASSWORD@HOST:5672/")
    authority = re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)[0]
    hosts = authority.split(",")
    if not all(host.rpartition("@")[2].partition(":")[0] for host in hosts):
        raise ValueError(f"names no host, or an empty one, after the user and password; {_ESCAPES}")
    beyond = url.partition("://")[2][len(authority) :]
    torn = "@" in beyond and not all("@" in host for host in hosts)
    if torn or not all(_HOST.fullmatch(host.rpartition("@")[2]) for host in hosts):
        raise ValueError(f"has a host or port that cannot be one; {_ESCAPES}")
    # oslo.messaging's RabbitMQ driver hands it to kombu as it is, which then sees another host.
    if any("/" in unquote(host.rpartition("@")[0]) for host in hosts):
        raise ValueError(
            "has a user or password with a slash, also if written as %2F: oslo.messaging cannot "
            "log in with it; give the broker's user another password"
        )
    return url
