"""Real requests from public traces, as rows. The files are not part of the project: their folder is an argument.

`azure_v1_dev.csv.gz` (`t,dur,cpu,ram_gb,gang`) is derived from the Azure public dataset V1, CC-BY-4.0; `huawei_C1.csv`,
`huawei_C2.csv` (`seq,flavor_vcpus,flavor_ram,numa,strategy,group,domain`) and `huawei_hosts_free.csv` are from
mdl1104/Dataset-for-topology-aware-VM-placement, CC0-1.0.
"""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import groupby
from pathlib import Path

import numpy as np

from benchmarks.placement.demand import thinned
from benchmarks.placement.rows import Host, Request, Vm

FILES = ("azure_v1_dev.csv.gz", "huawei_C1.csv", "huawei_C2.csv", "huawei_hosts_free.csv")


def azure(folder: Path, hosts: Sequence[Host], load: float, seed: int, most_vms: int = 12) -> list[Request]:
    """What tenants of Azure created together comes together, at most `most_vms`; left out at random down to `load`."""
    return thinned(_azure(folder, most_vms), hosts, load, seed)


def azure_sizes(folder: Path, most_vms: int = 12) -> dict[tuple[int, int], int]:
    """How often each size, (RAM in MB, vCPUs), is asked for: what the site of the trace would have known by then."""
    return dict(sorted(Counter((vm.ram_mb, vm.cpus) for each in _azure(folder, most_vms) for vm in each.vms).items()))


@cache
def _azure(folder: Path, most_vms: int) -> list[Request]:
    with gzip.open(folder / "azure_v1_dev.csv.gz", "rt", newline="") as file:
        batches: dict[str, list[dict[str, str]]] = {}
        for row in csv.DictReader(file):
            batches.setdefault(row["gang"], []).append(row)
    return [
        Request(
            f"batch{batch}",
            int(float(rows[0]["t"])),
            tuple(_azure_vm(f"batch{batch}-{number}", row) for number, row in enumerate(rows[:most_vms], start=1)),
        )
        for batch, rows in batches.items()
    ]


def _azure_vm(name: str, row: dict[str, str]) -> Vm:
    duration_s = int(float(row["dur"]))
    return Vm(name, int(row["cpu"]), _mb(row["ram_gb"]), duration_s if duration_s >= 0 else None)


def huawei(folder: Path, name: str) -> list[Request]:
    """Consecutive rows of one group come together, all or none, one a second; nothing goes.

    Of an anti-affinity group no two VMs may share a host, whenever they come. Affinity and fault domains are not asked
    for: the hosts of these files have no domains, and the bound knows neither.
    """
    with (folder / f"huawei_{name}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    requests: list[Request] = []
    for (strategy, group), together in groupby(rows, lambda row: (row["strategy"], row["group"])):
        vms = [Vm(f"{name}-{row['seq']}", int(row["flavor_vcpus"]), _mb(row["flavor_ram"]), None) for row in together]
        for batch in [tuple(vms)] if group else [(vm,) for vm in vms]:
            apart = strategy == "anti-affinity"
            called = f"apart-{group}" if apart else batch[0].name
            requests.append(Request(called, len(requests), batch, 1 if apart else None))
    return requests


def huawei_hosts(folder: Path, share: float, seed: int) -> list[Host]:
    """So large a share of the hosts, chosen at random, with what is free on all of their NUMA nodes."""
    with (folder / "huawei_hosts_free.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = np.random.default_rng(seed).choice(len(rows), round(share * len(rows)), replace=False)
    return [
        Host(
            f"host{row['host']}",
            int(row["numa0_cpu"]) + int(row["numa1_cpu"]),
            _mb(row["numa0_ram_gb"]) + _mb(row["numa1_ram_gb"]),
        )
        for row in (rows[number] for number in sorted(chosen))
    ]


def _mb(gb: str) -> int:
    return int(float(gb) * 1024)
