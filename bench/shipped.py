# SPDX-License-Identifier: Apache-2.0
"""The shipped engine, with its disk worker, in a process without collectd and libvirt."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path

from bench.subject import SPECS, domain_xml, number_of, serve
from collectd_vmhb.domain import DomainState, parse_domain
from collectd_vmhb.engine import Engine, Saved
from collectd_vmhb.hypervisor import Looked, Scanned
from collectd_vmhb.publish import Note, Sample
from collectd_vmhb.settings import Settings
from collectd_vmhb.state import State, StateFile, StateSaver
from collectd_vmhb.verdict import HEARTBEAT_LOST


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
        self._told: dict[int, float] = {}

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
        if note.type_instance == HEARTBEAT_LOST:
            self._told.setdefault(number_of(note.plugin_instance), time.monotonic())

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
        """Returns beats, misses and wake-ups since the start, among others."""
        samples = self._engine.desk.samples()
        own = {sample.type_instance: sample.value for sample in samples if _is_engines(sample)}
        return {
            "beats": _total(samples, "beats"),
            "misses": _total(samples, "misses"),
            "late": _total(samples, "late"),
            "wakeups": own["loops"],
            "healthy": own["vms-healthy"],
            "errors": own["errors"],
        }

    def rtts(self) -> dict[int, float]:
        """Returns the last round trip of each guest, in seconds."""
        return {
            number_of(sample.plugin_instance): sample.value
            for sample in self._engine.desk.samples()
            if (sample.type, sample.type_instance) == ("latency", "heartbeat")
        }

    def declared(self) -> dict[str, dict[int, float]]:
        """Returns when each loss was decided, and when it was on disk and handed to collectd."""
        return {"decided": self._decided, "told": self._told}


def _is_engines(sample: Sample) -> bool:
    return sample.plugin_instance == ""


def _total(samples: list[Sample], name: str) -> float:
    return sum(sample.value for sample in samples if sample.type_instance == name)


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    serve(Shipped)
