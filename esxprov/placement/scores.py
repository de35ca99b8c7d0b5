"""How good a host is for a VM. Lower is better.

All in whole numbers, so that equal hosts get the very same cost in whatever order, on whatever machine it is computed,
and a decision can be made again on another day. A function takes many hosts and many VMs at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from esxprov.placement.snapshot import Policy, Size

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Capacity:
    """Hosts as columns of one number each: what may still be promised, and what may be altogether."""

    ram_free: Numbers
    cpus_free: Numbers
    ram: Numbers
    cpus: Numbers


Cost = Callable[[Capacity, Numbers, Numbers], Numbers]
"""(hosts, RAM needed in MB, vCPUs needed) -> cost by host and VM; means something only where the VM fits.

The first VM needs nothing: many a cost is a difference to that, and on a few hosts it is the number of numpy's calls
that takes the time.
"""

_FRACTION_BITS = 10
_WHOLE = -1 << _FRACTION_BITS  # a mask
_WEIGHT_ONE = 1 << 16


_MOST_SIZES = 16
"""Of a catalogue of all sorts of sizes, so many are weighed: each is a division for each host."""


def weightiest(catalogue: Sequence[Size], count: int) -> list[Size]:
    """The sizes that the catalogue is mostly made of, by RAM and vCPUs of all images that have them."""
    ram = max(1, sum(size.ram_mb * size.images for size in catalogue))
    cpus = max(1, sum(size.cpus * size.images for size in catalogue))

    def weight(size: Size) -> float:
        return size.images * (size.ram_mb / ram + size.cpus / cpus)

    return sorted(catalogue, key=lambda size: (-weight(size), size.ram_mb, size.cpus))[:count]


def lost_allocations(catalogue: Sequence[Size]) -> Cost:
    """How many future VMs would not fit any more ("Beware of Fragmentation", ATC'23).

    For each size of the catalogue: how many of it fit before and after, once in whole VMs and once in fractions, half
    and half. The whole VMs are what counts, the fractions see a loss coming before it happens. A size weighs as much as
    images have it, and as it is large: a place lost for one large VM is as bad as several lost for small ones; RAM and
    vCPUs count alike, each in parts of the average image's.
    """
    catalogue = weightiest(catalogue, _MOST_SIZES)
    ram = np.array([size.ram_mb for size in catalogue], np.int64)
    cpus = np.array([size.cpus for size in catalogue], np.int64)
    images = np.array([size.images for size in catalogue], np.int64)
    share = images * (ram / (ram @ images) + cpus / (cpus @ images)) / 2
    weights = np.maximum(1, np.rint(share * _WEIGHT_ONE)).astype(np.int64)

    def cost(hosts: Capacity, ram_needed: Numbers, cpus_needed: Numbers) -> Numbers:
        ram_left = (hosts.ram_free - ram_needed) << _FRACTION_BITS
        cpus_left = (hosts.cpus_free - cpus_needed) << _FRACTION_BITS
        fits = np.minimum(ram_left[..., None] // ram, cpus_left[..., None] // cpus)
        worth: Numbers = ((fits & _WHOLE) + fits).dot(weights)
        return worth[:, :1] - worth

    return cost


def fullness(hosts: Capacity, ram_needed: Numbers, cpus_needed: Numbers) -> Numbers:
    """The share of the host that would be promised, mean of RAM and vCPUs, in millionths."""
    ram = (hosts.ram - hosts.ram_free + ram_needed) * 500_000 // np.maximum(1, hosts.ram)
    return ram + (hosts.cpus - hosts.cpus_free + cpus_needed) * 500_000 // np.maximum(1, hosts.cpus)


def cost_of(policy: Policy, catalogue: Sequence[Size]) -> Cost:
    """The cost by which a policy chooses."""
    if policy is Policy.SPREAD:
        return fullness
    return lost_allocations(catalogue)


def explain(policy: Policy, cost: int) -> str:
    """A cost in words."""
    if policy is Policy.SPREAD:
        return f"this one keeps the most headroom ({cost / 1e6:.0%} promised with it)"
    lost = cost / (1 << _FRACTION_BITS) / _WEIGHT_ONE / 2
    return f"the fewest future VMs are lost here ({lost:.2f})"
