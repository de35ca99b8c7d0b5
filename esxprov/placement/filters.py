"""One small function per rule. Its docstring is the rule; its answer says by how much a host misses it.

A refusal that can be cured says what would have to be different, and carries the host as it would be then: so what is
said to help has been tried out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from esxprov.placement.snapshot import HostState, overhead_mb


class Policy(StrEnum):
    """PACK keeps room for large VMs; SPREAD leaves every host as much headroom as possible."""

    PACK = "pack"
    SPREAD = "spread"


@dataclass(frozen=True, slots=True)
class PlacementRequest:
    """What a VM needs. `id` breaks ties, so that equal hosts are not all chosen in the same order."""

    id: str
    ram_mb: int
    cpus: int
    disk_mb: int
    datastore: str
    networks: tuple[str, ...]
    policy: Policy = Policy.PACK

    @property
    def ram_needed_mb(self) -> int:
        """RAM and the hypervisor's overhead for it: what is claimed."""
        return self.ram_mb + overhead_mb(self.ram_mb, self.cpus)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; `from_json` makes the same request of it."""
        return {**asdict(self), "networks": list(self.networks), "policy": self.policy.value}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PlacementRequest:
        """The request that `to_json` wrote."""
        return cls(**{**data, "networks": tuple(data["networks"]), "policy": Policy(data["policy"])})


@dataclass(frozen=True, slots=True)
class Cure:
    """The smallest change that makes a rule content: `host` is the host then.

    `change` completes "it would fit if", with `{host}` for the host's label. `effort` compares cures: missing capacity
    in parts of what is asked (it comes back by itself as VMs go), more for what an admin has to do.
    """

    change: str
    effort: float
    host: HostState


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a host is not taken: the rule's name, a sentence for people, and what would help, None if nothing does."""

    rule: str
    reason: str
    cure: Cure | None = None


Filter = Callable[[PlacementRequest, HostState], Refusal | None]

_END_MAINTENANCE = 10.0
_BUY_MEMORY = 100.0


def connected(_: PlacementRequest, host: HostState) -> Refusal | None:
    """The host answers its manager."""
    return None if host.state == "connected" else Refusal("connected", f"the host is {host.state}")


def not_in_maintenance(_: PlacementRequest, host: HostState) -> Refusal | None:
    """The host is not being drained or repaired."""
    if not host.maintenance:
        return None
    cure = Cure("{host} were not in maintenance mode", _END_MAINTENANCE, replace(host, maintenance=False))
    return Refusal("maintenance", "the host is in maintenance mode", cure)


def not_excluded(_: PlacementRequest, host: HostState) -> Refusal | None:
    """The host has not failed this very request already."""
    return Refusal("excluded", f"the host was tried: {host.excluded}") if host.excluded else None


def datastore_there(request: PlacementRequest, host: HostState) -> Refusal | None:
    """The host sees the profile's datastore."""
    store = host.datastore(request.datastore)
    if store is None:
        return Refusal("datastore", f"the host has no datastore {request.datastore}")
    return None if store.accessible else Refusal("datastore", f"the host cannot access datastore {request.datastore}")


def networks_there(request: PlacementRequest, host: HostState) -> Refusal | None:
    """The host has every network of the profile."""
    missing = [name for name in request.networks if name not in host.networks]
    return Refusal("networks", f"the host has no network {', '.join(missing)}") if missing else None


