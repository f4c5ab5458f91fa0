# SPDX-License-Identifier: Apache-2.0
"""Puts our entry into the text of Vitrage's collectd_conf.yaml, or takes it out; pure.

The text is edited line by line, so that other people's entries and comments stay as they are, and
the result is read as YAML before it is believed.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

#: The same as vitrage_notifier/templates/collectd_conf.yaml has it.
ENTRY = {"collectd_host": "[^/]+/vmhb/", "type": "", "name": "${collectd_host}"}

_BEGIN = "# BEGIN vmhb_vitrage: leave this entry first, as the first that matches counts"
_END = "# END vmhb_vitrage"
_LINES = ("- collectd_host: '[^/]+/vmhb/'", "  type: ''", "  name: ${collectd_host}")


class _ProblemError(Exception):
    """Why the file cannot be edited, and what to do."""


def with_entry(text: str, path: str) -> dict[str, str]:
    """Return ``text`` with our entry first, or a ``problem`` in one sentence."""
    bare = _without(text)
    try:
        before = _entries(bare, path)
        if before[:1] == [ENTRY]:
            return {"text": bare, "problem": ""}
        after = _inserted(bare, path)
        if _entries(after, path) != [ENTRY, *before]:
            raise _ProblemError(f"{path}: our entry finds no place in it; add it by hand")
    except _ProblemError as problem:
        return {"text": text, "problem": str(problem)}
    return {"text": after, "problem": ""}


def without_entry(text: str) -> str:
    """Return ``text`` without what `with_entry` put in."""
    return _without(text)


def _without(text: str) -> str:
    left, ours = [], False
    for line in text.splitlines(keepends=True):
        if line.strip() == _BEGIN:
            ours = True
        elif line.strip() == _END:
            ours = False
        elif not ours:
            left.append(line)
    return text if ours else "".join(left)


def _inserted(bare: str, path: str) -> str:
    lines = bare.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    key, entries = _place(bare)
    if key is None:
        return "".join([*lines, *_block("", "collectd:", *(f"  {line}" for line in _LINES))])
    if isinstance(entries, yaml.SequenceNode) and entries.flow_style:
        raise _ProblemError(
            f"{path}: collectd is a list in brackets; write each of its entries as a block that "
            "begins with a dash, or leave the key without value if it has none"
        )
    column = entries.start_mark.column if isinstance(entries, yaml.SequenceNode) else 2
    at = key.start_mark.line + 1
    lines[at:at] = _block(" " * column, *_LINES)
    return "".join(lines)


def _block(indent: str, *lines: str) -> list[str]:
    return [f"{indent}{line}\n" for line in (_BEGIN, *lines, _END)]


def _place(text: str) -> tuple[yaml.Node | None, yaml.Node | None]:
    """Return the nodes of the key ``collectd`` and of its value."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    for key, value in root.value if root else ():
        if key.value == "collectd":
            return key, value
    return None, None


def _entries(text: str, path: str) -> list[Any]:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise _ProblemError(f"{path} is no YAML{line}; correct it") from None
    if content is None:
        return []
    entries = content.get("collectd") if isinstance(content, dict) else content
    if entries is None:
        return []
    if not isinstance(content, dict) or not isinstance(entries, list):
        raise _ProblemError(
            f"{path} has no list below a key collectd, so Vitrage cannot read it; correct it"
        )
    return entries


def sorted_versions(versions: list[str]) -> list[str]:
    """Return versions with the newest last: 0.10.0 comes after 0.9.0."""
    return sorted(versions, key=lambda each: [int(part) for part in re.findall(r"\d+", each)])


class FilterModule:
    """Tells Ansible what there is."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {
            "vmhb_sorted_versions": sorted_versions,
            "vmhb_with_collectd_entry": with_entry,
            "vmhb_without_collectd_entry": without_entry,
        }
