"""The query `place`: where VMs would go now, and why nowhere else. A dry run: nothing is claimed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from esxprov import vmx
from esxprov.errors import ProvisioningError
from esxprov.handlers.world import image_named, pool_named, profile_of, world_of
from esxprov.job import Job
from esxprov.model import CatalogueImage, Pool, Profile
from esxprov.placement.choose import choose_together
from esxprov.placement.request import PlacementRequest
from esxprov.placement.world import World
from esxprov.plain import to_plain
from esxprov.ports import Tools

_BY_HOST = ("ram", "cpus", "disk", "max_per_host")
"""Rules whose reason for one VM of many is not that for all of them."""

MOST = 1000
"""A question about more VMs than that costs too much."""


def where(job: Job, tools: Tools) -> dict[str, Any]:
    """Where `count` VMs would go, all or nothing, at most `max_per_host` on each host (absent: what the pool allows).

    The image is one that VCL has, if only its name is given; else sizes count, and VCL need not know it. The
    profile may be a whole section, or only a name, or left out if there is one pool. With `explain` a refusal also
    has moves that would help. Returns what `where_in` does.
    """
    data = job.event.data
    count = whole(data, "count", 1)
    most = None if data.get("max_per_host") is None else whole(data, "max_per_host", 1)
    world = world_of(tools, *pool_and_profile(job, tools), job.now())
    image = _image(job, world)
    return where_in(world, job.event.id, image, count, most, explain=data.get("explain") is True)


def where_in(
    world: World, identifier: str, image: CatalogueImage, count: int, max_per_host: int | None, *, explain: bool
) -> dict[str, Any]:
    """The answer in a world, live or from a file.

    placements (host, datastore, reason), reason, refused (host or endpoint -> rule, reason, missing), help (sentences
    that complete "it would fit"), suggestions (moves after which it fits, each vm, source, target), silent (endpoints).
    """
    asked = [world.request(f"{identifier}/{number}", image) for number in range(count)]
    requests = world.snapshot.rules.cluster(asked, identifier)
    if max_per_host is not None:
        requests = tuple(replace(request, max_per_host=max_per_host) for request in requests)
    decision = choose_together(requests, world.snapshot)
    silent = {
        name: {"rule": "silent", "reason": f"the endpoint does not answer: {why}", "missing": 0}
        for name, why in world.silent.items()
    }
    reasons = {why.reason for why in decision.refused.values() if why.rule not in _BY_HOST}
    shared = len(reasons) == 1 and not any(why.rule in _BY_HOST for why in decision.refused.values())
    everywhere = f": {reasons.pop()}" if shared else ""
    return {
        "placements": [
            {"host": one.host_name, "datastore": one.datastore, "reason": one.reason} for one in decision.placements
        ],
        "reason": decision.reason + everywhere,
        "refused": {**to_plain(decision.refused), **silent},
        "help": list(decision.help),
        "suggestions": _suggestions(world, requests) if explain and not decision.placements else [],
        "silent": sorted(world.silent),
    }


def _suggestions(world: World, requests: Sequence[PlacementRequest]) -> Any:
    from esxprov.placement.moves import moves_for  # with scipy, which takes its time, and most commands do without

    return to_plain(moves_for(world.snapshot, requests))


def pool_and_profile(job: Job, tools: Tools) -> tuple[Pool, Profile]:
    """The pool that a query is about, and its profile: as the query has it, or as VCL does."""
    section = job.event.data.get("profile")
    if section and "datastore_path" in section:
        return tools.pools.of(job.request.profile), job.request.profile
    pool = pool_named(tools.pools.all(), job.request.profile.name if section else None)
    return pool, profile_of(tools, pool)


def whole(data: Mapping[str, Any], name: str, default: int) -> int:
    """A number of VMs in a query. Raises `invalid_event`."""
    value = data.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST:
        raise ProvisioningError("invalid_event", f"{name} is {value!r}, expected a whole number from 1 to {MOST}")
    return value


def _image(job: Job, world: World) -> CatalogueImage:
    section = job.event.data.get("image")
    if isinstance(section, dict) and "min_ram_mb" not in section:
        name = section.get("name")
        if not isinstance(name, str):
            raise ProvisioningError("invalid_event", f"image.name is {name!r}, expected the name of an image")
        return image_named(world.images, name)
    image = job.request.image
    return CatalogueImage(image.name, image.name, vmx.ram_mb(image), image.min_cpus, image.size_mb)
