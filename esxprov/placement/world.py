"""One pool's world with what a question about it needs: so it can be asked anywhere, on any day, from a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from esxprov.model import CatalogueImage
from esxprov.placement.request import Common, PlacementRequest
from esxprov.placement.snapshot import Snapshot
from esxprov.plain import NotPlain, from_plain


@dataclass(frozen=True, slots=True)
class World:
    """`datastore` and `networks` are those of the pool's VM host profile. A VM's own disk is taken for its image's size
    divided by `disk_share`. `silent` maps endpoints that did not answer to why.
    """

    pool: str
    profile: str
    datastore: str
    networks: tuple[str, ...]
    disk_share: int
    images: tuple[CatalogueImage, ...]
    snapshot: Snapshot
    silent: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Any) -> World:
        """The world that was written as plain JSON. Raises NotPlain naming the field that is not as it must be."""
        world = from_plain(cls, data)
        for name, value, least in _numbers(world):
            if value < least:
                raise NotPlain(f"{name} is {value:g}, expected {least:g} or more")
        return world

    def request(self, identifier: str, image: CatalogueImage) -> PlacementRequest:
        """What a VM of an image asks of its host."""
        return self.common.request(identifier, image)

    @property
    def common(self) -> Common:
        """What all VMs of the pool ask alike."""
        return Common(self.datastore, self.networks, self.disk_share)


def _numbers(world: World) -> Iterator[tuple[str, float, float]]:
    """(field, what it is, the least it may be) of all that is divided by, or would make room out of nothing."""
    snapshot = world.snapshot
    yield "disk_share", world.disk_share, 1
    for number, image in enumerate(world.images):
        yield f"images[{number}].ram_mb", image.ram_mb, 0
        yield f"images[{number}].cpus", image.cpus, 1
        yield f"images[{number}].disk_mb", image.disk_mb, 0
    for number, host in enumerate(snapshot.hosts):
        yield f"snapshot.hosts[{number}].ram_mb", host.ram_mb, 0
        yield f"snapshot.hosts[{number}].cpu_threads", host.cpu_threads, 0
        yield f"snapshot.hosts[{number}].ram_used_mb", host.ram_used_mb, 0
    for number, claim in enumerate(snapshot.claims):
        yield f"snapshot.claims[{number}].ram_mb", claim.ram_mb, 0
        yield f"snapshot.claims[{number}].cpus", claim.cpus, 0
        yield f"snapshot.claims[{number}].disk_mb", claim.disk_mb, 0
    for number, vm in enumerate(snapshot.vms):
        yield f"snapshot.vms[{number}].ram_mb", vm.ram_mb, 0
        yield f"snapshot.vms[{number}].cpus", vm.cpus, 0
    for number, size in enumerate(snapshot.catalogue):
        yield f"snapshot.catalogue[{number}].ram_mb", size.ram_mb, 1
        yield f"snapshot.catalogue[{number}].cpus", size.cpus, 1
        yield f"snapshot.catalogue[{number}].images", size.images, 1
    for number, booking in enumerate(snapshot.bookings):
        yield f"snapshot.bookings[{number}].ram_mb", booking.ram_mb, 0
        yield f"snapshot.bookings[{number}].cpus", booking.cpus, 0
        yield f"snapshot.bookings[{number}].disk_mb", booking.disk_mb, 0
    yield "snapshot.rules.cpu_ratio", snapshot.rules.cpu_ratio, 0.01
    yield "snapshot.rules.ram_ratio", snapshot.rules.ram_ratio, 0.01
    yield "snapshot.rules.reserved_ram_mb", snapshot.rules.reserved_ram_mb, 0
