"""Claims on a real MariaDB: never too many, never lost, whoever takes them and whoever dies while doing it."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

import pytest

from esxprov import schema
from esxprov.database import Cursor, Database, DatabaseConfig
from esxprov.errors import ProvisioningError
from esxprov.model import Claim, ClaimState, Datastore, Host, HostKey, Placement, Pool
from esxprov.placement.choose import Decision, choose
from esxprov.placement.claims import Claims
from esxprov.placement.request import PlacementRequest, overhead_mb
from esxprov.placement.room import Room
from esxprov.placement.snapshot import Rules, Size, Snapshot
from tests.testbed.mariadb import PASSWORD, MariaDb

T = TypeVar("T")
POOL = Pool("blades", ("esx1", "esx2", "esx3"), "profile", ram_ratio=1.0, cpu_ratio=1.0)
HOSTS = [
    Host(HostKey(name, "ha-host"), name, "connected", False, ram_mb, 0, 12, (Datastore("nfs1", 10**6, 10**6),))
    for name, ram_mb in (("esx1", 9000), ("esx2", 17000), ("esx3", 33000))
]
KEY = HOSTS[0].key


def decide_for(request: PlacementRequest) -> Callable[[Sequence[Claim]], tuple[Decision, Room]]:
    """Decisions as the handlers make them, on a farm without foreign VMs."""

    def decide(claims: Sequence[Claim]) -> tuple[Decision, Room]:
        world = Snapshot(tuple(HOSTS), tuple(claims), (), (Size(1024, 1), Size(8192, 4)), Rules.of(POOL))
        decision = choose(request, world)
        taken = {place.host for place in decision.placements}
        best = next((host for host in world.states() if host.key in taken), None)
        most = (best.ram_capacity_mb, best.cpus_capacity) if best else (0, 0)
        return decision, Room(request.ram_needed_mb, request.cpus, *most)

    return decide


def always(ram_mb: int = 1000, cpus: int = 1) -> Callable[[Sequence[Claim]], tuple[Decision, Room]]:
    """The first host, which may promise 4000 MB, whatever is claimed on it."""
    placement = Placement(KEY, "esx1", "nfs1", "because")
    return lambda _: (Decision((placement,), "because"), Room(ram_mb, cpus, 4000, 8))


def database_at(socket: str) -> Database:
    return Database(DatabaseConfig(unix_socket=socket, user="esxprov", password=PASSWORD))


@pytest.fixture
def database(mariadb: MariaDb) -> Iterator[Database]:
    made = database_at(str(mariadb.socket))
    schema.upgrade(made)
    for table in ("esxprov_claim", "esxprov_host", "esxprov_domain"):
        mariadb.execute(f"DELETE FROM {table}")
    yield made
    made.close()


@pytest.fixture
def claims(database: Database) -> Claims:
    return Claims(database)


def taken(answer: tuple[Decision | None, Claim | None]) -> Claim:
    _, claim = answer
    assert claim is not None
    return claim


def used(database: Database) -> dict[str, tuple[int, int]]:
    """(RAM in MB, vCPUs) promised by endpoint, as the host rows say."""

    def ask(cursor: Cursor) -> dict[str, tuple[int, int]]:
        cursor.execute("SELECT endpoint, used_ram_mb, used_cpus FROM esxprov_host")
        return {row["endpoint"]: (row["used_ram_mb"], row["used_cpus"]) for row in cursor.fetchall()}

    return database.run(ask)


def bad_hosts(database: Database) -> list[dict[str, object]]:
    """Hosts that promised more than they may, or whose sums are not those of their claims: in one consistent read."""

    def ask(cursor: Cursor) -> list[dict[str, object]]:
        cursor.execute(
            "SELECT h.*, COALESCE(SUM(c.ram_mb), 0) AS claimed_ram_mb, COALESCE(SUM(c.cpus), 0) AS claimed_cpus "
            "FROM esxprov_host h LEFT JOIN esxprov_claim c ON c.endpoint = h.endpoint AND c.moid = h.moid "
            "GROUP BY h.endpoint, h.moid HAVING claimed_ram_mb <> used_ram_mb OR claimed_cpus <> used_cpus "
            "OR used_ram_mb > capacity_ram_mb OR used_cpus > capacity_cpus"
        )
        return list(cursor.fetchall())

    return database.run(ask)


def test_a_claim_is_kept_as_it_was_taken(claims: Claims) -> None:
    claim = taken(claims.take("blades", "event-1", 7, always()))
    assert claim == Claim(claim.id, KEY, 7, 1000, 1, "event-1", ClaimState.CLAIMED)
    assert claims.of_computer(7) == claims.of_pool("blades") == [claim]
    assert claims.of_computer(8) == claims.of_pool("other") == []


def test_a_decision_against_every_host_claims_nothing(claims: Claims, database: Database) -> None:
    no = Decision((), "too small")
    assert claims.take("blades", "event-1", 7, lambda _: (no, Room(1, 1, 0, 0))) == (no, None)
    assert (claims.of_pool("blades"), used(database)) == ([], {})


def test_an_event_that_was_interrupted_after_its_claim_gets_that_claim_again(claims: Claims) -> None:
    claim = taken(claims.take("blades", "event-1", 7, always()))

    def decide(_: Sequence[Claim]) -> tuple[Decision, Room]:
        raise AssertionError("nothing is to be decided")

    assert claims.take("blades", "event-1", 7, decide) == (None, claim)


def test_one_event_taken_from_several_threads_at_once_claims_once(claims: Claims, database: Database) -> None:
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: claims.take("blades", "event-1", 7, always()), range(12)))
    assert {taken(answer).id for answer in answers} == {claims.of_pool("blades")[0].id}
    assert used(database) == {"esx1": (1000, 1)}


def test_decisions_see_the_claims_of_all_pools(claims: Claims) -> None:
    claim = taken(claims.take("other", "event-1", 7, always()))
    seen: list[Claim] = []

    def decide(now: Sequence[Claim]) -> tuple[Decision, Room]:
        seen.extend(now)
        return always()(now)

    claims.take("blades", "event-2", 8, decide)
    assert seen == [claim]


def test_a_release_gives_back_what_was_taken_and_a_second_one_nothing(claims: Claims, database: Database) -> None:
    first = taken(claims.take("blades", "event-1", 7, always(1000, 1)))
    taken(claims.take("blades", "event-2", 8, always(500, 2)))
    claims.release(first.id)
    claims.release(first.id)
    assert used(database) == {"esx1": (500, 2)}
    assert claims.of_computer(7) == []


def test_a_marked_claim_holds_its_capacity(claims: Claims, database: Database) -> None:
    claim = taken(claims.take("blades", "event-1", 7, always()))
    for state in (ClaimState.RUNNING, ClaimState.TO_BE_DESTROYED):
        claims.mark(claim.id, state)
        assert [held.state for held in claims.of_computer(7)] == [state]
    assert used(database) == {"esx1": (1000, 1)}


def test_an_event_does_not_get_a_claim_back_whose_vm_is_to_be_destroyed(claims: Claims) -> None:
    old = taken(claims.take("blades", "event-1", 7, always()))
    claims.mark(old.id, ClaimState.TO_BE_DESTROYED)
    new = taken(claims.take("blades", "event-1", 7, always()))
    assert [claim.id for claim in claims.of_computer(7)] == [old.id, new.id]


def test_a_released_claim_cannot_be_marked(claims: Claims) -> None:
    claim = taken(claims.take("blades", "event-1", 7, always()))
    claims.release(claim.id)
    claims.mark(claim.id, ClaimState.RUNNING)
    assert claims.of_computer(7) == []


def test_a_host_never_promises_more_than_it_may_even_if_the_decision_says_so(
    claims: Claims, database: Database
) -> None:
    for number in range(4):
        claims.take("blades", f"event-{number}", number, always(1000))
    with pytest.raises(ProvisioningError, match="by esxprov_host it cannot take them") as caught:
        claims.take("blades", "event-5", 5, always(1))
    assert (caught.value.code, caught.value.retryable) == ("no_capacity", True)
    assert used(database) == {"esx1": (4000, 4)}
    assert bad_hosts(database) == []


def test_every_change_of_capacity_moves_the_pools_token_on(claims: Claims, database: Database) -> None:
    def token() -> int:
        def ask(cursor: Cursor) -> int:
            cursor.execute("SELECT token FROM esxprov_domain WHERE pool = 'blades'")
            row = cursor.fetchone()
            assert row is not None
            return int(row["token"])

        return database.run(ask)

    claim = taken(claims.take("blades", "event-1", 7, always()))
    seen = [token()]
    claims.release(claim.id)
    seen.append(token())
    assert seen == sorted(set(seen))


def hammer(socket: str, number: int, rounds: int) -> tuple[int, int, set[str]]:
    """Take and release at random, near the capacity. Returns (taken, refused, ids still held)."""
    rng = random.Random(number)
    claims = Claims(database_at(socket))
    held: list[str] = []
    count = refused = 0
    for turn in range(rounds):
        if held and rng.random() < 0.4:
            claims.release(held.pop(rng.randrange(len(held))))
            continue
        ram_mb, cpus = rng.choice([(1024, 1), (2048, 1), (4096, 2), (8192, 4)])
        event = f"{number}-{turn}"
        request = PlacementRequest(event, ram_mb, cpus, overhead_mb(ram_mb, cpus), 1, "nfs1")
        _, claim = claims.take(f"pool-{number % 2}", event, number, decide_for(request))
        if claim is None:
            refused += 1
        else:
            count += 1
            held.append(claim.id)
    return count, refused, set(held)


def test_many_processes_of_two_pools_that_share_hosts_never_over_commit(
    claims: Claims, database: Database, mariadb: MariaDb
) -> None:
    context = multiprocessing.get_context("spawn")
    # All begin together: one that comes late may find the hosts full until its end.
    together = context.Barrier(8)
    with ProcessPoolExecutor(8, mp_context=context, initializer=together.wait, initargs=(60,)) as processes:
        working = [processes.submit(hammer, str(mariadb.socket), number, 50) for number in range(8)]
        samples = 0
        while not all(work.done() for work in working):
            assert bad_hosts(database) == []
            samples += 1
        results = [work.result() for work in working]
    assert samples > 10
    assert sum(count for count, _, _ in results) > 50
    assert sum(refused for _, refused, _ in results) > 20
    assert bad_hosts(database) == []
    left = {claim.id for pool in ("pool-0", "pool-1") for claim in claims.of_pool(pool)}
    assert left == set().union(*(held for _, _, held in results))
    for claim_id in left:
        claims.release(claim_id)
    assert set(used(database).values()) == {(0, 0)}


class _StopsBeforeCommit(Database):
    """Everything is written, nothing committed: it says so and waits for its end."""

    def __init__(self, config: DatabaseConfig, tell: Connection) -> None:
        super().__init__(config)
        self._tell = tell

    def run(self, work: Callable[[Cursor], T]) -> T:
        def stop(cursor: Cursor) -> T:
            work(cursor)
            self._tell.send("written")
            threading.Event().wait()
            raise AssertionError("it was to be killed")

        return super().run(stop)


def take_and_stop(socket: str, tell: Connection) -> None:
    config = DatabaseConfig(unix_socket=socket, user="esxprov", password=PASSWORD)
    Claims(_StopsBeforeCommit(config, tell)).take("blades", "event-1", 7, always())


def test_a_process_killed_before_its_commit_leaves_nothing_and_blocks_nobody(
    claims: Claims, database: Database, mariadb: MariaDb
) -> None:
    context = multiprocessing.get_context("spawn")
    hear, tell = context.Pipe(duplex=False)
    process = context.Process(target=take_and_stop, args=(str(mariadb.socket), tell))
    process.start()
    assert hear.poll(30)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert claims.of_pool("blades") == []
    assert taken(claims.take("blades", "event-1", 7, always())).event_id == "event-1"
    assert used(database) == {"esx1": (1000, 1)}


def test_claims_work_in_a_server_that_is_not_strict(tmp_path: Path) -> None:
    server = MariaDb(tmp_path, strict=False)
    try:
        server.begin()
        server.finish()
        database = database_at(str(server.socket))
        schema.upgrade(database)
        claims = Claims(database)
        claim = taken(claims.take("blades", "event-1", 7, always()))
        claims.mark(claim.id, ClaimState.RUNNING)
        claims.release(claim.id)
        assert (claims.of_pool("blades"), used(database)) == ([], {"esx1": (0, 0)})
        database.close()
    finally:
        server.remove()
