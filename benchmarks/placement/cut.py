"""How an administrator cuts hosts into VCL's slots, and the cut that would have served last term best."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, product

from benchmarks.placement import workload
from benchmarks.placement.replay import replay
from benchmarks.placement.rows import Host, Request
from benchmarks.placement.slots import Slot, SlotSize, VclSlots

TRAINING_SEEDS = (1001, 1002, 1003)
"""Last term: workloads that are never reported."""

_LARGEST_GB = max(image.ram_mb for image in workload.CATALOGUE) // 1024
_DAY_S = 24 * 3600


@dataclass(frozen=True, slots=True)
class Cut:
    """Slot sizes with the share of every host's RAM that each of them gets, of `booked` times the RAM there is."""

    shares: dict[SlotSize, float]
    booked: float

    def slots(self, hosts: Sequence[Host]) -> list[Slot]:
        """As many as fit. What one host's remainder could not give a size, the next one gives it."""
        slots = []
        owed = dict.fromkeys(self.shares, 0.0)
        for number, host in enumerate(hosts):
            left = int(host.ram_mb * self.booked)
            for size, share in self.shares.items():
                owed[size] += share * left
            while fitting := [size for size in owed if size.ram_mb <= left]:
                size = max(fitting, key=lambda size: (owed[size], size.ram_mb))
                slots.append(Slot(number, size))
                owed[size] -= size.ram_mb
                left -= size.ram_mb
        return slots

    def __str__(self) -> str:
        sizes = ", ".join(f"{size.ram_mb // 1024} GB {share:.0%}" for size, share in self.shares.items())
        return f"{self.booked:g} x the RAM, as {sizes}"


def slot_sizes(rams_gb: Sequence[int]) -> list[SlotSize]:
    """Slots of so much RAM, with as many vCPUs as any image needs that fits into it."""
    return [
        SlotSize(ram_gb * 1024, max(image.cpus for image in workload.CATALOGUE if image.ram_mb <= ram_gb * 1024))
        for ram_gb in rams_gb
    ]


ONE_SIZE = Cut(dict.fromkeys(slot_sizes((_LARGEST_GB,)), 1.0), 1.0)
"""Every slot takes every image."""


def best_strict(load: float) -> Cut:
    """Four sizes, all slots together no larger than the RAM."""
    return _best(load, combinations((1, 2, 4, 6, 8, 12), 3), (1.0,))


def best_overbooked(load: float) -> Cut:
    """One to four sizes, more slots than RAM: it is VMhostCheck that keeps the host from too many."""
    return _best(load, (few for count in range(4) for few in combinations((4, 8, 12), count)), (1.25, 1.5, 2.0, 3.0))


def _best(load: float, smaller_gb: Iterable[tuple[int, ...]], booked: Sequence[float]) -> Cut:
    """The cut that refuses the fewest training requests; of every combination of sizes, for mean and for peak use."""
    terms = []
    for seed in TRAINING_SEEDS:
        hosts = workload.farm(seed)
        terms.append((hosts, workload.requests(seed, hosts, load, weeks=1)))
    cuts = [
        Cut(shares, times)
        for sizes, times in product([slot_sizes((*some, _LARGEST_GB)) for some in smaller_gb], booked)
        for shares in use(sizes, [requests for _, requests in terms])
    ]

    def refused(cut: Cut) -> int:
        return sum(replay(hosts, requests, VclSlots(hosts, cut.slots(hosts))).refused for hosts, requests in terms)

    return min(cuts, key=refused)


def use(sizes: Sequence[SlotSize], terms: Iterable[Sequence[Request]]) -> tuple[dict[SlotSize, float], ...]:
    """The share of RAM that each size of slot (given the smallest first) would need, in the mean and at its own peak.

    A server counts for a week at most: longer ones would outweigh what comes and goes.
    """
    mean: Counter[SlotSize] = Counter()
    peak: Counter[SlotSize] = Counter()
    for requests in terms:
        changes: list[tuple[int, int, SlotSize]] = []
        for request in requests:
            for vm in request.vms:
                size = next(size for size in sizes if size.takes(vm))
                stay_s = 7 * _DAY_S if vm.duration_s is None else min(vm.duration_s, 7 * _DAY_S)
                mean[size] += stay_s * size.ram_mb
                changes += [(request.time_s, size.ram_mb, size), (request.time_s + stay_s, -size.ram_mb, size)]
        now: Counter[SlotSize] = Counter()
        most: Counter[SlotSize] = Counter()
        for _, change, size in sorted(changes, key=lambda change: change[:2]):
            now[size] += change
            most[size] = max(most[size], now[size])
        peak += most
    return tuple({size: each[size] / each.total() for size in sizes} for each in (mean, peak))
