"""N+1: if any one host fails, do its VMs still fit on the others?"""

from __future__ import annotations

import numpy as np

from esxprov.placement.farm import Farm


def homeless(farm: Farm, failed: int) -> tuple[int, int] | None:
    """The first size (RAM, vCPUs) of the failed host's VMs that finds no other host, the large ones tried first; None
    if all of them do.

    Best fit, so a no may be wrong where only an unusual arrangement would do: on the safe side.
    """
    ram, cpus = farm.ram_free.copy(), farm.cpus_free.copy()
    usable = np.array([host.state == "connected" and not host.maintenance for host in farm.hosts])
    usable[failed] = False
    all_ram, all_cpus = max(1, int(farm.ram.sum())), max(1, int(farm.cpus.sum()))
    residents = farm.residents(failed)
    for size in sorted(residents, key=lambda size: -(size[0] / all_ram + size[1] / all_cpus)):
        for _ in range(residents[size]):
            takes = np.flatnonzero(usable & (ram >= size[0]) & (cpus >= size[1]))
            if not takes.size:
                return size
            left = (ram[takes] - size[0]) / all_ram + (cpus[takes] - size[1]) / all_cpus
            best = takes[left.argmin()]
            ram[best] -= size[0]
            cpus[best] -= size[1]
    return None


def weakest(farm: Farm) -> int | None:
    """The first host whose VMs would not all find another one, None if any host may fail."""
    return next((number for number in range(len(farm)) if homeless(farm, number) is not None), None)
