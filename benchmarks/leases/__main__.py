"""`python -m benchmarks.leases [--only PART ...] [--records N] [--many N] ...`: what the reading of leases reaches.

Every part compares with something else in the same run. The exit code is 0 also if a target is not reached.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.leases import append, growth, guests, index, rotation
from benchmarks.leases.parts import Options
from benchmarks.targets import Figure, summary

_PARTS = {
    "index": index.measure,
    "growth": growth.measure,
    "append": append.measure,
    "guests": guests.measure,
    "rotation": rotation.measure,
}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.leases", description=__doc__)
    parser.add_argument("--only", action="append", choices=[*_PARTS], help="this part; repeatable (all)")
    parser.add_argument("--records", type=int, default=100_000, help="of a busy site's file (100000)")
    parser.add_argument("--many", type=int, default=1_000_000, help="of a huge file (1000000)")
    parser.add_argument("--guests", type=int, default=1000, help="that boot on the test bed's LAN (1000)")
    parser.add_argument("--rotations", type=int, default=1000, help="of the file, at each pace (1000)")
    parser.add_argument("--seed", type=int, default=1, help="of everything that is generated (1)")
    chosen = parser.parse_args()
    numbers = (chosen.records, chosen.many, chosen.guests, chosen.rotations)
    if min(numbers) < 1:
        parser.error("all numbers must be positive")
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="esxprov-leases-") as directory:
        options = Options(*numbers, chosen.seed, Path(directory))
        for name in chosen.only or _PARTS:
            print(f"measuring {name} ({os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}) ...", file=sys.stderr)
            figures += _PARTS[name](options)
    print(f"\n{summary(figures)}")


if __name__ == "__main__":
    main()
