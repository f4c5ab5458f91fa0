# SPDX-License-Identifier: Apache-2.0
"""The leases' copy on disk; while the disk fails the sweep does without, and says so once."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

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

_LOG = logging.getLogger(__name__)

Row = tuple[Any, ...]


class LeaseFile:
    """One connection to the file, or none; as a context it is a transaction. Raises nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db: sqlite3.Connection | None = None
        self._failing = False
        self.open()

    @property
    def is_open(self) -> bool:
        """Whether changes reach the disk."""
        return self._db is not None

    def open(self) -> bool:
        """Open the file, again if need be; return whether that is so."""
        if self._db is None:
            try:
                self._db = _open(self._path)
            except (OSError, sqlite3.Error) as problem:
                self._fail(problem)
        return self.is_open

    def close(self) -> None:
        """Release the file."""
        db, self._db = self._db, None
        if db is not None:
            db.close()

    def read(self, query: str, *parameters: object) -> list[Row]:
        """Return what a query finds; nothing while the disk fails."""
        try:
            return self._db.execute(query, parameters).fetchall() if self._db else []
        except sqlite3.Error as problem:
            self._fail(problem)
            return []

    def write(self, statement: str, *parameters: object) -> None:
        """Change one row."""
        self.write_all(statement, [parameters])

    def write_all(self, statement: str, rows: Iterable[Row]) -> None:
        """Change many rows."""
        try:
            if self._db is not None:
                self._db.executemany(statement, rows)
        except sqlite3.Error as problem:
            self._fail(problem)

    def note_recovery(self) -> None:
        """Say that the disk has everything again, if it has."""
        if self._failing and self._db is not None:
            self._failing = False
            _LOG.warning("%s can be written again and has everything", self._path)

    def __enter__(self) -> LeaseFile:
        """Begin a transaction."""
        return self

    def __exit__(self, kind: object, problem: object, traceback: object) -> None:
        """End it, whatever went wrong inside."""
        try:
            if self._db is not None:
                self._db.commit()
        except sqlite3.Error as failure:
            self._fail(failure)

    def _fail(self, problem: Exception) -> None:
        try:
            self.close()
        except sqlite3.Error:
            _LOG.debug("closing %s failed", self._path, exc_info=True)
        if not self._failing:
            self._failing = True
            _LOG.error(
                "%s: %s; goes on in memory, and forgets all when it ends: put the disk right, or "
                "remove the file to begin anew",
                self._path,
                problem,
            )


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
