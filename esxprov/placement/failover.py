"""N+1: if any one host fails, do its VMs still fit on the others?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from esxprov.placement.farm import Farm


def homeless(farm: Farm, failed: int) -> tuple[int, int] | None:
    """The first size (RAM, vCPUs) of the failed host's VMs that finds no other host, the large ones tried first; None
    if all of them do.

    Best fit, so a no may be wrong where only an unusual arrangement would do: on the safe side.
    """
    residents = farm.residents(failed)
    if not residents:
        return None
    usable = np.array([host.state == "connected" and not host.maintenance for host in farm.hosts])
    usable[failed] = False
    ram, cpus = farm.ram_free[usable], farm.cpus_free[usable]
    largest = max(size[0] for size in residents), max(size[1] for size in residents)
    if _fits(ram, cpus, largest).sum() >= sum(residents.values()):
        return None  # even if all were as large as the largest, whatever goes first
    all_ram, all_cpus = max(1, int(farm.ram.sum())), max(1, int(farm.cpus.sum()))
    for size in sorted(residents, key=lambda size: -(size[0] / all_ram + size[1] / all_cpus)):
        fits = _fits(ram, cpus, size)
        if fits.sum() < residents[size]:
            return size
        # The best host for one of them is the best for the next one, too, until it is full.
        order = np.argsort(ram / all_ram + cpus / all_cpus, kind="stable")
        before = np.cumsum(fits[order]) - fits[order]
        gets = np.clip(residents[size] - before, 0, fits[order])
        ram[order] -= gets * size[0]
        cpus[order] -= gets * size[1]
    return None


def weakest(farm: Farm) -> int | None:
    """The first host whose VMs would not all find another one, None if any host may fail."""
    return next((number for number in range(len(farm)) if homeless(farm, number) is not None), None)


def _fits(ram: npt.NDArray[np.int64], cpus: npt.NDArray[np.int64], size: tuple[int, int]) -> npt.NDArray[np.int64]:
    """How many VMs of a size each host takes."""
    fits: npt.NDArray[np.int64] = np.maximum(0, np.minimum(ram // max(1, size[0]), cpus // max(1, size[1])))
    return fits
