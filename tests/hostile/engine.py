# SPDX-License-Identifier: Apache-2.0
"""The shipped engine in a process of its own, with all that it says to anybody.

``python -m tests.hostile.engine DIRECTORY N`` watches the guests on DIRECTORY/<n>.sock, and answers
each line on standard input with a look at itself; what it says is in DIRECTORY/said.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from pathlib import Path
from typing import Any

from bench.shipped import Shipped
from bench.subject import number_of, rss
from collectd_vmhb.publish import Note
from collectd_vmhb.state import State
from collectd_vmhb.verdict import HEARTBEAT_LOST

INTERVAL = 0.5
TIMEOUT = 0.25
MISSES = 2


_SPECS = {
    "vmhb:enabled": "true",
    "vmhb:interval": str(INTERVAL),
    "vmhb:timeout": str(TIMEOUT),
    "vmhb:miss_threshold": str(MISSES),
    "vmhb:recovery_threshold": "1",
}


class Said(logging.Handler):
    """Keeps what is told and logged, in a file: the memory that is measured is the engine's."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("w")

    def emit(self, record: logging.LogRecord) -> None:
        self.add("log", self.format(record))

    def add(self, kind: str, what: object) -> None:
        """Keeps one thing; from any thread."""
        self.acquire()
        self._file.write(json.dumps([kind, what]) + "\n")
        self.release()

    def until(self) -> int:
        """Returns how long the file is now, in bytes; whoever reads it there finds all of that."""
        self.acquire()
        self._file.flush()
        until = self._file.tell()
        self.release()
        return until


class Engine(Shipped):
    """The engine with its disk worker; notes what it says, and when it decides a loss."""

    def __init__(self, directory: Path, count: int, said: Said) -> None:
        super().__init__(directory, count, _SPECS)
        self.losses: list[tuple[int, float]] = []
        self._known: set[str] = set()
        self._said = said

    def _save(self, number: int, state: State) -> None:
        now = time.monotonic()
        for incident in state.incidents:
            if incident["name"] == HEARTBEAT_LOST and incident["id"] not in self._known:
                self._known.add(incident["id"])
                self.losses.append((number_of(incident["uuid"]), now))
        self._saver.save(number, state)

    def _notify(self, note: Note) -> None:
        self._said.add(
            "notes", (note.plugin_instance, note.type_instance, note.severity, note.message)
        )

    def observe(self) -> dict[str, Any]:
        """Returns what it uses, its values by VM, and what it said since the last look."""
        grown = rss()
        losses, self.losses = self.losses, []
        return {
            "rss": grown,
            "values": [
                (sample.plugin_instance, sample.type_instance, sample.value)
                for sample in self._engine.desk.samples()
            ],
            "losses": losses,
            "said": self._said.until(),
        }


def main(directory: Path, count: int) -> None:
    """Watches until standard input ends."""
    said = Said(directory / "said")
    logging.getLogger().addHandler(said)
    logging.getLogger().setLevel(logging.INFO)
    engine = Engine(directory, count, said)
    thread = threading.Thread(target=engine.run)
    thread.start()
    for _ in sys.stdin:
        print(json.dumps(engine.observe()), flush=True)
    engine.stop()
    thread.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
