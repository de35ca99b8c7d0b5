"""Real requests from public traces, as rows. The files are not part of the project: their folder is an argument.

`azure_v1_dev.csv.gz` (`t,dur,cpu,ram_gb,gang`) is derived from the Azure public dataset V1, CC-BY-4.0; `huawei_C1.csv`,
`huawei_C2.csv` (`seq,flavor_vcpus,flavor_ram,numa,strategy,group,domain`) and `huawei_hosts_free.csv` are from
mdl1104/Dataset-for-topology-aware-VM-placement, CC0-1.0.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Sequence
from pathlib import Path

from benchmarks.placement.demand import thinned
from benchmarks.placement.rows import Host, Request, Vm


def azure(folder: Path, hosts: Sequence[Host], load: float, seed: int, most_vms: int = 12) -> list[Request]:
    """What tenants of Azure created together comes together, at most `most_vms`; left out at random down to `load`."""
    with gzip.open(folder / "azure_v1_dev.csv.gz", "rt", newline="") as file:
        batches: dict[str, list[dict[str, str]]] = {}
        for row in csv.DictReader(file):
            batches.setdefault(row["gang"], []).append(row)
    requests = [
        Request(
            f"batch{batch}",
            int(float(rows[0]["t"])),
            tuple(_azure_vm(f"batch{batch}-{number}", row) for number, row in enumerate(rows[:most_vms], start=1)),
        )
        for batch, rows in batches.items()
    ]
    return thinned(requests, hosts, load, seed)


def _azure_vm(name: str, row: dict[str, str]) -> Vm:
    duration_s = int(float(row["dur"]))
    return Vm(name, int(row["cpu"]), int(float(row["ram_gb"]) * 1024), duration_s if duration_s >= 0 else None)
