"""Where VMs go: one at a time, or several together, all or nothing. Pure: the same requests on the same farm find the
same hosts, any day.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from esxprov.placement.failover import weakest
from esxprov.placement.farm import FULL, Farm
from esxprov.placement.request import PlacementRequest
from esxprov.placement.scores import Numbers

SOLVER_S = 0.1
"""The budget for an exact answer, if none is given."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a search came to: a host for each request, or none for all of them.

    Without hosts, `stuck` is the request that found none after those before it were placed, and `codes` says by host
    (see farm.RULES) why. `proved`: there is no way, not merely none found in time.
    """

    hosts: tuple[int, ...] | None
    stuck: int = 0
    codes: npt.NDArray[np.int8] | None = None
    proved: bool = True


def pick(farm: Farm, request: PlacementRequest) -> int | None:
    """The best host for one VM, None if no host takes it. Soft wishes are given up one by one, the last one first."""
    costs = farm.costs(request)
    if not request.affinities:
        return _pick_safe(farm, costs, request)
    wishes = [wish for wish in request.affinities if not wish.hard]
    while True:
        preferred = costs
        for wish in wishes:
            members = list(farm.groups.get(wish.group, ()))
            if members:
                unwanted = np.full(len(farm), wish.together)
                unwanted[members] = not wish.together
                preferred = np.where(unwanted, FULL, preferred)
        chosen = _pick_safe(farm, preferred, request)
        if chosen is not None or not wishes:
            return chosen
        wishes.pop()


def _pick_safe(farm: Farm, costs: Numbers, request: PlacementRequest) -> int | None:
    """The best host that leaves every other host's VMs a place, if the rules ask for that."""
    while (chosen := farm.best(costs, request)) is not None and farm.rules.n_plus_one:
        farm.occupy(chosen, request)
        safe = weakest(farm) is None
        farm.vacate(chosen, request)
        if safe:
            break
        costs = costs.copy()
        costs[chosen] = FULL
    return chosen


def place(farm: Farm, requests: Sequence[PlacementRequest], budget_s: float = SOLVER_S) -> Found:
    """Hosts for all requests, which then occupy them, or for none, and the farm is as it was.

    Large VMs first; if that fails, exactly, within the budget.
    """
    if len(requests) == 1:
        return _place_one(farm, requests[0])
    found = _place_greedily(farm, requests)
    if found.hosts is not None:
        return found
    from esxprov.placement import exact  # with scipy, which takes its time, and most commands do without

    answer = exact.solve(farm, requests, budget_s)
    if answer.hosts is None:
        return replace(found, proved=answer.proved)
    for host, request in zip(answer.hosts, requests, strict=True):
        farm.occupy(host, request)
    if farm.rules.n_plus_one and weakest(farm) is not None:
        take_back(farm, requests, dict(enumerate(answer.hosts)))
        return replace(found, proved=False)
    return Found(answer.hosts)


def would_fit(farm: Farm, requests: Sequence[PlacementRequest], budget_s: float = SOLVER_S) -> Found:
    """As `place`, but the farm is as it was."""
    sizes = Counter((request.ram_needed_mb, request.cpus) for request in requests)
    for (ram_mb, cpus), count in sizes.items():
        rooms = np.minimum(farm.ram_free // max(1, ram_mb), farm.cpus_free // max(1, cpus))
        if rooms.clip(0).sum() < count:
            return Found(None)
    found = place(farm, requests, budget_s)
    if found.hosts is not None:
        take_back(farm, requests, dict(enumerate(found.hosts)))
    return found


def place_some(farm: Farm, requests: Sequence[PlacementRequest]) -> tuple[dict[int, int], int | None]:
    """Place the large ones first until one finds no host: (host by request, the one that is stuck or None).

    What was placed stays; `take_back` removes it.
    """
    hosts: dict[int, int] = {}
    for number in _large_first(farm, requests):
        chosen = pick(farm, requests[number])
        if chosen is None:
            return hosts, number
        farm.occupy(chosen, requests[number])
        hosts[number] = chosen
    return hosts, None


def take_back(farm: Farm, requests: Sequence[PlacementRequest], hosts: Mapping[int, int]) -> None:
    """Undo `place_some`, or `place` with the hosts it found."""
    for number, host in hosts.items():
        farm.vacate(host, requests[number])


def _place_one(farm: Farm, request: PlacementRequest) -> Found:
    chosen = pick(farm, request)
    if chosen is None:
        return Found(None, codes=farm.refusals(request))
    farm.occupy(chosen, request)
    return Found((chosen,))


def _place_greedily(farm: Farm, requests: Sequence[PlacementRequest]) -> Found:
    hosts, stuck = place_some(farm, requests)
    if stuck is None:
        return Found(tuple(hosts[number] for number in range(len(requests))))
    codes = farm.refusals(requests[stuck])
    take_back(farm, requests, hosts)
    return Found(None, stuck, codes)


def _large_first(farm: Farm, requests: Sequence[PlacementRequest]) -> Sequence[int]:
    if len(requests) == 1:
        return (0,)
    ram, cpus = max(1, int(farm.ram.sum())), max(1, int(farm.cpus.sum()))
    return sorted(
        range(len(requests)), key=lambda number: -(requests[number].ram_needed_mb / ram + requests[number].cpus / cpus)
    )
