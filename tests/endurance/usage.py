# SPDX-License-Identifier: Apache-2.0
"""What a daemon held over time, and by how much it grew; pure."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Usage:
    """What collectd held, as it was seen."""

    at: list[float] = field(default_factory=list)
    figures: dict[str, list[float]] = field(default_factory=dict)

    def note(self, at: float, figures: dict[str, float]) -> None:
        """Takes a look at it."""
        self.at.append(at)
        for name, figure in figures.items():
            self.figures.setdefault(name, []).append(figure)

    def growth(self, name: str, since: float) -> float:
        """Returns how much a figure grew from a time on, by a straight line through all of it."""
        points = [(at, y) for at, y in zip(self.at, self.figures[name]) if at >= since]
        middle = sum(at for at, _ in points) / len(points)
        mean = sum(y for _, y in points) / len(points)
        spread = sum((at - middle) ** 2 for at, _ in points)
        slope = sum((at - middle) * (y - mean) for at, y in points) / (spread or 1.0)
        return slope * (points[-1][0] - points[0][0])
