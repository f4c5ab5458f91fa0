#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures the shipped engine beside a floor, in rotating order; bench/README.md says how to read.

Needs no rights, no libvirt and no QEMU: the guests are stand-ins on unix sockets.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
SUBJECTS = ("shipped", "floor")
TICK = 0.01
INTERVAL = 1.0
TIMEOUT = 0.5
MISSES = 3
#: Seconds between two looks at the round trips: longer than the interval, so that none counts
#: twice, and none belongs to a moment in which the subject was busy with being looked at.
LOOK = 2.0
HUNG_SHARE = 0.1

Figures = dict[str, float]


class Child:
    """A process that answers orders on its standard input with lines of JSON."""

    def __init__(self, module: str, directory: Path, count: int) -> None:
        command = [sys.executable, "-m", f"bench.{module}", str(directory), str(count)]
        self._process = subprocess.Popen(
            command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, order: str) -> Any:
        """Sends an order and returns the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
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


class Run:
    """One subject and its guests, from the start to the end of both."""

    def __init__(self, subject: str, count: int) -> None:
        self._subject = subject
        self._count = count

    def __enter__(self) -> Run:
        self._directory = tempfile.TemporaryDirectory(prefix="vmhb-bench-")
        here = Path(self._directory.name)
        self._guests = Child("guests", here, self._count)
        self._guests.line()
        self._watcher = Child(self._subject, here, self._count)
        return self

    def __exit__(self, *error: object) -> None:
        self._watcher.__exit__(*error)
        self._guests.__exit__(*error)
        self._directory.cleanup()

    def settle(self) -> None:
        """Waits until every guest has answered, and two intervals more."""
        deadline = time.monotonic() + 30
        time.sleep(2)
        while self._watcher.ask("mark")["healthy"] < self._count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self._subject}: not all of {self._count} guests answer")
            time.sleep(0.5)
        time.sleep(2 * INTERVAL)

    def memory(self) -> float:
        """Returns the bytes that the subject has grown by, before anybody reads its values."""
        time.sleep(5)
        return float(self._watcher.ask("mark")["rss"])

    def window(self, seconds: float, healthy_from: int = 0) -> Figures:
        """Measures for a while; guests below ``healthy_from`` are left out of the latencies."""
        self._guests.ask('{"do": "report"}')
        rtts: list[float] = []
        before = self._watcher.ask("mark")
        while (left := before["at"] + seconds - time.monotonic()) > 0:
            time.sleep(min(left, LOOK))
            if left >= LOOK:
                looked = self._watcher.ask("rtts")
                rtts += [rtt for number, rtt in looked.items() if int(number) >= healthy_from]
        after = self._watcher.ask("mark")
        challenged = self._guests.ask('{"do": "report"}')
        late = [
            lateness
            for number, times in challenged.items()
            if int(number) >= healthy_from
            for lateness in _lateness(times)
        ]
        delta = {key: after[key] - before[key] for key in before}
        return {
            "cpu_us": delta["cpu"] / delta["beats"] * 1e6,
            "process_us": delta["process_cpu"] / delta["beats"] * 1e6,
            "wakeups": delta["wakeups"] / delta["at"],
            "beats": delta["beats"] / delta["at"],
            "misses": delta["misses"],
            "errors": after["errors"],
            "rtt_p50_us": _part(rtts, 0.5) * 1e6,
            "rtt_p99_us": _part(rtts, 0.99) * 1e6,
            "late_p50_ms": _part(late, 0.5) * 1e3,
            "late_p99_ms": _part(late, 0.99) * 1e3,
            "late_max_ms": max(late) * 1e3,
        }

    def hang(self, seconds: float) -> Figures:
        """Hangs a tenth of the guests: what their losses are like, and what the others notice."""
        count = round(self._count * HUNG_SHARE)
        self._guests.ask('{"do": "report"}')
        hung_at = self._guests.ask(f'{{"do": "hang", "count": {count}}}')["hung_at"]
        time.sleep(MISSES * INTERVAL + TIMEOUT + 1)
        challenged = self._guests.ask('{"do": "report"}')
        stages = self._watcher.ask("declared")
        others = self.window(seconds, healthy_from=count)
        figures = {f"others_{key}": value for key, value in others.items()}
        for stage, times in stages.items():
            errors, after = [], []
            for number in map(str, range(count)):
                unanswered = [at for at in challenged[number] if at > hung_at]
                errors.append(times[number] - unanswered[MISSES - 1] - TIMEOUT)
                after.append(times[number] - hung_at)
            figures |= {
                f"{stage}_error_min_ms": min(errors) * 1e3,
                f"{stage}_error_p50_ms": _part(errors, 0.5) * 1e3,
                f"{stage}_error_p99_ms": _part(errors, 0.99) * 1e3,
                f"{stage}_error_max_ms": max(errors) * 1e3,
                f"{stage}_after_max_s": max(after),
            }
        return figures


def measure(subject: str, count: int, seconds: float) -> Figures:
    """Returns the figures of one run of one subject."""
    with Run(subject, max(count // 10, 1)) as run:
        small = run.memory()
    with Run(subject, count) as run:
        large = run.memory()
        run.settle()
        figures = run.window(seconds)
        if subject == "shipped":
            figures |= run.hang(seconds / 2)
    figures["rss_kib_per_vm"] = (large - small) / (count - max(count // 10, 1)) / 1024
    return figures


def _lateness(times: list[float]) -> Iterable[float]:
    """Returns how long after its tick each challenge was read by its guest.

    The schedule is periodic and on the grid, so the earliest challenge tells where it lies.
    """
    if not times:
        return []
    offsets = [at - round((at - times[0]) / INTERVAL) * INTERVAL for at in times]
    due = math.floor(min(offsets) / TICK) * TICK
    return [offset - due for offset in offsets]


def _part(values: Iterable[float], share: float) -> float:
    ordered = sorted(value for value in values if not math.isnan(value))
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def _row(title: str, numbers: Iterable[float], form: str) -> None:
    values = list(numbers)
    low, middle, high = min(values), statistics.median(values), max(values)
    print(f"{title:<56} {middle:{form}} [{low:{form}} - {high:{form}}]")


def show(rounds: list[Mapping[str, Figures]]) -> None:
    """Prints the median and the range of each figure over the rounds."""

    def of(key: str, subject: str = "shipped") -> list[float]:
        return [figures[subject][key] for figures in rounds]

    def ratios(over: list[float], under: list[float]) -> list[float]:
        return [a / b for a, b in zip(over, under)]

    def both(title: str, key: str, form: str) -> None:
        _row(f"{title}: engine", of(key), form)
        _row(f"{title}: floor", of(key, "floor"), form)

    ratio = ratios(of("cpu_us"), of("cpu_us", "floor"))
    _row("processor time per heartbeat, engine thread / floor", ratio, ".2f")
    both("  in us", "cpu_us", ".1f")
    more = [a - b for a, b in zip(of("rtt_p50_us"), of("rtt_p50_us", "floor"))]
    _row("round trip p50, engine - floor, us", more, "+.0f")
    both("  p50, us", "rtt_p50_us", ".0f")
    both("  p99, us", "rtt_p99_us", ".0f")
    both("challenge read by the guest after its tick, p99, ms", "late_p99_ms", ".2f")
    both("wake-ups per second", "wakeups", ".0f")
    both("memory per VM, KiB", "rss_kib_per_vm", ".1f")
    _row("misses of healthy guests", of("misses"), ".0f")
    _row("errors of the engine, whole run", of("others_errors"), ".0f")
    print(f"{HUNG_SHARE:.0%} of the guests hang:")
    for stage in ("decided", "told"):
        for part in ("min", "p50", "p99", "max"):
            _row(f"  {stage} - ideal, {part}, ms", of(f"{stage}_error_{part}_ms"), "+.2f")
    _row("  hang to told, the slowest, s", of("told_after_max_s"), ".2f")
    print("with the hung / without them, the others':")
    for title, key in (
        ("round trip p50", "rtt_p50_us"),
        ("round trip p99", "rtt_p99_us"),
        ("lateness p99", "late_p99_ms"),
    ):
        _row(f"  {title}", ratios(of(f"others_{key}"), of(key)), ".2f")


def main() -> None:
    """Runs the rounds and prints what came of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vms", type=int, default=1000, help="guests (default: 1000)")
    parser.add_argument("--seconds", type=float, default=10.0, help="window (default: 10)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--json", type=Path, help="write every figure of every round here")
    wanted = parser.parse_args()
    print(
        f"{wanted.vms} guests, one challenge per {INTERVAL:g} s, {wanted.rounds} rounds of "
        f"{wanted.seconds:g} s, Python {sys.version.split()[0]}, {os.cpu_count()} processors; "
        "median [least - most]",
        flush=True,
    )
    rounds: list[Mapping[str, Figures]] = []
    for number in range(wanted.rounds):
        order = SUBJECTS if number % 2 == 0 else SUBJECTS[::-1]
        rounds.append({name: measure(name, wanted.vms, wanted.seconds) for name in order})
        print(f"round {number + 1} of {wanted.rounds} done", file=sys.stderr)
    show(rounds)
    if wanted.json:
        wanted.json.write_text(json.dumps(rounds, indent=1) + "\n")


if __name__ == "__main__":
    main()
