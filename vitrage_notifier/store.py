# SPDX-License-Identifier: Apache-2.0
"""The outbox's copy on disk, kept by one thread: a disk that hangs or fails holds up nobody else.

What comes while the disk does not take it stays in memory, and is written when the disk is back.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Protocol

from vitrage_notifier.alarm import Alarm, Subject
from vitrage_notifier.outbox import Entry, Key, Outbox

#: Seconds after which a disk that does not answer counts as one that does not work; also how
#: long sqlite waits for somebody else's lock.
PATIENCE = 1.0
#: Seconds between two attempts on a disk that does not work.
RETRY = 5.0

_VERSION = 2
_SCHEMA = """
CREATE TABLE IF NOT EXISTS alarm (
    incident TEXT NOT NULL,
    generation INTEGER NOT NULL,
    host TEXT NOT NULL,
    instance TEXT NOT NULL,
    fault TEXT NOT NULL,
    severity TEXT NOT NULL,
    time REAL NOT NULL,
    wanted INTEGER NOT NULL,
    told INTEGER NOT NULL,
    turn INTEGER NOT NULL,
    PRIMARY KEY (incident, generation)
);
"""


class Log(Protocol):
    """Where the store says what an operator should know."""

    def error(self, text: str) -> None:
        """Say what an operator must repair."""

    def notice(self, text: str) -> None:
        """Say that it is well again."""


class Store:
    """Loads the outbox from `path`, then writes its changes there until told to stop."""

    def __init__(self, outbox: Outbox, path: Path, log: Log) -> None:
        self._outbox = outbox
        self._path = path
        self._log = log
        self._db: sqlite3.Connection | None = None
        self._loaded = False
        #: `Outbox.changes` as the disk has it.
        self._saved = -1
        self._trouble = ""
        #: Monotonic; None while the thread does not touch the disk.
        self._busy_since: float | None = None
        self._news = threading.Condition()
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def trouble(self) -> str:
        """Say why changes are kept in memory only; empty while the disk works."""
        since = self._busy_since
        if not self._trouble and since is not None and time.monotonic() - since > PATIENCE:
            return "the disk does not answer"
        return self._trouble

    def start(self) -> None:
        """Start the thread; return when it has loaded what is there, or has trouble."""
        self._thread = threading.Thread(target=self._run, name="vitrage_notifier-disk", daemon=True)
        self._thread.start()
        self.settle()

    def settle(self) -> None:
        """Return when the disk has what the outbox had at the call; do not wait for a bad disk."""
        goal = self._outbox.changes
        self._wake.set()
        deadline = time.monotonic() + 2 * PATIENCE
        with self._news:
            while self._saved < goal and not self.trouble:
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                self._news.wait(left)

    def wake(self) -> None:
        """Let the thread look for changes now."""
        self._wake.set()

    def stop(self) -> bool:
        """Write what is left and end the thread; False when the disk holds it."""
        self._stop.set()
        self._wake.set()
        if self._thread is None:
            return True
        self._thread.join(2 * PATIENCE)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._outbox.changes == self._saved:
                self._wake.wait(RETRY)
            self._wake.clear()
            self._step()
            if self._trouble:
                self._stop.wait(RETRY)
        self._step()
        self._close()

    def _step(self) -> None:
        """Bring the disk up to date, or note the trouble."""
        if self._outbox.changes == self._saved:
            return
        self._busy_since = time.monotonic()
        try:
            saved = self._save_or_begin_anew()
        except Exception as problem:
            self._close()
            self._busy_since = None
            self._note(saved=None, trouble=f"{type(problem).__name__}: {problem}")
        else:
            self._busy_since = None
            self._note(saved, trouble="")

    def _save_or_begin_anew(self) -> int:
        try:
            return self._save()
        except sqlite3.OperationalError:
            # Locked, full or not writable: a fresh file would be no better.
            raise
        except (sqlite3.DatabaseError, UnicodeDecodeError) as problem:
            # It costs little: the engine raises every open fault again when it starts, and
            # Vitrage drops what nobody re-sends.
            self._close()
            self._loaded = True
            aside = _set_aside(self._path)
            self._log.error(f"{self._path} is unreadable ({problem}): set aside as {aside.name}")
            return self._save()

    def _save(self) -> int:
        fresh = self._db is None
        db = self._db = self._db or _connect(self._path)
        if not self._loaded:
            self._outbox.restore(_entries(db))
            self._loaded = True
        # After a trouble nobody knows what is on disk: it is written anew.
        unsaved = self._outbox.unsaved(everything=fresh)
        with db:
            db.execute("BEGIN IMMEDIATE")
            if unsaved.everything:
                db.execute("DELETE FROM alarm")
            _put(db, unsaved.entries)
        return unsaved.changes

    def _close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()

    def _note(self, saved: int | None, trouble: str) -> None:
        with self._news:
            before, self._trouble = self._trouble, trouble
            if saved is not None:
                self._saved = saved
            self._news.notify_all()
        if trouble and not before:
            self._log.error(
                f"{self._path} cannot be written, alarms are kept in memory: {trouble}; what is "
                "not sent when collectd ends is lost"
            )
        elif before and not trouble:
            self._log.notice(f"{self._path} can be written again and has everything")


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # sqlite gives its side files the mode of the database.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    db = sqlite3.connect(str(path), timeout=PATIENCE, isolation_level=None)
    try:
        _prepare(db)
    except BaseException:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version not in (0, _VERSION):
        raise sqlite3.DatabaseError(f"its version is {version}, not {_VERSION}")
    db.execute("PRAGMA journal_mode = WAL")
    # A crash of the process loses nothing; a power cut may lose the last changes, which the
    # engine's handshake after its start repairs. A flush per notification is not worth that.
    db.execute("PRAGMA synchronous = NORMAL")
    db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")


def _put(db: sqlite3.Connection, entries: Mapping[Key, Entry | None]) -> None:
    db.executemany(
        "DELETE FROM alarm WHERE incident = ? AND generation = ?",
        [key for key, entry in entries.items() if entry is None],
    )
    db.executemany(
        "INSERT OR REPLACE INTO alarm VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [_row(entry) for entry in entries.values() if entry is not None],
    )


def _row(entry: Entry) -> tuple[str | int | float, ...]:
    alarm, subject = entry.alarm, entry.alarm.subject
    return (
        alarm.incident,
        alarm.generation,
        subject.host,
        subject.instance,
        subject.fault,
        alarm.severity,
        alarm.time,
        entry.wanted,
        entry.told,
        entry.turn,
    )


def _entries(db: sqlite3.Connection) -> list[Entry]:
    with closing(db.execute("SELECT * FROM alarm")) as rows:
        return [
            Entry(
                Alarm(incident, generation, Subject(host, instance, fault), severity, time),
                bool(wanted),
                bool(told),
                turn,
            )
            for incident, generation, host, instance, fault, severity, time, wanted, told, turn in (
                rows
            )
        ]


def _set_aside(path: Path) -> Path:
    aside = path.with_name(path.name + ".unreadable")
    path.replace(aside)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return aside
