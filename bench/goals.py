# SPDX-License-Identifier: Apache-2.0
"""What the engine must and should keep to, and the table that says whether it does; pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Figures = Mapping[str, float]


@dataclass(frozen=True)
class Goal:
    """A figure that is to be at most ``must``, and better at most ``aim``, in the title's unit.

    ``least`` turns both round: the figure is to be at least that.
    """

    figure: str
    title: str
    must: float
    aim: float
    form: str = ".2f"
    least: bool = False

    def holds(self, measured: float) -> bool:
        """True if the must is kept."""
        return measured >= self.must if self.least else measured <= self.must


GOALS = (
    Goal("cpu_ratio_1000", "engine CPU per heartbeat / C floor, 1000 VMs at 1 Hz", 3.0, 2.0),
    Goal("cpu_ratio_5000", "the same, 5000 VMs", 3.0, 2.0),
    Goal("cpu_ratio_100", "the same, 100 VMs", 2.5, 1.5),
    Goal("growth", "CPU per heartbeat, 5000 VMs / 100 VMs", 1.0, 1.0),
    Goal("wakeups", "wake-ups per second, 1000 VMs", 600, 350, ".0f"),
    Goal("memory_kib", "memory per VM, slope from 100 to 5000, KiB", 4.0, 2.0),
    Goal("rtt_above_us", "round trip p50 above the floor's, 1000 VMs, us", 100, 20, "+.0f"),
    Goal("late_p99_ms", "send lateness p99, 1000 VMs, ms", 5, 2),
    Goal("early_ms", "declared - ideal, the least, ms", 0, 0, "+.2f", least=True),
    Goal("declared_p99_ms", "declared - ideal, p99, ms", 10, 2, "+.2f"),
    Goal("hung_rtt", "a tenth hung: the others' round trip p50, share of bound", 1, 0),
    Goal("hung_late", "a tenth hung: the others' lateness p99, share of bound", 1, 0),
    Goal("collectd_cores", "whole collectd, 1000 VMs, values each 5 s, cores", 0.05, 0.03, ".3f"),
    # What the goal before is where it was set: there the floor's beats took 0.0125 of a core.
    Goal("collectd_floors", "the same / the C floor's beats", 4.0, 2.4),
    Goal("collectd_rtt_p99_ms", "round trip p99 inside collectd, ms", 5, 2),
    Goal("collectd_declared_max_ms", "declared - ideal, the most, inside collectd, ms", 50, 10),
    Goal("guest_ratio", "round trip p50 of a real guest / guest-ping's", 0.5, 0.4),
)


def change(before: float, after: float, unit_per_ms: float) -> float:
    """Returns how much of what is allowed a figure grew by: a tenth, or 0.2 ms."""
    return (after - before) / max(before / 10, 0.2 * unit_per_ms)


def table(rounds: Sequence[Figures]) -> tuple[list[str], bool]:
    """Returns the rows in Markdown, and whether every must is kept: what nobody measured is not."""
    rows = [
        "| goal | must | aim | median [least - most] | |",
        "|---|---|---|---|---|",
    ]
    kept = True
    for goal in GOALS:
        numbers = [figures[goal.figure] for figures in rounds if goal.figure in figures]
        measured, verdict, holds = "not measured", "**unknown**", False
        if numbers:
            middle = statistics.median(numbers)
            low, high = min(numbers), max(numbers)
            measured = f"{middle:{goal.form}} [{low:{goal.form}} - {high:{goal.form}}]"
            holds = goal.holds(middle)
            verdict = "holds" if holds else "**fails**"
        kept = kept and holds
        rows.append(f"| {goal.title} | {goal.must:g} | {goal.aim:g} | {measured} | {verdict} |")
    return rows, kept


def part(values: Iterable[float], share: float) -> float:
    """Returns the value below which this share of them lies."""
    ordered = sorted(value for value in values if not math.isnan(value))
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan
