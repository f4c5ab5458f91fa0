# SPDX-License-Identifier: Apache-2.0
"""What Vitrage should show and what it was told so far; on disk, so that nothing is forgotten.

A row is one generation of an incident. It is *wanted* while the engine says so, and *told* from
the moment we first tried to send it: from then on Vitrage may hold it, delivered or not.

* wanted, not sent yet: to be raised. Withdrawn before anything was told: forgotten.
* not wanted, told: to be cleared, and forgotten once that was sent.

Thus what waits is bounded by what is open, however long the broker is away, and changes leave
in the order in which they came.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vitrage_notifier.alarm import Alarm, Cleared, News, OpenFaults, Raised, Subject

#: Ten faults on each of a thousand VMs: beyond this something else is broken.
MAX_WANTED = 10_000
#: Hosts whose handshake may be incomplete at one time, when this collectd serves several.
MAX_HANDSHAKES = 100

_VERSION = 1
_SCHEMA = """
CREATE TABLE alarm (
    incident TEXT NOT NULL,
    generation INTEGER NOT NULL,
    host TEXT NOT NULL,
    instance TEXT NOT NULL,
    fault TEXT NOT NULL,
    severity TEXT NOT NULL,
    time REAL NOT NULL,
    wanted INTEGER NOT NULL,
    told INTEGER NOT NULL,
    sent REAL,
    turn INTEGER NOT NULL,
    PRIMARY KEY (incident, generation)
);
CREATE UNIQUE INDEX one_per_subject ON alarm (host, instance, fault) WHERE wanted;
CREATE INDEX in_turn ON alarm (turn);
CREATE INDEX waiting ON alarm (turn) WHERE NOT wanted OR sent IS NULL;
CREATE INDEX by_sent ON alarm (sent);
"""


class OutboxFullError(Exception):
    """More alarms are open than the outbox keeps; the new one was not taken."""


@dataclass(frozen=True)
class Errand:
    """One alarm to be raised or cleared in Vitrage."""

    alarm: Alarm
    wanted: bool


class Outbox:
    """Takes news from any thread, keeps errands for one sender.

    One connection under one lock, because collectd's threads come and go: a connection per
    thread would be opened for each notification. The lock is never held while something is sent
    or logged. Raises sqlite3.Error when the disk fails.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        #: Per host, the handshake that is coming in: its id and the parts seen.
        self._handshakes: dict[str, tuple[str, dict[int, frozenset[str]]]] = {}
        self._engines: set[str] = set()
        _create_private(path)
        self._db = sqlite3.connect(
            str(path), timeout=5.0, isolation_level=None, check_same_thread=False
        )
        try:
            _prepare(self._db)
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._db.close()

    def take(self, news: News) -> bool:
        """Keep what the engine said; True when there may be something new to send."""
        with self._changing():
            if isinstance(news, Raised):
                return self._raise(news)
            if isinstance(news, Cleared):
                return self._clear(news)
            return self._shake_hands(news)

    def next_errand(self, now: float, resend_interval: float) -> Errand | None:
        """Return what is to be sent next, marked as told; None when Vitrage knows everything.

        An alarm that is open is due again `resend_interval` seconds after it was sent. `now` is
        seconds since the epoch.
        """
        with self._changing():
            row = self._db.execute(
                "SELECT * FROM alarm WHERE NOT wanted OR sent IS NULL ORDER BY turn LIMIT 1"
            ).fetchone()
            if row is None:
                # A clock that was set back must not silence us until it has caught up.
                self._db.execute("UPDATE alarm SET sent = ? WHERE sent > ?", (now, now))
                row = self._db.execute(
                    "SELECT * FROM alarm WHERE sent <= ? ORDER BY sent LIMIT 1",
                    (now - resend_interval,),
                ).fetchone()
            if row is None:
                return None
            alarm = _alarm(row)
            self._update(alarm, "told = 1")
            return Errand(alarm, bool(row["wanted"]))

    def done(self, errand: Errand, now: float) -> None:
        """Note that the broker has taken this errand."""
        with self._changing():
            if errand.wanted:
                self._update(errand.alarm, "sent = ?", now)
            else:
                self._forget(errand.alarm)

    def open_alarms(self) -> list[Alarm]:
        """Return what Vitrage should show, in the order in which it came."""
        with self._lock:
            rows = self._db.execute("SELECT * FROM alarm WHERE wanted ORDER BY turn").fetchall()
        return [_alarm(row) for row in rows]

    def engines(self) -> dict[str, int]:
        """Return the hosts whose engine has listed its faults to us, and how many are open."""
        with self._lock:
            rows = self._db.execute("SELECT host, count(*) FROM alarm WHERE wanted GROUP BY host")
            counts = dict(rows.fetchall())
            return {host: counts.get(host, 0) for host in sorted(self._engines)}

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                # sqlite has rolled back by itself when, for one, the disk is full.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _raise(self, news: Raised) -> bool:
        known = self._wanted(news.subject)
        if known is not None and known.incident == (news.incident or known.incident):
            if known.severity == news.severity:
                return False
            self._withdraw(known, news.time)
            self._want(news, known.incident, known.generation + 1)
            return True
        if known is not None:
            # The engine has one incident per subject: that it closed the old one got lost.
            self._withdraw(known, news.time)
        self._want(news, news.incident or str(uuid.uuid4()), 1)
        return True

    def _want(self, news: Raised, incident: str, generation: int) -> None:
        (count,) = self._db.execute("SELECT count(*) FROM alarm WHERE wanted").fetchone()
        if count >= MAX_WANTED:
            raise OutboxFullError
        # An id that Vitrage may still hold, or is about to lose, must not be used again.
        (used,) = self._db.execute(
            "SELECT coalesce(max(generation), 0) FROM alarm WHERE incident = ?", (incident,)
        ).fetchone()
        subject = news.subject
        self._db.execute(
            "INSERT INTO alarm VALUES (?, ?, ?, ?, ?, ?, ?, 1, 0, NULL, ?)",
            (
                incident,
                max(generation, used + 1),
                subject.host,
                subject.instance,
                subject.fault,
                news.severity,
                news.time,
                self._next_turn(),
            ),
        )

    def _clear(self, news: Cleared) -> bool:
        known = self._wanted(news.subject)
        if known is None or known.incident != (news.incident or known.incident):
            return False
        self._withdraw(known, news.time)
        return True

    def _shake_hands(self, news: OpenFaults) -> bool:
        handshake, seen = self._handshakes.get(news.host, ("", {}))
        if handshake != news.handshake:
            handshake, seen = news.handshake, {}
        seen[news.part] = news.incidents
        self._handshakes[news.host] = (handshake, seen)
        if len(self._handshakes) > MAX_HANDSHAKES:
            del self._handshakes[next(iter(self._handshakes))]
        if len(seen) < news.parts:
            return False
        del self._handshakes[news.host]
        if len(self._engines) < MAX_HANDSHAKES:
            self._engines.add(news.host)
        listed = frozenset().union(*seen.values())
        rows = self._db.execute("SELECT * FROM alarm WHERE wanted AND host = ?", (news.host,))
        strays = [alarm for alarm in map(_alarm, rows.fetchall()) if alarm.incident not in listed]
        for alarm in strays:
            self._withdraw(alarm, news.time)
        return bool(strays)

    def _wanted(self, subject: Subject) -> Alarm | None:
        row = self._db.execute(
            "SELECT * FROM alarm WHERE wanted AND host = ? AND instance = ? AND fault = ?",
            (subject.host, subject.instance, subject.fault),
        ).fetchone()
        return None if row is None else _alarm(row)

    def _withdraw(self, alarm: Alarm, time: float) -> None:
        """Want the alarm no more; what was never told is simply forgotten."""
        self._db.execute(
            "DELETE FROM alarm WHERE incident = ? AND generation = ? AND NOT told",
            (alarm.incident, alarm.generation),
        )
        self._update(alarm, "wanted = 0, time = ?, turn = ?", time, self._next_turn())

    def _next_turn(self) -> int:
        (last,) = self._db.execute("SELECT coalesce(max(turn), 0) FROM alarm").fetchone()
        return int(last) + 1

    def _update(self, alarm: Alarm, change: str, *values: float) -> None:
        self._db.execute(
            f"UPDATE alarm SET {change} WHERE incident = ? AND generation = ?",  # noqa: S608
            (*values, alarm.incident, alarm.generation),
        )

    def _forget(self, alarm: Alarm) -> None:
        self._db.execute(
            "DELETE FROM alarm WHERE incident = ? AND generation = ?",
            (alarm.incident, alarm.generation),
        )


