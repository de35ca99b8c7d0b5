"""What every part of the benchmark is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Options:
    """`seeds` of generated workloads, from 1 on; `traces` is the folder with the files that traces.py names, if any."""

    seeds: int
    loads: tuple[float, ...]
    traces: Path | None
