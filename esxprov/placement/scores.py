"""How good a host is for a VM. Lower is better; equal hosts get the very same number."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from esxprov.placement.filters import PlacementRequest, Policy
from esxprov.placement.snapshot import HostState, WeightedSize, overhead_mb


@dataclass(frozen=True, slots=True)
class Future:
    """A VM that may be asked for later. `weight` is its share of what we expect; the weights add up to 1."""

    ram_needed_mb: int
    cpus: int
    weight: float


def expected(catalogue: Iterable[WeightedSize]) -> tuple[Future, ...]:
    """What the images may ask for, each weighted by how many images have its size, and by its size.

    By its size, because a place lost for one large VM is as bad as several lost for small ones. RAM and vCPUs count
    alike, each in parts of the average image's.
    """
    needs = [(ram_mb + overhead_mb(ram_mb, cpus), cpus, images) for ram_mb, cpus, images in catalogue]
    if not needs:
        return ()
    all_ram = sum(ram * images for ram, _, images in needs)
    all_cpus = sum(cpus * images for _, cpus, images in needs)
    return tuple(Future(ram, cpus, images * (ram / all_ram + cpus / all_cpus) / 2) for ram, cpus, images in needs)


Score = Callable[[PlacementRequest, HostState, tuple[Future, ...]], float]


def lost_allocations(request: PlacementRequest, host: HostState, futures: tuple[Future, ...]) -> float:
    """How many future VMs would not fit any more ("Beware of Fragmentation", ATC'23).

    For each size: how many of it fit before and after, once in whole VMs and once in fractions, half and half. The
    whole VMs are what counts, the fractions see a loss coming before it happens.
    """
    ram, cpus = host.ram_free_mb, host.cpus_free
    ram_after, cpus_after = ram - request.ram_needed_mb, cpus - request.cpus
    lost = 0.0
    for future in futures:
        need, threads = future.ram_needed_mb, future.cpus
        whole = min(ram // need, cpus // threads) - min(ram_after // need, cpus_after // threads)
        fractions = min(ram / need, cpus / threads) - min(ram_after / need, cpus_after / threads)
        lost += future.weight * (whole + fractions) / 2
    return lost


def fullness(request: PlacementRequest, host: HostState, _: tuple[Future, ...]) -> float:
    """The share of the host that would be promised, mean of RAM and vCPUs."""
    ram = 1 - (host.ram_free_mb - request.ram_needed_mb) / host.ram_capacity_mb
    cpus = 1 - (host.cpus_free - request.cpus) / host.cpus_capacity
    return (ram + cpus) / 2


SCORES: dict[Policy, tuple[Score, str]] = {
    Policy.PACK: (lost_allocations, "the fewest future VMs are lost here ({score:.2f})"),
    Policy.SPREAD: (fullness, "this one keeps the most headroom ({score:.0%} promised with it)"),
}
"""A policy's score, and how to say it."""
