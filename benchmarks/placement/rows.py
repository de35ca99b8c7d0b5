"""Hosts and requests as plain data, and as the CSV files that `esxprov placement simulate` reads."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

HOST_COLUMNS = ("host", "cpus", "ram_mb")
REQUEST_COLUMNS = ("time_s", "duration_s", "request", "vm", "cpus", "ram_mb", "max_per_host")


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
    """VMs that come together at `time_s`, all or none; at most `max_per_host` may share a host (None: any number)."""

    name: str
    time_s: int
    vms: tuple[Vm, ...]
    max_per_host: int | None = None

    @property
    def ram_mb(self) -> int:
        """Of all its VMs."""
        return sum(vm.ram_mb for vm in self.vms)


def write_hosts(path: Path, hosts: Iterable[Host]) -> None:
    """One row a host, `HOST_COLUMNS` as the head."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(HOST_COLUMNS)
        rows.writerows((host.name, host.cpus, host.ram_mb) for host in hosts)


def write_requests(path: Path, requests: Iterable[Request]) -> None:
    """One row a VM, `REQUEST_COLUMNS` as the head; None is an empty field."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(REQUEST_COLUMNS)
        for request in requests:
            rows.writerows(
                (request.time_s, vm.duration_s, request.name, vm.name, vm.cpus, vm.ram_mb, request.max_per_host)
                for vm in request.vms
            )
