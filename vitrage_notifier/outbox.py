# SPDX-License-Identifier: Apache-2.0
"""What Vitrage should show and what it was told so far; in memory, quick, for any thread.

An entry is one generation of an incident. It is *wanted* while the engine says so, and *told*
from the moment we first tried to send it: from then on Vitrage may hold it, delivered or not.

* wanted: to be raised, and again each period, because Vitrage forgets. Withdrawn before anything
  was told: forgotten.
* not wanted, told: to be cleared, again for a while, because Vitrage may be down, then forgotten.

Thus what waits is bounded by what is open, however long the broker is away, and changes leave
in the order in which they came; but an OK waits until the alarm has settled. `store` keeps a copy
on disk.
"""

from __future__ import annotations

import heapq
import math
import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Callable

from vitrage_notifier.alarm import Alarm, Cleared, News, OpenFaults, Raised, Subject

#: Ten faults on each of a thousand VMs: beyond this something else is broken.
MAX_WANTED = 10_000
#: Cleared alarms whose OK is repeated; beyond this the one that was repeated longest goes.
MAX_REPEATED_OKS = 10_000
#: Changes of which an account is kept while the disk does not take them; beyond this it gets all.
MAX_UNSAVED = 4 * MAX_WANTED
#: Hosts whose engine is known, or whose handshake may be incomplete, if we serve several.
MAX_HOSTS = 100
#: Alarms that are compared with an engine's list before others may have the outbox again.
AT_ONCE = 100
#: Seconds from when the broker took an alarm, for the first time or again, to its OK: of one whose
#: beginning and end it gets in one moment vitrage-persistor, whose threads keep no order, may write
#: the beginning last, and then lists it for ever.
SETTLE = 3.0
#: The most, for an alarm that had to wait itself: after an outage of the broker Vitrage has to find
#: its way back as well. Its persistor was seen there 2 s after us, and as much behind then.
SETTLE_MOST = 15.0
#: An alarm is sent again after this part of the period at the earliest, at random: after an
#: outage of the broker, a thousand nodes shall not stay in step.
EARLIEST_RESEND = 0.75
#: How an incident begins whose id we made up: it came without meta data, from another collectd.
_MADE_UP = "unnamed-"

Key = tuple[str, int]


class OutboxFullError(Exception):
    """More alarms are open than the outbox keeps; the new one was not taken."""


@dataclass(frozen=True)
class Errand:
    """One alarm to be raised or cleared in Vitrage."""

    alarm: Alarm
    wanted: bool


@dataclass(frozen=True)
class Entry:
    """One generation of an incident, as it is kept on disk."""

    alarm: Alarm
    wanted: bool
    told: bool
    #: Rises with each change: the order in which they are sent.
    turn: int


@dataclass(frozen=True)
class Unsaved:
    """What a copy of the entries lacks."""

    #: None for what is gone.
    entries: Mapping[Key, Entry | None]
    #: Whether that is all there is: what else the copy has is to go.
    everything: bool
    #: `Outbox.changes` at that moment.
    changes: int


@dataclass
class _Held:
    """An entry and where it stands in this process; times are of the monotonic clock."""

    alarm: Alarm
    wanted: bool
    told: bool
    turn: int
    #: Since when it waits to be sent for the first time in its present state.
    waiting_since: float
    #: When it is to be sent again; meaningless while it waits.
    due: float = -math.inf
    #: When it may be cleared.
    settled: float = -math.inf
    #: Until when an OK is repeated; None: it was not sent yet.
    until: float | None = None
    #: Whether it is here because an earlier process left it, and for no other reason.
    restored: bool = False


@dataclass
class _Review:
    """What an engine has listed, and what was wanted then and is still to be compared with it."""

    host: str
    time: float
    listed: frozenset[str]
    keys: list[Key]


