"""`python -m benchmarks.placement.claims [--rounds N] [--seconds S] [--hosts N ...]`: how fast claims are taken in
MariaDB, against a bare loop with the same locks and writes, in one run.

How it is measured. Processes take room for one VM, or for a cluster (10 %, of 3 to 8), and once they hold a few give
the oldest back; on equal hosts that have some running VMs each, and room for all that is asked. What is counted are
wants answered in a second, of all processes together; what is given back in between takes its time on both sides. The
sides take turns for the same time, on fresh tables; each rate is compared with that of the bare loop in the same round,
because a machine that others use is not as fast in the next one, and the median of these ratios counts:

* bare, the floor: 16 processes, each with one PyMySQL connection and a plain cursor. For a want: BEGIN, the lock's row
  is taken and incremented (one statement), each VM's host is conditionally updated, the claims are inserted (one
  statement), COMMIT. To give back: BEGIN, the lock's row, each VM's host, the claims (one statement), COMMIT. Each
  statement is sent by itself, as a sensible person would. It reads nothing and decides nothing: hosts are picked
  blindly, where we need the claims of all others to choose.
* ours: 16 processes with esxprov's claims, and a stand-in for the decision that takes any host with room, by sums that
  are kept as the ledger changes: how a host is chosen is measured elsewhere.
* batched: one process with 64 threads that ask at once, as those of the service do.

Then 16 processes place near capacity while they are killed at random (claim_crashes.py): no host may be over-committed
or have wrong sums in any sample, no claim may be lost or left behind, and nobody may get an error.

The server is the test bed's, which syncs nothing to disk: a sync would take the same time for each commit of all sides,
and hide what is compared. No side has it otherwise.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import percentile
from benchmarks.placement import claim_crashes, claim_work
from benchmarks.placement.claim_work import Farm, Shift
from benchmarks.placement.parts import Options
from benchmarks.targets import Figure, at_least, at_most, summary
from esxprov import schema
from esxprov.database import Database, DatabaseConfig
from esxprov.tables import table
from tests.testbed.mariadb import PASSWORD, MariaDb

ROUNDS, SECONDS, KILLS = 5, 4.0, 50
WORKERS = 16
THREADS = 64
FARMS = tuple(Farm(hosts, most_ram_mb=512 * 1024, most_cpus=1024, held=4) for hosts in (20, 1000))
FULL = 0.05
TIGHT_FARMS = (Farm(20, 64 * 1024, 128, held=4), Farm(1000, 16 * 1024, 32, held=50))
NEARLY_FULL = 0.75
"""Of the hosts' RAM, before anybody begins."""
_WARM_UP_S = 1.0
_COLUMNS = ("hosts", "side", "processes", "threads", "rounds", "wants/s", "p50 ms", "p99 ms", "ratio")
_CRASH_COLUMNS = (
    "hosts", "killed", "placed", "refused", "samples", "over_committed", "drifted", "lost", "leaked", "errors"
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Side:
    """Who takes, and how many there are. `bound` is the least that its rate may be, in rates of the bare loop."""

    name: str
    kind: str
    processes: int
    threads: int
    bound: float | None


SIDES = (
    Side("bare", "bare", WORKERS, 1, None),
    Side("ours", "ours", WORKERS, 1, 0.8),
    Side("batched", "ours", 1, THREADS, 4.0),
)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.placement.claims", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"how often each side has its turn ({ROUNDS})")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"how long wants are counted ({SECONDS})")
    parser.add_argument("--hosts", type=int, action="append", help="of these farms only; repeatable (20, 1000)")
    parser.add_argument("--kills", type=int, default=KILLS, help=f"processes that are killed on each farm ({KILLS})")
    chosen = parser.parse_args()
    hosts = chosen.hosts or [farm.hosts for farm in FARMS]
    print(f"\n{summary(_measured(hosts, chosen.rounds, chosen.seconds, chosen.kills))}")


def measure(_: Options) -> list[Figure]:
    """Both farms."""
    return _measured([farm.hosts for farm in FARMS], ROUNDS, SECONDS, KILLS)


def _measured(hosts: Sequence[int], rounds: int, seconds: float, kills: int) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="esxprov-claims-") as directory, MariaDb(Path(directory)) as server:
        config = DatabaseConfig(unix_socket=str(server.socket), user="esxprov", password=PASSWORD)
        schema.upgrade(Database(config))
        rates = [
            row for farm in FARMS if farm.hosts in hosts for row in _compared(server, config, farm, rounds, seconds)
        ]
        crashes = [_crashed(server, config, farm, kills) for farm in TIGHT_FARMS if farm.hosts in hosts]
    print(f"\n{table(rates, _COLUMNS)}\n\n{table(crashes, _CRASH_COLUMNS)}")
    bounds = {side.name: side.bound for side in SIDES}
    found = [
        at_least(f"claims, {row['hosts']} hosts: {row['side']} against the bare loop", bound, row["ratio"])
        for row in rates
        if (bound := bounds[row["side"]]) is not None
    ]
    for row in crashes:
        name = f"claims, {row['hosts']} hosts, {row['killed']} killed: over-commits, drift, lost, left, errors"
        found.append(at_most(name, 0, row["wrong"]))
    return found


