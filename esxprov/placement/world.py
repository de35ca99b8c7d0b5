"""One pool's world with what a question about it needs: so it can be asked anywhere, on any day, from a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from esxprov.model import CatalogueImage
from esxprov.placement.request import PlacementRequest, overhead_mb
from esxprov.placement.snapshot import Snapshot


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

    def request(self, identifier: str, image: CatalogueImage) -> PlacementRequest:
        """What a VM of an image asks of its host."""
        ram_mb = max(4, image.ram_mb // 4 * 4)
        return PlacementRequest(
            id=identifier,
            ram_mb=ram_mb,
            cpus=image.cpus,
            overhead_mb=overhead_mb(ram_mb, image.cpus),
            disk_mb=image.disk_mb // self.disk_share,
            datastore=self.datastore,
            networks=self.networks,
            image=image.name,
        )
