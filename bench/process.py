# SPDX-License-Identifier: Apache-2.0
"""The processes of a measurement: a subject, and the guests that it watches."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.goals import part
from bench.subject import INTERVAL, MISSES, TIMEOUT, phase

REPOSITORY = Path(__file__).resolve().parents[1]
FLOOR = REPOSITORY / ".lab/build/bench/floor"
TICK = 0.01
#: A guest that is woken must not take the processor of who wakes it: QEMU has others.
_PROCESSORS = sorted(os.sched_getaffinity(0))
SUBJECTS, GUESTS = _PROCESSORS[-1], _PROCESSORS[0]

#: Of each guest, when it was challenged and how long the answer took, NaN: none came; seconds.
Exchanges = dict[int, list[tuple[float, float]]]


def build_floor() -> None:
    """Compiles the floor."""
    FLOOR.parent.mkdir(parents=True, exist_ok=True)
    source = REPOSITORY / "bench/floor.c"
    command = ["gcc", "-O2", "-Wall", "-Wextra", "-o", str(FLOOR), str(source), "-lm", "-pthread"]
    try:
        subprocess.run(command, check=True)
    except FileNotFoundError:
        sys.exit("gcc is missing: apt-get install gcc libc6-dev")


class Child:
    """A process that answers orders on its standard input with lines of JSON."""

    def __init__(self, command: Sequence[str], processor: int | None = None) -> None:
        self._process = subprocess.Popen(
            command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if processor is not None:
            os.sched_setaffinity(self._process.pid, {processor})

    def tell(self, text: str) -> None:
        """Sends lines that are not answered."""
        assert self._process.stdin is not None
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()

    def ask(self, order: str) -> Any:
        """Sends an order and returns the answer."""
        self.tell(order)
        return json.loads(self.line())

    def line(self) -> str:
        """Returns the next line that the child prints."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended; see above")
        return line

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
        assert self._process.stdout is not None
        self._process.stdout.close()


def guests(directory: Path, count: int) -> Child:
    """Starts stand-in guests; returns when they listen."""
    child = Child([sys.executable, "-m", "bench.guests", str(directory), str(count)], GUESTS)
    child.line()
    return child


class Run:
    """One subject and its guests, from the start to the end of both."""

    def __init__(self, subject: str, count: int, *more: str) -> None:
        self._subject = subject
        self._count = count
        self._more = more

    def __enter__(self) -> Run:
        self._directory = tempfile.TemporaryDirectory(prefix="vmhb-bench-")
        here = Path(self._directory.name)
        self._guests = guests(here, self._count)
        if self._subject == "floor":
            self._watcher = Child([str(FLOOR), str(here), str(self._count)], SUBJECTS)
            self._watcher.tell("\n".join(str(phase(number)) for number in range(self._count)))
        else:
            module = f"bench.{self._subject}"
            command = [sys.executable, "-m", module, str(here), str(self._count), *self._more]
            self._watcher = Child(command, SUBJECTS)
        return self

    def __exit__(self, *error: object) -> None:
        self._watcher.__exit__(*error)
        self._guests.__exit__(*error)
        self._directory.cleanup()

    def settle(self) -> float:
        """Waits until every guest has answered, and two intervals more.

        Returns the bytes that the subject has grown by, before anybody reads its values.
        """
        deadline = time.monotonic() + 60
        while self._watcher.ask("mark")["healthy"] < self._count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self._subject}: not all of {self._count} guests answer")
            time.sleep(0.5)
        time.sleep(2 * INTERVAL)
        return float(self._watcher.ask("mark")["rss"])

    def window(self, seconds: float, healthy_from: int = 0) -> dict[str, float]:
        """Measures for a while; guests below ``healthy_from`` are left out of the latencies."""
        before = self._watcher.ask("mark")
        time.sleep(seconds)
        after = self._watcher.ask("mark")
        delta = {key: after[key] - before[key] for key in before}
        exchanges = {
            # Those of before are none of the window's, and can lie elsewhere in the interval.
            number: [exchange for exchange in those if exchange[0] >= before["at"]]
            for number, those in self._exchanges().items()
            if number >= healthy_from
        }
        rtts = [rtt for those in exchanges.values() for _, rtt in those]
        late = _latenesses(exchanges)
        return {
            "cpu_us": delta["cpu"] / delta["beats"] * 1e6,
            "wakeups": delta["wakeups"] / delta["at"],
            "misses": delta["misses"],
            "errors": after["errors"],
            "rtt_p50_us": part(rtts, 0.5) * 1e6,
            "late_p99_ms": part([lateness for _, lateness in late], 0.99) * 1e3,
            "late_usual_ms": _usual_p99(late) * 1e3,
        }

    def hang(self, count: int) -> list[float]:
        """Hangs so many guests; returns by how much each loss was declared after its time.

        Nothing if the engine found this host late meanwhile: it gives guests more time then.
        """
        hung_at = self._guests.ask(json.dumps({"do": "hang", "count": count}))["hung_at"]
        late = False
        while time.monotonic() < hung_at + MISSES * INTERVAL + TIMEOUT + 1:
            time.sleep(0.5)
            late = late or self._watcher.ask("mark")["awareness"] > 0
        if late:
            return []
        declared, exchanges = self._watcher.ask("declared"), self._exchanges()
        return [
            declared[str(number)] - ideal(exchanges[number], hung_at) for number in range(count)
        ]

    def _exchanges(self) -> Exchanges:
        answer = self._watcher.ask("exchanges")
        return {int(number): those for number, those in answer.items()}


def ideal(exchanges: list[tuple[float, float]], hung_at: float) -> float:
    """Returns when a guest's loss was to be declared: as the last miss that it takes was one."""
    missed = [sent for sent, rtt in exchanges if rtt != rtt and sent > hung_at - TIMEOUT]
    return missed[MISSES - 1] + TIMEOUT


def _latenesses(exchanges: Exchanges) -> list[tuple[float, float]]:
    """Returns when each challenge was sent, and how long after its time on the grid."""
    latenesses = []
    for those in filter(None, exchanges.values()):
        # The schedule is periodic: the earliest tells where it lies.
        offsets = [sent - round((sent - those[0][0]) / INTERVAL) * INTERVAL for sent, _ in those]
        due = int(min(offsets) / TICK + 1e-6) * TICK
        latenesses += [(sent, offset - due) for (sent, _), offset in zip(those, offsets)]
    return latenesses


def _usual_p99(late: list[tuple[float, float]]) -> float:
    """Returns the p99 of the usual second: one in which the machine stood still is not."""
    seconds: dict[int, list[float]] = {}
    for sent, lateness in late:
        seconds.setdefault(int(sent), []).append(lateness)
    return statistics.median(part(each, 0.99) for each in seconds.values())
