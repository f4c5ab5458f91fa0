# SPDX-License-Identifier: Apache-2.0
"""What must survive a restart: one JSON file, replaced atomically, and the lock of one engine."""

from __future__ import annotations

import fcntl
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from collectd_vmhb import durable

FORMAT = 1
#: VMs written at once.
PIECE = 100


class StateError(Exception):
    """The state directory or file cannot be used; the text says which, why and what to do."""


class StateLockedError(StateError):
    """Another engine has the state directory."""


@dataclass(frozen=True)
class State:
    """Open incidents (as `Incidents.dump` gives them), and in which run a VM was established.

    ``established`` maps an instance UUID to libvirt's domain id: a VM that answered in this very
    run is expected to answer an engine that comes back, though not before the Unix time in
    ``forgiven``, as it boots. Of an engine that was stopped, who has waited longest for a challenge
    comes first. ``maintenance`` is what `Maintenance.dump` gives. A file of an older engine lacks
    it and ``forgiven``.
    """

    incidents: Iterable[dict[str, Any]] = field(default_factory=list)
    established: dict[str, int] = field(default_factory=dict)
    maintenance: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: It was saved before this host booted: no VM runs on from then.
    other_boot: bool = False
    forgiven: dict[str, float] = field(default_factory=dict)


class StateLock:
    """Keeps any second engine on this node away for as long as this object lives."""

    def __init__(self, directory: Path) -> None:
        """Takes the lock; raises StateError if another engine has it or there is no way in."""
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = (directory / "lock").open("a")
        except OSError as error:
            raise StateError(
                f"cannot use StateDir {directory}: {error.strerror}; make it a directory that "
                f"collectd's user may write"
            ) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise StateLockedError(
                f"another engine holds {directory}/lock: this one stays off (two collectd, or "
                f"a collectd -T beside the daemon)"
            ) from None

    def release(self) -> None:
        """Lets the next engine in."""
        self._file.close()


class StateFile:
    """Reads and replaces ``engine.json``; may block, so the engine calls it in a worker."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "engine.json"

    def load(self) -> State:
        """Returns what the last engine saved, or an empty State if there was none.

        Raises StateError for a file that is no state; it is moved aside, so that nothing is
        lost and the next save does not fail on it.
        """
        try:
            fields = json.loads(self._path.read_text("utf-8"))
            if fields["format"] != FORMAT:
                raise ValueError(f"format {fields['format']}, expected {FORMAT}")
            established = {str(uuid): int(run) for uuid, run in fields["established"].items()}
            maintenance = dict(fields.get("maintenance", {}))
            other_boot = fields.get("boot") != _boot_id()
            if other_boot:
                # libvirt counts its domains anew: an equal number is another run.
                established = {}
            forgiven = {
                str(uuid): float(until) for uuid, until in fields.get("forgiven", {}).items()
            }
            return State(list(fields["incidents"]), established, maintenance, other_boot, forgiven)
        except FileNotFoundError:
            return State()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return self._set_aside(error)

    def _set_aside(self, error: Exception) -> State:
        aside = self._path.with_suffix(".json.unreadable")
        try:
            self._path.replace(aside)
        except OSError:
            aside = self._path
        raise StateError(f"{self._path} cannot be read ({error!r}); kept as {aside}") from None

    def save(self, state: State) -> None:
        """Replaces the file durably; raises OSError, and then the old one is still whole."""
        durable.replace_by_pieces(self._path, _pieces(state))


def _pieces(state: State) -> Iterator[bytes]:
    """Returns the file's content bit by bit: all at once would hold up the engine, and takes room.

    What the heap has grown by for a moment is seldom given back.
    """
    fields = {"format": FORMAT, "maintenance": state.maintenance, "boot": _boot_id()}
    yield json.dumps(fields).encode("ascii")[:-1]
    for name, numbers in (("established", state.established), ("forgiven", state.forgiven)):
        yield b',\n"%s": {' % name.encode("ascii")
        pairs = list(numbers.items())
        for at in range(0, len(pairs), PIECE):
            piece = json.dumps(dict(pairs[at : at + PIECE]))[1:-1]
            yield (b",\n" if at else b"\n") + piece.encode("ascii")
        yield b"\n}"
    yield b',\n"incidents": ['
    for number, incident in enumerate(state.incidents):
        yield (b",\n" if number else b"\n") + json.dumps(incident).encode("ascii")
    yield b"\n]}\n"


def _boot_id() -> str:
    """Returns what tells one boot of this host from another."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


class StateSaver:
    """Saves in a thread of its own; of several states that wait only the newest is written.

    ``saved(number, error)`` is called after each save; ``error`` is None or says what failed.
    """

    def __init__(self, file: StateFile, saved: Callable[[int, str | None], None]) -> None:
        self._file = file
        self._saved = saved
        self._handed_over = threading.Condition()
        self._newest: tuple[int, State] | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="vmhb-state", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def save(self, number: int, state: State) -> None:
        """Hands over a state; never waits for the disk."""
        with self._handed_over:
            self._newest = number, state
            self._handed_over.notify()

    def stop(self, timeout: float) -> None:
        """Saves what was handed over and ends, within ``timeout`` seconds."""
        with self._handed_over:
            self._stopping = True
            self._handed_over.notify()
        self._thread.join(timeout)

    def _run(self) -> None:
        while self._save_next():
            pass

    def _save_next(self) -> bool:
        """Waits for a state and saves it, False at the end; keeps nothing of it meanwhile."""
        job = self._next()
        if job is None:
            return False
        number, state = job
        self._saved(number, self._try_save(state))
        return True

    def _next(self) -> tuple[int, State] | None:
        """Waits for the newest state; None when there is none left and the end has come."""
        with self._handed_over:
            self._handed_over.wait_for(lambda: self._newest is not None or self._stopping)
            newest, self._newest = self._newest, None
            return newest

    def _try_save(self, state: State) -> str | None:
        try:
            self._file.save(state)
        except OSError as error:
            return str(error)
        return None
