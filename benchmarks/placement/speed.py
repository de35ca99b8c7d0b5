"""What a decision with its claim takes in memory, against one numpy scan of the same hosts, and on few hosts."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.placement import workload
from benchmarks.placement.campus import IMAGES
from benchmarks.placement.ours import state
from benchmarks.placement.parts import Options
from benchmarks.placement.rows import Host
from benchmarks.targets import Figure, at_most
from esxprov.placement.farm import Farm
from esxprov.placement.host import HostState
from esxprov.placement.request import PlacementRequest
from esxprov.placement.search import place
from esxprov.placement.snapshot import Rules

_MANY, _FEW = 10_000, 20
_ROUNDS, _DECISIONS = 5, 2_000
_PAUSE_S = 10
"""Between two requests."""

_SHARES = np.array([image.share for image in workload.CATALOGUE])
_SIZES = np.array([(image.ram_mb, image.cpus) for image in workload.CATALOGUE], dtype=np.int64)
_NOWHERE = np.iinfo(np.int64).max


class Steady:
    """A farm that is seven tenths full; each VM that comes goes after twenty others."""

    def __init__(self, count: int) -> None:
        self._random = np.random.default_rng([count, 4])
        self.farm = Farm((self._state(host) for host in workload.farm(1, blades=count)), Rules(), IMAGES)
        self._number = itertools.count()
        self._there: list[tuple[int, PlacementRequest]] = []

    def _state(self, host: Host) -> HostState:
        drawn = self._random.choice(len(_SHARES), 64, p=_SHARES)
        level = self._random.uniform(0.5, 0.9)
        fit = (_SIZES[drawn].cumsum(axis=0) <= (level * host.ram_mb, level * host.cpus)).all(axis=1)
        return state(host, Counter((int(ram_mb), int(cpus)) for ram_mb, cpus in _SIZES[drawn[fit]]))

    def decide_ns(self) -> list[int]:
        """The time of each decision with its claim; what others' going makes out of date is refreshed in it."""
        found = []
        for image in self._random.choice(len(_SHARES), _DECISIONS, p=_SHARES):
            chosen = workload.CATALOGUE[image]
            number = next(self._number)
            ends_at = (number + int(self._random.integers(360, 3600))) * _PAUSE_S
            request = PlacementRequest(f"vm{number}", chosen.ram_mb, chosen.cpus, ends_at=ends_at)
            started = time.perf_counter_ns()
            self.farm.advance(number * _PAUSE_S)
            answer = place(self.farm, [request])
            found.append(time.perf_counter_ns() - started)
            assert answer.hosts is not None, "the farm is not full"
            self._there.append((answer.hosts[0], request))
            if len(self._there) > 20:
                self.farm.vacate(*self._there.pop(0))
        return found


@dataclass(frozen=True, slots=True)
class Scan:
    """Best fit: of the hosts with room the one that has the least RAM left, found by looking at all of them."""

    ram_free: npt.NDArray[np.int64]
    cpus_free: npt.NDArray[np.int64]

    def best(self, ram_mb: int, cpus: int) -> int:
        """The number of the host."""
        takes = (self.ram_free >= ram_mb) & (self.cpus_free >= cpus)
        return int(np.where(takes, self.ram_free - ram_mb, _NOWHERE).argmin())

    def decide_ns(self) -> list[int]:
        """The time of each scan; nothing is claimed."""
        found = []
        for image in itertools.islice(itertools.cycle(workload.CATALOGUE), _DECISIONS):
            started = time.perf_counter_ns()
            self.best(image.ram_mb, image.cpus)
            found.append(time.perf_counter_ns() - started)
        return found


def measure(options: Options) -> Iterator[Figure]:
    """The three in turns; of each the best median of its rounds, as what disturbs only adds."""
    many, few = Steady(_MANY), Steady(_FEW)
    scan = Scan(many.farm.ram_free.copy(), many.farm.cpus_free.copy())
    rounds: dict[str, list[tuple[float, float]]] = {"scan": [], "many": [], "few": []}
    decide: dict[str, Callable[[], list[int]]] = {
        "scan": scan.decide_ns,
        "many": many.decide_ns,
        "few": few.decide_ns,
    }
    for _ in range(_ROUNDS):
        for name, one in decide.items():
            median, slow = np.percentile(one(), (50, 90)) / 1000
            rounds[name].append((float(median), float(slow)))
    (scanned, _), (of_many, slow_of_many), (of_few, slow_of_few) = (min(rounds[name]) for name in decide)
    print(
        f"\nDecide and claim, best of {_ROUNDS} medians of {_DECISIONS} decisions (p90 in brackets): {of_many:.1f} us "
        f"({slow_of_many:.1f}) at {_MANY} hosts, {of_few:.1f} us ({slow_of_few:.1f}) at {_FEW}; one best-fit scan of "
        f"the {_MANY} hosts in numpy, nothing claimed: {scanned:.1f} us"
    )
    yield at_most(f"decide and claim at {_MANY} hosts, of one numpy scan's time", 1.0, of_many / scanned)
    yield at_most(f"decide and claim at {_MANY} hosts, of the time at {_FEW}", 3.0, of_many / of_few)
