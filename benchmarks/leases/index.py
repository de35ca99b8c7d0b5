"""A whole file into an index: CPU time and memory, beside the parser of PyPI and the counter of Debian."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.leases import churn
from benchmarks.leases.contestants import PACKAGE, dhcpd_pools, digest
from benchmarks.leases.parts import ROUNDS, Options, in_child
from benchmarks.targets import Figure, at_least, at_most
from esxprov.tables import table

_CONF = "subnet 10.0.0.0 netmask 255.0.0.0 {\n  range 10.77.1.0 10.95.255.255;\n}\n"


def measure(options: Options) -> list[Figure]:
    """The figures; the leases that we find must be those the file was made of."""
    now = int(time.time())
    conf, path = options.directory / "dhcpd.conf", options.directory / "index.leases"
    conf.write_text(_CONF)
    owners = churn.write(path, options.records, options.seed, now)
    times: dict[str, list[float]] = {"ours": [], PACKAGE: [], "dhcpd-pools": []}
    for _ in range(ROUNDS):
        times["ours"].append(_read("ours", path, now, owners)["cpu_s"])
        times[PACKAGE].append(in_child("benchmarks.leases.contestants", PACKAGE, path, now)["cpu_s"])
        times["dhcpd-pools"].append(dhcpd_pools(conf, path))
    best = {name: min(seconds) for name, seconds in times.items()}

    owners = churn.write(path, options.many, options.seed, now)
    ours = _read("ours", path, now, owners)
    theirs = in_child("benchmarks.leases.contestants", PACKAGE, path, now)
    pools_s = dhcpd_pools(conf, path)
    path.unlink()

    rows = [
        _row("esxprov", best["ours"], ours),
        _row(PACKAGE, best[PACKAGE], theirs),
        _row("dhcpd-pools", best["dhcpd-pools"], {"cpu_s": pools_s}),
    ]
    few, many = f"cpu_s_{options.records}", f"cpu_s_{options.many}"
    print(f"\nA whole file into an index, CPU seconds by the number of records; {PACKAGE} finds {theirs['leases']} of")
    print(f"{len(owners)} leases, dhcpd-pools only counts.")
    renamed = [{"reader": row["reader"], few: row["few"], many: row["many"], "peak_mb": row["peak_mb"]} for row in rows]
    print(table(renamed, ("reader", few, many, "peak_mb")))
    return [
        at_least(f"{PACKAGE}: its CPU over ours, {options.records} records", 12, best[PACKAGE] / best["ours"]),
        at_most(f"our CPU over dhcpd-pools', {options.records} records", 3.5, best["ours"] / best["dhcpd-pools"]),
        at_most(f"our peak memory over {PACKAGE}'s, {options.many} records", 0.1, ours["peak_mb"] / theirs["peak_mb"]),
    ]


def _read(name: str, path: Path, now: int, owners: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = in_child("benchmarks.leases.contestants", name, path, now)
    if found["digest"] != digest(owners):
        raise RuntimeError(f"{name} found {found['leases']} leases in {path}, {len(owners)} others are right")
    return found


def _row(name: str, few_s: float, many: dict[str, Any]) -> dict[str, Any]:
    peak = f"{many['peak_mb']:.0f}" if "peak_mb" in many else "-"
    return {"reader": name, "few": f"{few_s:.3f}", "many": f"{many['cpu_s']:.2f}", "peak_mb": peak}