def fits_the_machine(request: PlacementRequest, host: HostState) -> Refusal | None:
    """The host would take the VM if it were empty; no VM has more vCPUs than its host has threads."""
    if request.cpus > min(host.cpu_threads, host.cpus_capacity):
        ratio = f" x {host.cpu_ratio:g}" if host.cpu_ratio < 1 else ""
        return Refusal("machine", f"{request.cpus} vCPUs asked, the host has {host.cpu_threads} threads{ratio}")
    if request.ram_needed_mb <= host.largest_vm_ram_mb:
        return None
    enough_mb = math.ceil(request.ram_needed_mb / min(1, host.ram_ratio)) + host.reserved_ram_mb
    return Refusal(
        "machine",
        f"{_ram_asked(request)}, the host takes {host.largest_vm_ram_mb} MB when it is empty "
        f"({host.ram_mb} total, {host.reserved_ram_mb} reserved)",
        Cure(
            f"{{host}} had {enough_mb - host.ram_mb} MB more RAM",
            _BUY_MEMORY + (enough_mb - host.ram_mb) / enough_mb,
            replace(host, ram_mb=enough_mb),
        ),
    )


def disk_fits(request: PlacementRequest, host: HostState) -> Refusal | None:
    """The datastore has room for the disk as if it were full, so that it cannot run out under a guest."""
    store = host.datastore(request.datastore)
    if store is None or request.disk_mb <= store.free_mb:
        return None
    missing = request.disk_mb - store.free_mb
    grown = replace(store, free_mb=request.disk_mb, capacity_mb=max(store.capacity_mb, request.disk_mb))
    helped = replace(host, datastores=tuple(grown if one is store else one for one in host.datastores))
    return Refusal(
        "disk",
        f"{request.disk_mb} MB of disk asked, {store.free_mb} MB free on {request.datastore}",
        Cure(f"{missing} MB more were free on datastore {request.datastore}", missing / request.disk_mb, helped),
    )


def cpus_fit(request: PlacementRequest, host: HostState) -> Refusal | None:
    """The vCPUs promised stay within the host's threads times the pool's ratio."""
    missing = request.cpus - host.cpus_free
    if missing <= 0:
        return None
    return Refusal(
        "cpus",
        f"{request.cpus} vCPUs asked, {host.cpus_free} free ({host.cpu_threads} threads x {host.cpu_ratio:g}, "
        f"{host.promised_cpus} claimed)",
        Cure(
            f"{missing} more vCPUs were free on {{host}}",
            missing / request.cpus,
            replace(host, promised_cpus=host.promised_cpus - missing),
        ),
    )


def ram_fits(request: PlacementRequest, host: HostState) -> Refusal | None:
    """RAM and overhead fit into what is not promised yet and, where more may be promised than there is, really free."""
    missing = request.ram_needed_mb - host.ram_free_mb
    if missing <= 0:
        return None
    live = f", {host.ram_used_mb} used now, {host.warming_ram_mb} on its way" if host.ram_ratio > 1 else ""
    ratio = f" x {host.ram_ratio:g}" if host.ram_ratio != 1 else ""
    return Refusal(
        "ram",
        f"{_ram_asked(request)}, {host.ram_free_mb} MB free ({host.ram_mb} total{ratio}, {host.reserved_ram_mb} "
        f"reserved, {host.promised_ram_mb} claimed{live})",
        Cure(
            f"{missing} MB more RAM were free on {{host}}",
            missing / request.ram_needed_mb,
            replace(host, promised_ram_mb=host.promised_ram_mb - missing, ram_used_mb=host.ram_used_mb - missing),
        ),
    )


def _ram_asked(request: PlacementRequest) -> str:
    overhead = request.ram_needed_mb - request.ram_mb
    return f"{request.ram_needed_mb} MB of RAM asked ({request.ram_mb} and {overhead} overhead)"


FILTERS: tuple[Filter, ...] = (
    connected,
    not_in_maintenance,
    not_excluded,
    datastore_there,
    networks_there,
    fits_the_machine,
    disk_fits,
    cpus_fit,
    ram_fits,
)
"""In this order: what changes by itself comes last, so the reason given is the one that somebody must act on."""


def refusal(request: PlacementRequest, host: HostState) -> Refusal | None:
    """The first rule that refuses the host, None if it may be taken."""
    return next((refused for rule in FILTERS if (refused := rule(request, host)) is not None), None)
