# SPDX-License-Identifier: Apache-2.0
"""The figures that health checks give, as monitoring plugins write them -> values by name; pure.

    'label'=value[unit][;[warning][;[critical][;[minimum][;maximum]]]] and so on, between blanks

A guest chooses the labels, and each name that is ever published takes room in collectd and in
whatever stores its values. So one VM has a fixed number of names, first come, first served.
"""

from __future__ import annotations

import math
import re

#: No name of ours begins so.
PREFIX = "perf"
#: With the longest name of a check this stays below the 127 bytes of collectd's names.
LABEL_MAX = 64

_FIGURE = re.compile(
    r"(?:'(?P<quoted>(?:[^'=]|'')+)'|(?P<plain>[^'=\s]+))="
    r"(?P<value>U|-?(?:\d{1,30}(?:\.\d{0,30})?|\.\d{1,30})(?:[eE][+-]?\d{1,3})?)"
    r"[A-Za-z%]{0,8}(?:;[^;\s]*){0,4}(?:\s+|$)"
)
# No dots: the last one of a name is before the label.
_UNFIT = re.compile(r"[^A-Za-z0-9_-]+")


def parse(text: str) -> list[tuple[str, float]]:
    """Returns label and number of each figure; of a text that is no perfdata nothing."""
    figures = []
    text = text.strip()
    at = 0
    while at < len(text):
        found = _FIGURE.match(text, at)
        if found is None:
            return []
        at = found.end()
        # U: the check could not find it out.
        value = math.nan if found["value"] == "U" else float(found["value"])
        if math.isfinite(value):
            label = found["plain"] or found["quoted"].replace("''", "'")
            figures.append((label, value))
    return figures


class Figures:
    """The latest figures of one VM, under at most ``limit`` names from its start to its end."""

    __slots__ = ("_limit", "_values", "over")

    def __init__(self, limit: int) -> None:
        #: The VM has given more names than there is room for.
        self.over = False
        self._limit = limit
        #: NaN: the name is taken, and has no value now.
        self._values: dict[str, float] = {}

    def take(self, check: str, perfdata: str) -> None:
        """A check ran: these are its figures, and there are no others."""
        self.forget(check)
        for label, value in parse(perfdata):
            name = f"{PREFIX}.{check}.{_UNFIT.sub('_', label)[:LABEL_MAX]}"
            if name not in self._values and len(self._values) >= self._limit:
                self.over = True
            elif math.isnan(self._values.get(name, math.nan)):
                self._values[name] = value

    def forget(self, check: str) -> None:
        """A check is gone, or is about to say how it is."""
        owner = f"{PREFIX}.{check}"
        for name in self._values:
            if name.rpartition(".")[0] == owner:
                self._values[name] = math.nan

    def clear(self) -> None:
        """Nothing is known any more."""
        self._values.update(dict.fromkeys(self._values, math.nan))

    def current(self) -> dict[str, float]:
        """Returns the values there are, by name; from any thread."""
        return {name: value for name, value in list(self._values.items()) if value == value}
