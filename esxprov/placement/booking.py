"""A VM that VCL has promised for a time to come."""

from __future__ import annotations

from dataclasses import dataclass

from esxprov.placement.request import PlacementRequest


@dataclass(frozen=True, slots=True)
class Booking:
    """A VM from `starts_at` until `ends_at` (epoch seconds; None: for good), on a host that is not known yet.

    `ram_mb` includes the hypervisor's overhead. `computer_id` is VCL's slot, 0 if none is chosen yet: what that slot
    runs when the booking starts makes room for it. `reservation_id` is 0 for a seat of a block that nobody has taken.
    """

    reservation_id: int
    starts_at: int
    ends_at: int | None
    ram_mb: int
    cpus: int
    disk_mb: int = 0
    datastore: str = ""
    networks: tuple[str, ...] = ()
    image: str = ""
    group: str = ""
    computer_id: int = 0

    @property
    def request(self) -> PlacementRequest:
        """What it will ask of a host."""
        return PlacementRequest(
            id=f"booking/{self.group}/{self.reservation_id}/{self.computer_id}",
            ram_mb=self.ram_mb,
            cpus=self.cpus,
            disk_mb=self.disk_mb,
            datastore=self.datastore,
            networks=self.networks,
            image=self.image,
            group=self.group,
        )
