"""What a VM asks of a host, as placement sees it."""

from __future__ import annotations

from dataclasses import dataclass

from esxprov.model import CatalogueImage


@dataclass(frozen=True, slots=True)
class Affinity:
    """How a VM stands to those of a group: on the same host, or not. A soft wish is given up before the VM is."""

    group: str
    together: bool
    hard: bool


@dataclass(frozen=True, slots=True)
class PlacementRequest:
    """What a VM needs. `id` breaks ties, so that equal hosts are not all chosen in the same order.

    `overhead_mb` is what its hypervisor needs beyond its RAM. `datastore` "" asks for none. `group` is what the VM is
    counted by (VCL's request, for a cluster); `max_per_host` bounds how many of that group a host may have. `ends_at`
    is when it will be gone (epoch seconds, None if nobody knows).
    """

    id: str
    ram_mb: int
    cpus: int
    overhead_mb: int = 0
    disk_mb: int = 0
    datastore: str = ""
    networks: tuple[str, ...] = ()
    image: str = ""
    group: str = ""
    max_per_host: int | None = None
    affinities: tuple[Affinity, ...] = ()
    ends_at: int | None = None

    @property
    def ram_needed_mb(self) -> int:
        """RAM and the hypervisor's overhead for it: what is claimed."""
        return self.ram_mb + self.overhead_mb


@dataclass(frozen=True, slots=True)
class Common:
    """What all VMs of a pool ask alike. A VM's own disk is taken for its image's size divided by `disk_share`."""

    datastore: str
    networks: tuple[str, ...]
    disk_share: int = 1

    def request(self, identifier: str, image: CatalogueImage) -> PlacementRequest:
        """What a VM of an image asks of its host. VMware wants RAM in multiples of 4 MB."""
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


def overhead_mb(ram_mb: int, cpus: int) -> int:
    """What a VM costs its host beyond its RAM: a little per VM and vCPU, and page tables; rather more than ESXi's."""
    return 32 + 12 * cpus + ram_mb // 100
