"""`python -m benchmarks [NAME ...] [--json FILE]`: measure, print a table, and fail if a bound is missed."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from benchmarks import disks, lease, load, shim_call
from benchmarks.figures import COLUMNS, Figure
from benchmarks.stage import Stage, opened
from esxprov.tables import table

BENCHMARKS = {benchmark.NAME: benchmark.run for benchmark in (shim_call, load, lease, disks)}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which to run: {', '.join(BENCHMARKS)} (all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    chosen = parser.parse_args()
    for name in chosen.names:
        if name not in BENCHMARKS:
            parser.error(f"there is no benchmark {name!r}, there are: {', '.join(BENCHMARKS)}")
    with tempfile.TemporaryDirectory(prefix="esxprov-benchmarks-") as directory, opened(Path(directory)) as stage:
        figures = _measured(stage, chosen.names or list(BENCHMARKS))
    print(table([figure.row() for figure in figures], COLUMNS))
    for figure in figures:
        print(f"\n{figure.benchmark}, {figure.case}: {figure.compared}.")
    if chosen.json:
        chosen.json.write_text(json.dumps([figure.to_json() for figure in figures], indent=2) + "\n")
    missed = [f"{figure.benchmark}, {figure.case}" for figure in figures if figure.holds is False]
    if missed:
        sys.exit(f"\nmissed: {'; '.join(missed)}")


def _measured(stage: Stage, names: list[str]) -> list[Figure]:
    figures: list[Figure] = []
    for name in names:
        print(f"measuring {name} ({os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}) ...", file=sys.stderr)
        figures += BENCHMARKS[name](stage)
    return figures


if __name__ == "__main__":
    main()
