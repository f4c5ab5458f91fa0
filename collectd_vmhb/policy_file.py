# SPDX-License-Identifier: Apache-2.0
"""``policies.json``: the extra specs of VMs whose domain XML does not tell them.

A separate command writes it (`nova_policy`), or a person. The engine reads it in a thread of its
own: the disk may hang. What is wrong with it costs nobody the monitoring: the last good one stays
in force, over restarts, as a copy is kept beside it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from collectd_vmhb import durable
from collectd_vmhb.sources import NO_POLICIES, Policies, PoliciesRead
from collectd_vmhb.wording import shown

NAME = "policies.json"
FORMAT = 1
#: Bounds of what is read: a host has some hundred VMs, and a row takes some hundred bytes.
SIZE_MAX = 4 * 2**20
ENTRIES_MAX = 10000
SPECS_MAX = 64
#: Nova's own bound of a key and of a value.
TEXT_MAX = 255
#: Seconds between two looks at the file's date.
LOOK_PERIOD = 1.0
#: Looks in a row without the file, and it is gone: an editor can move it away and back.
GONE_LOOKS = 5

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def parse(content: bytes) -> dict[str, dict[str, str]]:
    """Returns the extra specs of each UUID; raises ValueError naming line, UUID or key."""
    if len(content) > SIZE_MAX:
        raise ValueError(f"it is larger than {SIZE_MAX // 2**20} MiB")
    try:
        fields = json.loads(content.decode("utf-8"), object_pairs_hook=_without_doubles)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}: {error.msg}") from None
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise ValueError(f'it is not an object with "format": {FORMAT}')
    entries = fields.get("extra_specs")
    if not isinstance(entries, dict):
        raise ValueError('"extra_specs" is not an object of UUIDs')
    if len(entries) > ENTRIES_MAX:
        raise ValueError(f"it has {len(entries)} UUIDs, more than {ENTRIES_MAX}")
    return {_uuid(uuid): _specs(uuid, specs) for uuid, specs in entries.items()}


def render(policies: Policies) -> bytes:
    """Returns the file's content: equal for equal policies."""
    fields = {"format": FORMAT, "extra_specs": policies}
    return json.dumps(fields, indent=1, sort_keys=True).encode("ascii") + b"\n"


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{shown(twice)} is given twice")
    return fields


def _uuid(uuid: str) -> str:
    if not _UUID.fullmatch(uuid):
        raise ValueError(f"{shown(uuid)} is no UUID in lower case")
    return uuid


def _specs(uuid: str, specs: object) -> dict[str, str]:
    if not isinstance(specs, dict) or len(specs) > SPECS_MAX:
        raise ValueError(f"{uuid}: an object of at most {SPECS_MAX} extra specs is allowed")
    for key, value in specs.items():
        if not isinstance(value, str) or max(len(key), len(value)) > TEXT_MAX:
            raise ValueError(
                f"{uuid}: {shown(key)}: a text in quotes of at most {TEXT_MAX} characters is "
                f'allowed, such as "true" or "1"'
            )
    return specs


class PolicyFile:
    """The file in ``directory``; may block."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / NAME
        self._good = self.path.with_name(NAME + ".good")
        #: What tells one content of the file from another, as it was read last.
        self._seen: object = None
        self._now = NO_POLICIES
        #: Looks in a row that found no file; at the start one is enough.
        self._missing = GONE_LOOKS - 1

    def first(self) -> PoliciesRead:
        """Returns what is in force as the engine starts."""
        # Where there is none, or of another format, the file itself decides.
        with contextlib.suppress(OSError, ValueError):
            self._now = replace(self._now, policies=parse(_content(self._good)))
        return self.look() or self._now

    def look(self) -> PoliciesRead | None:
        """Returns what is in force if that changed, or None."""
        try:
            now = self.path.stat()
        except FileNotFoundError:
            return self._gone()
        except OSError as error:
            self._missing, self._seen = 0, None
            return self._refuse(f"cannot be read: {error.strerror}")
        self._missing = 0
        seen = (now.st_mtime_ns, now.st_size, now.st_ino)
        if seen == self._seen:
            return None
        self._seen = seen
        try:
            content = _content(self.path)
            policies = parse(content)
        except OSError as error:
            # What mends it, such as other rights, need not change the file.
            self._seen = None
            return self._refuse(f"cannot be read: {error.strerror}", now.st_mtime)
        except ValueError as error:
            return self._refuse(f"is refused: {error}", now.st_mtime)
        if policies != self._now.policies:
            self._keep(content)
        self._now = PoliciesRead(policies, now.st_mtime)
        return self._now

    def _gone(self) -> PoliciesRead | None:
        """Somebody took the file away, which means that it is not to be used."""
        self._seen = None
        self._missing += 1
        if self._missing < GONE_LOOKS:
            return None
        before, self._now = self._now, NO_POLICIES
        if before == NO_POLICIES:
            return None
        with contextlib.suppress(OSError):
            self._good.unlink()
        return self._now

    def _refuse(self, why: str, written: float | None = None) -> PoliciesRead | None:
        text = f"the policy file {self.path} {why}; what it said before stays in force"
        before = self._now
        self._now = PoliciesRead(before.policies, written or before.written, text)
        return None if self._now == before else self._now

    def _keep(self, content: bytes) -> None:
        # A disk that is full is told of by the state, which matters more.
        with contextlib.suppress(OSError):
            durable.replace(self._good, content)


def _content(path: Path) -> bytes:
    """Reads one byte more than is allowed, at most, of a regular file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is no regular file")
        return file.read(SIZE_MAX + 1)


class PolicyReader:
    """Looks at the file again and again, and hands ``post`` what changed."""

    def __init__(self, file: PolicyFile, post: Callable[[PoliciesRead], None]) -> None:
        self._file = file
        self._post = post
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vmhb-policies", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Ends within ``timeout`` seconds; a thread that hangs on the disk is left behind."""
        self._stopping.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_PERIOD):
            found = self._file.look()
            if found is not None:
                self._post(found)
