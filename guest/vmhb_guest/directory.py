# SPDX-License-Identifier: Apache-2.0
"""Finds the health checks: the files of one directory whose names can go on the wire."""

import os
import re
from typing import Dict, Set

from . import log

NAME = re.compile(r"[A-Za-z0-9_.-]{1,48}")
#: How the names of audits and applications begin: no health check may pass for one.
RESERVED = ("os.", "app.")
#: More checks than this are a mistake in the image, and a burden on the heartbeat.
CHECKS_MAX = 64


def is_reserved(name: str) -> bool:
    """Tell whether a name is one that health checks must leave to audits and applications."""
    return name.startswith(RESERVED)


class HealthDirectory:
    """A directory that is looked through again and again; what is wrong is said once."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._said: Set[str] = set()
        self._found: Dict[str, str] = {}

    def scan(self) -> Dict[str, str]:
        """Return name -> path of every check; a directory that cannot be read changes nothing.

        A dangling link is a check as well, one that cannot be run: what it was to watch has not
        become healthy by that. Hidden files and directories are none.
        """
        try:
            with os.scandir(self._path) as entries:
                found = {entry.name: entry.path for entry in entries if _is_check(entry)}
        except FileNotFoundError:
            self._say("health directory %s does not exist: no health checks" % self._path)
            found = {}
        except OSError as error:
            self._say("cannot read health directory %s: %s" % (self._path, error.strerror))
            return self._found
        self._found = self._admit(found)
        return self._found

    def _admit(self, found: Dict[str, str]) -> Dict[str, str]:
        for name in sorted(found):
            if not NAME.fullmatch(name):
                self._say("health check %r refused: its name must match %s" % (name, NAME.pattern))
            elif is_reserved(name):
                self._say(
                    "health check %s refused: names that begin with %s are reserved"
                    % (name, " or ".join(RESERVED))
                )
        names = sorted(name for name in found if NAME.fullmatch(name) and not is_reserved(name))
        if len(names) > CHECKS_MAX:
            self._say("more than %d health checks: the last by name are ignored" % CHECKS_MAX)
        return {name: found[name] for name in names[:CHECKS_MAX]}

    def _say(self, what: str) -> None:
        if what not in self._said and len(self._said) < 4 * CHECKS_MAX:
            self._said.add(what)
            log.warning("%s", what)


def _is_check(entry: "os.DirEntry[str]") -> bool:
    if entry.name.startswith("."):
        return False
    return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
