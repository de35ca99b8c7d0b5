"""Requests to Huawei's hosts as they come, with anti-affinity, none of which goes: against a linear bound."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.placement import traces
from benchmarks.placement.fluid import most_ram_mb
from benchmarks.placement.nova import NovaDefault
from benchmarks.placement.ours import Ours
from benchmarks.placement.parts import Options
from benchmarks.placement.replay import Placer, replay
from benchmarks.placement.rows import Request
from benchmarks.targets import Figure, at_least, at_most
from esxprov.placement.snapshot import Size
from esxprov.tables import table

_SHARES = (0.65, 0.6)
"""Of the hosts that there are: just enough for all requests, and too few."""

_SEEDS = 3


class Watched:
    """A placer, and how many VMs share a host with more of their group than they may."""

    def __init__(self, placer: Placer) -> None:
        self._placer = placer
        self._there: Counter[tuple[str, str]] = Counter()
        self.broken = 0

    def place(self, request: Request, now: int) -> dict[str, str] | None:
        """As `Placer.place`."""
        placed = self._placer.place(request, now)
        if placed is not None and request.max_per_host is not None:
            for host in placed.values():
                self._there[request.name, host] += 1
                self.broken += self._there[request.name, host] > request.max_per_host
        return placed

    def remove(self, vm: str) -> None:
        """As `Placer.remove`; here nothing goes."""
        self._placer.remove(vm)


def measure(options: Options) -> Iterator[Figure]:
    """Two traces, each on several choices of hosts."""
    names = [f"Huawei, {share:.0%} of the hosts: GB placed, of the linear bound" for share in _SHARES]
    rule = "Huawei: VMs that broke anti-affinity"
    if options.traces is None:
        print("\nHuawei: not measured, for no --traces FOLDER was given")
        yield from (at_least(name, 0.99, None) for name in names)
        yield at_most(rule, 0, None)
        return
    seeds = range(1, min(options.seeds, _SEEDS) + 1)
    rows = [_row(options.traces, trace, share, seed) for share in _SHARES for trace in ("C1", "C2") for seed in seeds]
    print("\nHuawei requests with anti-affinity, all or nothing. Nova and the bound know no rule, the bound")
    print("may also cut VMs and clusters into pieces, and leave out what came first")
    print(table(rows, list(rows[0])))
    for name, share in zip(names, _SHARES, strict=True):
        same = [row for row in rows if row["hosts"] == f"{share:.0%}"]
        yield at_least(name, 0.99, sum(row["GB placed"] for row in same) / sum(row["bound GB"] for row in same))
    yield at_most(rule, 0, sum(row["rule broken"] for row in rows))


def _row(folder: Path, trace: str, share: float, seed: int) -> dict[str, Any]:
    requests = traces.huawei(folder, trace)
    print(f"Huawei {trace}, {share:.0%} of the hosts, seed {seed}: {len(requests)} requests ...", file=sys.stderr)
    vms = [vm for request in requests for vm in request.vms]
    images = [Size(ram_mb, cpus) for ram_mb, cpus in sorted({(vm.ram_mb, vm.cpus) for vm in vms})]
    hosts = traces.huawei_hosts(folder, share, seed)
    ours = Watched(Ours(hosts, images))
    outcome = replay(hosts, requests, ours)
    return {
        "hosts": f"{share:.0%}",
        "trace": trace,
        "seed": seed,
        "requests": len(requests),
        "refused": outcome.refused,
        "GB asked": sum(vm.ram_mb for vm in vms) // 1024,
        "GB placed": outcome.placed_ram_mb // 1024,
        "Nova GB": replay(hosts, requests, NovaDefault(hosts)).placed_ram_mb // 1024,
        "bound GB": round(most_ram_mb(hosts, vms) / 1024),
        "rule broken": ours.broken,
    }
