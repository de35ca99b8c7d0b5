"""One workload for each seed, all placers on it, and what they refused of it altogether."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.placement.bound import FreeRepacking
from benchmarks.placement.nova import NovaDefault
from benchmarks.placement.ours import Ours
from benchmarks.placement.replay import Outcome, Placer, replay
from benchmarks.placement.rows import Host, Request
from esxprov.placement.snapshot import Size
from esxprov.tables import table

NOVA, OURS, BOUND = "Nova default", "ours", "bound"

Case = tuple[Sequence[Host], Sequence[Request], Sequence[Size]]
"""Hosts, requests, and the sizes of the images that there are."""

More = Mapping[str, Callable[[Sequence[Host]], Placer]]
"""Other placers, by name."""


@dataclass(frozen=True, slots=True)
class Round:
    """Outcomes of one seed by placer. `undecided`: requests that the bound refused for want of an answer."""

    outcomes: Mapping[str, Outcome]
    undecided: int


class Contest:
    """All rounds. Ratios are those of sums over the seeds: a seed in which hardly anything is refused has none."""

    def __init__(self, rounds: Sequence[Round]) -> None:
        self._rounds = rounds

    def refused(self, placer: str) -> int:
        """Requests."""
        return sum(one.outcomes[placer].refused for one in self._rounds)

    def refused_mb(self, placer: str) -> int:
        """Of RAM, of the requests that were refused."""
        return sum(one.outcomes[placer].refused_ram_mb for one in self._rounds)

    @property
    def closed(self) -> float | None:
        """Of the RAM that Nova refuses beyond the bound, the share that ours places; None if Nova refuses no more."""
        return _closed(*(self.refused_mb(placer) for placer in (NOVA, OURS, BOUND)))

    @property
    def closed_by_seed(self) -> list[float]:
        """Of the seeds that have such a share."""
        shares = (
            _closed(*(one.outcomes[placer].refused_ram_mb for placer in (NOVA, OURS, BOUND))) for one in self._rounds
        )
        return [share for share in shares if share is not None]

    def factor_share(self, slots: str) -> float | None:
        """What ours reaches of the bound's factor over `slots`; None if a factor would be infinite.

        It is bound/ours, whatever the slots refuse: that tells how much there was to gain, not who gained it.
        """
        ours, bound = self.factor(slots, OURS), self.factor(slots, BOUND)
        return ours / bound if ours and bound else None

    def factor(self, more: str, fewer: str) -> float | None:
        """How many times as many requests the first one refuses; None if the second refuses none."""
        return self.refused(more) / self.refused(fewer) if self.refused(fewer) else None

    def report(self) -> str:
        """A line for each placer, and what makes the sums believable."""
        undecided = sum(one.undecided for one in self._rounds)
        lines = [table([self._row(placer) for placer in self._rounds[0].outcomes], _COLUMNS)]
        if shares := self.closed_by_seed:
            quartiles = "  ".join(f"{each:.3f}" for each in np.percentile(shares, (0, 25, 50, 75, 100)))
            lines.append(f"closed, least and quartiles of {len(shares)} seeds with a gap: {quartiles}")
        if undecided:
            lines.append(f"{undecided} of the bound's refusals are not proved: it may be lower")
        return "\n".join(lines)

    def _row(self, placer: str) -> dict[str, Any]:
        outcomes = [one.outcomes[placer] for one in self._rounds]
        asked_mb = sum(one.placed_ram_mb + one.refused_ram_mb for one in outcomes)
        factor = self.factor(placer, BOUND)
        return {
            "placer": placer,
            "requests": sum(one.placed + one.refused for one in outcomes),
            "refused": self.refused(placer),
            "GB %": round(100 * self.refused_mb(placer) / asked_mb, 3),
            "x bound": None if factor is None else round(factor, 2),
        }


_COLUMNS = ("placer", "requests", "refused", "GB %", "x bound")


def contest(name: str, case: Callable[[int], Case], seeds: Iterable[int], more: More | None = None) -> Contest:
    """Nova's default, ours, the bound and others, on the workload of each seed."""
    return Contest([_round(f"{name}, seed {seed}", *case(seed), more or {}) for seed in seeds])


def _round(name: str, hosts: Sequence[Host], requests: Sequence[Request], images: Sequence[Size], more: More) -> Round:
    print(f"{name}: {len(requests)} requests ...", file=sys.stderr)
    bound = FreeRepacking(hosts)
    placers: dict[str, Placer] = {other: make(hosts) for other, make in more.items()}
    placers |= {NOVA: NovaDefault(hosts), OURS: Ours(hosts, images), BOUND: bound}
    outcomes = {placer: replay(hosts, requests, it) for placer, it in placers.items()}
    return Round(outcomes, bound.undecided)


def _closed(nova: int, ours: int, bound: int) -> float | None:
    return (nova - ours) / (nova - bound) if nova > bound else None
