"""How good a host is for a VM. Lower is better.

All in whole numbers, so that equal hosts get the very same cost in whatever order, on whatever machine it is computed,
and a decision can be made again on another day. A cost is made of parts that depend on one host and one kind of VM
only, which can be kept, and of weights that may depend on the whole farm, which change with every decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Protocol

import numpy as np
import numpy.typing as npt

from esxprov.placement.departures import MOMENTS
from esxprov.placement.snapshot import Policy, Size

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Hosts:
    """RAM in MB and vCPUs, both of many hosts. `free` is what may still be promised, by host and moment (see
    departures.py), `whole` what may be altogether.
    """

    free: Numbers  # (2, hosts, moments)
    whole: Numbers  # (2, hosts)


class Score(Protocol):
    """A policy's way to tell hosts apart. `width` is the number of parts that a cost is made of."""

    width: int

    def parts(self, hosts: Hosts, needs: Numbers) -> Numbers:
        """By host, VM and part, for VMs that need so much RAM and so many vCPUs (2, VMs), the first one nothing.

        They mean something only where the VM fits.
        """


_FRACTION_BITS = 10
_WHOLE = -1 << _FRACTION_BITS  # a mask
_FRACTIONS = 20
"""A fraction of a place counts that many times what the whole place does that is lost with it."""

_WEIGHTS_BITS = 24
_MOMENT_WEIGHTS = (100, 47, 41, 30)
_ALL_MOMENTS = sum(_MOMENT_WEIGHTS)

_ONE = (_ALL_MOMENTS * (_FRACTIONS + 1)) << (_WEIGHTS_BITS + _FRACTION_BITS)
"""The cost of one whole place of every size, at every moment."""

_MOST_SIZES = 16
"""Of a catalogue of all sorts of sizes, so many are weighed: each is a division for each host."""

_SCARCE_BITS = 30
_MOST_PLACES = 4096

_FEW_HOSTS = 256
"""Up to so many, hosts are weighed by what is scarce on all of them. On more it is not worth what it takes, for then
every VM that comes or goes changes the cost of every host: and a size has either many places or none that one VM saves.
"""

ANY_SIZES = tuple(Size(ram_gb * 1024, cpus) for ram_gb, cpus in ((1, 1), (2, 2), (4, 2), (8, 4), (16, 2), (16, 8)))
"""What is expected to come where nobody says what will."""


def weightiest(catalogue: Sequence[Size], count: int) -> list[Size]:
    """The sizes that the catalogue is mostly made of, by RAM and vCPUs of all images that have them."""
    ram = max(1, sum(size.ram_mb * size.images for size in catalogue))
    cpus = max(1, sum(size.cpus * size.images for size in catalogue))

    def weight(size: Size) -> float:
        return size.images * (size.ram_mb / ram + size.cpus / cpus)

    return sorted(catalogue, key=lambda size: (-weight(size), size.ram_mb, size.cpus))[:count]


