"""One host as a decision sees it: what the hardware gives, less what is promised on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from esxprov.model import Datastore, HostKey

_LIVE_MARGIN = 0.04
"""The share of a host's RAM that ESXi wants free before it begins to reclaim (Mem.MinFreePct, on the safe side)."""


@dataclass(frozen=True, slots=True)
class HostState:
    """One host and what is promised on it. RAM in MB; `promised_ram_mb` includes each VM's overhead.

    `warming_ram_mb` is the part of it that belongs to VMs still on their way: live figures do not show them yet. Free
    space of the datastores is what is free now less what is still to be written. `groups` counts the VMs of each group
    here, `residents` those of each size (RAM, vCPUs). `ends` has RAM and vCPUs of those that are known to end, by when
    (epoch seconds). `unfit` says why the host must not be chosen, None if it may.
    """

    key: HostKey
    name: str
    state: str
    maintenance: bool
    ram_mb: int
    ram_used_mb: int
    reserved_ram_mb: int
    ram_ratio: float
    cpu_threads: int
    cpu_ratio: float
    promised_ram_mb: int = 0
    promised_cpus: int = 0
    datastores: tuple[Datastore, ...] = ()
    networks: tuple[str, ...] = ()
    warming_ram_mb: int = 0
    groups: Mapping[str, int] = field(default_factory=dict)
    residents: Mapping[tuple[int, int], int] = field(default_factory=dict)
    unfit: str | None = None
    ends: Mapping[int, tuple[int, int]] = field(default_factory=dict)

    @property
    def ram_capacity_mb(self) -> int:
        """What may be promised altogether."""
        return _times(max(0, self.ram_mb - self.reserved_ram_mb), self.ram_ratio)

    @property
    def ram_free_mb(self) -> int:
        """What may still be promised, negative if too much is.

        With more promised than there is (ratio over 1) also not more than is free now, less what is on its way.
        """
        free = self.ram_capacity_mb - self.promised_ram_mb
        if self.ram_ratio > 1:
            margin = math.ceil(self.ram_mb * _LIVE_MARGIN)
            free = min(free, self.ram_mb - margin - self.ram_used_mb - self.warming_ram_mb)
        return free

    @property
    def largest_vm_ram_mb(self) -> int:
        """With its overhead: what the empty host takes. No ratio makes one VM larger than the machine."""
        return min(self.ram_capacity_mb, max(0, self.ram_mb - self.reserved_ram_mb))

    @property
    def cpus_capacity(self) -> int:
        """What may be promised altogether."""
        return _times(self.cpu_threads, self.cpu_ratio)

    @property
    def cpus_free(self) -> int:
        """What may still be promised, negative if too much is."""
        return self.cpus_capacity - self.promised_cpus

    @property
    def largest_vm_cpus(self) -> int:
        """No VM has more vCPUs than its host has threads."""
        return min(self.cpu_threads, self.cpus_capacity)

    def datastore(self, name: str) -> Datastore | None:
        """The datastore of that name as this host sees it."""
        return next((store for store in self.datastores if store.name == name), None)


def _times(amount: int, ratio: float) -> int:
    """100 x 0.29 is 29, although the product of the two floats is a little less."""
    return math.floor(amount * ratio + 1e-6)
