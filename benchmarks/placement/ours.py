"""The project's own search, as the service and `esxprov placement simulate` use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.placement.rows import Host, Request
from esxprov.model import HostKey
from esxprov.placement.farm import Farm
from esxprov.placement.host import HostState
from esxprov.placement.request import PlacementRequest
from esxprov.placement.search import place
from esxprov.placement.snapshot import Rules, Size


def state(host: Host, residents: Mapping[tuple[int, int], int] | None = None) -> HostState:
    """A host as the search sees it, with so many VMs of each size (MB, vCPUs) on it."""
    residents = residents or {}
    return HostState(
        key=HostKey("", host.name),
        name=host.name,
        state="connected",
        maintenance=False,
        ram_mb=host.ram_mb,
        ram_used_mb=0,
        reserved_ram_mb=0,
        ram_ratio=1.0,
        cpu_threads=host.cpus,
        cpu_ratio=1.0,
        promised_ram_mb=sum(ram_mb * many for (ram_mb, _), many in residents.items()),
        promised_cpus=sum(cpus * many for (_, cpus), many in residents.items()),
        residents=residents,
    )


class Ours:
    """Knows the sizes of the images that there are, and until when each VM is booked, as VCL's database does."""

    def __init__(self, hosts: Sequence[Host], catalogue: Sequence[Size], budget_s: float = 0.1) -> None:
        self.farm = Farm(map(state, hosts), Rules(), catalogue)
        self._budget_s = budget_s
        self._where: dict[str, tuple[int, PlacementRequest]] = {}

    def place(self, request: Request, now: int) -> dict[str, str] | None:
        """As `Placer.place`."""
        self.farm.advance(now)
        asked = [
            PlacementRequest(
                vm.name,
                vm.ram_mb,
                vm.cpus,
                group=request.name,
                max_per_host=request.max_per_host,
                ends_at=None if vm.booked_s is None else now + vm.booked_s,
            )
            for vm in request.vms
        ]
        found = place(self.farm, asked, self._budget_s)
        if found.hosts is None:
            return None
        self._where.update((one.id, (host, one)) for one, host in zip(asked, found.hosts, strict=True))
        return {one.id: self.farm.hosts[host].name for one, host in zip(asked, found.hosts, strict=True)}

    def remove(self, vm: str) -> None:
        """As `Placer.remove`."""
        self.farm.vacate(*self._where.pop(vm))
