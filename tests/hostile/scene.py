# SPDX-License-Identifier: Apache-2.0
"""Hostile guests among honest ones under the shipped engine, and what the honest ones notice.

Three processes: the engine, the honest guests, the attackers. The same guests are measured before
the attack and during it, in one run, as this machine may have other things to do as well.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.process import TICK
from bench.subject import number_of
from tests.hostile.engine import INTERVAL, TIMEOUT

REPOSITORY = Path(__file__).parents[2]
VMS, HOSTILE = 200, 10
#: Stands for this host where a VM's number is expected.
HOST = -1
#: Seconds that a loss may be told before or after its ideal moment and still be that loss.
NEAR = 3.0


class Process:
    """A part of the scene that answers each line of JSON with one."""

    def __init__(self, module: str, *arguments: object) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"tests.hostile.{module}", *map(str, arguments)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def hurry(self) -> None:
        """Keeps this machine's other work out of what is measured, if that is allowed."""
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(self._process.pid, os.SCHED_RR, os.sched_param(1))

    def tell(self, order: object) -> None:
        """Sends a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def line(self) -> str:
        """Returns the next line that it prints."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"{self._process.args!r} ended"
        return line

    def ask(self, order: object = None) -> dict[str, Any]:
        """Sends a line and returns the answer."""
        self.tell(order)
        answer: dict[str, Any] = json.loads(self.line())
        return answer

    def end(self) -> None:
        """Ends it, gently first."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@dataclass
class Window:
    """What was seen in a while; times in seconds, memory in bytes."""

    #: Decided less ideal, of each honest guest that fainted.
    errors: list[float] = field(default_factory=list)
    #: Faints that were not found out, and losses of who did not faint.
    missed: int = 0
    false: int = 0
    #: How long after its tick each challenge was read by its honest guest.
    lateness: list[float] = field(default_factory=list)
    #: By how much the engine's process has grown since it was empty.
    memory: int = 0
    beats: float = 0.0
    #: Notifications, as (VM's number, fault, severity, message), and lines of the log.
    notes: list[tuple[int, str, str, str]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    #: The engine's values, by (VM's number, name).
    values: dict[tuple[int, str], float] = field(default_factory=dict)

    def faults(self, number: int) -> Counter[str]:
        """Returns how often which fault of a VM was told."""
        return Counter(
            name
            for vm, name, severity, _ in self.notes
            if (vm, severity) != (number, "okay") and vm == number
        )


class Scene:
    """An engine that watches ``VMS`` guests, the last of them hostile; a context."""

    def __init__(self, attacks: Sequence[str]) -> None:
        self._attacks = attacks
        self.first_hostile = VMS - len(attacks)
        self._processes: list[Process] = []
        self._last: dict[tuple[int, str], float] = {}
        #: How far it was read what the engine said.
        self._said = 0

    def __enter__(self) -> Scene:
        self._directory = tempfile.TemporaryDirectory(prefix="vmhb-hostile-")
        here = self._directory.name
        self._honest = self._begin("honest", here, self.first_hostile)
        self._attackers = self._begin("attackers", here, self.first_hostile, *self._attacks)
        for process in (self._honest, self._attackers):
            process.line()
        self._engine = self._begin("engine", here, VMS)
        self._honest.hurry()
        self._engine.hurry()
        self._settle()
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            process.end()
        self._directory.cleanup()

    def _begin(self, module: str, *arguments: object) -> Process:
        process = Process(module, *arguments)
        self._processes.append(process)
        return process

    def _settle(self) -> None:
        deadline = time.monotonic() + 30
        while self._observe()[0].values[HOST, "vms-healthy"] < VMS:
            assert time.monotonic() < deadline, f"not all of {VMS} guests answer"
            time.sleep(0.3)
        time.sleep(2 * INTERVAL)

    def attack(self) -> None:
        """Has the hostile guests begin."""
        self._attackers.tell("now")

    def watch(self, seconds: float) -> Window:
        """Has honest guests faint in turn for a while, and returns what was seen of all."""
        self._observe()
        before = dict(self._last)
        self._honest.ask({"faint": True})
        began = time.monotonic()
        time.sleep(seconds)
        seen = self._honest.ask({"faint": False})
        lasted = time.monotonic() - began
        window, losses = self._observe()
        # Who fainted last is found out, and everybody is back.
        time.sleep(NEAR)
        late = self._honest.ask({"faint": False})
        rest, later = self._observe()
        losses += later
        window.notes += rest.notes
        window.log += rest.log
        beats = [key for key in window.values if key[1] == "beats" and key[0] < self.first_hostile]
        window.beats = sum(window.values[key] - before[key] for key in beats) / lasted
        window.lateness = [at for times in seen["read"].values() for at in _lateness(times)]
        self._judge(window, seen["faints"] + late["faints"], losses)
        return window

    def _judge(self, window: Window, faints: list[Any], losses: list[Any]) -> None:
        honest = [(vm, at) for vm, at in losses if vm < self.first_hostile]
        for vm, last_read in faints:
            ideal = last_read + TIMEOUT
            near = [loss for loss in honest if loss[0] == vm and abs(loss[1] - ideal) < NEAR]
            if near:
                honest.remove(near[0])
                window.errors.append(near[0][1] - ideal)
            else:
                window.missed += 1
        window.false = len(honest)

    def _observe(self) -> tuple[Window, list[Any]]:
        look = self._engine.ask()
        said = self._read_said(look["said"])
        values = {(_number(uuid), name): value for uuid, name, value in look["values"]}
        self._last = values
        window = Window(
            memory=look["rss"],
            notes=[(_number(uuid), *rest) for uuid, *rest in said["notes"]],
            log=said["log"],
            values=values,
        )
        return window, look["losses"]

    def _read_said(self, until: int) -> dict[str, list[Any]]:
        """Returns what the engine said since the last time, by kind."""
        with Path(self._directory.name, "said").open("rb") as file:
            file.seek(self._said)
            lines = file.read(until - self._said).splitlines()
        self._said = until
        said: dict[str, list[Any]] = {"notes": [], "log": []}
        for line in lines:
            kind, what = json.loads(line)
            said[kind].append(what)
        return said


def _number(uuid: str) -> int:
    return number_of(uuid) if uuid else HOST


def _lateness(times: list[float]) -> Iterable[float]:
    """Returns how long after its tick each challenge was read; the earliest tells where it lies."""
    if not times:
        return []
    offsets = [at - round((at - times[0]) / INTERVAL) * INTERVAL for at in times]
    due = math.floor(min(offsets) / TICK) * TICK
    return [offset - due for offset in offsets]


def part(values: Iterable[float], share: float) -> float:
    """Returns the value below which this share of all lies; NaN of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan
