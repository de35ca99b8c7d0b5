"""Apache VCL's static slots: the smallest free one that is large enough, whatever the hosts could do.

After web/.ht-inc/utils.php: `isAvailable` takes the first adequate slot in the order of RAM, one that has the image
loaded before others; `VMhostCheck` adds up the RAM of the images of all slots of a host, idle ones with their last
image too. Nothing looks at vCPUs but the slot's own number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.placement.rows import Host, Request, Vm


@dataclass(frozen=True, slots=True)
class SlotSize:
    """What a slot takes at most."""

    ram_mb: int
    cpus: int

    def takes(self, vm: Vm) -> bool:
        """By RAM and vCPUs, as the front end filters."""
        return vm.ram_mb <= self.ram_mb and vm.cpus <= self.cpus


@dataclass(frozen=True, slots=True)
class Slot:
    """A computer row: a slot on the host of that number."""

    host: int
    size: SlotSize


class VclSlots:
    """A cluster is placed VM by VM, in its order; if one finds no slot, none is kept."""

    def __init__(self, hosts: Sequence[Host], slots: Sequence[Slot]) -> None:
        slots = sorted(slots, key=lambda slot: (slot.size.ram_mb, slot.size.cpus))
        self._names = [host.name for host in hosts]
        self._ram = np.array([host.ram_mb for host in hosts], dtype=np.int64)
        self._sizes = [slot.size for slot in slots]
        self._host = np.array([slot.host for slot in slots], dtype=np.int64)
        self._free = np.ones(len(slots), dtype=np.bool_)
        self._image = np.full(len(slots), -1, dtype=np.int64)  # loaded last, by its number
        self._image_ram = np.zeros(len(slots), dtype=np.int64)
        self._loaded = np.zeros(len(hosts), dtype=np.int64)  # RAM of all those images
        self._images: dict[tuple[int, int], int] = {}  # VMs of one size are taken for one image
        self._adequate: list[np.ndarray[tuple[int], np.dtype[np.bool_]]] = []
        self._where: dict[str, int] = {}

    def place(self, request: Request, now: int) -> dict[str, str] | None:
        """As `Placer.place`."""
        chosen: list[tuple[int, int, int]] = []
        for vm in request.vms:
            slot = self._first(vm)
            if slot is None:
                for taken, image, ram_mb in reversed(chosen):
                    self._free[taken] = True
                    self._load(taken, image, ram_mb)
                return None
            chosen.append((slot, int(self._image[slot]), int(self._image_ram[slot])))
            self._free[slot] = False
            self._load(slot, self._number(vm), vm.ram_mb)
        self._where.update((vm.name, slot) for vm, (slot, _, __) in zip(request.vms, chosen, strict=True))
        return {vm.name: self._names[self._host[slot]] for vm, (slot, _, __) in zip(request.vms, chosen, strict=True)}

    def remove(self, vm: str) -> None:
        """As `Placer.remove`; the slot keeps the image loaded."""
        self._free[self._where.pop(vm)] = True

    def _first(self, vm: Vm) -> int | None:
        image = self._number(vm)
        takers = np.flatnonzero(self._free & self._adequate[image])
        if not takers.size:
            return None
        loaded = self._image[takers] == image
        if loaded.any():
            return int(takers[loaded.argmax()])
        hosts = self._host[takers]
        passes = self._loaded[hosts] - self._image_ram[takers] + vm.ram_mb < self._ram[hosts]
        return int(takers[passes.argmax()]) if passes.any() else None

    def _load(self, slot: int, image: int, ram_mb: int) -> None:
        self._loaded[self._host[slot]] += ram_mb - self._image_ram[slot]
        self._image[slot], self._image_ram[slot] = image, ram_mb

    def _number(self, vm: Vm) -> int:
        size = (vm.cpus, vm.ram_mb)
        if size not in self._images:
            self._images[size] = len(self._adequate)
            self._adequate.append(np.array([slot.takes(vm) for slot in self._sizes], dtype=np.bool_))
        return self._images[size]
