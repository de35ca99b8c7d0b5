"""The exact bound: first come, first served, where everything that runs may be moved for whatever comes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from benchmarks.placement.packing import packing
from benchmarks.placement.rows import Host, Request, Vm


class FreeRepacking:
    """Refuses a request only if no packing of what runs and of the request exists. `max_per_host` is not looked at.

    VMs of one size are alike, so the state is how many of each size are on each host. A new VM goes where it spoils the
    least; when that fails, an integer programme looks for any packing at all. `undecided` counts the requests that were
    refused because it found no answer in `limit_s`: the bound is exact if that is 0.
    """

    def __init__(self, hosts: Sequence[Host], limit_s: float = 20.0) -> None:
        self._hosts = [host.name for host in hosts]
        self._capacity = np.array([(host.cpus, host.ram_mb) for host in hosts], dtype=np.int64)
        self._limit_s = limit_s
        self._sizes = np.zeros((0, 2), dtype=np.int64)
        self._rows: dict[tuple[int, int], int] = {}
        self._impossible: list[npt.NDArray[np.int64]] = []
        self._size_of: dict[str, int] = {}
        self.counts = np.zeros((0, len(hosts)), dtype=np.int64)
        """VMs of each size (row) on each host (column)."""
        self.undecided = 0

    @property
    def free(self) -> npt.NDArray[np.int64]:
        """vCPUs and MB left on each host."""
        return self._capacity - self.counts.T @ self._sizes

    def place(self, request: Request, now: int) -> dict[str, str] | None:
        """As `Placer.place`; the hosts hold until the next request moves everything."""
        rows = [self._row(vm) for vm in request.vms]
        wanted = np.bincount(rows, minlength=len(self._sizes))
        counts = self._added(wanted)
        if counts is None:
            counts = self._packed(self.counts.sum(axis=1) + wanted)
        if counts is None:
            return None
        self.counts = counts
        self._size_of.update((vm.name, row) for vm, row in zip(request.vms, rows, strict=True))
        return self._dealt(request.vms, rows)

    def remove(self, vm: str) -> None:
        """As `Placer.remove`: from the fullest host that has such a VM, for equals can be exchanged."""
        row = self._size_of.pop(vm)
        free = (self.free / self._capacity).max(axis=1)
        self.counts[row, np.argmin(np.where(self.counts[row] > 0, free, np.inf))] -= 1

    def _row(self, vm: Vm) -> int:
        size = (vm.cpus, vm.ram_mb)
        if size not in self._rows:
            self._rows[size] = len(self._sizes)
            self._sizes = np.vstack([self._sizes, [size]])
            self.counts = np.vstack([self.counts, np.zeros((1, len(self._hosts)), dtype=np.int64)])
            self._impossible = [np.append(needed, 0) for needed in self._impossible]
        return self._rows[size]

    def _added(self, wanted: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
        """What runs stays where it is; the biggest of the new ones first."""
        counts, free = self.counts.copy(), self.free
        weight = (self._sizes / self._capacity.mean(axis=0)).sum(axis=1)
        for row in sorted(np.flatnonzero(wanted), key=lambda row: -weight[row]):
            for _ in range(wanted[row]):
                left = free - self._sizes[row]
                fits = (left >= 0).all(axis=1)
                if not fits.any():
                    return None
                lost = (_fits(free, self._sizes) - _fits(left, self._sizes)) @ weight
                host = int(np.argmin(np.where(fits, lost, np.inf)))
                counts[row, host] += 1
                free[host] = left[host]
        return counts

    def _packed(self, needed: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
        """Any packing of so many VMs of each size."""
        if (needed @ self._sizes > self._capacity.sum(axis=0)).any():
            return None
        if any((needed >= impossible).all() for impossible in self._impossible):
            return None
        rows = np.flatnonzero(needed)
        found, proved = packing(self._sizes[rows], needed[rows], self._capacity, self._limit_s)
        if found is None:
            if proved:
                self._impossible = [known for known in self._impossible if not (known >= needed).all()] + [needed]
            else:
                self.undecided += 1
            return None
        counts = np.zeros_like(self.counts)
        counts[rows] = found
        return counts

    def _dealt(self, vms: Sequence[Vm], rows: Sequence[int]) -> dict[str, str]:
        """Hosts for these VMs out of the packing; which of its equals is where does not matter."""
        left = self.counts.copy()
        placed = {}
        for vm, row in zip(vms, rows, strict=True):
            host = int(np.argmax(left[row]))
            left[row, host] -= 1
            placed[vm.name] = self._hosts[host]
        return placed


def _fits(free: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """How many of each size (column) each host (row) has room for, as a fraction."""
    return np.minimum(free[:, :1] / sizes[:, 0], free[:, 1:] / sizes[:, 1])
