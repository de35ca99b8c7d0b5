"""Rotations of the file under live appends: which leases are announced, and whether the end is right."""

from __future__ import annotations

from typing import Any

from benchmarks.leases.churn import HEADER
from benchmarks.leases.parts import Options, in_child
from benchmarks.targets import Figure, at_least
from esxprov.leases.follower import LeaseFile
from esxprov.leases.watcher import LeaseWatcher
from esxprov.model import Lease
from esxprov.tables import table

_PACES_MS = (10.0, 5.0, 1.0, 0.0)


def measure(options: Options) -> list[Figure]:
    """The figures. At a pace that no dhcpd has, a lease may come and go between two looks: then the end counts."""
    found = {pace_ms: _rotated(options, pace_ms) for pace_ms in _PACES_MS}
    print(f"\n{options.rotations} rotations with seven new leases between two, by the least time between two.")
    rows = [{"pace_ms": pace_ms, **row} for pace_ms, row in found.items()]
    print(table(rows, ("pace_ms", "written", "announced", "end")))
    slowest_ms = _PACES_MS[0]
    announced = found[slowest_ms]["announced"] / found[slowest_ms]["written"]
    exact = sum(row["end"] == "exact" for row in rows) / len(rows)
    return [
        at_least(f"share of leases announced, rotations {slowest_ms:g} ms apart", 1, announced),
        at_least("share of paces with an exact end", 1, exact),
    ]


def _rotated(options: Options, pace_ms: float) -> dict[str, Any]:
    directory = options.directory / f"rotation-{pace_ms:g}"
    directory.mkdir()
    path = directory / "dhcpd.leases"
    path.write_bytes(HEADER)
    announced: set[str] = set()

    def hear(lease: Lease) -> None:
        announced.add(lease.mac)

    with LeaseWatcher(LeaseFile(path), None, hear) as watcher:
        done = in_child("benchmarks.leases.rotator", path, options.rotations, pace_ms, options.seed)
        watcher.mark()
        at_end = {lease.ip: lease.mac for lease in watcher.active()}
    return {
        "written": done["written"],
        "announced": len(announced),
        "end": "exact" if at_end == done["owners"] else "WRONG",
    }
