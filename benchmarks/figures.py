"""What a benchmark says: a measured time, what it was compared with, and whether the bound holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

COLUMNS = ("benchmark", "case", "samples", "measured_ms", "floor_ms", "ratio", "bound", "holds")
"""Of the table; `compared` is said below it."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One line. `bound` is a ratio where there is a floor and milliseconds where there is none; None binds nothing.

    `compared` is the sentence without which the numbers mean nothing, `facts` more numbers for the JSON.
    """

    benchmark: str
    case: str
    samples: int
    measured_ms: float
    compared: str
    floor_ms: float | None = None
    bound: float | None = None
    facts: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def ratio(
        cls,
        benchmark: str,
        case: str,
        measured: Sequence[float],
        floor: Sequence[float],
        bound: float | None,
        compared: str,
        **facts: Any,
    ) -> Self:
        """The medians of both, in milliseconds, and their ratio."""
        middle = percentile(measured, 50), percentile(floor, 50)
        return cls(benchmark, case, len(measured), middle[0], compared, middle[1], bound, facts=tuple(facts.items()))

    @property
    def holds(self) -> bool | None:
        """None if there is nothing to hold."""
        if self.bound is None:
            return None
        return (self.measured_ms if self.floor_ms is None else self.measured_ms / self.floor_ms) <= self.bound

    def row(self) -> dict[str, Any]:
        """For the table."""
        unit = "ms" if self.floor_ms is None else "x"
        return self.to_json() | {
            "measured_ms": round(self.measured_ms, 3),
            "bound": None if self.bound is None else f"<= {self.bound:g} {unit}",
        }

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "benchmark": self.benchmark,
            "case": self.case,
            "samples": self.samples,
            "measured_ms": self.measured_ms,
            "floor_ms": self.floor_ms,
            "ratio": None if self.floor_ms is None else self.measured_ms / self.floor_ms,
            "bound": self.bound,
            "holds": self.holds,
            "compared": self.compared,
            **dict(self.facts),
        }


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: a value that was measured, none between two."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]
