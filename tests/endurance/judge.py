# SPDX-License-Identifier: Apache-2.0
"""What a soak shows, and whether that is good."""

from __future__ import annotations

from dataclasses import dataclass

from bench.goals import part
from tests.endurance.ledger import Ledger, told_within
from tests.endurance.soak import SCORE, Soak

#: What collectd may seem to have grown by. Memory, in KiB: the allocator's arenas come and go by as
#: much; an hour has 3000 sessions and more, so that a KiB kept of each is seen. Descriptors and
#: threads: connections to libvirt and of `vmhb status` come and go.
BOUNDS = {"memory": 2048.0, "descriptors": 3.0, "threads": 2.0}
#: Lines that are shown of what went wrong.
SHOWN = 20


@dataclass(frozen=True)
class Verdict:
    """Whether all was well, and the table for people."""

    good: bool
    text: str


def judge(soak: Soak, ledger: Ledger, errors: list[str], since: float) -> Verdict:
    """Judges what was seen from a time on, when everything had warmed up."""
    lines = [ledger.verdict()]
    for fault, delays in ledger.delays.items():
        if delays:
            lines.append(
                f"{fault} told after {part(delays, 0.5):.2f} s (half), {part(delays, 0.99):.2f} s "
                f"(99 %), {max(delays):.2f} s (all); bound {told_within(fault):.2f} s"
            )
    lines.append(
        f"the host was late itself for {ledger.counts['looks late'] * SCORE:.0f} s, "
        f"the guests for {ledger.counts['guests starved'] * SCORE:.0f} s"
    )
    good = not (ledger.false or ledger.missed or ledger.host or errors)
    for name, most in BOUNDS.items():
        growth, last = soak.usage.growth(name, since), soak.usage.figures[name][-1]
        good = good and growth <= most
        over = "" if growth <= most else "  over"
        lines.append(f"{name:<12} {last:8.0f}, grown by {growth:+.1f} (at most {most:g}){over}")
    lines += [f"false: {line}" for line in ledger.false[:SHOWN]]
    lines += [f"missed: {line}" for line in ledger.missed[:SHOWN]]
    lines += [f"told of the host: {text}" for _, _, text in ledger.host[:SHOWN]]
    return Verdict(good, "\n".join([*lines, *errors[:SHOWN]]))
