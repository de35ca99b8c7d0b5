"""What a placing process does in the benchmark of the claims: the bare loop, and our own claims. See claims.py."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Protocol

import pymysql

from esxprov.database import Database, DatabaseConfig
from esxprov.model import Claim, HostKey
from esxprov.placement.claims import Claims
from esxprov.placement.ledger import Ledger
from esxprov.placement.wants import Proposal, Room, Want
from tests.testbed.mariadb import MariaDb

SIZES = ((1024, 1), (2048, 2), (4096, 2), (8192, 4))
"""(RAM in MB, vCPUs)."""

CLUSTERS = 0.1
"""The share of wants that are clusters, of 3 to 8 VMs."""

Vm = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Farm:
    """Equal hosts, the most that each may promise, and how many wants each worker holds before it gives one back."""

    hosts: int
    most_ram_mb: int
    most_cpus: int
    held: int

    def key(self, number: int) -> HostKey:
        return HostKey(f"esx{number:04}", "ha-host")


class Placer(Protocol):
    """Takes room for all of the VMs or none, and gives it back."""

    def take(self, number: int, vms: Sequence[Vm]) -> list[Claim]:
        """The claims made for want `number`, which no other want of the worker has; none if there is no room."""

    def release(self, claims: Sequence[Claim]) -> None: ...


class Bare:
    """The floor: the same locks, conditions and writes, one statement each, by somebody who knows where there is room.

    It reads no claim of others and decides nothing. As fast as PyMySQL: one connection, one plain cursor.
    """

    def __init__(self, config: DatabaseConfig, farm: Farm, worker: int) -> None:
        self._farm = farm
        self._rng = random.Random(worker)
        self._worker = worker
        self._connection = pymysql.connect(
            unix_socket=config.unix_socket,
            user=config.user,
            password=config.password,
            database=config.name,
            autocommit=False,
            init_command="SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
        )
        self._cursor = self._connection.cursor()

    def take(self, number: int, vms: Sequence[Vm]) -> list[Claim]:
        """Each VM on a host chosen blindly."""
        farm, cursor = self._farm, self._cursor
        event = f"{self._worker}-{number}"
        rows = sorted((self._rng.randrange(farm.hosts), ram_mb, cpus) for ram_mb, cpus in vms)
        claims = [
            Claim(str(uuid.uuid4()), farm.key(host), number, ram_mb, cpus, event if first == 0 else "")
            for first, (host, ram_mb, cpus) in enumerate(rows)
        ]
        token = self._begin()
        for claim in claims:
            values = (claim.ram_mb, claim.cpus, farm.most_ram_mb, farm.most_cpus, claim.host.endpoint, claim.host.moid)
            matched = cursor.execute(
                "UPDATE esxprov_host SET used_ram_mb = used_ram_mb + %s, used_cpus = used_cpus + %s, "
                "capacity_ram_mb = %s, capacity_cpus = %s WHERE endpoint = %s AND moid = %s "
                "AND used_ram_mb + %s <= %s AND used_cpus + %s <= %s",
                (*values, claim.ram_mb, farm.most_ram_mb, claim.cpus, farm.most_cpus),
            )
            if not matched:
                self._connection.rollback()
                return []
        row = "(%s, %s, %s, %s, %s, %s, %s, 'claimed', 'pool', 0, 'group', 0, '', NULL, %s, 'owner', "
        row += "UTC_TIMESTAMP(6) + INTERVAL 300 SECOND, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))"
        values_of = [
            (one.id, one.host.endpoint, one.host.moid, one.computer_id, one.ram_mb, one.cpus, one.event_id, token)
            for one in claims
        ]
        cursor.execute(
            "INSERT INTO esxprov_claim (id, endpoint, moid, computer_id, ram_mb, cpus, event_id, state, pool, "
            "reservation_id, claim_group, disk_mb, datastore, ends_at, changed, owner, leased_until, claimed_at, "
            f"changed_at) VALUES {', '.join([row] * len(claims))}",
            [value for values in values_of for value in values],
        )
        self._connection.commit()
        return claims

    def release(self, claims: Sequence[Claim]) -> None:
        token = self._begin()
        for claim in claims:
            self._cursor.execute(
                "UPDATE esxprov_host SET used_ram_mb = used_ram_mb - %s, used_cpus = used_cpus - %s "
                "WHERE endpoint = %s AND moid = %s",
                (claim.ram_mb, claim.cpus, claim.host.endpoint, claim.host.moid),
            )
        self._cursor.execute(
            "UPDATE esxprov_claim SET state = 'released', leased_until = NULL, changed = %s, "
            f"changed_at = UTC_TIMESTAMP(6) WHERE id IN ({', '.join(['%s'] * len(claims))})",
            (token, *sorted(claim.id for claim in claims)),
        )
        self._connection.commit()

    def _begin(self) -> int:
        self._cursor.execute("BEGIN")
        self._cursor.execute(
            "INSERT INTO esxprov_domain (name, token) VALUES ('all', LAST_INSERT_ID(1)) "
            "ON DUPLICATE KEY UPDATE token = LAST_INSERT_ID(token + 1)"
        )
        return self._cursor.lastrowid or 0


class Ours:
    """Our claims, with a decision that costs next to nothing: any host with room, by sums kept as the ledger changes.

    What is measured are the claims, not the choice of a host.
    """

    def __init__(self, config: DatabaseConfig, farm: Farm, worker: int) -> None:
        self._farm = farm
        self._rng = random.Random(worker)
        self._worker = worker
        self._used = {farm.key(number): [0, 0] for number in range(farm.hosts)}  # RAM in MB, vCPUs
        self._hosts = list(self._used)
        self._claims = Claims(Database(config), f"worker {worker}")
        self._claims.listen(self._changed)
        self._claims.read(len)
        self._claims.release("none, but both connections are there now")

    def _changed(self, before: Claim | None, after: Claim | None) -> None:
        for claim, sign in ((before, -1), (after, 1)):
            if claim is not None:
                used = self._used[claim.host]
                used[0] += sign * claim.ram_mb
                used[1] += sign * claim.cpus

    def take(self, number: int, vms: Sequence[Vm]) -> list[Claim]:
        """Each VM on the next host with room, from a random one on."""
        event = f"{self._worker}-{number}"
        taken = self._claims.take(Want(event, number, 0, lambda ledger, _: self._decide(ledger, number, vms)))
        return [] if taken.claim is None else [taken.claim, *taken.waiting]

    def release(self, claims: Sequence[Claim]) -> None:
        self._claims.release_many([claim.id for claim in claims])

    def _decide(self, _: Ledger, number: int, vms: Sequence[Vm]) -> Proposal[bool]:
        farm = self._farm
        rooms: list[Room] = []
        chosen: dict[HostKey, list[int]] = {}
        for ram_mb, cpus in vms:
            for host in self._hosts_from(self._rng.randrange(farm.hosts)):
                used = chosen.get(host) or self._used[host]
                after = [used[0] + ram_mb, used[1] + cpus]
                if after[0] <= farm.most_ram_mb and after[1] <= farm.most_cpus:
                    break
            else:
                return Proposal(False)
            chosen[host] = after
            # The first is the computer that asks, the others wait for their reservations.
            computer_id = 0 if rooms else number
            claim = Claim("", host, computer_id, ram_mb, cpus, "", pool="pool", group="group")
            rooms.append(Room(claim, farm.most_ram_mb, farm.most_cpus))
        return Proposal(True, tuple(rooms))

    def _hosts_from(self, first: int) -> Iterator[HostKey]:
        for number in range(first, first + len(self._hosts)):
            yield self._hosts[number % len(self._hosts)]


PLACERS: dict[str, Callable[[DatabaseConfig, Farm, int], Placer]] = {"bare": Bare, "ours": Ours}


def vms(rng: random.Random) -> list[Vm]:
    """Of the next want."""
    return [rng.choice(SIZES)] * (rng.randint(3, 8) if rng.random() < CLUSTERS else 1)


@dataclass(frozen=True, slots=True)
class Shift:
    """When a worker works, and from when on its wants are counted, on the clock of all processes, time.monotonic."""

    start: float
    begin: float
    end: float


def work(placer: Placer, farm: Farm, shift: Shift, worker: int) -> list[float]:
    """Take, and give back the oldest; seconds that each want took which was answered while wants were counted."""
    rng = random.Random(worker)
    held: deque[list[Claim]] = deque()
    times: list[float] = []
    number = worker * 1_000_000
    while (now := time.monotonic()) < shift.end:
        number += 1
        if taken := placer.take(number, vms(rng)):
            held.append(taken)
        after = time.monotonic()
        if shift.begin <= after < shift.end:
            times.append(after - now)
        if len(held) > farm.held:
            placer.release(held.popleft())
    return times


def run(kind: str, config: DatabaseConfig, farm: Farm, worker: int, threads: int, pipe: Connection) -> None:
    """A process, whose threads share a placer: says that it is ready, hears when to work, says how long wants took."""
    placer = PLACERS[kind](config, farm, worker)
    pipe.send("ready")
    shift: Shift = pipe.recv()
    threading.Event().wait(max(0.0, shift.start - time.monotonic()))
    found: list[list[float]] = []
    members = [
        threading.Thread(target=lambda number: found.append(work(placer, farm, shift, number)), args=(worker + one,))
        for one in range(threads)
    ]
    for member in members:
        member.start()
    for member in members:
        member.join()
    assert len(found) == threads, "a thread has failed"
    pipe.send([seconds for times in found for seconds in times])


def fill(server: MariaDb, farm: Farm, share: float) -> None:
    """Empty tables, and running VMs on every host, up to a share of its RAM."""
    ram_mb, cpus = SIZES[2]
    count = int(farm.most_ram_mb * share) // ram_mb
    keys = [f"'{farm.key(number).endpoint}', '{farm.key(number).moid}'" for number in range(farm.hosts)]
    hosts = [f"({key}, {count * ram_mb}, {count * cpus}, {farm.most_ram_mb}, {farm.most_cpus})" for key in keys]
    claims = [
        f"('{uuid.uuid4()}', {key}, 0, 'old', {ram_mb}, {cpus}, 'running', 'pool', 1, UTC_TIMESTAMP(6))"
        for key in keys
        for _ in range(count)
    ]
    server.execute(
        "TRUNCATE esxprov_claim; TRUNCATE esxprov_host; TRUNCATE esxprov_domain; "
        "INSERT INTO esxprov_domain VALUES ('all', 1); "
        f"INSERT INTO esxprov_host VALUES {', '.join(hosts)}; "
        "INSERT INTO esxprov_claim (id, endpoint, moid, computer_id, event_id, ram_mb, cpus, state, pool, changed, "
        f"claimed_at) VALUES {', '.join(claims)}"
    )
