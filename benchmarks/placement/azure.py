"""Requests of Azure's tenants on 14 mixed blades without over-commitment: against Nova's default and the bound."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.placement import traces, workload
from benchmarks.placement.contest import Case, contest
from benchmarks.placement.parts import Options
from benchmarks.targets import Figure, at_least
from esxprov.placement.snapshot import Size

_LOADS = (0.95, 1.05)

_TIMES_SEEDS = 3
"""Some 700 requests fill the farm, of which few are refused: it takes more seeds to tell."""


def measure(options: Options) -> Iterator[Figure]:
    """At two loads; a seed is a farm and which batches are left out."""
    if options.traces is None:
        print("\nAzure: not measured, for no --traces FOLDER was given")
    for load in _LOADS:
        name = f"Azure, load {load}: closed between Nova and the bound"
        if options.traces is None:
            yield at_least(name, 0.85, None)
            continue
        seeds = range(1, _TIMES_SEEDS * options.seeds + 1)
        found = contest(f"Azure, load {load}", _case(options.traces, load), seeds)
        print(f"\nAzure trace, load {load}, {len(seeds)} seeds; sums, and ratios of sums, over the seeds")
        print(found.report())
        yield at_least(name, 0.85, found.closed)


def _case(folder: Path, load: float) -> Callable[[int], Case]:
    popularity = traces.azure_sizes(folder)

    def case(seed: int) -> Case:
        hosts = workload.farm(seed, vcpu_ratio=1, threads=(32, 40, 40, 48))
        requests = traces.azure(folder, hosts, load, seed)
        return hosts, requests, [Size(*size, many) for size, many in popularity.items()]

    return case
