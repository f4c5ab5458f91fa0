# SPDX-License-Identifier: Apache-2.0
"""Edits vitrage.conf as text: one value in a list, one option; all else stays as it is.

What is put in is marked by a comment above it, which is how it is found again and taken out:
``without(with_type(text, ...)) == text``.
"""

from __future__ import annotations

import re

#: Begins each comment of ours.
MARK = "# vmhb_vitrage: "
_VALUE = MARK + "added to the list below: "
_LINE = MARK + "added the line below"
_SECTION = MARK + "added the section below"
_REPLACED = MARK + "took the place of: "


class ConfError(ValueError):
    """The file cannot be edited; says why and what to do."""


def option(text: str, section: str, name: str) -> str | None:
    """Return an option's value as oslo.config reads it, on one line; None where it is not set."""
    lines = text.splitlines()
    span = _span(lines, section, name)
    if span is None:
        return None
    first, last = span
    value = lines[first].split(_separator(lines[first]), 1)[1]
    return " ".join([value.strip(), *(line.strip() for line in lines[first + 1 : last])]).strip()


def values(text: str, section: str, name: str) -> list[str] | None:
    """Return an option's value as a list."""
    found = option(text, section, name)
    if found is None:
        return None
    return [each.strip() for each in found.split(",") if each.strip()]


def with_type(text: str, wanted: str, defaults: list[str]) -> str:
    """Return the text with a type among ``[datasources] types``.

    Where the option is not set, Vitrage takes its `defaults`: they are written out.
    """
    there = values(text, "datasources", "types")
    if there is None:
        return _with_line(text, "datasources", f"types = {','.join([*defaults, wanted])}")
    if wanted in there:
        return text
    lines = text.splitlines()
    first, last = _last_span(lines, "datasources", "types")
    gap = " " if re.search(r",\s+\S", " ".join(lines[first:last])) else ""
    comma = f",{gap}" if there else ""
    lines[last - 1] = f"{lines[last - 1].rstrip()}{comma or ' '}{wanted}"
    lines.insert(first, _VALUE + wanted)
    return _joined(lines, text)


def with_driver(text: str, driver: str, stock: str) -> str:
    """Return the text with ``[collectd] driver``; ConfError where a third one is set."""
    there = option(text, "collectd", "driver")
    if there == driver:
        return text
    if there is None:
        return _with_line(text, "collectd", f"driver = {driver}")
    if there != stock:
        raise ConfError(
            f"[collectd] driver is {there}, which is neither Vitrage's nor ours: take that line "
            f"out, or set vmhb_vitrage_driver to false"
        )
    lines = text.splitlines()
    first, _ = _last_span(lines, "collectd", "driver")
    lines[first : first + 1] = [_REPLACED + lines[first], f"driver = {driver}"]
    return _joined(lines, text)


def without(text: str) -> str:
    """Return the text without all that is ours."""
    lines = text.splitlines()
    left: list[str] = []
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if line.startswith(_VALUE):
            at += _take_value(lines, at, line[len(_VALUE) :], left)
        elif line == _LINE:
            at += 1
        elif line == _SECTION:
            # The header and its one line; who wrote more below keeps the header.
            more = at + 2 < len(lines) and lines[at + 2].strip() and lines[at + 2][0] != "["
            left += lines[at : at + 1] if more else []
            at += 2
            if not more and left and not left[-1]:
                left.pop()
        elif line.startswith(_REPLACED):
            left.append(line[len(_REPLACED) :])
            at += 1
        else:
            left.append(line)
    return _joined(left, text)


def _take_value(lines: list[str], first: int, value: str, left: list[str]) -> int:
    """Append the option at `first` without one value of its list; return how many lines it has."""
    last = _end(lines, first)
    span = "\n".join(lines[first:last])
    found = re.escape(value)
    less = re.sub(rf",\s*{found}(?=\s*(,|$))", "", span, count=1)
    if less == span:
        less = re.sub(rf"(?<=[=:])(\s*){found}\s*(,|$)", r"\1", span, count=1).rstrip(" ")
    left += less.split("\n")
    return last - first


def _with_line(text: str, section: str, line: str) -> str:
    lines = text.splitlines()
    for at, each in enumerate(lines):
        if each.strip() == f"[{section}]":
            lines[at + 1 : at + 1] = [_LINE, line]
            return _joined(lines, text)
    if lines:
        lines.append("")
    return _joined([*lines, _SECTION, f"[{section}]", line], text)


def _joined(lines: list[str], like: str) -> str:
    end = "\n" if lines and (like.endswith("\n") or not like) else ""
    return "\n".join(lines) + end


def _last_span(lines: list[str], section: str, name: str) -> tuple[int, int]:
    span = _span(lines, section, name)
    if span is None:
        raise ConfError(f"[{section}] {name} is not there")
    return span


def _span(lines: list[str], section: str, name: str) -> tuple[int, int] | None:
    """Return where an option begins and ends; of several the last, which is what counts."""
    here, found = "DEFAULT", None
    for at, line in enumerate(lines):
        header = re.match(r"\[([^\]]*)\]", line)
        if header:
            here = header.group(1).strip()
        elif here == section and re.match(rf"{re.escape(name)}\s*[=:]", line):
            found = (at, _end(lines, at))
    return found


def _end(lines: list[str], first: int) -> int:
    last = first + 1
    while last < len(lines) and lines[last][:1] in (" ", "\t") and lines[last].strip():
        last += 1
    return last


def _separator(line: str) -> str:
    return min("=:", key=lambda each: (line.find(each) < 0, line.find(each)))
