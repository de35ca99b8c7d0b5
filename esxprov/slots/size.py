"""How many slots a pool can use at most, and how large its idle ones are. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from esxprov.model import CatalogueImage, HostKey
from esxprov.placement.capacity import how_many
from esxprov.placement.farm import Farm
from esxprov.placement.host import HostState
from esxprov.placement.request import Common, overhead_mb
from esxprov.placement.snapshot import Rules

MOST_RAM_MB = 2**24 - 2
MOST_CPUS = 255
"""What a column of VCL's computer holds (RAM: less one, for the pool's host has one more than the largest slot)."""

UNKNOWN_IMAGE = CatalogueImage("", "", 1024, 1)
"""What a pool is counted for while VCL has no image."""


@dataclass(frozen=True, slots=True)
class HostSize:
    """A hypervisor of a pool and what it has. `silent`: it does not answer, so this is from when it last did."""

    endpoint: str
    name: str
    ram_mb: int
    cpu_threads: int
    uuid: str = ""
    silent: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """RAM and vCPUs that a slot shows: it is offered for images that need no more of either."""

    ram_mb: int
    cpus: int

    def takes(self, image: CatalogueImage) -> bool:
        return image.ram_mb <= self.ram_mb and image.cpus <= self.cpus


def most_slots(hosts: Sequence[HostSize], images: Iterable[CatalogueImage], rules: Rules) -> int:
    """How many VMs of the image of which most fit the hosts take, when nothing else is on them."""
    farm = Farm(_empty(hosts, rules), replace(rules, n_plus_one=False))
    anywhere = Common("", ())
    requests = [
        replace(anywhere.request("slots", image), disk_mb=0, image="") for image in _sizes(images) or [UNKNOWN_IMAGE]
    ]
    return max(how_many(farm, request).count for request in requests)


def largest_shape(hosts: Sequence[HostSize], images: Iterable[CatalogueImage], rules: Rules) -> Shape:
    """The largest VM that one of the hosts takes, when nothing else is on it.

    The one with most RAM and the one with most threads may be two, and a VM as large as both together fits on neither:
    so it is that of one host, the one that takes most of the images. Zeros if there is no host.
    """
    sizes = _sizes(images)
    shapes = [_whole(host) for host in _empty(hosts, rules)]
    return max(
        shapes,
        key=lambda shape: (sum(map(shape.takes, sizes)), shape.ram_mb, shape.cpus),
        default=Shape(0, 0),
    )


def _empty(hosts: Iterable[HostSize], rules: Rules) -> list[HostState]:
    return [
        HostState(
            key=HostKey(host.endpoint, f"{number}"),
            name=host.name,
            state="connected",
            maintenance=False,
            ram_mb=host.ram_mb,
            ram_used_mb=0,
            reserved_ram_mb=rules.reserved_ram_mb,
            ram_ratio=rules.ram_ratio,
            cpu_threads=host.cpu_threads,
            cpu_ratio=rules.cpu_ratio,
        )
        for number, host in enumerate(hosts)
    ]


def _whole(host: HostState) -> Shape:
    cpus = min(host.cpus_free, host.largest_vm_cpus, MOST_CPUS)
    room_mb = min(host.ram_free_mb, host.largest_vm_ram_mb)
    fits, too_much = 0, min(max(0, room_mb), MOST_RAM_MB) // 4 + 1
    while too_much - fits > 1:
        middle = (fits + too_much) // 2
        if middle * 4 + overhead_mb(middle * 4, cpus) <= room_mb:
            fits = middle
        else:
            too_much = middle
    return Shape(fits * 4, cpus) if fits and cpus > 0 else Shape(0, 0)


def _sizes(images: Iterable[CatalogueImage]) -> list[CatalogueImage]:
    return list({(image.ram_mb, image.cpus): image for image in images}.values())
