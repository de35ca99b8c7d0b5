"""Hosts and requests as plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Host:
    """What a host may hold: vCPUs after the over-commit ratio, MB after the hypervisor's own share."""

    name: str
    cpus: int
    ram_mb: int


@dataclass(frozen=True, slots=True)
class Vm:
    """One virtual machine, which goes after `duration_s` (None: it stays). Its name is unique in a workload.

    `booked_s` is for how long it was asked for, which is all that a placer may know; None if nobody said.
    """

    name: str
    cpus: int
    ram_mb: int
    duration_s: int | None
    booked_s: int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """VMs that come together at `time_s`, all or none; at most `max_per_host` may share a host (None: any number).

    VMs of all requests of one name count together for that, whenever they come.
    """

    name: str
    time_s: int
    vms: tuple[Vm, ...]
    max_per_host: int | None = None

    @property
    def ram_mb(self) -> int:
        """Of all its VMs."""
        return sum(vm.ram_mb for vm in self.vms)
