"""One small function per rule. Its docstring is the rule; its answer says by how much a host misses it.

A refusal that can be cured says what would have to be different, and can make it so: what is said to help is tried out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from esxprov.placement.host import HostState
from esxprov.placement.request import PlacementRequest
from esxprov.placement.snapshot import Rules


@dataclass(frozen=True, slots=True)
class Cure:
    """The smallest change that makes a rule content: `apply` makes it.

    `change` completes "it would fit if", with `{host}` for the host's label. `effort` compares cures: missing capacity
    in parts of what is asked (it comes back by itself as VMs go), more for what an admin has to do.
    """

    change: str
    effort: float
    apply: Callable[[HostState], HostState]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a host is not taken: the rule's name, a sentence for people, by how much in the rule's unit (0 if it has
    none), and what would help, None if nothing does.
    """

    rule: str
    reason: str
    missing: int = 0
    cure: Cure | None = None


Filter = Callable[[PlacementRequest, HostState, Rules], Refusal | None]

_END_MAINTENANCE = 10.0
_BUY_MEMORY = 100.0


def connected(_: PlacementRequest, host: HostState, __: Rules) -> Refusal | None:
    """The host answers its manager."""
    return None if host.state == "connected" else Refusal("connected", f"the host is {host.state}")


def not_in_maintenance(_: PlacementRequest, host: HostState, __: Rules) -> Refusal | None:
    """The host is not being drained or repaired."""
    if not host.maintenance:
        return None
    cure = Cure("{host} were not in maintenance mode", _END_MAINTENANCE, lambda host: replace(host, maintenance=False))
    return Refusal("maintenance", "the host is in maintenance mode", cure=cure)


def fit(_: PlacementRequest, host: HostState, __: Rules) -> Refusal | None:
    """The host has not failed this very request already, and is not in quarantine."""
    return Refusal("unfit", host.unfit) if host.unfit else None


def image_allowed(request: PlacementRequest, host: HostState, rules: Rules) -> Refusal | None:
    """The pool's rules let the image run there."""
    allowed = rules.hosts_for(request.image)
    if allowed is None or host.name in allowed:
        return None
    return Refusal("image", f"image {request.image} may only run on {', '.join(allowed)}")


def datastore_there(request: PlacementRequest, host: HostState, _: Rules) -> Refusal | None:
    """The host sees the profile's datastore."""
    if not request.datastore:
        return None
    store = host.datastore(request.datastore)
    if store is None:
        return Refusal("datastore", f"the host has no datastore {request.datastore}")
    return None if store.accessible else Refusal("datastore", f"the host cannot access datastore {request.datastore}")


def networks_there(request: PlacementRequest, host: HostState, _: Rules) -> Refusal | None:
    """The host has every network of the profile."""
    missing = [name for name in request.networks if name not in host.networks]
    return Refusal("networks", f"the host has no network {', '.join(missing)}") if missing else None


def fits_the_machine(request: PlacementRequest, host: HostState, _: Rules) -> Refusal | None:
    """The host would take the VM if it were empty; no VM has more vCPUs than its host has threads."""
    if request.cpus > host.largest_vm_cpus:
        ratio = f" x {host.cpu_ratio:g}" if host.cpu_ratio < 1 else ""
        return Refusal(
            "machine",
            f"{request.cpus} vCPUs asked, the host has {host.cpu_threads} threads{ratio}",
            request.cpus - host.largest_vm_cpus,
        )
    if request.ram_needed_mb <= host.largest_vm_ram_mb:
        return None
    enough_mb = math.ceil(request.ram_needed_mb / min(1, host.ram_ratio)) + host.reserved_ram_mb
    reserved = f" ({host.ram_mb} total, {host.reserved_ram_mb} reserved)" if host.reserved_ram_mb else ""
    return Refusal(
        "machine",
        f"{_ram_asked(request)}, the host takes {host.largest_vm_ram_mb} MB when it is empty{reserved}",
        request.ram_needed_mb - host.largest_vm_ram_mb,
        Cure(
            f"{{host}} had {enough_mb - host.ram_mb} MB more RAM",
            _BUY_MEMORY + (enough_mb - host.ram_mb) / enough_mb,
            lambda host: replace(host, ram_mb=enough_mb),
        ),
    )


