# SPDX-License-Identifier: Apache-2.0
"""Decides which check results the next response carries; pure."""

from typing import Dict, Iterable, List, Optional, Sequence, Set

from .status import SEVERITY, CheckResult, Status
from .wire import compact

#: Bytes of `,"vmhb":{"checks":[],"rev":…,"more":false}` around the entries, rev up to ten digits.
ENVELOPE = 64


class Report:
    """The latest result of every check, and which of them the host has not been told.

    A new session starts a *full report*: every result is sent once, in as many parts as the line
    length asks for, and the part with `more` false ends it. It stays open while a check has not
    had its first result: the host forgets what a finished full report does not name, and a check
    that was critical before our restart must not look as if it had been taken away.
    """

    def __init__(self) -> None:
        self._expected: Set[str] = set()
        self._results: Dict[str, CheckResult] = {}
        self._unsent: List[str] = []
        self._full = True
        self._rev = 0

    def expect(self, names: Iterable[str]) -> bool:
        """Take the names of all checks there are; return whether one has been taken away."""
        expected = set(names)
        removed = self._expected - expected
        self._expected = expected
        for name in removed:
            self._results.pop(name, None)
        self._unsent = [name for name in self._unsent if name in self._results]
        return bool(removed)

    def update(self, result: CheckResult) -> None:
        """Take the new result of a check; results of checks nobody expects are dropped."""
        if result.name not in self._expected:
            return
        known = self._results.get(result.name)
        self._results[result.name] = result
        if (known is None or _news(known) != _news(result)) and result.name not in self._unsent:
            self._unsent.append(result.name)

    def worst(self) -> Optional[CheckResult]:
        """Return the result that most deserves a person's eye, or None when all is well."""
        bad = [result for result in self._results.values() if result.status is not Status.OK]
        return max(bad, key=lambda result: SEVERITY.index(result.status)) if bad else None

    def start(self) -> None:
        """Begin a new session: everything is to be told again, numbered from 1."""
        self.start_over()
        self._rev = 0

    def start_over(self) -> None:
        """Begin the full report again within a session, because a part of it was lost."""
        self._unsent = list(self._results)
        self._full = True

    def next_part(self, now: float, room: int) -> Optional[Dict[str, object]]:
        """Return the `vmhb` object for a response that has `room` bytes left, or None for none."""
        waiting = self._full and not self._expected.issubset(self._results)
        if not self._unsent and (waiting or not self._full):
            return None
        checks = fit([self._results[name] for name in self._unsent], now, room - ENVELOPE)
        del self._unsent[: len(checks)]
        more = waiting or bool(self._unsent)
        self._full = self._full and more
        self._rev += 1
        return {"checks": checks, "rev": self._rev, "more": more}


def fit(results: Sequence[CheckResult], now: float, room: int) -> List[Dict[str, object]]:
    """Return as objects for the wire the first results, as many as `room` bytes hold."""
    entries: List[Dict[str, object]] = []
    for result in results:
        entry = _entry(result, now)
        if not entries:
            _shorten(entry, room)
        size = len(compact(entry)) + 1
        if size > room:
            break
        room -= size
        entries.append(entry)
    return entries


def _news(result: CheckResult) -> object:
    """What makes a result worth sending again: not that it took 3 ms longer this time."""
    return result.status, result.text, result.perfdata, result.since


def _entry(result: CheckResult, now: float) -> Dict[str, object]:
    return {
        "name": result.name,
        "status": result.status.value,
        "text": result.text,
        "perfdata": result.perfdata,
        "since_ms": max(0, int((now - result.since) * 1000)),
        "duration_ms": max(0, int(result.duration * 1000)),
    }


def _shorten(entry: Dict[str, object], room: int) -> None:
    """Cut an entry that no line would hold: figures first, then the end of its text."""
    if len(compact(entry)) + 1 > room:
        entry["perfdata"] = ""
    while len(compact(entry)) + 1 > room and entry["text"]:
        text = str(entry["text"])
        entry["text"] = text[: len(text) // 2]
