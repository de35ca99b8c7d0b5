"""The world of one pool as it is now, for questions that claim nothing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from esxprov import layout
from esxprov.errors import ProvisioningError
from esxprov.handlers.survey import survey
from esxprov.model import CatalogueImage, Claim, DiskMode, Pool, Profile, Promised
from esxprov.placement.booking import Booking
from esxprov.placement.request import Common, PlacementRequest
from esxprov.placement.snapshot import Rules, Snapshot, catalogue
from esxprov.placement.world import World
from esxprov.ports import Tools

LINKED_DISK_SHARE = 4
"""A redo disk is taken for a quarter of its image: what a guest writes in a session, on the safe side."""

ANSWER_S = 4.0
"""Who asks waits: an endpoint that takes longer is left out, and the answer says so."""


def pool_named(pools: Sequence[Pool], name: str | None) -> Pool:
    """The pool of that name or VM host profile; without a name the only one. Raises `invalid_event`."""
    if name is None and len(pools) == 1:
        return pools[0]
    if not pools:
        raise ProvisioningError("invalid_event", "no pool is configured: write a [pool NAME] section")
    known = ", ".join(f"{pool.name} (profile {pool.profile!r})" for pool in pools)
    if name is None:
        raise ProvisioningError("invalid_event", f"there are several pools, so name one by its profile: {known}")
    for pool in pools:
        if name in (pool.profile, pool.name):
            return pool
    near = nearest(name, [*(pool.profile for pool in pools), *(pool.name for pool in pools)]) or f"; there are: {known}"
    raise ProvisioningError("invalid_event", f"no pool has the VM host profile {name!r}{near}")


def profile_of(tools: Tools, pool: Pool) -> Profile:
    """VCL's row of a pool's profile. Raises `invalid_event` if VCL has none."""
    profile = tools.inventory.profile(pool.profile)
    if profile is None:
        raise ProvisioningError(
            "invalid_event",
            f"VCL has no VM host profile {pool.profile!r}, which [pool {pool.name}] names: see VCL's VM host profiles",
        )
    return profile


def image_named(images: Sequence[CatalogueImage], name: str) -> CatalogueImage:
    """The image with that name or title. Raises `image_not_found` naming those that are called alike."""
    for image in images:
        if name == image.name or name.casefold() == image.title.casefold():
            return image
    near = nearest(name, [name for image in images for name in (image.name, image.title)])
    raise ProvisioningError("image_not_found", f"VCL has no image {name!r}{near or f' among its {len(images)}'}")


def nearest(name: str, known: Iterable[str]) -> str:
    """`, did you mean 'a' or 'b'?`, "" if nothing is like it."""
    folded = {one.casefold(): one for one in known}
    close = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.6)
    return f", did you mean {' or '.join(repr(folded[one]) for one in close)}?" if close else ""


def world_now(tools: Tools, name: str | None, now: datetime) -> World:
    """The world of the pool with that name or profile, or of the only one. Raises `invalid_event`."""
    pool = pool_named(tools.pools.all(), name)
    return world_of(tools, pool, profile_of(tools, pool), now)


def world_of(tools: Tools, pool: Pool, profile: Profile | None, now: datetime) -> World:
    """What the endpoints, the claims and VCL's tables say of a pool. Endpoints that are silent are named in it.

    Without a profile any datastore and networks will do.
    """
    seen = survey(tools, pool, within_s=ANSWER_S)
    snapshot = Snapshot(
        seen.hosts,
        tuple(tools.claims.all()),
        seen.vms,
        catalogue(tools.inventory.image_sizes()),
        Rules.of(pool),
        at=int(now.timestamp()),
    )
    common = common_of(pool, profile, pool.disk) if profile else Common("", (), _disk_share(pool.disk))
    return World(
        pool=pool.name,
        profile=pool.profile,
        datastore=common.datastore,
        networks=common.networks,
        disk_share=common.disk_share,
        images=tuple(tools.inventory.images()),
        snapshot=with_promises(snapshot, tools.inventory.promised(pool.profile), common),
        silent=dict(seen.silent),
    )


def common_of(pool: Pool, profile: Profile, disk: DiskMode) -> Common:
    """What all VMs with a profile ask of their hosts, if they get their disks in that way."""
    return Common(layout.of(pool, profile).vm_datastore, tuple(filter(None, profile.networks)), _disk_share(disk))


def _disk_share(disk: DiskMode) -> int:
    return LINKED_DISK_SHARE if disk is DiskMode.LINKED else 1


def with_promises(snapshot: Snapshot, promised: Sequence[Promised], common: Common) -> Snapshot:
    """The snapshot with what VCL has promised: ends of claims, and bookings for which there is no claim yet."""
    claims, open_ = _ends(snapshot.claims, promised, snapshot.at)
    bookings = tuple(_booking(common.request("", one.image), one) for one in open_)
    return replace(snapshot, claims=tuple(claims), bookings=bookings)


def _ends(claims: Sequence[Claim], promised: Sequence[Promised], now: int) -> tuple[list[Claim], list[Promised]]:
    """(claims with the ends that VCL has for them, promises that no claim holds yet).

    A claim is its reservation's; one that names none that VCL knows is that of whoever has its computer now.
    """
    by_reservation = {one.reservation_id: one for one in promised if one.reservation_id}
    by_computer = {one.computer_id: one for one in promised if one.starts_at <= now}
    held: list[Promised] = []
    known: list[Claim] = []
    for claim in claims:
        one = by_reservation.get(claim.reservation_id) or by_computer.get(claim.computer_id)
        if one is None:
            known.append(claim)
            continue
        held.append(one)
        known.append(replace(claim, ends_at=one.ends_at, reservation_id=one.reservation_id or claim.reservation_id))
    return known, [one for one in promised if one not in held]


def _booking(asked: PlacementRequest, promised: Promised) -> Booking:
    return Booking(
        reservation_id=promised.reservation_id,
        starts_at=promised.starts_at,
        ends_at=promised.ends_at,
        ram_mb=asked.ram_needed_mb,
        cpus=asked.cpus,
        disk_mb=asked.disk_mb,
        datastore=asked.datastore,
        networks=asked.networks,
        image=asked.image,
        group=promised.group,
        computer_id=promised.computer_id,
    )
