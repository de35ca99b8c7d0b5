"""From the append of a record to the callback, beside the least that inotify and a read can take."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from benchmarks.figures import percentile
from benchmarks.leases import churn
from benchmarks.leases.parts import ROUNDS, Options, in_child
from benchmarks.targets import Figure, at_most
from esxprov.tables import table

_APPENDED = 2000
_SMALL = 1000


def measure(options: Options) -> list[Figure]:
    """The figures. Of each number the best round counts; the ways take turns."""
    ways = {
        "floor": ("floor", options.records),
        "watcher": ("watcher", options.records),
        "watcher, small file": ("watcher", _SMALL),
        "watcher, huge file": ("watcher", options.many),
    }
    files = {records: _written(options, records) for records in {records for _, records in ways.values()}}
    rounds = [{name: _heard(how, files[records]) for name, (how, records) in ways.items()} for _ in range(ROUNDS)]
    best = {name: {key: min(one[name][key] for one in rounds) for key in ("p50", "p99", "cpu")} for name in ways}
    print(f"\nFrom the beginning of a write to the callback, {_APPENDED} records appended and synced one by one,")
    print("microseconds; and CPU microseconds per record.")
    rows = [
        {"way": name, "records": ways[name][1], **{key: f"{us:.0f}" for key, us in found.items()}}
        for name, found in best.items()
    ]
    print(table(rows, ("way", "records", "p50", "p99", "cpu")))
    ours, floor = best["watcher"], best["floor"]
    cpu = best["watcher, huge file"]["cpu"] / best["watcher, small file"]["cpu"]
    return [
        at_most("append to callback over the floor, p50", 5, ours["p50"] / floor["p50"]),
        at_most("append to callback over the floor, p99", 4, ours["p99"] / floor["p99"]),
        at_most(f"CPU per appended lease behind {options.many} records over {_SMALL}", 1.5, cpu),
    ]


def _written(options: Options, records: int) -> Path:
    """A file in a directory of its own."""
    path = options.directory / f"append-{records}" / "dhcpd.leases"
    path.parent.mkdir()
    churn.write(path, records, options.seed, int(time.time()))
    return path


def _heard(how: str, path: Path) -> dict[str, float]:
    size = path.stat().st_size
    heard: dict[str, Any] = in_child("benchmarks.leases.hearer", how, path, _APPENDED)
    os.truncate(path, size)
    delays = heard["delays_us"]
    return {"p50": percentile(delays, 50), "p99": percentile(delays, 99), "cpu": heard["cpu_us"]}
