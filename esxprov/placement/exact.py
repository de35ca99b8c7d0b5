"""A cluster near capacity, exactly: at most one VM for each host is an assignment, everything else a small integer
program over kinds of VMs and hosts. Asked only when the greedy way has failed; its no is a proof, or names its budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, linear_sum_assignment, milp
from scipy.sparse import csr_array, hstack, identity, kron

from esxprov.placement.farm import FULL, Farm, store_id
from esxprov.placement.request import PlacementRequest

_INFEASIBLE = 2  # milp's status

_PRUNED = 40
"""A program with so many hosts is small; with more the best are tried first."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`hosts` by request, None if there is no way or none was found; `proved` tells which."""

    hosts: tuple[int, ...] | None
    proved: bool = True


@dataclass(frozen=True, slots=True)
class _Problem:
    """Kinds of VMs in the cluster by rows, hosts of the farm by columns."""

    kinds: list[PlacementRequest]
    members: list[list[int]]  # numbers of the requests of each kind
    costs: npt.NDArray[np.int64]
    room: npt.NDArray[np.int64]  # how many VMs of the cluster each host may have

    @property
    def needed(self) -> npt.NDArray[np.int64]:
        return np.array([len(members) for members in self.members], np.int64)

    def fits(self, farm: Farm) -> npt.NDArray[np.int64]:
        """How many of each kind a host takes if it takes no other."""
        rows = [
            np.where(
                costs == FULL,
                0,
                np.minimum(farm.ram_free // max(1, kind.ram_needed_mb), farm.cpus_free // max(1, kind.cpus)),
            )
            for kind, costs in zip(self.kinds, self.costs, strict=True)
        ]
        fits: npt.NDArray[np.int64] = np.minimum(np.array(rows), self.room)
        return fits


def solve(farm: Farm, requests: Sequence[PlacementRequest], budget_s: float) -> Answer:
    """Hosts for all of them, or none. The farm is not changed. All requests are of one group, or of none."""
    problem = _problem(farm, requests)
    if _is_together(requests):
        return _one_host(farm, problem, requests)
    fits = problem.fits(farm)
    if (fits.sum(axis=1) < problem.needed).any() or fits.max(axis=0).sum() < len(requests):
        return Answer(None)
    if problem.room.max() <= 1 and not _disk_is_short(farm, requests):
        return _assignment(problem, len(requests))
    return _program(farm, problem, fits, budget_s)


def _problem(farm: Farm, requests: Sequence[PlacementRequest]) -> _Problem:
    members: dict[PlacementRequest, list[int]] = {}
    for number, request in enumerate(requests):
        members.setdefault(replace(request, id=""), []).append(number)
    kinds = [requests[numbers[0]] for numbers in members.values()]
    group = requests[0].group
    limits = [request.max_per_host for request in requests if request.max_per_host is not None]
    limits += [1 for r in requests for wish in r.affinities if wish.hard and not wish.together and wish.group == group]
    room = np.full(len(farm), min([len(requests), *limits]), np.int64)
    if limits:
        for number, there in farm.groups.get(group, {}).items():
            room[number] = max(0, room[number] - there)
    return _Problem(kinds, list(members.values()), np.array([farm.costs(kind) for kind in kinds]), room)


def _is_together(requests: Sequence[PlacementRequest]) -> bool:
    return any(w.hard and w.together and w.group == r.group for r in requests for w in r.affinities)


def _one_host(farm: Farm, problem: _Problem, requests: Sequence[PlacementRequest]) -> Answer:
    """All on one host: the one of least cost that has room for their sum."""
    takes = (
        (problem.costs != FULL).all(axis=0)
        & (farm.ram_free >= sum(request.ram_needed_mb for request in requests))
        & (farm.cpus_free >= sum(request.cpus for request in requests))
        & (problem.room >= len(requests))
    )
    total = np.where(takes, np.where(problem.costs == FULL, 0, problem.costs).sum(axis=0), FULL)
    best = farm.best(total, requests[0])
    return Answer(None if best is None else (best,) * len(requests))


def _assignment(problem: _Problem, count: int) -> Answer:
    """At most one VM on a host: of `count` VMs each needs to look at its `count` cheapest hosts only."""
    costs = np.where(problem.room > 0, problem.costs, FULL)
    cheapest = np.argsort(costs, axis=1, kind="stable")[:, :count]
    columns = np.unique(cheapest)
    by_vm = np.repeat(costs[:, columns], problem.needed, axis=0)
    try:
        rows, chosen = linear_sum_assignment(np.where(by_vm == FULL, np.inf, by_vm.astype(np.float64)))
    except ValueError:
        return Answer(None)  # scipy: "cost matrix is infeasible"
    if len(rows) < count:
        return Answer(None)
    hosts = [0] * count
    for number, column in zip([one for members in problem.members for one in members], chosen, strict=True):
        hosts[number] = int(columns[column])
    return Answer(tuple(hosts))


def _program(farm: Farm, problem: _Problem, fits: npt.NDArray[np.int64], budget_s: float) -> Answer:
    """How many of each kind go to each host. Of many hosts the roomiest come first; only all of them prove a no."""
    some = np.flatnonzero(fits.max(axis=0) > 0)
    few = max(_PRUNED, 4 * int(problem.needed.sum()))
    if len(some) > 2 * few:
        roomiest = np.unique(np.argsort(-fits[:, some], axis=1, kind="stable")[:, :few])
        budget_s /= 2
        answer = _solve(farm, problem, fits, some[roomiest], budget_s)
        if answer.hosts is not None:
            return answer
    return _solve(farm, problem, fits, some, budget_s)


def _solve(
    farm: Farm, problem: _Problem, fits: npt.NDArray[np.int64], hosts: npt.NDArray[np.intp], budget_s: float
) -> Answer:
    if budget_s <= 0:
        return Answer(None, proved=False)
    kinds, count = len(problem.kinds), len(hosts)
    # Variables: kind by kind, within it host by host.
    ram = np.array([kind.ram_needed_mb for kind in problem.kinds])
    cpus = np.array([kind.cpus for kind in problem.kinds])
    each = identity(count, format="csr")
    constraints = [
        LinearConstraint(kron(identity(kinds), np.ones((1, count)), format="csr"), problem.needed, problem.needed),
        LinearConstraint(hstack([each * need for need in ram], format="csr"), -np.inf, farm.ram_free[hosts]),
        LinearConstraint(hstack([each * need for need in cpus], format="csr"), -np.inf, farm.cpus_free[hosts]),
    ]
    if (problem.room[hosts] < problem.needed.sum()).any():
        constraints.append(LinearConstraint(hstack([each] * kinds, format="csr"), -np.inf, problem.room[hosts]))
    constraints += _disks(farm, problem, hosts)
    costs = problem.costs[:, hosts]
    scale = max(1, int(np.where(costs == FULL, 0, costs).max()))
    found = milp(
        np.where(costs == FULL, 0, costs).ravel() / scale,
        integrality=np.ones(kinds * count),
        bounds=Bounds(0, fits[:, hosts].ravel()),
        constraints=constraints,
        options={"time_limit": budget_s, "mip_rel_gap": 1.0},  # any way will do, a good one is welcome
    )
    if found.x is None:
        return Answer(None, proved=found.status == _INFEASIBLE)
    many = np.rint(found.x).astype(int).reshape(kinds, count)
    chosen = [0] * int(problem.needed.sum())
    for members, row in zip(problem.members, many, strict=True):
        for number, host in zip(members, np.repeat(hosts, row), strict=True):
            chosen[number] = int(host)
    return Answer(tuple(chosen))


def _disk_is_short(farm: Farm, requests: Sequence[PlacementRequest]) -> bool:
    """Whether the cluster's disks could fill a datastore together, though each of them fits."""
    total = sum(request.disk_mb for request in requests)
    return total > 0 and any(
        store.free_mb < total for number in range(len(farm)) for store in farm.state(number).datastores
    )


def _disks(farm: Farm, problem: _Problem, hosts: npt.NDArray[np.intp]) -> list[LinearConstraint]:
    """One for each datastore that the cluster could fill."""
    free: dict[str, int] = {}
    load: dict[str, npt.NDArray[np.float64]] = {}
    for kind, request in enumerate(problem.kinds):
        for column, host in enumerate(hosts):
            state = farm.state(int(host))
            store = state.datastore(request.datastore) if request.disk_mb else None
            if store is not None:
                name = store_id(state.key, store)
                free[name] = store.free_mb
                load.setdefault(name, np.zeros((len(problem.kinds), len(hosts))))[kind, column] = request.disk_mb
    return [LinearConstraint(csr_array(load[name].reshape(1, -1)), -np.inf, free[name]) for name in load]
