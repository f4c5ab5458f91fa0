# SPDX-License-Identifier: Apache-2.0
"""The shipped engine, with its disk worker, in a process without collectd and libvirt."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from bench.subject import SPECS, domain_xml, number_of, serve
from collectd_vmhb.domain import DomainState, parse_domain
from collectd_vmhb.engine import Engine, Saved
from collectd_vmhb.hypervisor import Looked, Scanned
from collectd_vmhb.monitor import Monitor
from collectd_vmhb.protocol import Opened
from collectd_vmhb.publish import Note
from collectd_vmhb.settings import Settings
from collectd_vmhb.state import State, StateFile, StateSaver
from collectd_vmhb.verdict import HEARTBEAT_LOST, Health
from collectd_vmhb.watch import Watch


class Shipped:
    """The engine; plays libvirt towards it (`engine.Libvirt`): N domains that never change."""

    def __init__(self, directory: Path, count: int, specs: Mapping[str, str] = SPECS) -> None:
        self._domains = tuple(
            parse_domain(domain_xml(number, directory, specs), DomainState.RUNNING, number + 1)
            for number in range(count)
        )
        self._saver = StateSaver(
            StateFile(directory), lambda number, error: self._engine.post(Saved(number, error))
        )
        self._engine = Engine(Settings(), State(), self._save, self._notify)
        self._decided: dict[int, float] = {}

    # -- what the engine calls --------------------------------------------------------------

    def scan(self) -> None:
        """Answers a scan at once."""
        self._engine.post(Scanned(self._domains))

    def look(self, uuid: str) -> None:
        """Answers a look at once."""
        self._engine.post(Looked(uuid, self._domains[number_of(uuid)]))

    def detach(self, uuid: str, channel: str, path: str) -> None:
        """Is not asked, either."""

    def measure(self, uuid: str) -> None:
        """Says nothing: no hypervisor counts these guests."""

    def attach(self, uuid: str, channel: str) -> None:
        """Is not asked: every channel is there."""
        raise AssertionError(uuid, channel)

    def _save(self, number: int, state: State) -> None:
        now = time.monotonic()
        for incident in state.incidents:
            if incident["name"] == HEARTBEAT_LOST:
                self._decided.setdefault(number_of(incident["uuid"]), now)
        self._saver.save(number, state)

    def _notify(self, note: Note) -> None:
        """Is told nothing that the bench has to know."""

    # -- what is measured -------------------------------------------------------------------

    def run(self) -> None:
        """Watches the guests until `stop`."""
        self._saver.start()
        self.scan()
        self._engine.run(self)

    def stop(self) -> None:
        """Makes `run` return soon."""
        self._engine.stop()
        self._saver.stop(2.0)

    def counters(self) -> dict[str, float]:
        """Returns beats, misses and wake-ups since the start, among others.

        Read where they are counted: to list all values would be seen in the memory.
        """
        monitors = [watch.monitor for watch in self._watches()]
        return {
            "beats": sum(monitor.counters.beats for monitor in monitors),
            "misses": sum(monitor.counters.misses for monitor in monitors),
            "healthy": sum(monitor.health is Health.HEALTHY for monitor in monitors),
            "wakeups": self._engine._totals["loops"],
            "errors": self._engine._totals["errors"],
            "awareness": self._engine._awareness.score,
        }

    def exchanges(self) -> dict[int, list[tuple[float, float]]]:
        """Returns of each guest its last exchanges."""
        return {
            number_of(watch.uuid): watch.monitor.history.exchanges() for watch in self._watches()
        }

    def declared(self) -> dict[int, float]:
        """Returns when each loss was decided."""
        return self._decided

    def _watches(self) -> list[Watch]:
        return list(self._engine._watches.values())


# -- what makes it worse, to see the check fail ---------------------------------------------


def _busy() -> None:
    """Spends 50 us of processor time more on each beat."""
    receive = Monitor.receive

    def slower(monitor: Monitor, data: bytes, now: float) -> float | None:
        until = time.thread_time() + 50e-6
        while time.thread_time() < until:
            pass
        return receive(monitor, data, now)

    setattr(Monitor, "receive", slower)  # noqa: B010 - a type checker would not have it


def _leak() -> None:
    """Keeps 1 KiB more for each session for ever."""
    kept = []
    on_opened = Monitor._on_opened

    def leaking(monitor: Monitor, event: Opened, now: float) -> None:
        kept.append(os.urandom(1024))
        on_opened(monitor, event, now)

    setattr(Monitor, "_on_opened", leaking)  # noqa: B010


INJECTIONS = {"busy": _busy, "leak": _leak}

if __name__ == "__main__":
    for injection in sys.argv[3:]:
        INJECTIONS[injection]()
    logging.basicConfig(level=logging.ERROR)
    serve(Shipped)