def disk_fits(request: PlacementRequest, host: HostState, _: Rules) -> Refusal | None:
    """The datastore has room for the disk as if it were full, so that it cannot run out under a guest."""
    store = host.datastore(request.datastore)
    if not request.disk_mb or store is None or request.disk_mb <= store.free_mb:
        return None
    missing = request.disk_mb - store.free_mb

    def grow(host: HostState) -> HostState:
        stores = (
            replace(one, free_mb=one.free_mb + missing) if one.name == request.datastore else one
            for one in host.datastores
        )
        return replace(host, datastores=tuple(stores))

    return Refusal(
        "disk",
        f"{request.disk_mb} MB of disk asked, {store.free_mb} MB free on {request.datastore}",
        missing,
        Cure(f"{missing} MB more were free on datastore {request.datastore}", missing / request.disk_mb, grow),
    )


def apart(request: PlacementRequest, host: HostState, _: Rules) -> Refusal | None:
    """None of those it must stay apart from is there."""
    for wish in request.affinities:
        if wish.hard and not wish.together and (there := host.groups.get(wish.group, 0)):
            return Refusal("apart", f"{there} VM(s) of {wish.group} are here, it must stay apart from them", there)
    return None


def together(request: PlacementRequest, host: HostState, _: Rules) -> Refusal | None:
    """One of those it must be with is there. (Farm takes wishes for groups that are nowhere out of the request.)"""
    for wish in request.affinities:
        if wish.hard and wish.together and not host.groups.get(wish.group):
            return Refusal("together", f"no VM of {wish.group} is here, it must be with them")
    return None


def few_of_the_group(request: PlacementRequest, host: HostState, _: Rules) -> Refusal | None:
    """The host has fewer VMs of the request's group than it may."""
    most = request.max_per_host
    there = host.groups.get(request.group, 0)
    if most is None or there < most:
        return None
    return Refusal("max_per_host", f"{there} VM(s) of {request.group} are here, {most} may be", there - most + 1)


def cpus_fit(request: PlacementRequest, host: HostState, _: Rules) -> Refusal | None:
    """The vCPUs promised stay within the host's threads times the pool's ratio."""
    missing = request.cpus - host.cpus_free
    if missing <= 0:
        return None
    return Refusal(
        "cpus",
        f"{request.cpus} vCPUs asked, {host.cpus_free} free ({host.cpu_threads} threads x {host.cpu_ratio:g}, "
        f"{host.promised_cpus} claimed)",
        missing,
        Cure(
            f"{missing} more vCPUs were free on {{host}}",
            missing / request.cpus,
            lambda host: replace(host, promised_cpus=host.promised_cpus - missing),
        ),
    )


def ram_fits(request: PlacementRequest, host: HostState, _: Rules) -> Refusal | None:
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
        missing,
        Cure(
            f"{missing} MB more RAM were free on {{host}}",
            missing / request.ram_needed_mb,
            lambda host: replace(
                host, promised_ram_mb=host.promised_ram_mb - missing, ram_used_mb=host.ram_used_mb - missing
            ),
        ),
    )


def _ram_asked(request: PlacementRequest) -> str:
    parts = f" ({request.ram_mb} and {request.overhead_mb} overhead)" if request.overhead_mb else ""
    return f"{request.ram_needed_mb} MB of RAM asked{parts}"


STANDING: tuple[Filter, ...] = (
    connected,
    not_in_maintenance,
    fit,
    image_allowed,
    datastore_there,
    networks_there,
)
"""The rules whose answer depends on what the VM needs besides room: Farm asks them once for all VMs alike."""

PASSING: tuple[Filter, ...] = (
    fits_the_machine,
    disk_fits,
    apart,
    together,
    few_of_the_group,
    cpus_fit,
    ram_fits,
)
"""The rules whose answer changes with every VM that comes or goes: Farm knows them as arrays, too."""

FILTERS = STANDING + PASSING
"""In this order: what changes by itself comes last, so the reason given is the one that somebody must act on."""


def refusal(
    request: PlacementRequest, host: HostState, rules: Rules, filters: tuple[Filter, ...] = FILTERS
) -> Refusal | None:
    """The first rule that refuses the host, None if it may be taken."""
    return next((refused for rule in filters if (refused := rule(request, host, rules)) is not None), None)
