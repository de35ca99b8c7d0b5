"""How good a host is for a VM. Lower is better.

All in whole numbers, so that equal hosts get the very same cost in whatever order, on whatever machine it is computed,
and a decision can be made again on another day. A cost is made of parts that depend on one host and one kind of VM
only, which can be kept, and of weights that may depend on the whole farm, which change with every decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import Protocol

import numpy as np
import numpy.typing as npt

from esxprov.placement.departures import MOMENTS
from esxprov.placement.snapshot import Policy, Size

Numbers = npt.NDArray[np.int64]


FULL = np.iinfo(np.int64).max
"""The cost of a host that does not take the VM."""


class Score(Protocol):
    """A policy's way to tell hosts apart. `width` is the number of parts that a cost is made of."""

    @property
    def width(self) -> int: ...

    def parts(self, free: Numbers, whole: Numbers, needs: Numbers) -> Numbers:
        """By VM, host and part; where the VM does not fit the first part is FULL and the others mean nothing.

        RAM in MB and vCPUs: `free` is what hosts may still promise, by host and moment (see departures.py), `whole` by
        host what they may promise altogether, `needs` by VM, the first of which needs nothing.
        """

    def explain(self, cost: int) -> str:
        """A cost in words."""


_FEW_HOSTS = 256
"""Up to so many, hosts are weighed by what is scarce on all of them. On more it is not worth what it takes, for then
every VM that comes or goes changes the cost of every host.
"""

_MOST_SIZES = 16
"""Of a catalogue of all sorts of sizes, so many are weighed: each is a division for each host."""

ANY_SIZES = tuple(Size(ram_gb * 1024, cpus) for ram_gb, cpus in ((1, 1), (2, 2), (4, 2), (8, 4), (16, 2), (16, 8)))
"""What is expected to come where nobody says what will."""


def score_of(policy: Policy, catalogue: Sequence[Size], whole: Numbers) -> Score:
    """How a policy tells the hosts of a farm apart. `whole` is what they may promise altogether, by host."""
    if policy is Policy.SPREAD:
        return Fullness()
    if looks_ahead(policy, whole.shape[1]):
        return LostScarcePlaces(catalogue or ANY_SIZES, whole)
    return LostPlaces(catalogue or ANY_SIZES, whole)


def looks_ahead(policy: Policy, hosts: int) -> bool:
    """Whether it matters to a policy what will be on so many hosts later."""
    return policy is Policy.PACK and hosts <= _FEW_HOSTS


def weightiest(catalogue: Sequence[Size], count: int) -> list[Size]:
    """The sizes that the catalogue is mostly made of, by RAM and vCPUs of all images that have them."""
    ram = max(1, sum(size.ram_mb * size.images for size in catalogue))
    cpus = max(1, sum(size.cpus * size.images for size in catalogue))

    def weight(size: Size) -> float:
        return size.images * (size.ram_mb / ram + size.cpus / cpus)

    return sorted(catalogue, key=lambda size: (-weight(size), size.ram_mb, size.cpus))[:count]


class Fullness:
    """The share of the host that would be promised, mean of RAM and vCPUs, in millionths."""

    width = 1

    def parts(self, free: Numbers, whole: Numbers, needs: Numbers) -> Numbers:
        """The cost itself."""
        used = whole[:, None] - free[:, None, :, 0] + needs[:, :, None]
        share: Numbers = used * 500_000 // np.maximum(1, whole[:, None])
        both: Numbers = share[0] + share[1]
        both[(free[:, None, :, 0] < needs[:, :, None]).any(axis=0)] = FULL
        return both[..., None]

    def explain(self, cost: int) -> str:
        """A cost in words."""
        return f"this one keeps the most headroom ({cost / 1e6:.0%} promised with it)"


class LostPlaces:
    """How many VMs that may be asked for would not fit any more ("Beware of Fragmentation", ATC'23).

    For each size of the catalogue: how many of it fit before and after, in fractions, which see a loss coming before it
    happens, and a little more if a whole place is lost with them. A place weighs as much as images need it, and as it
    is large: for the large VMs, places run out first.
    """

    width = 1
    _WEIGHTS = 1 << 24

    def __init__(self, catalogue: Sequence[Size], whole: Numbers) -> None:
        """`whole` is what all hosts may promise altogether."""
        sizes = weightiest(catalogue, _MOST_SIZES)
        self._sizes = _by_resource(sizes)
        self._weights = _shares(sizes, whole, 3, self._WEIGHTS)

    def parts(self, free: Numbers, whole: Numbers, needs: Numbers) -> Numbers:
        """The cost itself."""
        fits = _fits(free[:, None, :, 0] - needs[:, :, None], self._sizes)
        worth: Numbers = _worth(fits).dot(self._weights)
        lost: Numbers = worth[0] - worth
        lost[fits[..., 0] < 0] = FULL
        return lost[..., None]

    def explain(self, cost: int) -> str:
        """A cost in words."""
        return f"the fewest places for other VMs are lost here ({cost / self._WEIGHTS / _PLACE:.2f})"


