"""Which few VMs would have to move so that a refused request gets in. Said, never done.

A small integer program over sizes of VMs and hosts says which; the moves are then tried out in an order in which each
of them fits when it is its turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array, lil_array

from esxprov import annotation
from esxprov.model import ClaimState, PowerState, Vm
from esxprov.placement.choose import farm_of
from esxprov.placement.farm import RULES, Farm, store_id
from esxprov.placement.filters import STANDING, fits_the_machine, refusal
from esxprov.placement.promises import Promises, cost, host_of
from esxprov.placement.request import PlacementRequest
from esxprov.placement.search import would_fit
from esxprov.placement.snapshot import Snapshot

MOST_MOVES = 3
"""Who would have to move more is better told that there is no room."""

BUDGET_S = 0.5

_MOST_HOSTS = 60
"""Of more hosts, only those with the most room are looked at."""

_OF_ROOM = {RULES.index(rule) for rule in ("", "cpus", "ram")}
"""Refusals that moving a VM away may cure."""


@dataclass(frozen=True, slots=True)
class Move:
    """A running VM, the host it is on and the one it would go to, as an admin knows them."""

    vm: str
    source: str
    target: str

    def __str__(self) -> str:
        return f"move {self.vm} from {self.source} to {self.target}"


@dataclass(frozen=True, slots=True)
class _Kind:
    """VMs that are alike: one vCenter, one size, one datastore, the same rules."""

    request: PlacementRequest
    endpoint: str
    store: str

    def may_go_to(self, farm: Farm, number: int) -> bool:
        host = farm.hosts[number]
        if host.key.endpoint != self.endpoint:
            return False
        store = host.datastore(self.request.datastore)
        if store is None or store_id(host.key, store) != self.store:
            return False
        return refusal(self.request, host, farm.rules, (*STANDING, fits_the_machine)) is None


@dataclass(frozen=True, slots=True)
class _Planned:
    vm: Vm
    kind: _Kind
    source: int
    target: int


def moves_for(
    snapshot: Snapshot, requests: Sequence[PlacementRequest], most: int = MOST_MOVES, budget_s: float = BUDGET_S
) -> tuple[Move, ...]:
    """The moves, in order, after which all requests fit; none if that takes more than `most`, or was not found.

    Only VMs that we run move, between hosts of one vCenter that see their datastore and the networks asked for. Where
    more RAM may be promised than there is, nobody knows what a move frees, and nothing is said.
    """
    farm = farm_of(snapshot)
    if snapshot.rules.ram_ratio > 1 or any(request.affinities for request in requests) or not requests:
        return ()
    vms = _movable(snapshot, farm, requests)
    if not vms:
        return ()
    flows = _flows(farm, requests, vms, most, budget_s)
    planned = _in_order(farm, _plan(vms, *flows)) if flows else None
    if not planned or would_fit(farm, requests, budget_s).hosts is None:
        return ()
    labels = farm.labels()
    return tuple(Move(one.vm.name, labels[one.source], labels[one.target]) for one in planned)


_Vms = dict[tuple[_Kind, int], list[Vm]]
"""By kind and host: the VMs that may move, those to move first first."""


def _movable(snapshot: Snapshot, farm: Farm, requests: Sequence[PlacementRequest]) -> _Vms:
    promises = Promises(snapshot.claims, snapshot.vms)
    groups = {request.group for request in requests} - {""}
    networks = {name for request in requests for name in request.networks}
    found: _Vms = {}
    for claim in snapshot.claims:
        vm = promises.carrier(claim.id)
        owner = annotation.read(vm.annotation) if vm else None
        if vm is None or owner is None or vm.power is not PowerState.ON or claim.state is not ClaimState.RUNNING:
            continue
        number = farm.index.get(host_of(vm))
        if number is None or claim.group in groups:
            continue
        host = farm.hosts[number]
        datastore = vm.vmx_path.partition("]")[0].removeprefix("[")
        store = host.datastore(datastore)
        if store is None:
            continue
        ram_mb, cpus = cost(vm)
        request = PlacementRequest(
            id="",
            ram_mb=max(ram_mb, claim.ram_mb),
            cpus=max(cpus, claim.cpus),
            datastore=datastore,
            networks=tuple(sorted(networks.intersection(host.networks))),
            image=owner.image,
        )
        kind = _Kind(request, vm.endpoint, store_id(host.key, store))
        found.setdefault((kind, number), []).append(vm)
    for vms in found.values():
        vms.sort(key=lambda vm: (vm.name, vm.moid))
    return found


_Counts = dict[tuple[_Kind, int], int]
"""How many of each kind, by host."""


def _flows(
    farm: Farm, requests: Sequence[PlacementRequest], vms: _Vms, most: int, budget_s: float
) -> tuple[_Counts, _Counts] | None:
    """(how many of each kind leave each host, how many reach it) with the fewest moves; None if none was found."""
    wanted: dict[PlacementRequest, int] = {}
    for request in requests:
        alike = replace(request, id="")
        wanted[alike] = wanted.get(alike, 0) + 1
    hosts = _roomiest(farm, list(wanted))
    near = set(hosts)
    kinds = list(dict.fromkeys(kind for kind, _ in vms))
    come = [(request, number) for request in wanted for number in hosts]
    leave = [(kind, number) for kind, number in vms if number in near]
    reach = [(kind, number) for kind in kinds for number in hosts if kind.may_go_to(farm, number)]
    if not leave or not reach:
        return None
    program = _Program(len(come), len(leave), len(reach))
    room = _room(farm, requests, hosts)
    codes = {request: farm.refusals(replace(request, max_per_host=None)) for request in wanted}
    for column, (request, number) in enumerate(come):
        program.upper[column] = room[number] if int(codes[request][number]) in _OF_ROOM else 0
    for column, (kind, number) in enumerate(leave, len(come)):
        program.upper[column] = min(most, len(vms[kind, number]))
        program.cost[column] = 1 + kind.request.ram_mb / 2**40
    program.upper[len(come) + len(leave) :] = most
    for request, count in wanted.items():
        program.row({c: 1.0 for c, (one, _) in enumerate(come) if one == request}, count, count)
    for kind in kinds:
        balance = {c: 1.0 for c, (one, _) in enumerate(leave, len(come)) if one == kind}
        balance |= {c: -1.0 for c, (one, _) in enumerate(reach, len(come) + len(leave)) if one == kind}
        program.row(balance, 0, 0)
    for number in hosts:
        here = [(c, request, 1) for c, (request, on) in enumerate(come) if on == number]
        program.row({c: 1.0 for c, _, __ in here}, 0, room[number])
        here += [(c, kind.request, -1) for c, (kind, on) in enumerate(leave, len(come)) if on == number]
        here += [(c, kind.request, 1) for c, (kind, on) in enumerate(reach, len(come) + len(leave)) if on == number]
        program.row({c: float(sign * one.ram_needed_mb) for c, one, sign in here}, -np.inf, int(farm.ram_free[number]))
        program.row({c: float(sign * one.cpus) for c, one, sign in here}, -np.inf, int(farm.cpus_free[number]))
    for free_mb, load in _disks(farm, come):
        program.row(load, -np.inf, free_mb)
    program.row(dict.fromkeys(range(len(come), len(come) + len(leave)), 1.0), 0, most)
    answer = program.solve(budget_s)
    if answer is None:
        return None
    numbers = answer[len(come) :]
    return dict(zip(leave, numbers[: len(leave)], strict=True)), dict(zip(reach, numbers[len(leave) :], strict=True))


def _roomiest(farm: Farm, requests: Sequence[PlacementRequest]) -> list[int]:
    ram, cpus = max(r.ram_needed_mb for r in requests), max(r.cpus for r in requests)
    room = np.minimum(farm.ram_free / max(1, ram), farm.cpus_free / max(1, cpus))
    return [int(number) for number in np.argsort(-room, kind="stable")[:_MOST_HOSTS]]


def _room(farm: Farm, requests: Sequence[PlacementRequest], hosts: Sequence[int]) -> dict[int, int]:
    """How many of the requests each host may have for the sake of their group."""
    limits = [request.max_per_host for request in requests if request.max_per_host is not None]
    most = min([len(requests), *limits])
    there = farm.groups.get(requests[0].group, {}) if limits else {}
    return {number: max(0, most - there.get(number, 0)) for number in hosts}


def _disks(farm: Farm, come: Sequence[tuple[PlacementRequest, int]]) -> list[tuple[int, dict[int, float]]]:
    """(free space, MB by column) of each datastore that the requests write to."""
    free: dict[str, int] = {}
    load: dict[str, dict[int, float]] = {}
    for column, (request, number) in enumerate(come):
        store = farm.state(number).datastore(request.datastore) if request.disk_mb else None
        if store is not None:
            name = store_id(farm.hosts[number].key, store)
            free[name] = store.free_mb
            load.setdefault(name, {})[column] = float(request.disk_mb)
    return [(free[name], load[name]) for name in load]


class _Program:
    """Rows over columns of three sorts: VMs that come, that leave, that reach another host."""

    def __init__(self, come: int, leave: int, reach: int) -> None:
        self.upper: npt.NDArray[np.float64] = np.zeros(come + leave + reach)
        self.cost: npt.NDArray[np.float64] = np.zeros(come + leave + reach)
        self._rows: list[dict[int, float]] = []
        self._least: list[float] = []
        self._most: list[float] = []

    def row(self, values: dict[int, float], least: float, most: float) -> None:
        self._rows.append(values)
        self._least.append(least)
        self._most.append(most)

    def solve(self, budget_s: float) -> list[int] | None:
        matrix = lil_array((len(self._rows), len(self.upper)))
        for number, values in enumerate(self._rows):
            for column, value in values.items():
                matrix[number, column] = value
        found = milp(
            self.cost,
            integrality=np.ones(len(self.upper)),
            bounds=Bounds(0, self.upper),
            constraints=LinearConstraint(csr_array(matrix), self._least, self._most),
            options={"time_limit": budget_s},
        )
        return None if found.x is None else [int(number) for number in np.rint(found.x)]


def _plan(vms: _Vms, leave: _Counts, reach: _Counts) -> list[_Planned]:
    """Real VMs for the numbers, and a target for each."""
    targets: dict[_Kind, list[int]] = {}
    for (kind, number), count in reach.items():
        targets.setdefault(kind, []).extend([number] * count)
    return [
        _Planned(vm, kind, number, targets[kind].pop())
        for (kind, number), count in leave.items()
        for vm in vms[kind, number][:count]
    ]


def _in_order(farm: Farm, planned: list[_Planned]) -> list[_Planned] | None:
    """The moves in an order in which each fits when it is its turn, made on the farm; None if there is none."""
    ordered: list[_Planned] = []
    while planned:
        ready = next((one for one in planned if _fits(farm, one)), None)
        if ready is None:
            return None
        farm.occupy(ready.target, ready.kind.request)
        farm.vacate(ready.source, ready.kind.request)
        planned.remove(ready)
        ordered.append(ready)
    return ordered


def _fits(farm: Farm, move: _Planned) -> bool:
    return refusal(move.kind.request, farm.state(move.target), farm.rules) is None
