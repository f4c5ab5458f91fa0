# SPDX-License-Identifier: Apache-2.0
"""Reads `[section]` and `key = value` lines, and remembers where each of them stands."""

from typing import Dict, Iterable, NamedTuple, Optional, TypeVar


class Entry(NamedTuple):
    """The value of a key, and the number of its line."""

    text: str
    line: int


class Section(NamedTuple):
    """What stands below one `[section]`, by key, and the number of its line."""

    name: str
    line: int
    entries: Dict[str, Entry]


Placed = TypeVar("Placed", Entry, Section)


class IniError(Exception):
    """A line that cannot be read; the text begins with its number."""


def parse(lines: Iterable[str]) -> Dict[str, Section]:
    """Return the sections by name; raise IniError for a line that is none of what is allowed.

    Blank lines and lines that begin with # or ; are comments. A value is one line.
    """
    sections: Dict[str, Section] = {}
    section: Optional[Section] = None
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text[0] in "#;":
            continue
        if text[0] == "[" and text[-1] == "]":
            section = Section(text[1:-1], number, {})
            _add(sections, section.name, section)
            continue
        key, equals, value = text.partition("=")
        if section is None:
            raise IniError("%d: a [section] expected before %s" % (number, text))
        if not equals:
            raise IniError("%d: key = value expected, not %s" % (number, text))
        _add(section.entries, key.strip().lower(), Entry(value.strip(), number))
    return sections


def _add(known: Dict[str, Placed], name: str, value: Placed) -> None:
    if name in known:
        raise IniError("%d: %s stands in line %d already" % (value.line, name, known[name].line))
    known[name] = value
