"""The query `capacity`: what hosts have, and how many more VMs of each image fit, now or later."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from esxprov.errors import ProvisioningError
from esxprov.handlers.where import pool_and_profile
from esxprov.handlers.world import world_of
from esxprov.job import Job
from esxprov.model import CatalogueImage, HostKey
from esxprov.placement.calendar import Calendar, calendar_at, minute
from esxprov.placement.capacity import how_many, largest, largest_by_host
from esxprov.placement.choose import farm_of
from esxprov.placement.farm import Farm
from esxprov.placement.filters import refusal
from esxprov.placement.request import PlacementRequest
from esxprov.placement.world import World
from esxprov.ports import Tools

ANY = CatalogueImage("", "", 4, 1)
"""The smallest VM there is, of no image."""


def capacities(job: Job, tools: Tools) -> dict[str, Any]:
    """What still fits into the profile's pool, at the time `at` (ISO 8601 with an offset) if there is one, and so that
    any one host may fail if `n_plus_one`. Returns what `capacity_in` does.
    """
    data = job.event.data
    at = None if data.get("at") is None else moment(data["at"], job.now())
    world = world_of(tools, *pool_and_profile(job, tools), job.now())
    return capacity_in(world, at=at, n_plus_one=data.get("n_plus_one") is True)


def capacity_in(world: World, *, at: int | None = None, n_plus_one: bool = False) -> dict[str, Any]:
    """The answer for a world, live or from a file.

    pool, at (ISO minute, None for now), n_plus_one, images (for each size: images, titles, ram_mb, cpus, fits, exact
    (false: at least), hosts), largest (ram_mb with one vCPU, cpus), hosts (one row each), overbooked (bookings without
    a host: reservation, image, starts), silent (endpoints).
    """
    rules = replace(world.snapshot.rules, n_plus_one=n_plus_one or world.snapshot.rules.n_plus_one)
    snapshot = replace(world.snapshot, rules=rules)
    calendar = Calendar(snapshot) if at is None else calendar_at(snapshot, at)
    farm = calendar.farm
    any_vm = world.request("capacity", ANY)
    room = largest(farm, any_vm)
    return {
        "pool": world.pool,
        "at": None if at is None else minute(at),
        "n_plus_one": rules.n_plus_one,
        "images": [_row(farm, world.request("capacity", images[0]), images) for images in _sizes(world)],
        "largest": {"ram_mb": room.ram_mb, "cpus": room.cpus},
        "hosts": host_rows(replace(world, snapshot=calendar.snapshot()), farm, any_vm),
        "overbooked": [
            {"reservation": one.reservation_id, "image": one.image, "starts": minute(one.starts_at)}
            for one in calendar.overbooked
        ],
        "silent": sorted(world.silent),
    }


def hosts_in(world: World) -> list[dict[str, Any]]:
    """What each host of a world has and can still take, for `esxprov hosts`."""
    return host_rows(world, farm_of(world.snapshot), world.request("hosts", ANY))


def host_rows(world: World, farm: Farm, any_vm: PlacementRequest) -> list[dict[str, Any]]:
    """One row per host: what it has and can still take; `refused` says why it would not take the smallest VM."""
    vms = Counter(HostKey(one.endpoint, one.host_moid) for one in world.snapshot.vms)
    most = largest_by_host(farm, any_vm)
    rows: list[dict[str, Any]] = []
    for number, label in enumerate(farm.labels()):
        host = farm.state(number)
        no = refusal(any_vm, host, farm.rules)
        rows.append(
            {
                "pool": world.pool,
                "host": label,
                "state": "maintenance" if host.maintenance else host.state,
                "ram_mb": host.ram_mb,
                "ram_free_mb": host.ram_free_mb,
                "cpus_free": host.cpus_free,
                "largest_ram_mb": most[label].ram_mb,
                "largest_cpus": most[label].cpus,
                "vms": vms[host.key],
                "datastores": ", ".join(f"{store.name} {store.free_mb // 1024} GB free" for store in host.datastores),
                "refused": no.reason if no else None,
            }
        )
    for name, why in world.silent.items():
        rows.append({"pool": world.pool, "host": name, "state": "silent", "refused": why})
    return rows


def moment(text: object, now: datetime) -> int:
    """A time to come in epoch seconds, of ISO 8601 with an offset. Raises `invalid_event`."""
    try:
        at = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise ProvisioningError(
            "invalid_event", f"at is {text!r}, expected a time with its offset, like 2026-11-25T15:50:00+01:00"
        )
    if at < now.replace(second=0, microsecond=0):
        raise ProvisioningError("invalid_event", f"at is {text!r}, which is over: it is {now.astimezone(UTC):%FT%RZ}")
    return int(at.timestamp())


def _sizes(world: World) -> list[list[CatalogueImage]]:
    """Images that ask for the same, together."""
    alike: dict[object, list[CatalogueImage]] = {}
    for image in world.images:
        asked = world.request("", image)
        kind = asked.ram_mb, asked.cpus, asked.disk_mb, world.snapshot.rules.hosts_for(image.name)
        alike.setdefault(kind, []).append(image)
    return sorted(alike.values(), key=lambda images: (images[0].ram_mb, images[0].cpus, images[0].name))


def _row(farm: Farm, request: PlacementRequest, images: Sequence[CatalogueImage]) -> dict[str, Any]:
    fits = how_many(farm, request)
    return {
        "images": [image.name for image in images],
        "titles": [image.title for image in images],
        "ram_mb": request.ram_mb,
        "cpus": request.cpus,
        "fits": fits.count,
        "exact": fits.exact,
        "hosts": dict(fits.hosts),
    }
