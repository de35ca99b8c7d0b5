"""Claims on a real MariaDB: whoever wants some, and what the tables say."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from esxprov import schema
from esxprov.database import Cursor, Database, DatabaseConfig, rows
from esxprov.model import Claim, HostKey
from esxprov.placement.claims import Claims
from esxprov.placement.ledger import Ledger
from esxprov.placement.wants import Decide, Proposal, Room, Taken, Want
from tests.testbed.mariadb import PASSWORD, MariaDb

T = TypeVar("T")
HOSTS = [HostKey(f"esx{number}", "ha-host") for number in (1, 2, 3)]
KEY = HOSTS[0]
MOST_MB, MOST_CPUS = 4000, 8
"""What each of the hosts may promise."""


def claim_on(host: HostKey, computer_id: int, ram_mb: int = 1000, cpus: int = 1, **more: Any) -> Claim:
    """To be proposed; its id and event are given to it."""
    return Claim("", host, computer_id, ram_mb, cpus, "", pool="blades", **more)


def always(*claims: Claim) -> Decide[str]:
    """These, whatever the ledger says."""
    return lambda *_: Proposal("yes", tuple(Room(claim, MOST_MB, MOST_CPUS) for claim in claims))


def first_fit(computers: Sequence[int], ram_mb: int = 1000, cpus: int = 1, hosts: Sequence[HostKey] = HOSTS) -> Any:
    """All of the computers, or none of them, each on the first host with room."""

    def decide(ledger: Ledger, _: Any) -> Proposal[str]:
        free = {
            host: [MOST_MB - sum(c.ram_mb for c in held), MOST_CPUS - sum(c.cpus for c in held)]
            for host in hosts
            for held in [ledger.of_host(host)]
        }
        rooms = []
        for computer in computers:
            taker = next((host for host, left in free.items() if left[0] >= ram_mb and left[1] >= cpus), None)
            if taker is None:
                return Proposal("no host takes it")
            free[taker][0] -= ram_mb
            free[taker][1] -= cpus
            rooms.append(Room(claim_on(taker, computer, ram_mb, cpus), MOST_MB, MOST_CPUS))
        return Proposal("yes", tuple(rooms))

    return decide


def never(*_: object) -> Proposal[str]:
    raise AssertionError("nothing is to be decided")


def want(number: int, decide: Decide[str] | None = None, *, reservation_id: int = 0) -> Want[str]:
    """Of the event event-N for computer N."""
    return Want(f"event-{number}", number, reservation_id, decide or first_fit([number]))


def claim_of(taken: Taken[str]) -> Claim:
    assert taken.claim is not None
    return taken.claim


def database_at(socket: str) -> Database:
    return Database(DatabaseConfig(unix_socket=socket, user="esxprov", password=PASSWORD))


@contextmanager
def opened(mariadb: MariaDb) -> Iterator[Database]:
    """With our tables, and nothing in those of claims."""
    made = database_at(str(mariadb.socket))
    schema.upgrade(made)
    for table in ("esxprov_claim", "esxprov_host", "esxprov_domain", "esxprov_event"):
        mariadb.execute(f"DELETE FROM {table}")
    yield made
    made.close()


def ask(database: Database, sql: str, *values: object) -> list[dict[str, Any]]:
    def read(cursor: Cursor) -> list[dict[str, Any]]:
        cursor.execute(sql, values)
        return rows(cursor)

    return database.run(read)


def used(database: Database) -> dict[str, tuple[int, int]]:
    """(RAM in MB, vCPUs) promised by endpoint, as the host rows say."""
    found = ask(database, "SELECT endpoint, used_ram_mb, used_cpus FROM esxprov_host")
    return {row["endpoint"]: (row["used_ram_mb"], row["used_cpus"]) for row in found}


def bad_hosts(database: Database) -> list[dict[str, Any]]:
    """Hosts that promised more than they may, or whose sums are not those of their claims: in one consistent read."""
    return ask(
        database,
        "SELECT h.*, COALESCE(SUM(c.ram_mb), 0) AS claimed_ram_mb, COALESCE(SUM(c.cpus), 0) AS claimed_cpus "
        "FROM esxprov_host h LEFT JOIN esxprov_claim c "
        "ON c.endpoint = h.endpoint AND c.moid = h.moid AND c.state <> 'released' "
        "GROUP BY h.endpoint, h.moid HAVING claimed_ram_mb <> used_ram_mb OR claimed_cpus <> used_cpus "
        "OR used_ram_mb > %s OR used_cpus > %s",
        MOST_MB,
        MOST_CPUS,
    )


def state_of(database: Database, claim: Claim) -> str:
    (row,) = ask(database, "SELECT state FROM esxprov_claim WHERE id = %s", claim.id)
    return str(row["state"])


def token(database: Database) -> int:
    (row,) = ask(database, "SELECT token FROM esxprov_domain")
    return int(row["token"])


def ledger_of(claims: Claims) -> set[Claim]:
    """What a service knows in memory, brought up to date."""
    return claims.read(lambda ledger: set(ledger))


@contextmanager
def one_batch(claims: Claims, questions: Sequence[Want[str] | Callable[[], object]]) -> Iterator[list[Any]]:
    """These are one transaction, because they come while an earlier want is decided: wants, and what changes claims.
    Yields their answers in their order, or what was raised.
    """
    answers: list[Any] = [None] * len(questions)
    deciding, may_go_on = threading.Event(), threading.Event()

    def slow(*_: object) -> Proposal[str]:
        deciding.set()
        assert may_go_on.wait(30)
        return Proposal("no")

    def ask(number: int) -> None:
        question = questions[number]
        try:
            answers[number] = claims.take(question) if isinstance(question, Want) else question()
        except Exception as error:
            answers[number] = error

    with ThreadPoolExecutor(1 + len(questions)) as threads:
        threads.submit(claims.take, want(999, slow))
        assert deciding.wait(30)
        for number in range(len(questions)):
            threads.submit(ask, number)
            while len(claims._batches._queue) <= number:
                threading.Event().wait(0.001)
        may_go_on.set()
    yield answers


def end_leases(mariadb: MariaDb) -> None:
    mariadb.execute("UPDATE esxprov_claim SET leased_until = UTC_TIMESTAMP() - INTERVAL 1 SECOND")
