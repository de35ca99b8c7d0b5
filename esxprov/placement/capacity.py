"""How many more fit, and how large one VM may be. In closed form where nothing couples the hosts, else by trying."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from esxprov.placement.failover import weakest
from esxprov.placement.farm import Farm, store_id
from esxprov.placement.request import PlacementRequest, overhead_mb
from esxprov.placement.search import pick, would_fit

MOST_TRIED = 1000
"""More than so many are not tried one by one; what fits then is said to be at least that."""

_TRIED_BY_HOST = 20_000
"""Tries times hosts, for one size: a second or two."""

_LONGEST_STEP = 64

_RAM_STEP_MB = 4
"""ESX demands a multiple."""


@dataclass(frozen=True, slots=True)
class Fits:
    """How many VMs fit in all, and on each host (by label) if it gets them all: hosts may share a datastore.

    `exact` is false if it was not worth trying further: at least `count` fit. Where they are tried, `hosts` is one way
    of placing them all.
    """

    count: int
    hosts: Mapping[str, int]
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Largest:
    """The RAM of the largest VM with one vCPU, and the vCPUs of the largest with little RAM; 0 if none fits."""

    ram_mb: int
    cpus: int


def how_many(farm: Farm, request: PlacementRequest, most: int | None = None) -> Fits:
    """How many more such VMs fit, at most `max_per_host` on each host. The farm is as it was.

    Where they have to be tried, `most` are; by default fewer on a farm where each try costs more.
    """
    if farm.rules.n_plus_one or any(wish.hard for wish in request.affinities):
        return _one_by_one(farm, request, most or min(MOST_TRIED, max(1, _TRIED_BY_HOST // max(1, len(farm)))))
    takes = farm.refusals(request) == 0
    fits = np.minimum(farm.ram_free // max(1, request.ram_needed_mb), farm.cpus_free // max(1, request.cpus))
    if request.max_per_host is not None:
        there = farm.groups.get(request.group, {})
        room = np.array([request.max_per_host - there.get(number, 0) for number in range(len(farm))], np.int64)
        fits = np.minimum(fits, room)
    fits = np.where(takes, fits, 0)
    total = int(fits.sum())
    if request.disk_mb:
        total = 0
        for disks, hosts in _by_store(farm, request):
            total += min(disks, int(fits[hosts].sum()))
            fits[hosts] = np.minimum(fits[hosts], disks)
    return Fits(total, dict(zip(farm.labels(), map(int, fits), strict=True)))


def largest(farm: Farm, request: PlacementRequest) -> Largest:
    """The largest single VM that fits somewhere; of `request` only where it must be and what disk it needs counts."""
    by_host = largest_by_host(farm, request).values()
    ram_mb = max((one.ram_mb for one in by_host), default=0)
    cpus = max((one.cpus for one in by_host), default=0)
    if not farm.rules.n_plus_one:
        return Largest(ram_mb, cpus)

    def takes(ram_mb: int, cpus: int) -> bool:
        return would_fit(farm, (_sized(request, ram_mb, cpus),)).hosts is not None

    return Largest(
        _most(lambda steps: takes(steps * _RAM_STEP_MB, 1), ram_mb // _RAM_STEP_MB) * _RAM_STEP_MB,
        _most(lambda cpus: takes(_RAM_STEP_MB, cpus), cpus),
    )


def largest_by_host(farm: Farm, request: PlacementRequest) -> dict[str, Largest]:
    """By label: the largest single VM that fits on each host, whatever becomes of the others."""
    least = _sized(request, _RAM_STEP_MB, 1)
    codes = farm.refusals(least)
    answer: dict[str, Largest] = {}
    for number, label in enumerate(farm.labels()):
        if codes[number]:
            answer[label] = Largest(0, 0)
            continue
        host = farm.hosts[number]
        ram_mb = min(int(farm.ram_free[number]), host.largest_vm_ram_mb)
        cpus = min(int(farm.cpus_free[number]), host.largest_vm_cpus)
        answer[label] = Largest(
            _most(lambda steps, room=ram_mb: _needs(steps, 1) <= room, ram_mb // _RAM_STEP_MB) * _RAM_STEP_MB,  # type: ignore[misc]
            _most(lambda cpus, room=ram_mb: _needs(1, cpus) <= room, cpus),  # type: ignore[misc]
        )
    return answer


def _needs(ram_steps: int, cpus: int) -> int:
    ram_mb = ram_steps * _RAM_STEP_MB
    return ram_mb + overhead_mb(ram_mb, cpus)


def _sized(request: PlacementRequest, ram_mb: int, cpus: int) -> PlacementRequest:
    return replace(request, ram_mb=ram_mb, cpus=cpus, overhead_mb=overhead_mb(ram_mb, cpus))


def _most(fits: Callable[[int], bool], most: int) -> int:
    """The largest number up to `most` that fits, if all smaller ones do; 0 if none does."""
    fitting, too_many = 0, most + 1
    while too_many - fitting > 1:
        middle = (fitting + too_many) // 2
        fitting, too_many = (middle, too_many) if fits(middle) else (fitting, middle)
    return fitting


def _by_store(farm: Farm, request: PlacementRequest) -> list[tuple[int, list[int]]]:
    """Of each datastore that the VM could be on: how many of its disks fit there, and the hosts that see it."""
    seen: defaultdict[str, list[int]] = defaultdict(list)
    for number, host in enumerate(farm.hosts):
        store = host.datastore(request.datastore)
        if store is not None:
            seen[store_id(host.key, store)].append(number)
    answer = []
    for hosts in seen.values():
        store = farm.state(hosts[-1]).datastore(request.datastore)
        assert store is not None
        answer.append((max(0, store.free_mb) // request.disk_mb, hosts))
    return answer


def _one_by_one(farm: Farm, request: PlacementRequest, most: int) -> Fits:
    """Several at a time while all goes well: only the last ones are worth a look at every host's failure."""
    placed: list[int] = []
    step, has_failed = 1, False
    while len(placed) < most:
        more = _greedily(farm, request, min(step, most - len(placed)))
        if more:
            placed += more
            step = step if has_failed else min(2 * step, _LONGEST_STEP)
        elif step > 1:
            step, has_failed = step // 2, True
        else:
            break
    for number in placed:
        farm.vacate(number, request)
    counts = Counter(placed)
    hosts = {label: counts[number] for number, label in enumerate(farm.labels())}
    return Fits(len(placed), hosts, exact=len(placed) < most)


def _greedily(farm: Farm, request: PlacementRequest, count: int) -> list[int]:
    """Hosts for all of so many, which they occupy then, or for none."""
    rules, placed = farm.rules, []
    farm.rules = replace(rules, n_plus_one=rules.n_plus_one and count == 1)
    for _ in range(count):
        number = pick(farm, request)
        if number is None:
            break
        farm.occupy(number, request)
        placed.append(number)
    farm.rules = rules
    if len(placed) == count and (count == 1 or not rules.n_plus_one or weakest(farm) is None):
        return placed
    for number in placed:
        farm.vacate(number, request)
    return []
