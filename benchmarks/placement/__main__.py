"""`python -m benchmarks.placement [--seeds N] [--load L ...] [--azure FOLDER]`: how much of what Nova's default refuses
the project places, measured against free repacking, in one run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.placement import traces, workload
from benchmarks.placement.bound import FreeRepacking
from benchmarks.placement.nova import NovaDefault
from benchmarks.placement.ours import Ours
from benchmarks.placement.replay import Outcome, replay
from benchmarks.placement.rows import Host, Request
from esxprov.placement.snapshot import Size
from esxprov.tables import table

_COLUMNS = ("workload", "seeds", "Nova GB %", "ours GB %", "bound GB %", "closed", "bound/ours refusals", "undecided")
_IMAGES = [Size(image.ram_mb, image.cpus, round(100 * image.share)) for image in workload.CATALOGUE]

Case = tuple[Sequence[Host], Sequence[Request], Sequence[Size]]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.placement", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="how many workloads, from seed 1 on (5)")
    parser.add_argument("--load", type=float, action="append", help="of the farm, at the peak; repeatable (1.0, 1.1)")
    parser.add_argument("--azure", type=Path, metavar="FOLDER", help="where azure_v1_dev.csv.gz is; 14 mixed blades")
    chosen = parser.parse_args()
    seeds = range(1, chosen.seeds + 1)
    rows = [_row(f"VCL-like, load {load}", _vcl(load), seeds) for load in chosen.load or (1.0, 1.1)]
    if chosen.azure:
        rows += [_row(f"Azure, load {load}", _azure(chosen.azure, load), seeds) for load in (0.95, 1.05)]
    print(table(rows, _COLUMNS))
    print(
        "\nGB %: refused, of all that was asked for. closed: of what Nova's default refuses beyond the bound, the "
        "share that ours places. bound: first come first served where everything may be moved for whatever comes."
    )


def _vcl(load: float) -> Callable[[int], Case]:
    def case(seed: int) -> Case:
        hosts = workload.farm(seed)
        return hosts, workload.requests(seed, hosts, load), _IMAGES

    return case


def _azure(folder: Path, load: float) -> Callable[[int], Case]:
    def case(seed: int) -> Case:
        hosts = workload.farm(seed, vcpu_ratio=1, threads=(32, 40, 40, 48))
        requests = traces.azure(folder, hosts, load, seed)
        sizes = sorted({(vm.ram_mb, vm.cpus) for request in requests for vm in request.vms})
        return hosts, requests, [Size(ram_mb, cpus) for ram_mb, cpus in sizes]

    return case


def _row(name: str, case: Callable[[int], Case], seeds: Sequence[int]) -> dict[str, Any]:
    found = [list(_outcomes(name, seed, *case(seed))) for seed in seeds]
    nova, ours, bound = ([one[number][0] for one in found] for number in range(3))
    lost, kept, least = (100 * statistics.fmean(one.refused_share for one in each) for each in (nova, ours, bound))
    return {
        "workload": name,
        "seeds": len(seeds),
        "Nova GB %": round(lost, 3),
        "ours GB %": round(kept, 3),
        "bound GB %": round(least, 3),
        "closed": round((lost - kept) / (lost - least), 3) if lost > least else None,
        "bound/ours refusals": round(sum(one.refused for one in bound) / max(1, sum(one.refused for one in ours)), 3),
        "undecided": sum(one[2][1] for one in found),
    }


def _outcomes(
    name: str, seed: int, hosts: Sequence[Host], requests: Sequence[Request], images: Sequence[Size]
) -> Iterator[tuple[Outcome, int]]:
    """Of Nova's default, of ours and of the bound; with it how often that was undecided."""
    print(f"{name}, seed {seed}: {len(requests)} requests ...", file=sys.stderr)
    yield replay(hosts, requests, NovaDefault(hosts)), 0
    yield replay(hosts, requests, Ours(hosts, images)), 0
    bound = FreeRepacking(hosts)
    yield replay(hosts, requests, bound), bound.undecided


if __name__ == "__main__":
    main()
