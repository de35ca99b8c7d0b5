"""Claims on a real MariaDB: never too many, never lost, whoever dies while taking them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import pytest

from benchmarks.placement import claim_crashes
from benchmarks.placement.claim_work import Farm
from esxprov.database import Cursor, Database, DatabaseConfig
from esxprov.placement.claims import Claims
from tests.integration.claims_rig import (
    bad_hosts,
    claim_of,
    database_at,
    first_fit,
    never,
    opened,
    used,
    want,
)
from tests.testbed.mariadb import MariaDb

T = TypeVar("T")


@pytest.fixture
def database(mariadb: MariaDb) -> Iterator[Database]:
    with opened(mariadb) as made:
        yield made


@pytest.fixture
def claims(database: Database) -> Claims:
    return Claims(database, "me")


class _Stops(Database):
    """Stops before the given packet of a transaction, or (0) when it was committed and nobody knows; says so, and waits
    for its end.
    """

    def __init__(self, config: DatabaseConfig, packet: int, tell: Connection) -> None:
        super().__init__(config)
        self._packet = packet
        self._tell = tell

    def run(self, work: Callable[[Cursor], T], *, commits: bool = False) -> T:
        def counted(cursor: Cursor) -> T:
            execute, done = cursor.execute, [0]

            def one(*what: Any) -> int:
                done[0] += 1
                if done[0] == self._packet:
                    self._stop()
                return execute(*what)

            cursor.execute = one  # type: ignore[assignment, method-assign]
            return work(cursor)

        super().run(counted, commits=commits)
        self._stop()
        raise AssertionError("it was to be killed")

    def _stop(self) -> None:
        self._tell.send("here")
        threading.Event().wait()


def take_and_stop(socket: str, packet: int, tell: Connection) -> None:
    Claims(_Stops(database_at(socket).config, packet, tell)).take(want(7, first_fit([7, 8, 9, 10, 11])))


def release_and_stop(socket: str, packet: int, tell: Connection) -> None:
    claim = Claims(database_at(socket)).of_computer(1)[0]
    Claims(_Stops(database_at(socket).config, packet, tell)).release(claim.id)


def killed_in(work: Callable[[str, int, Connection], None], socket: str, packet: int) -> None:
    """Run it in a process that is killed where it stops."""
    context = multiprocessing.get_context("spawn")
    hear, tell = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(socket, packet, tell))
    process.start()
    assert hear.poll(30)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()


@pytest.mark.parametrize("packet", [1, 2])
def test_a_process_killed_while_it_takes_a_cluster_leaves_nothing_and_blocks_nobody(
    claims: Claims, database: Database, mariadb: MariaDb, packet: int
) -> None:
    claims.take(want(1))
    killed_in(take_and_stop, str(mariadb.socket), packet)
    assert [claim.computer_id for claim in claims.all()] == [1]
    assert claim_of(claims.take(want(7))).event_id == "event-7"
    assert used(database)["esx1"] == (2000, 2)
    assert bad_hosts(database) == []


def test_a_process_killed_after_it_took_a_cluster_leaves_all_of_it_to_who_asks_again(
    claims: Claims, database: Database, mariadb: MariaDb
) -> None:
    claims.take(want(1))
    killed_in(take_and_stop, str(mariadb.socket), 0)
    assert claim_of(claims.take(want(7, never))).event_id == "event-7"
    assert {claim.computer_id for claim in claims.all()} == {1, 7, 8, 9, 10, 11}
    assert bad_hosts(database) == []


@pytest.mark.parametrize(("packet", "left"), [(1, 1), (0, 0)])
def test_a_process_killed_while_it_releases_has_released_all_or_nothing_and_blocks_nobody(
    claims: Claims, database: Database, mariadb: MariaDb, packet: int, left: int
) -> None:
    claim = claim_of(claims.take(want(1)))
    killed_in(release_and_stop, str(mariadb.socket), packet)
    assert (len(claims.all()), used(database)) == (left, {"esx1": (1000 * left, left)})
    claims.release(claim.id)
    assert used(database) == {"esx1": (0, 0)}


def test_sixteen_processes_near_capacity_of_which_some_are_killed_keep_all_promises(mariadb: MariaDb) -> None:
    with opened(mariadb) as database:
        farm = Farm(hosts=6, most_ram_mb=16 * 1024, most_cpus=32, held=4)
        outcome = claim_crashes.run(mariadb, database.config, farm, kills=12, full=0.5)
    assert outcome.wrong == 0, outcome
    assert min(outcome.samples, outcome.placed, outcome.refused) > 10
