"""A trace of requests against a farm in virtual time: the same search as the service's, no database, no waiting."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from esxprov.placement.farm import RULES, Farm
from esxprov.placement.host import HostState
from esxprov.placement.request import PlacementRequest
from esxprov.placement.search import Found, place
from esxprov.placement.snapshot import Rules, Size
from esxprov.placement.trace import Arrival


@dataclass(slots=True)
class Summary:
    """What a simulation came to. `latencies_us` has one entry for each request."""

    placed: int = 0
    refused: int = 0
    refused_ram_mb: int = 0
    utilisation_at_first_refusal: float | None = None
    latencies_us: list[float] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Names and plain numbers, for people and programs alike."""
        latencies = np.array(self.latencies_us or [0.0])
        busy_s = float(latencies.sum()) / 1e6
        first = self.utilisation_at_first_refusal
        return {
            "placed": self.placed,
            "refused": self.refused,
            "refused_ram_mb": self.refused_ram_mb,
            "utilisation_at_first_refusal": None if first is None else round(first, 4),
            "decisions_per_second": round(len(self.latencies_us) / busy_s) if busy_s else 0,
            "p50_us": round(float(np.percentile(latencies, 50)), 1),
            "p99_us": round(float(np.percentile(latencies, 99)), 1),
        }


class Simulation:
    """One run. `clock_ns` measures the decisions; time itself is the trace's."""

    def __init__(
        self,
        hosts: Sequence[HostState],
        rules: Rules,
        catalogue: Sequence[Size] = (),
        *,
        budget_s: float,
        clock_ns: Callable[[], int],
    ) -> None:
        """Without a catalogue, sizes are learned from the requests as they come."""
        self._farm = Farm(hosts, rules, catalogue)
        self._labels = self._farm.labels()
        self._learned = None if catalogue else _Learned(self._farm)
        self._budget_s = budget_s
        self._clock_ns = clock_ns
        self._leaving: list[tuple[float, int, int, PlacementRequest]] = []  # (time, number, host, VM)
        self._arrived = 0
        self.summary = Summary()

    def run(self, arrivals: Iterable[Arrival]) -> Iterator[dict[str, Any]]:
        """One decision for each request, in their order."""
        for arrival in arrivals:
            while self._leaving and self._leaving[0][0] <= arrival.time_s:
                _, _, host, request = heapq.heappop(self._leaving)
                self._farm.vacate(host, request)
            started = self._clock_ns()
            if self._learned:
                self._learned.see(arrival.requests)
            self._farm.advance(int(arrival.time_s))
            found = place(self._farm, arrival.requests, self._budget_s)
            self.summary.latencies_us.append((self._clock_ns() - started) / 1000)
            yield self._accept(arrival, found.hosts) if found.hosts is not None else self._refuse(arrival, found)

    def _accept(self, arrival: Arrival, hosts: Sequence[int]) -> dict[str, Any]:
        self.summary.placed += 1
        for host, request, ends_s in zip(hosts, arrival.requests, arrival.ends_s, strict=True):
            self._arrived += 1
            if ends_s < math.inf:
                heapq.heappush(self._leaving, (ends_s, self._arrived, host, request))
        where = {vm: self._labels[host] for vm, host in zip(arrival.vms, hosts, strict=True)}
        return {"request": arrival.name, "placed": True, "hosts": where}

    def _refuse(self, arrival: Arrival, found: Found) -> dict[str, Any]:
        summary = self.summary
        summary.refused += 1
        summary.refused_ram_mb += sum(request.ram_mb for request in arrival.requests)
        if summary.utilisation_at_first_refusal is None:
            summary.utilisation_at_first_refusal = self._utilisation()
        codes = [] if found.codes is None else found.codes.tolist()
        rules = [RULES[code] for code in codes]
        return {
            "request": arrival.name,
            "placed": False,
            "reason": self._reason(arrival, found, rules),
            "refused": dict(zip(self._labels, rules, strict=True)),
            "proved": found.proved,
        }

    def _reason(self, arrival: Arrival, found: Found, rules: Sequence[str]) -> str:
        request = arrival.requests[found.stuck]
        vm = f"{arrival.vms[found.stuck]} ({request.cpus} vCPUs, {request.ram_mb} MB)"
        if not rules:
            return "there is no host"
        if all(rule == "machine" for rule in rules):
            return f"{vm} is larger than any host"
        why = ", ".join(f"{count} by {rule}" for rule, count in Counter(rules).most_common())
        if len(arrival.requests) == 1:
            return f"no host takes {vm}: {why}"
        if not found.proved:
            return (
                f"no way was found to place all {len(arrival.requests)} VMs within {self._budget_s * 1000:g} ms; {vm} "
                f"was left: {why}"
            )
        return f"the {len(arrival.requests)} VMs do not fit together; {vm} is left: {why}"

    def _utilisation(self) -> float:
        """The used share of the resource that is scarcer."""
        farm = self._farm
        ram, cpus = int(farm.ram.sum()), int(farm.cpus.sum())
        if not ram or not cpus:
            return 0.0
        return 1 - min(int(farm.ram_free.sum()) / ram, int(farm.cpus_free.sum()) / cpus)


class _Learned:
    """The catalogue of what was asked for so far; weighed anew whenever twice as much was seen."""

    def __init__(self, farm: Farm) -> None:
        self._farm = farm
        self._seen: Counter[tuple[int, int]] = Counter()
        self._next = 1

    def see(self, requests: Sequence[PlacementRequest]) -> None:
        self._seen.update((request.ram_needed_mb, request.cpus) for request in requests)
        if self._seen.total() >= self._next:
            self._next = 2 * self._seen.total()
            self._farm.expect([Size(ram_mb, cpus, many) for (ram_mb, cpus), many in sorted(self._seen.items())])