def _compared(server: MariaDb, config: DatabaseConfig, farm: Farm, rounds: int, seconds: float) -> list[dict[str, Any]]:
    times: dict[Side, list[list[float]]] = {side: [] for side in SIDES}
    for number in range(rounds):
        for side in SIDES:
            claim_work.fill(server, farm, FULL)
            times[side].append(_turn(config, farm, side, seconds))
            rate = len(times[side][-1]) / seconds
            print(f"{farm.hosts} hosts, round {number + 1}, {side.name}: {rate:.0f} wants/s", file=sys.stderr)
    return [_row(farm, side, times[side], seconds, times[SIDES[0]]) for side in SIDES]


def _crashed(server: MariaDb, config: DatabaseConfig, farm: Farm, kills: int) -> dict[str, Any]:
    print(f"{farm.hosts} hosts: {kills} are killed ...", file=sys.stderr)
    outcome = claim_crashes.run(server, config, farm, kills, NEARLY_FULL)
    for error in outcome.errors:
        print(f"{farm.hosts} hosts: {error}", file=sys.stderr)
    return asdict(outcome) | {"hosts": farm.hosts, "errors": len(outcome.errors), "wrong": outcome.wrong}


def _row(
    farm: Farm, side: Side, turns: Sequence[Sequence[float]], seconds: float, floor: Sequence[Sequence[float]]
) -> dict[str, Any]:
    ratio = statistics.median(len(turn) / len(bare) for turn, bare in zip(turns, floor, strict=True))
    taken_ms = [1000 * one for turn in turns for one in turn]
    return {
        "hosts": farm.hosts,
        "side": side.name,
        "processes": side.processes,
        "threads": side.threads,
        "rounds": len(turns),
        "wants/s": round(statistics.median(map(len, turns)) / seconds),
        "p50 ms": round(percentile(taken_ms, 50), 2),
        "p99 ms": round(percentile(taken_ms, 99), 2),
        "ratio": round(ratio, 3),
    }


def _turn(config: DatabaseConfig, farm: Farm, side: Side, seconds: float) -> list[float]:
    with _workers(config, farm, side) as pipes:
        for pipe in pipes:
            assert pipe.recv() == "ready"
        start = time.monotonic() + 0.05
        shift = Shift(start, start + _WARM_UP_S, start + _WARM_UP_S + seconds)
        for pipe in pipes:
            pipe.send(shift)
        return [one for pipe in pipes for one in pipe.recv()]


@contextmanager
def _workers(config: DatabaseConfig, farm: Farm, side: Side) -> Iterator[list[multiprocessing.connection.Connection]]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.placement.claim_work"])
    ends = [context.Pipe() for _ in range(side.processes)]
    workers = [
        context.Process(target=claim_work.run, args=(side.kind, config, farm, number, side.threads, theirs))
        for number, (_, theirs) in enumerate(ends)
    ]
    for worker in workers:
        worker.start()
    try:
        yield [ours for ours, _ in ends]
    finally:
        for worker in workers:
            worker.join(30)


if __name__ == "__main__":
    main()
