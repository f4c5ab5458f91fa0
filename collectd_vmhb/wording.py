# SPDX-License-Identifier: Apache-2.0
"""How a mistake is told to a person: values shown safely, and the name that was meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: Longest value that is repeated in a message; collectd cuts messages at 255 bytes.
SHOWN_MAX = 64

#: How alike two names must be, from 0 to 1; stricter than usual, as keys share their prefixes.
_RESEMBLANCE = 0.75


class Refusal(Exception):  # noqa: N818 - nothing failed
    """What somebody asked for is not done; the text says why, and what to do instead."""


def shown(text: str, longest: int = SHOWN_MAX) -> str:
    """Make foreign text fit for a log line: at most ``longest`` printable characters."""
    printable = "".join(char if char.isprintable() else "?" for char in text[:longest])
    return printable if len(text) <= longest else printable[:-3] + "..."


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known name that ``word`` resembles, upper and lower case being equal."""
    by_lower = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=_RESEMBLANCE)
    return by_lower[found[0]] if found else None


def no_such_key(key: str, known: Iterable[str]) -> str:
    """Say that ``key`` means nothing, and which key was probably meant."""
    meant = nearest(key, known)
    return "no such key" if meant is None else f"no such key; did you mean {meant}?"