class _Places:
    """How many VMs of each size of a catalogue fit on hosts."""

    def __init__(self, catalogue: Sequence[Size]) -> None:
        self.sizes = weightiest(catalogue, _MOST_SIZES)
        self._needs = np.array([[size.ram_mb for size in self.sizes], [size.cpus for size in self.sizes]], np.int64)

    def count(self, free: Numbers) -> Numbers:
        """With fractions, in units of 1 / 2**_FRACTION_BITS, for an array of any shape of RAM and one of vCPUs."""
        fits = (free << _FRACTION_BITS)[..., None] // self._needs.reshape(2, *(1,) * (free.ndim - 1), -1)
        least: Numbers = np.minimum(fits[0], fits[1])
        return least

    def worth(self, free: Numbers) -> Numbers:
        """Fractions see a loss coming before it happens; the whole places decide between equals."""
        fits = self.count(free)
        return fits * _FRACTIONS + (fits & _WHOLE)

    def shares(self, whole: Numbers, power: int) -> Numbers:
        """What a place of each size is worth, together 2**_SCARCE_BITS: by the images that have it, and by a power of
        its size, in parts of the hosts' RAM and vCPUs.
        """
        ram, cpus = (max(1, int(amount)) for amount in whole.sum(axis=1))
        worth = [size.images * (size.ram_mb * cpus + size.cpus * ram) ** power for size in self.sizes]
        return np.array([max(1, (each << _SCARCE_BITS) // max(1, sum(worth))) for each in worth], np.int64)


class LostPlaces:
    """How many VMs that may be asked for would not fit any more ("Beware of Fragmentation", ATC'23).

    For each size of the catalogue: how many of it fit before and after. A place weighs as much as images need it, and
    as it is large: for the large VMs, places run out first.
    """

    width = 1

    def __init__(self, catalogue: Sequence[Size], whole: Numbers) -> None:
        """`whole` is what all hosts may promise altogether, as in Hosts."""
        self._places = _Places(catalogue)
        weights = self._places.shares(whole, power=3) >> (_SCARCE_BITS - _WEIGHTS_BITS)
        self._weights = weights * _ALL_MOMENTS

    def parts(self, hosts: Hosts, needs: Numbers) -> Numbers:
        """The cost itself."""
        worth = self._places.worth(hosts.free[:, :, :1] - needs[:, None]).dot(self._weights)
        lost: Numbers = worth[:, :1] - worth
        return lost[..., None]


class LostScarcePlaces:
    """As LostPlaces, but a place weighs the more the fewer there are of its size on all hosts; and those count, too,
    that will be there when what is known to end has ended, if the VM is there still.
    """

    def __init__(self, catalogue: Sequence[Size], whole: Numbers) -> None:
        self._places = _Places(catalogue)
        self._shares = self._places.shares(whole, power=2)
        kinds = len(self._shares)
        self._moments = np.repeat(np.array(_MOMENT_WEIGHTS, np.int64), kinds)
        self._stays = [np.arange(MOMENTS * kinds) < moments * kinds for moments in range(MOMENTS + 1)]
        self.width = MOMENTS * kinds

    def parts(self, hosts: Hosts, needs: Numbers) -> Numbers:
        """What is lost of each size at each moment."""
        worth = self._places.worth(hosts.free[:, :, None] - needs[:, None, :, None])
        lost: Numbers = worth[:, :1] - worth
        return lost.reshape(*lost.shape[:2], self.width)

    def places(self, free: Numbers) -> Numbers:
        """By host and part: how many whole places there are."""
        whole: Numbers = np.maximum(0, self._places.count(free) >> _FRACTION_BITS)
        return whole.reshape(free.shape[1], self.width)

    def weights(self, places: Numbers) -> Numbers:
        """By part, with so many places on all hosts."""
        scarce = _SCARCE[np.minimum(places, _MOST_PLACES - 1)].reshape(MOMENTS, -1) * self._shares
        weights: Numbers = scarce // np.maximum(1, scarce.sum(axis=1, keepdims=True) >> _WEIGHTS_BITS)
        weighed: Numbers = weights.ravel() * self._moments
        return weighed

    def costs(self, parts: Numbers, weights: Numbers, moments: int) -> Numbers:
        """By host, of a VM that is there at so many of the moments."""
        cost: Numbers = parts.dot(weights * self._stays[moments])
        return cost


class Fullness:
    """The share of the host that would be promised, mean of RAM and vCPUs, in millionths."""

    width = 1

    def parts(self, hosts: Hosts, needs: Numbers) -> Numbers:
        """The cost itself."""
        used = hosts.whole[:, :, None] - hosts.free[:, :, :1] + needs[:, None]
        share: Numbers = used * 500_000 // np.maximum(1, hosts.whole[:, :, None])
        both: Numbers = share[0] + share[1]
        return both[..., None]


def score_of(policy: Policy, catalogue: Sequence[Size], whole: Numbers) -> LostPlaces | LostScarcePlaces | Fullness:
    """How a policy tells the hosts of a farm apart. `whole` is what they may promise altogether, as in Hosts."""
    if policy is Policy.SPREAD:
        return Fullness()
    if looks_ahead(policy, whole.shape[1]):
        return LostScarcePlaces(catalogue or ANY_SIZES, whole)
    return LostPlaces(catalogue or ANY_SIZES, whole)


def looks_ahead(policy: Policy, hosts: int) -> bool:
    """Whether it matters to a policy what will be on so many hosts later."""
    return policy is Policy.PACK and hosts <= _FEW_HOSTS


def explain(policy: Policy, cost: int) -> str:
    """A cost in words."""
    if policy is Policy.SPREAD:
        return f"this one keeps the most headroom ({cost / 1e6:.0%} promised with it)"
    return f"the fewest places for other VMs are lost here ({cost / _ONE:.2f}, the scarce ones counted most)"


def _scarcity(places: int) -> int:
    """(places + 0.3) ** -1.5, in parts of what that is where there is no place left."""
    return isqrt((27 << 2 * _SCARCE_BITS) // (10 * places + 3) ** 3)


_SCARCE = np.array([_scarcity(places) for places in range(_MOST_PLACES)], np.int64)
