"""`python -m benchmarks.placement [--only PART ...] [--seeds N] [--load L ...] [--traces FOLDER]`: what it reaches.

Every part compares with something else in the same run. The exit code is 0 also if a target is not reached.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.placement import azure, campus, claims, clusters, huawei, speed, stale, traces
from benchmarks.placement.parts import Options
from benchmarks.targets import summary

_PARTS = {
    "campus": campus.measure,
    "azure": azure.measure,
    "huawei": huawei.measure,
    "clusters": clusters.measure,
    "speed": speed.measure,
    "stale": stale.measure,
    "claims": claims.measure,
}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.placement", description=__doc__)
    parser.add_argument("--only", action="append", choices=[*_PARTS], help="this part; repeatable (all)")
    parser.add_argument("--seeds", type=int, default=20, help="how many workloads, from seed 1 on (20)")
    parser.add_argument("--load", type=float, action="append", help="of the campus, at the peak; repeatable (1.0, 1.1)")
    parser.add_argument("--traces", type=Path, metavar="FOLDER", help="where the files are that traces.py names")
    chosen = parser.parse_args()
    if chosen.seeds < 1 or min(chosen.load or [1]) <= 0:
        parser.error("--seeds and --load must be positive")
    if chosen.traces and (missing := [name for name in traces.FILES if not (chosen.traces / name).is_file()]):
        parser.error(f"--traces: there is no {missing[0]} in {chosen.traces}")
    options = Options(chosen.seeds, tuple(chosen.load or (1.0, 1.1)), chosen.traces)
    figures = [figure for part in chosen.only or _PARTS for figure in _PARTS[part](options)]
    print(f"\n{summary(figures)}")


if __name__ == "__main__":
    main()
