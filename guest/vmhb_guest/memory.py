# SPDX-License-Identifier: Apache-2.0
"""Keeps in one file what an agent that is started again must know of the applications."""

import json
import math
import os
from typing import Any, Dict, List, NamedTuple

from . import log


class Remembered(NamedTuple):
    """An application that has crashed, or that has promised to be heard of."""

    name: str
    uid: int
    pid: int
    #: Seconds between two words of it; infinite if it has promised none.
    interval: float
    #: How it crashed; empty if it has not.
    crash: str = ""
    #: When it crashed, in seconds of the monotonic clock, which goes on until the next boot.
    since: float = 0.0


class Memory:
    """The file at `path`, in a directory that a reboot empties; without a path, nothing is kept."""

    def __init__(self, path: str = "") -> None:
        self._path = path
        self._saved: List[Remembered] = []
        self._complained = False

    def load(self) -> List[Remembered]:
        """Return what was saved last; what cannot be read is said, and nothing is remembered."""
        if not self._path or not os.path.exists(self._path):
            return []
        try:
            with open(self._path, encoding="utf-8") as file:
                self._saved = [_of_json(row) for row in json.load(file)]
        except (OSError, ValueError, TypeError) as error:
            log.warning("%s: cannot be read, crashes are forgotten: %s", self._path, error)
        return list(self._saved)

    def save(self, applications: List[Remembered]) -> None:
        """Keep these; a disk that refuses is said once, and the agent goes on."""
        if not self._path or applications == self._saved:
            return
        self._saved = applications
        try:
            self._write([_to_json(application) for application in applications])
        except OSError as error:
            if not self._complained:
                log.warning("%s: cannot be written: %s", self._path, error.strerror)
            self._complained = True

    def _write(self, rows: List[Dict[str, Any]]) -> None:
        partial = self._path + ".new"
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            json.dump(rows, file)
        os.replace(partial, self._path)


def _to_json(application: Remembered) -> Dict[str, Any]:
    row = application._asdict()
    if application.interval == math.inf:
        del row["interval"]  # JSON has no infinity
    return dict(row)


def _of_json(row: Dict[str, Any]) -> Remembered:
    return Remembered(**dict({"interval": math.inf}, **row))
