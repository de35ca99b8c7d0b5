"""Requests in the order of arrival against anything that places: one loop for every baseline and for our own."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmarks.placement.rows import Host, Request


class Placer(Protocol):
    """Holds the hosts that it was made for, and knows which VM is where."""

    def place(self, request: Request, now: int) -> dict[str, str] | None:
        """A host for every VM of the request, by name; None if it is refused, and then nothing is held."""

    def remove(self, vm: str) -> None:
        """The VM of this name, which was placed, is gone."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the requests."""

    placed: int
    refused: int
    placed_ram_mb: int
    refused_ram_mb: int
    used_at_first_refusal: float | None
    """Of the tighter resource of the whole farm; None if nothing was refused."""

    @property
    def refused_share(self) -> float:
        """Of the MB that were asked for."""
        return self.refused_ram_mb / max(self.placed_ram_mb + self.refused_ram_mb, 1)


def replay(hosts: Sequence[Host], requests: Sequence[Request], placer: Placer) -> Outcome:
    """Offer each request when it comes, take each VM away when it ends; at one time, ends come first."""
    ends: list[tuple[int, str, int, int]] = []
    placed = refused = placed_ram_mb = refused_ram_mb = used_cpus = used_ram_mb = 0
    used_at_first_refusal = None
    for request in requests:
        while ends and ends[0][0] <= request.time_s:
            _, vm, cpus, ram_mb = heapq.heappop(ends)
            placer.remove(vm)
            used_cpus -= cpus
            used_ram_mb -= ram_mb
        if placer.place(request, request.time_s) is None:
            refused += 1
            refused_ram_mb += request.ram_mb
            if used_at_first_refusal is None:
                used_at_first_refusal = max(
                    used_cpus / sum(host.cpus for host in hosts), used_ram_mb / sum(host.ram_mb for host in hosts)
                )
            continue
        placed += 1
        placed_ram_mb += request.ram_mb
        used_cpus += sum(vm.cpus for vm in request.vms)
        used_ram_mb += request.ram_mb
        for wanted in request.vms:
            if wanted.duration_s is not None:
                heapq.heappush(ends, (request.time_s + wanted.duration_s, wanted.name, wanted.cpus, wanted.ram_mb))
    return Outcome(placed, refused, placed_ram_mb, refused_ram_mb, used_at_first_refusal)
