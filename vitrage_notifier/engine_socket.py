# SPDX-License-Identifier: Apache-2.0
"""Asks the engine of this node through its control socket: a line of JSON each way."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Seconds that the engine may take to answer.
TIMEOUT = 5.0


class EngineError(Exception):
    """The engine does not answer, or refuses; the text says why."""


def ask(path: Path, request: Mapping[str, Any]) -> Any:
    """Return the engine's answer to a request."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT)
        try:
            connection.connect(str(path))
            connection.sendall(json.dumps(request).encode("ascii") + b"\n")
            with connection.makefile("rb") as stream:
                line = stream.readline()
        except OSError as problem:
            raise EngineError(
                f"no engine answers at {path} ({problem.strerror or problem}): is collectd "
                "running, and what does its log say of vmhb?"
            ) from None
    try:
        reply = json.loads(line)
        if "error" in reply:
            raise EngineError(str(reply["error"]))
        return reply["ok"]
    except (ValueError, TypeError, KeyError):
        raise EngineError(f"whoever serves {path} is no engine of ours") from None