class LostScarcePlaces:
    """As LostPlaces, but a place weighs the more the fewer there are of its size on all hosts; and those count, too,
    that will be there when what is known to end has ended, if the VM is there still.
    """

    _WEIGHT_BITS = 24
    _MOMENT_WEIGHTS = (100, 47, 41, 30)

    def __init__(self, catalogue: Sequence[Size], whole: Numbers) -> None:
        """As LostPlaces."""
        sizes = weightiest(catalogue, _MOST_SIZES)
        self._sizes = _by_resource(sizes)[:, None]
        self._shares = _shares(sizes, whole, 2, _MOST_SCARCE)
        self._moments = np.repeat(np.array(self._MOMENT_WEIGHTS, np.int64), len(sizes))
        self.width = MOMENTS * len(sizes)
        self._stays = [np.arange(self.width) < moments * len(sizes) for moments in range(MOMENTS + 1)]

    def parts(self, free: Numbers, whole: Numbers, needs: Numbers) -> Numbers:
        """What is lost of each size at each moment. For the VM that needs nothing: how many whole places there are."""
        fits = _fits(free[:, None] - needs[:, :, None, None], self._sizes)
        worth = _worth(fits)
        lost: Numbers = worth[0] - worth
        parts = lost.reshape(*lost.shape[:2], self.width)
        parts[..., 0][fits[..., 0, 0] < 0] = FULL
        parts[0] = np.maximum(0, fits[0] >> _FRACTION_BITS).reshape(-1, self.width)
        return parts

    def weights(self, places: Numbers) -> Numbers:
        """By part, with so many places on all hosts."""
        scarce: Numbers = _SCARCE[np.minimum(places, len(_SCARCE) - 1)].reshape(MOMENTS, -1) * self._shares
        weights: Numbers = scarce // np.maximum(1, scarce.sum(axis=1, keepdims=True) >> self._WEIGHT_BITS)
        weighed: Numbers = weights.ravel() * self._moments
        return weighed

    def costs(self, parts: Numbers, weights: Numbers, moments: int) -> Numbers:
        """By host, of a VM that is there at so many of the moments."""
        costs: Numbers = parts.dot(weights * self._stays[moments])
        costs[parts[:, 0] == FULL] = FULL
        return costs

    def explain(self, cost: int) -> str:
        """A cost in words."""
        lost = cost / sum(self._MOMENT_WEIGHTS) / (1 << self._WEIGHT_BITS) / _PLACE
        return f"the fewest places for other VMs are lost here ({lost:.2f}, the scarce ones counted most)"


_FRACTION_BITS = 10
_WHOLE = -1 << _FRACTION_BITS  # a mask
_FRACTIONS = 20
"""A fraction of a place counts so many times what the whole place does that is lost with it."""
_PLACE = (_FRACTIONS + 1) << _FRACTION_BITS


def _by_resource(sizes: Sequence[Size]) -> Numbers:
    """RAM and vCPUs by VM, host (of any one) and size."""
    return np.array([[size.ram_mb for size in sizes], [size.cpus for size in sizes]], np.int64)[:, None, None]


def _fits(free: Numbers, sizes: Numbers) -> Numbers:
    """How many of each size, in 1 / 2**_FRACTION_BITS."""
    each = (free << _FRACTION_BITS)[..., None] // sizes
    least: Numbers = np.minimum(each[0], each[1])
    return least


def _worth(fits: Numbers) -> Numbers:
    """In 1 / _PLACE of a place."""
    return fits * _FRACTIONS + (fits & _WHOLE)


def _shares(sizes: Sequence[Size], whole: Numbers, power: int, total: int) -> Numbers:
    """What a place of each size is worth, `total` together: by the images that have it, and by a power of its size, in
    parts of the RAM and vCPUs of all hosts.
    """
    ram, cpus = (max(1, int(amount)) for amount in whole.sum(axis=1))
    worth = [size.images * (size.ram_mb * cpus + size.cpus * ram) ** power for size in sizes]
    return np.array([max(1, each * total // max(1, sum(worth))) for each in worth], np.int64)


_MOST_SCARCE = 1 << 30


def _scarcity(places: int) -> int:
    """(places + 5) ** -1.5, in parts of what that is where there is no place left.

    With less than 5 hardly anything would count but the sizes that have no place left, which may never have one again.
    """
    return isqrt(125 * _MOST_SCARCE**2 // (places + 5) ** 3)


_SCARCE = np.array([_scarcity(places) for places in range(4096)], np.int64)
