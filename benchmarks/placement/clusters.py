"""Clusters with at most k VMs on a host, on farms that are nearly full: does ours find every way that there is?"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
import numpy.typing as npt

from benchmarks.placement import workload
from benchmarks.placement.campus import IMAGES
from benchmarks.placement.ours import state
from benchmarks.placement.packing import packing
from benchmarks.placement.parts import Options
from benchmarks.placement.rows import Host
from benchmarks.targets import Figure, at_least, at_most
from esxprov.placement.farm import Farm
from esxprov.placement.host import HostState
from esxprov.placement.request import PlacementRequest
from esxprov.placement.search import place, place_some, take_back
from esxprov.placement.snapshot import Rules

_CASES_A_SEED = 15
_MANY_HOSTS = 100
"""The number for which the time of a decision is bounded."""

_MOST_VMS = 30

_LIMIT_S = 60.0
"""For the truth."""

_SHARES = np.array([image.share for image in workload.CATALOGUE])
_SIZES = np.array([(image.cpus, image.ram_mb) for image in workload.CATALOGUE], dtype=np.int64)


class Truth(Enum):
    """What there is to find."""

    FITS = "fits"
    DOES_NOT = "does not fit"
    UNKNOWN = "undecided"


@dataclass(frozen=True, slots=True)
class Case:
    """Hosts with the VMs that they have (by host, an image a column), and a cluster of images that comes."""

    hosts: Sequence[Host]
    residents: npt.NDArray[np.int64]
    cluster: Sequence[int]
    max_per_host: int

    @property
    def room(self) -> npt.NDArray[np.int64]:
        """(vCPUs, MB) left on each host."""
        capacity = np.array([(host.cpus, host.ram_mb) for host in self.hosts], dtype=np.int64)
        room: npt.NDArray[np.int64] = capacity - self.residents @ _SIZES
        return room

    def truth(self) -> Truth:
        """By the benchmark's own exact model."""
        images, needed = np.unique(self.cluster, return_counts=True)
        found, proved = packing(_SIZES[images], needed, self.room, _LIMIT_S, self.max_per_host)
        if found is not None:
            return Truth.FITS
        return Truth.DOES_NOT if proved else Truth.UNKNOWN

    def farm(self) -> Farm:
        """As the service would know it."""
        return Farm((self._state(number) for number in range(len(self.hosts))), Rules(), IMAGES)

    def requests(self) -> list[PlacementRequest]:
        """As VCL's reservations would ask."""
        chosen = [workload.CATALOGUE[image] for image in self.cluster]
        return [
            PlacementRequest(f"vm{number}", image.ram_mb, image.cpus, group="new", max_per_host=self.max_per_host)
            for number, image in enumerate(chosen)
        ]

    def _state(self, number: int) -> HostState:
        sizes = [(image.ram_mb, image.cpus) for image in workload.CATALOGUE]
        there = zip(sizes, self.residents[number].tolist(), strict=True)
        return state(self.hosts[number], {size: many for size, many in there if many})


def case(seed: int, count: int) -> Case:
    """So many hosts, on which 90 to 99 % of what is scarcer on each is used; 2 to 30 VMs, k of 1 to 3.

    Every other cluster is a mixture to which hardly anything could be added, for there the way is hard to find.
    """
    random = np.random.default_rng([seed, count, 3])
    hosts = workload.farm(int(random.integers(1 << 30)), blades=count)
    residents = _filled(random, hosts, random.uniform(0.90, 0.99))
    head, worker = (int(random.choice(len(_SHARES), p=_SHARES)) for _ in range(2))
    most = int(random.integers(1, 4))
    if random.random() < 0.5:
        return Case(hosts, residents, [head] + [worker] * int(random.integers(1, _MOST_VMS)), most)
    mixed = [int(image) for image in random.choice(len(_SHARES), 4 * _MOST_VMS, p=_SHARES)]
    return _just_fitting(Case(hosts, residents, mixed, most))


def _filled(random: np.random.Generator, hosts: Sequence[Host], level: float) -> npt.NDArray[np.int64]:
    """Images on hosts, chosen at random or the fullest that has room; some VMs go in between, as they do."""
    capacity = np.array([(host.cpus, host.ram_mb) for host in hosts], dtype=np.int64)
    free, residents = capacity.copy(), np.zeros((len(hosts), len(_SIZES)), dtype=np.int64)
    packed = random.random() < 0.5
    for _ in range(4):
        gone = random.binomial(residents, 0.15)
        residents -= gone
        free += gone @ _SIZES
        while (1 - free / capacity).max(axis=1).mean() < level:
            for image in random.choice(len(_SHARES), 16, p=_SHARES):
                takers = np.flatnonzero((free >= _SIZES[image]).all(axis=1))
                if takers.size:
                    left = (free[takers] / capacity[takers]).sum(axis=1)
                    host = takers[left.argmin()] if packed else random.choice(takers)
                    free[host] -= _SIZES[image]
                    residents[host, image] += 1
    return residents


def _just_fitting(whole: Case) -> Case:
    """With the VMs left out that do not fit any more beside those before them."""
    kept = replace(whole, cluster=())
    too_large: set[int] = set()  # once, always
    for image in whole.cluster:
        if len(kept.cluster) < _MOST_VMS and image not in too_large:
            more = replace(kept, cluster=(*kept.cluster, image))
            if more.truth() is Truth.FITS:
                kept = more
            else:
                too_large.add(image)
    return kept if len(kept.cluster) > 1 else replace(whole, cluster=whole.cluster[:2])


def measure(options: Options) -> Iterator[Figure]:
    """Half of the farms have 100 hosts, the others 20 to 99."""
    truths: Counter[Truth] = Counter()
    placed = greedy = wrong = 0
    times_ms = []
    for number in range(options.seeds * _CASES_A_SEED):
        count = _MANY_HOSTS if number % 2 else 20 + number * 37 % 80
        one = case(number, count)
        truth = one.truth()
        farm, requests = one.farm(), one.requests()
        first, stuck = place_some(farm, requests)
        take_back(farm, requests, first)
        started = time.perf_counter()
        found = place(farm, requests)
        took_ms = (time.perf_counter() - started) * 1000
        if count == _MANY_HOSTS:
            times_ms.append(took_ms)
        truths[truth] += 1
        if truth is Truth.FITS:
            placed += found.hosts is not None
            greedy += stuck is None
            wrong += found.hosts is None and found.proved
        elif truth is Truth.DOES_NOT:
            wrong += found.hosts is not None
    fits = truths[Truth.FITS]
    print(
        f"\nClusters near capacity, at most k on a host: {truths.total()} cases, {fits} fit, {truths[Truth.DOES_NOT]} "
        f"do not, {truths[Truth.UNKNOWN]} undecided in {_LIMIT_S:g} s; of those that fit, ours placed {placed}, its "
        f"greedy way alone {greedy}; answers that contradict the exact model: {wrong}"
    )
    median, slow, slowest = np.percentile(times_ms, (50, 99, 100))
    print(
        f"ours at {_MANY_HOSTS} hosts, {len(times_ms)} decisions: median {median:.2f} ms, p99 {slow:.2f}, most "
        f"{slowest:.2f}"
    )
    yield at_least("clusters near capacity: feasible ones placed", 1.0, placed / fits if fits else None)
    yield at_most("clusters near capacity: answers that contradict the exact model", 0, wrong)
    yield at_most(f"clusters near capacity: p99 at {_MANY_HOSTS} hosts, ms", 50, float(slow))
