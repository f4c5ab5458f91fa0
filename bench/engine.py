#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures the shipped engine beside a floor and says which goal holds; see docs/performance.md.

The guests are stand-ins on unix sockets, but for a real one. Needs root and `script/setup test` for
that one; no rights and no QEMU without.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from bench import daemon
from bench.goals import change, part, table
from bench.process import Run, build_floor
from bench.shipped import INJECTIONS

USUAL = 1000
HUNG_SHARE = 0.1


def measure(
    sizes: list[int], seconds: float, first: str, injections: list[str]
) -> dict[str, float]:
    """Returns the figures of one round; the subject ``first`` is measured before the other."""
    figures: dict[str, float] = {}
    memory = {}
    for size in sizes:
        of = {}
        for subject in (first, "floor" if first == "shipped" else "shipped"):
            with Run(subject, size, *(injections if subject == "shipped" else ())) as run:
                grown = run.settle()
                of[subject] = run.window(seconds)
                if subject == "shipped":
                    memory[size] = grown
                    if size == USUAL:
                        figures |= _with_hung(run, of[subject], seconds)
        ours, floor = of["shipped"], of["floor"]
        figures[f"cpu_us_{size}"] = ours["cpu_us"]
        figures[f"floor_us_{size}"] = floor["cpu_us"]
        figures[f"cpu_ratio_{size}"] = ours["cpu_us"] / floor["cpu_us"]
        if size == USUAL:
            figures |= ours
            figures["rtt_above_us"] = ours["rtt_p50_us"] - floor["rtt_p50_us"]
    low, high = sizes[0], sizes[-1]
    if high > low:
        figures["memory_kib"] = (memory[high] - memory[low]) / (high - low) / 1024
        figures["growth"] = figures[f"cpu_us_{high}"] / figures[f"cpu_us_{low}"]
    return figures


def _with_hung(run: Run, before: dict[str, float], seconds: float) -> dict[str, float]:
    count = round(USUAL * HUNG_SHARE)
    errors = run.hang(count)
    others = run.window(seconds, healthy_from=count)
    figures = {}
    if errors:
        figures["early_ms"] = min(errors) * 1e3
        figures["declared_p99_ms"] = part(errors, 0.99) * 1e3
    return figures | {
        "hung_rtt": change(before["rtt_p50_us"], others["rtt_p50_us"], 1000),
        "hung_late": change(before["late_usual_ms"], others["late_usual_ms"], 1),
    }


def _add_real_guest(rounds: list[dict[str, float]]) -> None:
    # The lab must not be needed where it is not asked for.
    from bench.real_guest import RealGuest

    with RealGuest() as guest:
        for figures in rounds:
            figures["guest_ratio"] = guest.ratio(pings=15)


def main() -> None:
    """Runs the rounds and prints the table; the status is 1 unless every must is seen to hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=9.0, help="window (default: 9)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument(
        "--vms", type=int, nargs="+", default=[100, 1000, 5000], help="default: 100 1000 5000"
    )
    parser.add_argument("--json", type=Path, help="write every figure of every round here")
    parser.add_argument(
        "--inject",
        choices=sorted(INJECTIONS),
        action="append",
        default=[],
        help="make the engine under measurement worse, to see the check fail",
    )
    parser.add_argument(
        "--without-collectd", action="store_true", help="leave the goals inside collectd unknown"
    )
    parser.add_argument(
        "--without-guest", action="store_true", help="leave the goal of a real guest unknown"
    )
    wanted = parser.parse_args()
    build_floor()
    print(
        f"one challenge per second and VM, {wanted.rounds} rounds of {wanted.seconds:g} s, "
        f"Python {sys.version.split()[0]}, {os.cpu_count()} processors",
        flush=True,
    )
    rounds = []
    for number in range(wanted.rounds):
        first = "floor" if number % 2 else "shipped"
        figures = measure(sorted(wanted.vms), wanted.seconds, first, wanted.inject)
        if not wanted.without_collectd:
            figures |= daemon.measure(USUAL, wanted.seconds)
            if floor := figures.get(f"floor_us_{USUAL}"):
                figures["collectd_floors"] = figures["collectd_cores"] / (floor * USUAL / 1e6)
        rounds.append(figures)
        print(f"round {number + 1} of {wanted.rounds} done", file=sys.stderr)
    if not wanted.without_guest:
        _add_real_guest(rounds)
    rows, kept = table(rounds)
    print("\n".join(rows))
    if wanted.json:
        wanted.json.write_text(json.dumps(rounds, indent=1) + "\n")
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
