# SPDX-License-Identifier: Apache-2.0
"""The leases' copy on disk, kept by one thread: a disk that hangs or fails holds up nobody.

While it does, the sweep goes on in memory; the disk gets everything when it is back.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Optional

#: Seconds after which a disk that does not answer counts as one that does not work.
PATIENCE = 5.0
#: Seconds between two attempts on a disk that does not work.
RETRY = 60.0
#: Seconds in which changes are gathered: after an outage thousands of leases come at once.
PACE = 0.2

_VERSION = 1
_SCHEMA = """
CREATE TABLE lease (id TEXT PRIMARY KEY, term REAL NOT NULL, payload TEXT NOT NULL);
CREATE TABLE host (name TEXT PRIMARY KEY, period REAL NOT NULL);
CREATE TABLE standing (
    id TEXT PRIMARY KEY,
    silent_host TEXT,
    event_type TEXT NOT NULL,
    payload TEXT NOT NULL
);
"""
#: Table -> its key, and the number of its columns.
_TABLES = {"lease": ("id", 3), "host": ("name", 2), "standing": ("id", 4)}

_LOG = logging.getLogger(__name__)

#: A table's columns in their order, the key first.
Row = tuple[Any, ...]
_Key = tuple[str, str]
_Changes = Mapping[_Key, Optional[Row]]


class LeaseFile:
    """Takes rows from one thread and never makes it wait, but for `start` and `close`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        #: All that the disk is to have.
        self._rows: dict[_Key, Row] = {}
        #: Keys that it does not have as above; None: nobody knows what it has.
        self._unsaved: set[_Key] | None = None
        #: What an earlier process left; None: not read yet, or taken over already.
        self._found: dict[str, list[Row]] | None = None
        self._loaded = False
        self._stopping = False
        #: Monotonic; None while the thread does not touch the disk.
        self._busy_since: float | None = None
        self._trouble = ""
        self._told = False
        self._news = threading.Condition()
        self._db: sqlite3.Connection | None = None
        self._thread = threading.Thread(target=self._run, name="leases-disk", daemon=True)

    def start(self) -> None:
        """Start the thread; return when it has read what is there, or has trouble."""
        self._thread.start()
        with self._news:
            self._news.wait_for(lambda: self._loaded or self._trouble, PATIENCE)

    def close(self) -> bool:
        """Write what is left and end the thread; False when the disk holds it."""
        with self._news:
            self._stopping = True
            self._news.notify_all()
        self._thread.join(PATIENCE)
        return not self._thread.is_alive()

    def found(self) -> dict[str, list[Row]]:
        """Return, once, the rows that an earlier process left, by table."""
        with self._news:
            found, self._found = self._found, None
            self._news.notify_all()
        return found or {}

    def put(self, table: str, *row: object) -> None:
        """Add a row, or replace the one with its key."""
        key = (table, str(row[0]))
        with self._news:
            self._rows[key] = row
            self._change(key)

    def remove(self, table: str, key: str) -> None:
        """Remove a row."""
        with self._news:
            self._rows.pop((table, key), None)
            self._change((table, key))

    def tell(self) -> None:
        """Say once that the disk fails, and once that it is well again."""
        trouble = self._why_not()
        if trouble and not self._told:
            self._told = True
            _LOG.error(
                "%s: %s; goes on in memory, and forgets all when it ends: put the disk right, or "
                "remove the file to begin anew",
                self._path,
                trouble,
            )
        elif self._told and not trouble and self._unsaved == set():
            self._told = False
            _LOG.warning("%s can be written again and has everything", self._path)

    def _why_not(self) -> str:
        since = self._busy_since
        if not self._trouble and since is not None and time.monotonic() - since > PATIENCE:
            return "the disk does not answer"
        return self._trouble

    def _change(self, key: _Key) -> None:
        if self._unsaved is not None:
            self._unsaved.add(key)
            if len(self._unsaved) > 2 * len(self._rows) + 1000:
                # Mostly what came and went while the disk hung.
                self._unsaved = None
        self._news.notify_all()

    # -- the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        while self._await_work():
            self._work()
        if self._has_work():
            self._work()
        self._close()

    def _await_work(self) -> bool:
        """Return when there is work for the disk; False when it is time to end."""
        with self._news:
            if self._trouble:
                self._news.wait_for(lambda: self._stopping, RETRY)
            self._news.wait_for(lambda: self._stopping or self._has_work())
            if self._loaded:
                self._news.wait_for(lambda: self._stopping, PACE)
            return not self._stopping

    def _has_work(self) -> bool:
        if not self._loaded:
            return True
        # What was found is still to be compared with what was heard meanwhile.
        return self._found is None and (self._unsaved is None or bool(self._unsaved))

    def _work(self) -> None:
        self._busy_since = time.monotonic()
        try:
            self._db = self._db or _open(self._path)
            if self._loaded:
                self._save(self._db)
            else:
                self._load(self._db)
        except Exception as problem:
            self._close()
            trouble = f"{type(problem).__name__}: {problem}"
        else:
            trouble = ""
        with self._news:
            self._busy_since = None
            self._trouble = trouble
            if trouble:
                self._unsaved = None
            self._news.notify_all()

    def _load(self, db: sqlite3.Connection) -> None:
        found = {table: db.execute(f"SELECT * FROM {table}").fetchall() for table in _TABLES}  # noqa: S608
        with self._news:
            self._found = found
            self._loaded = True

    def _save(self, db: sqlite3.Connection) -> None:
        with self._news:
            unsaved, self._unsaved = self._unsaved, set()
            changes: _Changes = (
                dict(self._rows)
                if unsaved is None
                else {key: self._rows.get(key) for key in unsaved}
            )
        with db:
            if unsaved is None:
                for table in _TABLES:
                    db.execute(f"DELETE FROM {table}")  # noqa: S608
            _write(db, changes)

    def _close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            try:
                db.close()
            except sqlite3.Error:
                _LOG.debug("closing %s failed", self._path, exc_info=True)


def _write(db: sqlite3.Connection, changes: _Changes) -> None:
    for table, (key, columns) in _TABLES.items():
        gone = [(id_,) for (where, id_), row in changes.items() if where == table and row is None]
        there = [row for (where, _), row in changes.items() if where == table and row is not None]
        places = ", ".join("?" * columns)
        db.executemany(f"DELETE FROM {table} WHERE {key} = ?", gone)  # noqa: S608
        db.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({places})", there)  # noqa: S608


def knows_host(path: Path, host: str) -> bool | None:
    """Whether the sweep that keeps this file hears the host; None when the file does not tell."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=1.0)) as db:
            found = db.execute("SELECT 1 FROM host WHERE name = ?", (host,)).fetchone()
    except sqlite3.Error:
        return None
    return found is not None


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    db = sqlite3.connect(str(path), timeout=5.0)
    try:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version not in (0, _VERSION):
            raise sqlite3.DatabaseError(f"its version is {version}, not {_VERSION}")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        if version == 0:
            db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
    except BaseException:
        db.close()
        raise
    return db