def open_outbox(path: Path) -> tuple[Outbox, str | None]:
    """Open the outbox; one that cannot be read is set aside, and the text says so.

    That costs little: the engine raises every open fault again when it starts, and Vitrage drops
    what nobody re-sends. Raises OSError or sqlite3.Error when a new one cannot be made either.
    """
    try:
        return Outbox(path), None
    except sqlite3.OperationalError:
        # Locked, full or not writable: a fresh file would be no better.
        raise
    except sqlite3.DatabaseError as problem:
        aside = path.with_name(path.name + ".unreadable")
        path.replace(aside)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        return Outbox(path), f"{path} is unreadable ({problem}): set aside as {aside.name}"


def _create_private(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # sqlite gives its side files the mode of the database.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def _prepare(db: sqlite3.Connection) -> None:
    db.row_factory = sqlite3.Row
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version not in (0, _VERSION):
        raise sqlite3.DatabaseError(f"its version is {version}, not {_VERSION}")
    db.execute("PRAGMA journal_mode = WAL")
    # A crash of the process loses nothing; a power cut may lose the last changes, which the
    # engine's handshake after its start repairs. A flush per notification is not worth that.
    db.execute("PRAGMA synchronous = NORMAL")
    if version == 0:
        db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")


def _alarm(row: sqlite3.Row) -> Alarm:
    subject = Subject(row["host"], row["instance"], row["fault"])
    return Alarm(row["incident"], row["generation"], subject, row["severity"], row["time"])
