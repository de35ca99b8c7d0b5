"""OpenStack Nova's default: of the hosts that have room, the one with the most free RAM and vCPUs, both normalised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from benchmarks.placement.rows import Host, Request, Vm


class NovaDefault:
    """A cluster is placed VM by VM, in its order; if one finds no host, none is kept."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self._names = [host.name for host in hosts]
        self.free = np.array([(host.cpus, host.ram_mb) for host in hosts], dtype=np.int64)
        self._where: dict[str, tuple[int, Vm]] = {}

    def place(self, request: Request, now: int) -> dict[str, str] | None:
        """As `Placer.place`."""
        placed: dict[str, str] = {}
        for vm in request.vms:
            host = self._best(vm)
            if host is None:
                for name in placed:
                    self.remove(name)
                return None
            self.free[host] -= vm.cpus, vm.ram_mb
            self._where[vm.name] = host, vm
            placed[vm.name] = self._names[host]
        return placed

    def remove(self, vm: str) -> None:
        """As `Placer.remove`."""
        host, gone = self._where.pop(vm)
        self.free[host] += gone.cpus, gone.ram_mb

    def _best(self, vm: Vm) -> int | None:
        takers = np.flatnonzero((self.free >= (vm.cpus, vm.ram_mb)).all(axis=1))
        if not takers.size:
            return None
        return int(takers[_normalised(self.free[takers]).sum(axis=1).argmax()])


def _normalised(free: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Each column from 0 to 1, as Nova's weighers are before they are added; 0 where all are equal."""
    least, span = free.min(axis=0), np.ptp(free, axis=0)
    return np.asarray((free - least) / np.maximum(1, span))
