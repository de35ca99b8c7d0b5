"""What is to be reached, what was measured, and whether that is enough: the last table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from esxprov.tables import table

_COLUMNS = ("figure", "target", "measured", "reached")


@dataclass(frozen=True, slots=True)
class Figure:
    """`measured` is None if it could not be measured, which is not the same as missing the target."""

    name: str
    target: float
    measured: float | None
    more_is_better: bool

    @property
    def reached(self) -> bool | None:
        """None if it was not measured."""
        if self.measured is None:
            return None
        return self.measured >= self.target if self.more_is_better else self.measured <= self.target


def at_least(name: str, target: float, measured: float | None) -> Figure:
    """A figure of which more is better."""
    return Figure(name, target, measured, more_is_better=True)


def at_most(name: str, target: float, measured: float | None) -> Figure:
    """A figure of which less is better."""
    return Figure(name, target, measured, more_is_better=False)


def summary(figures: Iterable[Figure]) -> str:
    """The table."""
    return table([_row(figure) for figure in figures], _COLUMNS)


def _row(figure: Figure) -> dict[str, Any]:
    return {
        "figure": figure.name,
        "target": f"{'>=' if figure.more_is_better else '<='} {figure.target:g}",
        "measured": "-" if figure.measured is None else f"{figure.measured:.3f}",
        "reached": {True: "yes", False: "NOT REACHED", None: "not measured"}[figure.reached],
    }
