"""Processes that place near capacity and are killed at random, and what the tables say meanwhile and afterwards.

The dead are replaced, and now and then what they held is freed as the reconciler does it: their leases are over and no
host has a VM of theirs. Nobody who lives may lose a claim by it.
"""

from __future__ import annotations

import multiprocessing
import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized

from benchmarks.placement import claim_work
from benchmarks.placement.claim_work import Farm
from esxprov.database import Cursor, Database, DatabaseConfig, rows
from esxprov.model import Claim, ClaimState
from esxprov.placement.claims import Claims
from esxprov.placement.reconcile import Memory, Seen, reconcile
from tests.testbed.mariadb import MariaDb

PROCESSES = 16
_EVERY = 10
"""After so many kills, what the dead held is freed."""


@dataclass(slots=True)
class Outcome:
    """`samples` are consistent reads of hosts and claims; a host that is over-committed in one counts each time, and so
    does one whose sums are not those of its claims. `lost` are claims of the living that went, `leaked` those of the
    dead that stayed. `errors` are what any `take` or `release` raised.
    """

    killed: int = 0
    placed: int = 0
    refused: int = 0
    samples: int = 0
    over_committed: int = 0
    drifted: int = 0
    lost: int = 0
    leaked: int = 0
    errors: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> int:
        """How much there is that must not be."""
        return self.over_committed + self.drifted + self.lost + self.leaked + len(self.errors)


class _Crew:
    """PROCESSES workers, each with a number that no other has had."""

    def __init__(self, config: DatabaseConfig, farm: Farm) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["benchmarks.placement.claim_crashes"])
        self._config = config
        self._farm = farm
        self._hired = 0
        self.members = [self._hire() for _ in range(PROCESSES)]

    def _hire(self) -> _Member:
        self._hired += 1
        placed, refused = self._context.Value("q", 0), self._context.Value("q", 0)
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_work, args=(self._config, self._farm, self._hired, placed, refused, theirs)
        )
        process.start()
        return _Member(self._hired, process, ours, placed, refused)

    def kill(self, number: int) -> _Member:
        """One of them dies, another one comes."""
        dead = self.members[number]
        dead.process.kill()
        dead.process.join()
        self.members[number] = self._hire()
        return dead


@dataclass(slots=True)
class _Member:
    number: int
    process: multiprocessing.process.BaseProcess
    pipe: Connection
    placed: Synchronized[int]
    refused: Synchronized[int]

    @property
    def owner(self) -> str:
        return f"worker {self.number}"


def _work(
    config: DatabaseConfig,
    farm: Farm,
    number: int,
    placed: Synchronized[int],
    refused: Synchronized[int],
    pipe: Connection,
) -> None:
    """Take and give back until told to stop; then tell which claims are still held, and what went wrong."""
    placer, rng = claim_work.Ours(config, farm, number), random.Random(number)
    held: deque[Sequence[Claim]] = deque()
    errors = []
    want = 100_000 * number
    while not pipe.poll():
        want += 1
        try:
            if taken := placer.take(want, claim_work.vms(rng)):
                held.append(taken)
                placed.value += 1
            else:
                refused.value += 1
            if len(held) > farm.held or (not taken and held):
                placer.release(held.popleft())
        except Exception as error:
            errors.append(repr(error))
    pipe.send(({claim.id for claims in held for claim in claims}, errors))


def run(server: MariaDb, config: DatabaseConfig, farm: Farm, kills: int, full: float, seed: int = 1) -> Outcome:
    """On a farm that is `full` (a share of its RAM) before anybody begins."""
    claim_work.fill(server, farm, full)
    database, rng, outcome = Database(config), random.Random(seed), Outcome()
    claims = Claims(database, "reconciler")
    crew = _Crew(config, farm)
    dead: list[_Member] = []
    while outcome.killed < kills:
        _sample(database, farm, outcome)
        number = rng.randrange(PROCESSES)
        if crew.members[number].placed.value:
            time.sleep(rng.uniform(0, 0.05))  # so that it is killed anywhere in what it does
            dead.append(crew.kill(number))
            outcome.killed += 1
            if outcome.killed % _EVERY == 0:
                _free(server, claims, farm, dead)
    for member in crew.members:
        member.pipe.send("stop")
    held: set[str] = set()
    for member in crew.members:
        ids, errors = member.pipe.recv()
        held |= ids
        outcome.errors += errors
        member.process.join()
    _free(server, claims, farm, dead)
    _sample(database, farm, outcome)
    everybody = [*dead, *crew.members]
    outcome.placed = sum(member.placed.value for member in everybody)
    outcome.refused = sum(member.refused.value for member in everybody)
    left = {claim.id for claim in claims.all() if claim.state is ClaimState.CLAIMED}
    outcome.lost, outcome.leaked = len(held - left), len(left - held)
    database.close()
    return outcome


def _free(server: MariaDb, claims: Claims, farm: Farm, dead: Sequence[_Member]) -> None:
    owners = ", ".join(["''", *(f"'{member.owner}'" for member in dead)])
    server.execute(
        f"UPDATE esxprov_claim SET leased_until = UTC_TIMESTAMP() - INTERVAL 1 SECOND WHERE owner IN ({owners}) "
        "AND leased_until IS NOT NULL"
    )
    hosts = frozenset(farm.key(number) for number in range(farm.hosts))
    seen = [Seen(host.endpoint, frozenset([host]), ()) for host in hosts]
    claims.correct(reconcile(claims.books(), seen, hosts, Memory(), force=True).corrections)


def _sample(database: Database, farm: Farm, outcome: Outcome) -> None:
    """Hosts and claims in one read: one statement sees one moment."""

    def read(cursor: Cursor) -> list[dict[str, int]]:
        cursor.execute(
            "SELECT h.used_ram_mb > %s OR h.used_cpus > %s AS over_committed, "
            "h.used_ram_mb <> COALESCE(c.ram_mb, 0) OR h.used_cpus <> COALESCE(c.cpus, 0) AS drifted "
            "FROM esxprov_host h LEFT JOIN (SELECT endpoint, moid, SUM(ram_mb) AS ram_mb, SUM(cpus) AS cpus "
            "FROM esxprov_claim WHERE state <> 'released' GROUP BY endpoint, moid) c "
            "ON c.endpoint = h.endpoint AND c.moid = h.moid HAVING over_committed OR drifted",
            (farm.most_ram_mb, farm.most_cpus),
        )
        return rows(cursor)

    found = database.single(read)
    outcome.samples += 1
    outcome.over_committed += sum(row["over_committed"] for row in found)
    outcome.drifted += sum(row["drifted"] for row in found)
