"""The world that a decision is made on, as plain data and JSON both ways, so that the decision can be made again later.

A host's free capacity is what the hardware gives, minus what is promised: the claims, and the VMs seen that no claim
covers. Live figures only ever lower it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from esxprov import annotation
from esxprov.model import Claim, ClaimState, Datastore, Host, HostKey, Pool, Vm

Size = tuple[int, int]
"""(RAM in MB, vCPUs) of a VM that somebody may ask for."""

WeightedSize = tuple[int, int, int]
"""A size and how many images have it."""

_LIVE_MARGIN = 0.04
"""The share of a host's RAM that ESXi wants free before it begins to reclaim (Mem.MinFreePct, on the safe side)."""


@dataclass(frozen=True, slots=True)
class HostState:
    """One host and what is promised on it. RAM in MB; `promised_ram_mb` includes each VM's overhead.

    `warming_ram_mb` is the part of it that belongs to VMs still on their way: live figures do not show them yet.
    """

    key: HostKey
    name: str
    state: str
    maintenance: bool
    ram_mb: int
    ram_used_mb: int
    reserved_ram_mb: int
    ram_ratio: float
    cpu_threads: int
    cpu_ratio: float
    promised_ram_mb: int
    promised_cpus: int
    datastores: tuple[Datastore, ...]
    networks: tuple[str, ...]
    warming_ram_mb: int = 0
    excluded: str | None = None

    @property
    def ram_capacity_mb(self) -> int:
        """What may be promised altogether."""
        return _times(max(0, self.ram_mb - self.reserved_ram_mb), self.ram_ratio)

    @property
    def ram_free_mb(self) -> int:
        """What may still be promised, negative if too much is.

        With more promised than there is (ratio over 1) also not more than is free now, less what is on its way.
        """
        free = self.ram_capacity_mb - self.promised_ram_mb
        if self.ram_ratio > 1:
            margin = math.ceil(self.ram_mb * _LIVE_MARGIN)
            free = min(free, self.ram_mb - margin - self.ram_used_mb - self.warming_ram_mb)
        return free

    @property
    def largest_vm_ram_mb(self) -> int:
        """With its overhead: what the empty host takes. No ratio makes one VM larger than the machine."""
        return min(self.ram_capacity_mb, max(0, self.ram_mb - self.reserved_ram_mb))

    @property
    def cpus_capacity(self) -> int:
        """What may be promised altogether."""
        return _times(self.cpu_threads, self.cpu_ratio)

    @property
    def cpus_free(self) -> int:
        """What may still be promised, negative if too much is."""
        return self.cpus_capacity - self.promised_cpus

    def datastore(self, name: str) -> Datastore | None:
        """The datastore of that name as this host sees it."""
        return next((store for store in self.datastores if store.name == name), None)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All hosts of a pool, and the sizes of the images that are still to come."""

    hosts: tuple[HostState, ...]
    catalogue: tuple[WeightedSize, ...] = ()

    def labels(self) -> dict[HostKey, str]:
        """What to call each host: its name, with its key if several have it (ESXi is born `localhost.localdomain`)."""
        count = Counter(host.name for host in self.hosts)
        return {host.key: host.name if count[host.name] == 1 else f"{host.name} ({host.key})" for host in self.hosts}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; `from_json` makes the same snapshot of it."""
        return {"hosts": [asdict(host) for host in self.hosts], "catalogue": [list(size) for size in self.catalogue]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Snapshot:
        """The snapshot that `to_json` wrote."""
        return cls(
            tuple(_host_from_json(host) for host in data["hosts"]),
            tuple((ram, cpus, images) for ram, cpus, images in data["catalogue"]),
        )


def _host_from_json(data: Mapping[str, Any]) -> HostState:
    return HostState(
        **{
            **data,
            "key": HostKey(**data["key"]),
            "datastores": tuple(Datastore(**store) for store in data["datastores"]),
            "networks": tuple(data["networks"]),
        }
    )


def _times(amount: int, ratio: float) -> int:
    """100 x 0.29 is 29, although the product of the two floats is a little less."""
    return math.floor(amount * ratio + 1e-6)


def overhead_mb(ram_mb: int, cpus: int) -> int:
    """What a VM costs its host beyond its RAM: a little per VM and vCPU, and page tables; rather more than ESXi's."""
    return 32 + 12 * cpus + ram_mb // 100


@dataclass(frozen=True, slots=True)
class _Promise:
    ram_mb: int = 0
    cpus: int = 0
    warming_ram_mb: int = 0

    def __add__(self, other: _Promise) -> _Promise:
        return _Promise(self.ram_mb + other.ram_mb, self.cpus + other.cpus, self.warming_ram_mb + other.warming_ram_mb)


def build(
    pool: Pool,
    hosts: Iterable[Host],
    vms: Iterable[Vm],
    claims: Iterable[Claim],
    catalogue: Iterable[Size],
    excluded: Mapping[str, str],
) -> Snapshot:
    """The snapshot of a pool. `excluded` maps host keys (as text) to why they must not be chosen.

    `claims` may be those of other pools too: two pools may share a host.
    """
    promised = _promises(vms, claims)
    images = Counter(catalogue)
    return Snapshot(
        tuple(_host_state(pool, host, promised.get(host.key, _Promise()), excluded) for host in hosts),
        tuple((ram_mb, cpus, images[ram_mb, cpus]) for ram_mb, cpus in sorted(images)),
    )


def _promises(vms: Iterable[Vm], claims: Iterable[Claim]) -> dict[HostKey, _Promise]:
    """What is promised on each host, nothing twice: a VM whose annotation names a claim is that claim.

    A claim counts where its VM is (somebody may have moved it), and where it was made while there is no VM. Every other
    VM counts for itself, whoever made it: one that is off may be switched on at any moment, and a clone of one of our
    VMs has its annotation too.
    """
    promised: defaultdict[HostKey, _Promise] = defaultdict(_Promise)
    made: defaultdict[str, list[Vm]] = defaultdict(list)
    for vm in vms:
        owner = annotation.read(vm.annotation)
        made[owner.claim_id if owner else ""].append(vm)
    for claim in claims:
        theirs = sorted(made.pop(claim.id, ()), key=lambda vm: (_host_of(vm) != claim.host, vm.endpoint, vm.moid))
        made[""] += theirs[1:]
        promise = _Promise(claim.ram_mb, claim.cpus)
        where = claim.host
        if theirs:
            own, where = _cost(theirs[0]), _host_of(theirs[0])
            promise = _Promise(max(claim.ram_mb, own.ram_mb), max(claim.cpus, own.cpus))
        if claim.state is ClaimState.CLAIMED:
            promise = replace(promise, warming_ram_mb=promise.ram_mb)
        promised[where] += promise
    for foreign in made.values():
        for vm in foreign:
            promised[_host_of(vm)] += _cost(vm)
    return dict(promised)


def _host_of(vm: Vm) -> HostKey:
    return HostKey(vm.endpoint, vm.host_moid)


def _cost(vm: Vm) -> _Promise:
    return _Promise(vm.ram_mb + overhead_mb(vm.ram_mb, vm.cpus), vm.cpus)


def _host_state(pool: Pool, host: Host, promised: _Promise, excluded: Mapping[str, str]) -> HostState:
    return HostState(
        key=host.key,
        name=host.name,
        state=host.state,
        maintenance=host.maintenance,
        ram_mb=host.ram_mb,
        ram_used_mb=host.ram_used_mb,
        reserved_ram_mb=pool.reserved_ram_mb,
        ram_ratio=pool.ram_ratio,
        cpu_threads=host.cpu_threads,
        cpu_ratio=pool.cpu_ratio,
        promised_ram_mb=promised.ram_mb,
        promised_cpus=promised.cpus,
        datastores=host.datastores,
        networks=host.networks,
        warming_ram_mb=promised.warming_ram_mb,
        excluded=excluded.get(str(host.key)),
    )