class Outbox:
    """Takes news from any thread, keeps errands for one sender and changes for one store.

    Every call leaves the outbox to others after a millisecond or less (`unsaved` after a trouble
    with the disk: some milliseconds for ten thousand entries), whatever disk and broker do.
    """

    def __init__(
        self,
        resend_interval: float,
        repeat_ok_for: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._resend_interval = resend_interval
        self._repeat_ok_for = repeat_ok_for
        self._clock = clock
        self._lock = threading.Lock()
        self._held: dict[Key, _Held] = {}
        self._wanted: dict[Subject, Key] = {}
        #: What has not been sent in its present state, in turn.
        self._waiting: dict[Key, None] = {}
        #: What is to be sent again: (due, key); entries that changed since are passed over.
        self._again: list[tuple[float, Key]] = []
        #: What is not wanted and whose OK was sent, the longest ago first.
        self._repeated_oks: dict[Key, None] = {}
        #: Incident -> its generations that are held.
        self._generations: dict[str, set[int]] = {}
        #: What the copy on disk does not have; None: too much to say.
        self._unsaved: dict[Key, None] | None = {}
        self._changes = 0
        self._turn = 0
        #: Per host, the handshake that is coming in: its id and the parts seen.
        self._handshakes: dict[str, tuple[str, dict[int, frozenset[str]]]] = {}
        #: Left to the sender: with thousands of alarms they would hold up who dispatches.
        self._reviews: deque[_Review] = deque(maxlen=MAX_HOSTS)
        self._engines: dict[str, None] = {}

    def take(self, news: News) -> bool:
        """Keep what the engine said; True when there may be something new to send."""
        with self._lock:
            if isinstance(news, Raised):
                return self._raise(news)
            if isinstance(news, Cleared):
                return self._clear(news)
            return self._shake_hands(news)

    def next_errand(self, repeats: bool = True) -> Errand | None:
        """Return what is to be sent next, marked as told; None when Vitrage knows everything.

        Without `repeats` only what has changed since it was sent.
        """
        while self._review():
            pass
        with self._lock:
            key = next(iter(self._waiting), None)
            if key is None and repeats:
                key = self._due()
            if key is None:
                return None
            held = self._held[key]
            if not held.told:
                held.told = True
                self._changed(key)
            return Errand(held.alarm, held.wanted)

    def next_repeat(self) -> float:
        """Return the seconds until something that was sent before is to be sent again."""
        with self._lock:
            self._due()
            return self._again[0][0] - self._clock() if self._again else math.inf

    def done(self, errand: Errand) -> None:
        """Note that the broker has taken this errand."""
        key = (errand.alarm.incident, errand.alarm.generation)
        with self._lock:
            held = self._held.get(key)
            now = self._clock()
            if held is None or held.wanted != errand.wanted:
                if held is not None and errand.wanted:  # withdrawn while it was under way
                    self._put_off(key, now + SETTLE)
                return
            self._waiting.pop(key, None)
            if held.wanted:
                waited = now - max(held.waiting_since, held.due)
                held.settled = now + min(max(waited, SETTLE), SETTLE_MOST)
            held.due = now + self._resend_interval * random.uniform(EARLIEST_RESEND, 1.0)  # noqa: S311
            if not held.wanted:
                if held.until is None:
                    held.until = now + self._repeat_ok_for
                    self._repeat_ok(key)
                if held.due > held.until:
                    self._forget(key)
                    return
            heapq.heappush(self._again, (held.due, key))

    def open_alarms(self) -> list[Alarm]:
        """Return what Vitrage should show, in the order in which it came."""
        with self._lock:
            held = sorted((self._held[key] for key in self._wanted.values()), key=_turn)
            return [each.alarm for each in held]

    def engines(self) -> list[str]:
        """Return the hosts whose engine has listed its faults to us since the start."""
        with self._lock:
            return list(self._engines)

    def count_open(self, host: str | None = None) -> int:
        """Return how many alarms Vitrage should show, of this host or of all."""
        with self._lock:
            if host is None:
                return len(self._wanted)
            return sum(subject.host == host for subject in self._wanted)

    def backlog(self) -> tuple[int, float]:
        """Return how many errands wait to be sent at all, and the seconds that the oldest waits."""
        with self._lock:
            oldest = next(iter(self._waiting), None)
            if oldest is None:
                return 0, 0.0
            return len(self._waiting), self._clock() - self._held[oldest].waiting_since

    def _review(self) -> bool:
        """Withdraw some of what an engine did not list; True while there is more to look at."""
        with self._lock:
            if not self._reviews:
                return False
            review = self._reviews[0]
            keys, review.keys = review.keys[:AT_ONCE], review.keys[AT_ONCE:]
            for key in keys:
                held = self._held.get(key)
                if held is None or not held.wanted or key[0] in review.listed:
                    continue
                if held.alarm.subject.host == review.host or self._is_renamed(held):
                    self._withdraw(key, review.time)
            if not review.keys:
                self._reviews.popleft()
            return True

    # -- for the store ----------------------------------------------------------------------

    @property
    def changes(self) -> int:
        """Count the changes that a copy of the entries has to follow."""
        return self._changes

    def unsaved(self, everything: bool = False) -> Unsaved:
        """Return what has changed since the last call, or all that is held."""
        with self._lock:
            everything = everything or self._unsaved is None
            keys = self._held if everything else self._unsaved or ()
            held = [(key, self._held.get(key)) for key in keys]
            states = [
                (key, each and (each.alarm, each.wanted, each.told, each.turn))
                for key, each in held
            ]
            self._unsaved = {}
            changes = self._changes
        entries = {key: Entry(*state) if state else None for key, state in states}
        return Unsaved(entries, everything, changes)

    def restore(self, entries: Iterable[Entry]) -> None:
        """Take up what an earlier process left, below what is known already.

        An engine that has listed its faults has raised them all: what it left out is over.
        """
        with self._lock:
            for entry in sorted(entries, key=_turn):
                self._restore(entry)

    # -- inside, under the lock -------------------------------------------------------------

    def _raise(self, news: Raised) -> bool:
        moved = self._withdraw_elsewhere(news)
        key = self._wanted.get(news.subject)
        if key is None:
            self._want(news, news.incident or _new_incident())
            return True
        self._held[key].restored = False
        known = self._held[key].alarm
        if known.incident == (news.incident or known.incident):
            if known.severity == news.severity:
                return moved
            self._withdraw(key, news.time)
            self._want(news, known.incident, known.generation)
            return True
        # The engine has one incident per subject: that it closed the old one got lost.
        self._withdraw(key, news.time)
        self._want(news, news.incident or _new_incident())
        return True

    def _withdraw_elsewhere(self, news: Raised) -> bool:
        """Withdraw the incident where it is known under another subject: the host was renamed."""
        wanted = self._wanted_as(news.incident) if news.incident else []
        elsewhere = [key for key in wanted if self._held[key].alarm.subject != news.subject]
        for key in elsewhere:
            self._withdraw(key, news.time)
        return bool(elsewhere)

    def _wanted_as(self, incident: str) -> list[Key]:
        keys = [(incident, generation) for generation in self._generations.get(incident, ())]
        return [key for key in keys if self._held[key].wanted]

    def _is_renamed(self, held: _Held) -> bool:
        """Whether this collectd's engine once held it open, under a host name of then."""
        return held.restored and self._is_over(held.alarm)

    def _is_over(self, alarm: Alarm) -> bool:
        """Whether the engine, which has raised all that is open, did not raise this again."""
        if alarm.incident.startswith(_MADE_UP):
            return alarm.subject.host in self._engines
        # Only the engine in this collectd names incidents, hence lists them.
        return bool(self._engines)

    def _want(self, news: Raised, incident: str, at_least: int = 1) -> None:
        if len(self._wanted) >= MAX_WANTED:
            raise OutboxFullError
        # An id that Vitrage may still hold, or is about to lose, must not be used again.
        held = self._generations.get(incident, ())
        generation = max(at_least, max(held, default=0) + 1)
        alarm = Alarm(incident, generation, news.subject, news.severity, news.time)
        self._hold(alarm, wanted=True, told=False)

    def _clear(self, news: Cleared) -> bool:
        key = self._wanted.get(news.subject)
        if key is None or key[0] != (news.incident or key[0]):
            return False
        self._withdraw(key, news.time)
        return True

    def _shake_hands(self, news: OpenFaults) -> bool:
        handshake, seen = self._handshakes.pop(news.host, ("", {}))
        if handshake != news.handshake:
            handshake, seen = news.handshake, {}
        seen[news.part] = news.incidents
        if len(seen) < news.parts:
            self._handshakes[news.host] = (handshake, seen)
            _bound(self._handshakes)
            return False
        self._engines[news.host] = None
        _bound(self._engines)
        listed: frozenset[str] = frozenset().union(*seen.values())
        self._reviews.append(_Review(news.host, news.time, listed, list(self._wanted.values())))
        return True

    def _restore(self, entry: Entry) -> None:
        alarm = entry.alarm
        key = (alarm.incident, alarm.generation)
        present = self._held.get(key)
        if present is not None:
            if (present.alarm.subject, present.alarm.severity) == (alarm.subject, alarm.severity):
                present.told = present.told or entry.told
                return
            # Vitrage shows for ever what it saw first under this id.
            self._forget(key)
            self._hold(alarm, wanted=False, told=True)
            if present.wanted:
                now = present.alarm
                self._want(Raised(now.subject, now.severity, now.time, key[0]), key[0])
            return
        known = alarm.subject in self._wanted or bool(self._wanted_as(alarm.incident))
        wanted = entry.wanted and not known and not self._is_over(alarm)
        wanted = wanted and len(self._wanted) < MAX_WANTED
        if wanted or entry.told:
            self._hold(alarm, wanted, entry.told)
            self._held[key].restored = True

    def _hold(self, alarm: Alarm, wanted: bool, told: bool) -> None:
        key = (alarm.incident, alarm.generation)
        self._held[key] = _Held(alarm, wanted, told, self._next_turn(), self._clock())
        self._waiting[key] = None
        self._generations.setdefault(alarm.incident, set()).add(alarm.generation)
        if wanted:
            self._wanted[alarm.subject] = key
        self._changed(key)

    def _withdraw(self, key: Key, time: float) -> None:
        """Want the alarm no more; what was never told is simply forgotten."""
        held = self._held[key]
        self._forget(key)
        if held.told:
            old = held.alarm
            alarm = Alarm(old.incident, old.generation, old.subject, old.severity, time)
            self._hold(alarm, wanted=False, told=True)
            if held.settled > self._clock():
                self._put_off(key, held.settled)

    def _put_off(self, key: Key, due: float) -> None:
        self._waiting.pop(key, None)
        self._held[key].due = due
        heapq.heappush(self._again, (due, key))

    def _repeat_ok(self, key: Key) -> None:
        self._repeated_oks[key] = None
        if len(self._repeated_oks) > MAX_REPEATED_OKS:
            self._forget(next(iter(self._repeated_oks)))

    def _forget(self, key: Key) -> None:
        held = self._held.pop(key)
        self._waiting.pop(key, None)
        self._repeated_oks.pop(key, None)
        self._generations[key[0]].discard(key[1])
        if not self._generations[key[0]]:
            del self._generations[key[0]]
        if held.wanted:
            del self._wanted[held.alarm.subject]
        self._changed(key)

    def _due(self) -> Key | None:
        while self._again:
            due, key = self._again[0]
            held = self._held.get(key)
            if held is None or held.due != due or key in self._waiting:
                heapq.heappop(self._again)
                continue
            return key if due <= self._clock() else None
        return None

    def _changed(self, key: Key) -> None:
        self._changes += 1
        if self._unsaved is not None:
            self._unsaved[key] = None
            if len(self._unsaved) > MAX_UNSAVED:
                self._unsaved = None

    def _next_turn(self) -> int:
        self._turn += 1
        return self._turn


def _new_incident() -> str:
    return f"{_MADE_UP}{uuid.uuid4()}"


def _turn(entry: Entry | _Held) -> int:
    return entry.turn


def _bound(hosts: dict[str, Any]) -> None:
    if len(hosts) > MAX_HOSTS:
        del hosts[next(iter(hosts))]
