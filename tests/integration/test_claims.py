"""Claims on a real MariaDB: never too many, never lost, whoever takes them and whoever dies while doing it."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import pytest

from esxprov import schema
from esxprov.database import Cursor, Database, DatabaseConfig, rows
from esxprov.errors import DependencyUnavailable, ProvisioningError
from esxprov.model import Claim, ClaimState, HostKey
from esxprov.placement.claims import Claims
from esxprov.placement.ledger import Ledger
from esxprov.placement.reconcile import Correction
from esxprov.placement.wants import Decide, Later, Proposal, Room, Taken, Want
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


@pytest.fixture
def database(mariadb: MariaDb) -> Iterator[Database]:
    made = database_at(str(mariadb.socket))
    schema.upgrade(made)
    for table in ("esxprov_claim", "esxprov_host", "esxprov_domain", "esxprov_event"):
        mariadb.execute(f"DELETE FROM {table}")
    yield made
    made.close()


@pytest.fixture
def claims(database: Database) -> Claims:
    return Claims(database, "me")


@pytest.fixture
def others(database: Database) -> Claims:
    """Another service on the same database."""
    return Claims(database, "somebody else")


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


# --- taking ---------------------------------------------------------------------------------------------------------


def test_a_claim_is_kept_as_it_was_proposed(claims: Claims, others: Claims) -> None:
    proposed = Claim(
        "",
        KEY,
        7,
        1000,
        1,
        "",
        ClaimState.CLAIMED,
        "hörsaal",
        12,
        "request/7",
        20_000,
        "nfs 1 – schnell",
        1_800_000_000,
    )
    claim = claim_of(claims.take(want(7, always(proposed))))
    assert claim == replace(proposed, id=claim.id, event_id="event-7")
    assert claims.of_computer(7) == claims.of_pool("hörsaal") == claims.all() == [claim]
    assert ledger_of(others) == {claim}
    assert claims.of_computer(8) == claims.of_pool("other") == []


def test_a_decision_against_every_host_claims_nothing(claims: Claims, database: Database) -> None:
    assert claims.take(want(7, always())) == Taken("yes", None)
    assert (claims.all(), used(database)) == ([], {})


def test_an_event_that_was_interrupted_after_its_claim_gets_that_claim_again(claims: Claims, others: Claims) -> None:
    claim = claim_of(claims.take(want(7)))
    assert others.take(want(7, never)) == Taken(None, claim)


def test_one_event_taken_from_several_threads_at_once_claims_once(claims: Claims, database: Database) -> None:
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: claims.take(want(7)), range(12)))
    assert {claim_of(answer).id for answer in answers} == {claims.all()[0].id}
    assert used(database) == {"esx1": (1000, 1)}


def test_a_decision_sees_the_claims_that_others_took_released_and_changed(claims: Claims, others: Claims) -> None:
    claims.take(want(1))
    gone, changed = claim_of(others.take(want(2))), claim_of(others.take(want(3)))
    others.release(gone.id)
    others.mark(changed.id, ClaimState.RUNNING)
    seen: list[Claim] = []

    def decide(ledger: Ledger, _: Any) -> Proposal[str]:
        seen.extend(ledger)
        return Proposal("no")

    claims.take(want(4, decide))
    assert {(claim.computer_id, claim.state) for claim in seen} == {(1, ClaimState.CLAIMED), (3, ClaimState.RUNNING)}


def test_an_event_does_not_get_a_claim_back_whose_vm_is_to_be_destroyed(claims: Claims) -> None:
    old = claim_of(claims.take(want(7)))
    claims.mark(old.id, ClaimState.TO_BE_DESTROYED)
    new = claim_of(claims.take(want(7)))
    assert [claim.id for claim in claims.of_computer(7)] == [old.id, new.id]


def test_a_proposal_without_a_claim_for_who_asked_is_a_mistake(claims: Claims) -> None:
    with pytest.raises(ValueError, match="none for computer 7"):
        claims.take(want(7, always(claim_on(KEY, 8))))
    assert claims.all() == []


# --- clusters -------------------------------------------------------------------------------------------------------


def test_a_cluster_is_claimed_whole_and_its_others_wait(claims: Claims, database: Database) -> None:
    taken = claims.take(want(1, first_fit([1, 2, 3, 4, 5])))
    assert (claim_of(taken).event_id, [claim.event_id for claim in taken.waiting]) == ("event-1", [""] * 4)
    assert [claim.computer_id for claim in taken.waiting] == [2, 3, 4, 5]
    assert used(database) == {"esx1": (4000, 4), "esx2": (1000, 1)}


def test_a_cluster_of_which_one_vm_fits_nowhere_is_not_claimed_at_all(claims: Claims, database: Database) -> None:
    assert claims.take(want(1, first_fit(range(1, 14)))).claim is None
    too_many = always(*(claim_on(HOSTS[0], number) for number in range(1, 4)), *[claim_on(HOSTS[1], 4, 9000)])
    with pytest.raises(ProvisioningError, match="esx2/ha-host was chosen"):
        claims.take(want(1, too_many))
    assert (claims.all(), set(used(database).values()) - {(0, 0)}) == ([], set())


def test_a_waiting_claim_is_given_to_the_reservation_it_was_made_for(claims: Claims, others: Claims) -> None:
    proposed = [claim_on(KEY, number, reservation_id=10 + number) for number in (1, 2)]
    (waiting,) = claims.take(want(1, always(*proposed), reservation_id=11)).waiting
    adopted = others.take(want(2, never, reservation_id=12))
    assert adopted == Taken(None, replace(waiting, event_id="event-2"))
    assert others.of_computer(2) == [adopted.claim]
    assert claims.take(want(2, never, reservation_id=12)) == adopted


@pytest.mark.parametrize(("computer", "reservation"), [(2, 99), (9, 12)])
def test_a_waiting_claim_is_not_given_to_another_reservation_or_computer(
    claims: Claims, computer: int, reservation: int
) -> None:
    proposed = [claim_on(KEY, number, reservation_id=10 + number) for number in (1, 2)]
    (waiting,) = claims.take(want(1, always(*proposed), reservation_id=11)).waiting
    other = claims.take(Want("event-9", computer, reservation, first_fit([computer])))
    assert claim_of(other).id != waiting.id


# --- several at once ------------------------------------------------------------------------------------------------


@contextmanager
def one_batch(claims: Claims, wants: Sequence[Want[str]]) -> Iterator[list[Any]]:
    """These are decided in one transaction: they come while an earlier one is decided. Yields who may answer how."""
    answers: list[Any] = [None] * len(wants)
    deciding, may_go_on = threading.Event(), threading.Event()

    def slow(*_: object) -> Proposal[str]:
        deciding.set()
        assert may_go_on.wait(30)
        return Proposal("no")

    def take(number: int) -> None:
        try:
            answers[number] = claims.take(wants[number])
        except Exception as error:
            answers[number] = error

    with ThreadPoolExecutor(1 + len(wants)) as threads:
        threads.submit(claims.take, want(999, slow))
        assert deciding.wait(30)
        for number in range(len(wants)):
            threads.submit(take, number)
            while len(claims._batches._queue) <= number:
                threading.Event().wait(0.001)
        may_go_on.set()
    yield answers


def test_wants_that_come_together_are_one_transaction(claims: Claims, database: Database) -> None:
    claims.take(want(1))
    before = token(database)
    with one_batch(claims, [want(number) for number in range(2, 12)]) as answers:
        assert [claim_of(taken).computer_id for taken in answers] == list(range(2, 12))
    assert token(database) == before + 2
    assert used(database) == {"esx1": (4000, 4), "esx2": (4000, 4), "esx3": (3000, 3)}


def test_a_decision_that_fails_fails_for_its_own_want_only(claims: Claims) -> None:
    def fail(*_: object) -> Proposal[str]:
        raise ProvisioningError("image_not_found", "no such image")

    with one_batch(claims, [want(1), want(2, fail), want(3)]) as answers:
        assert [getattr(answer, "code", None) for answer in answers] == [None, "image_not_found", None]
    assert {claim.computer_id for claim in claims.all()} == {1, 3}


def test_a_want_that_chooses_a_full_host_fails_and_those_that_came_with_it_do_not(
    claims: Claims, database: Database
) -> None:
    too_much = always(claim_on(HOSTS[2], 2, 9000))
    with one_batch(claims, [want(1), want(2, too_much), want(3)]) as answers:
        assert [getattr(answer, "code", None) for answer in answers] == [None, "no_capacity", None]
    assert {claim.computer_id for claim in claims.all()} == {1, 3}
    assert bad_hosts(database) == []


def test_each_claim_of_a_batch_keeps_to_its_own_limit(claims: Claims, database: Database) -> None:
    """As those of two pools with different ratios: 3000 of 4000 MB, then 1000 of 3000, which is one too many."""
    strict = Proposal("yes", (Room(claim_on(KEY, 2, 1000), 3000, MOST_CPUS),))
    with one_batch(claims, [want(1, always(claim_on(KEY, 1, 3000))), want(2, lambda *_: strict)]) as answers:
        pass
    assert answers[1].code == "no_capacity"
    assert claim_of(answers[0]).ram_mb == 3000
    assert used(database)["esx1"] == (3000, 1)


# --- decisions that take long ---------------------------------------------------------------------------------------


def test_what_takes_long_is_worked_out_while_others_take(claims: Claims) -> None:
    def work() -> HostKey:
        assert claim_of(claims.take(want(2))).host == KEY
        return HOSTS[1]

    def decide(ledger: Ledger, hint: HostKey | None) -> Proposal[str] | Later:
        return Later(work) if hint is None else always(claim_on(hint, 1))(ledger, None)

    assert claim_of(claims.take(want(1, decide))).host == HOSTS[1]
    assert {claim.computer_id for claim in claims.all()} == {1, 2}


def test_a_decision_that_always_needs_more_time_ends(claims: Claims) -> None:
    with pytest.raises(ProvisioningError, match="changed 3 times") as caught:
        claims.take(want(1, lambda *_: Later(lambda: "hint")))
    assert (caught.value.code, caught.value.retryable) == ("no_capacity", True)


def test_work_that_fails_fails_the_want_and_blocks_nobody(claims: Claims) -> None:
    def work() -> None:
        raise ProvisioningError("no_capacity", "proved")

    with pytest.raises(ProvisioningError, match="proved"):
        claims.take(want(1, lambda *_: Later(work)))
    assert claim_of(claims.take(want(2))).host == KEY


# --- changing -------------------------------------------------------------------------------------------------------


def test_a_release_gives_back_what_was_taken_and_a_second_one_nothing(claims: Claims, database: Database) -> None:
    first = claim_of(claims.take(want(7)))
    claims.take(want(8, first_fit([8], 500, 2)))
    claims.release(first.id, "its VM is gone")
    claims.release(first.id)
    assert used(database) == {"esx1": (500, 2)}
    assert (claims.of_computer(7), state_of(database, first)) == ([], "released")


def test_many_are_released_at_once(claims: Claims, database: Database) -> None:
    held = [claim_of(claims.take(want(number))) for number in range(1, 8)]
    before = token(database)
    claims.release_many([claim.id for claim in held[1:]])
    assert (claims.all(), token(database)) == ([held[0]], before + 1)
    assert used(database) == {"esx1": (1000, 1), "esx2": (0, 0)}


def test_a_marked_claim_holds_its_capacity(claims: Claims, database: Database) -> None:
    claim = claim_of(claims.take(want(7)))
    for state in (ClaimState.RUNNING, ClaimState.TO_BE_DESTROYED):
        claims.mark(claim.id, state)
        assert [held.state for held in claims.of_computer(7)] == [state]
    assert used(database) == {"esx1": (1000, 1)}


def test_a_released_claim_cannot_be_marked(claims: Claims) -> None:
    claim = claim_of(claims.take(want(7)))
    claims.release(claim.id)
    claims.mark(claim.id, ClaimState.RUNNING)
    assert claims.of_computer(7) == []


def test_every_change_moves_the_token_on(claims: Claims, database: Database) -> None:
    seen = []
    claim = claim_of(claims.take(want(7)))
    seen.append(token(database))
    claims.mark(claim.id, ClaimState.RUNNING)
    seen.append(token(database))
    claims.release(claim.id)
    seen.append(token(database))
    assert seen == sorted(set(seen))


def test_the_row_of_a_released_claim_goes_after_an_hour(claims: Claims, database: Database, mariadb: MariaDb) -> None:
    old, new, kept = (claim_of(claims.take(want(number))) for number in (1, 2, 3))
    claims.release_many([old.id, new.id])
    for claim in (old, kept):
        mariadb.execute(
            f"UPDATE esxprov_claim SET changed_at = UTC_TIMESTAMP() - INTERVAL 61 MINUTE WHERE id = '{claim.id}'"
        )
    assert claims.forget() == 1
    assert {row["id"] for row in ask(database, "SELECT id FROM esxprov_claim")} == {new.id, kept.id}


# --- leases ---------------------------------------------------------------------------------------------------------


def end_leases(mariadb: MariaDb) -> None:
    mariadb.execute("UPDATE esxprov_claim SET leased_until = UTC_TIMESTAMP() - INTERVAL 1 SECOND")


def test_a_claim_without_a_sign_of_life_is_expired(claims: Claims, mariadb: MariaDb) -> None:
    claim = claim_of(claims.take(want(1)))
    assert claims.expired() == []
    end_leases(mariadb)
    assert claims.expired() == [claim]


def test_a_sign_of_life_is_for_the_claims_of_its_events_and_for_those_that_wait_with_them(
    claims: Claims, mariadb: MariaDb
) -> None:
    claims.take(want(1, always(*(claim_on(KEY, number, group="request/1") for number in (1, 2)))))
    dead = claim_of(claims.take(want(3, always(claim_on(HOSTS[1], 3, group="request/3")))))
    end_leases(mariadb)
    claims.renew(["event-1", "event-77"])
    assert claims.expired() == [dead]


def test_a_sign_of_life_does_not_shorten_a_lease(claims: Claims, database: Database) -> None:
    claims.take(want(1))
    claims.renew(["event-1"], 1)
    (held,) = claims.held()
    assert held.lease_s is not None
    assert held.lease_s > 200


def test_a_delivered_claim_has_no_lease(claims: Claims) -> None:
    claim = claim_of(claims.take(want(1)))
    claims.mark(claim.id, ClaimState.RUNNING)
    claims.renew(["event-1"])
    assert [held.lease_s for held in claims.held()] == [None]


# --- what somebody else did -----------------------------------------------------------------------------------------


def test_a_host_never_promises_more_than_it_may_even_if_the_decision_says_so(
    claims: Claims, database: Database
) -> None:
    for number in range(4):
        claims.take(want(number, always(claim_on(KEY, number))))
    with pytest.raises(ProvisioningError, match=r"\(4000 MB and 4 vCPUs used\) it cannot take them") as caught:
        claims.take(want(5, always(claim_on(KEY, 5, 1))))
    assert (caught.value.code, caught.value.retryable) == ("no_capacity", True)
    assert used(database) == {"esx1": (4000, 4)}
    assert bad_hosts(database) == []


def test_who_comes_past_the_lock_is_seen_by_the_next_decision(
    claims: Claims, database: Database, mariadb: MariaDb
) -> None:
    claims.take(want(1))
    mariadb.execute(
        "INSERT INTO esxprov_claim "
        "(id, pool, endpoint, moid, computer_id, event_id, ram_mb, cpus, changed, claimed_at) "
        "VALUES ('by hand', '', 'esx1', 'ha-host', 9, '', 3000, 3, 0, now()); "
        "UPDATE esxprov_host SET used_ram_mb = 4000, used_cpus = 4"
    )
    assert claim_of(claims.take(want(2))).host == HOSTS[1]
    assert bad_hosts(database) == []


def test_a_host_whose_row_is_gone_gets_one(claims: Claims, mariadb: MariaDb, database: Database) -> None:
    claims.release(claim_of(claims.take(want(1))).id)
    mariadb.execute("DELETE FROM esxprov_host")
    claims.take(want(2))
    assert used(database) == {"esx1": (1000, 1)}


def test_a_waiting_claim_that_was_deleted_by_hand_is_not_given_to_anybody(claims: Claims, mariadb: MariaDb) -> None:
    proposed = [claim_on(KEY, number, reservation_id=10 + number) for number in (1, 2)]
    claims.take(want(1, always(*proposed), reservation_id=11))
    mariadb.execute("DELETE FROM esxprov_claim WHERE computer_id = 2")
    new = claims.take(want(2, reservation_id=12))
    assert new.decision == "yes"
    assert claims.of_computer(2) == [new.claim]


def test_a_database_that_was_restored_is_read_anew(claims: Claims, others: Claims, mariadb: MariaDb) -> None:
    for number in range(1, 6):
        claims.take(want(number))
    mariadb.execute("DELETE FROM esxprov_claim; DELETE FROM esxprov_host; UPDATE esxprov_domain SET token = 1")
    claim = claim_of(others.take(want(7)))
    assert ledger_of(claims) == {claim}
    assert claim_of(claims.take(want(8))).host == KEY


def test_a_mirror_that_was_not_used_for_half_an_hour_is_loaded_anew(database: Database, mariadb: MariaDb) -> None:
    now = [0.0]
    claims = Claims(database, monotonic=lambda: now[0])
    claims.take(want(1))
    mariadb.execute("DELETE FROM esxprov_claim")
    now[0] += 1799
    assert len(ledger_of(claims)) == 1
    now[0] += 1801
    assert ledger_of(claims) == set()


def test_reading_the_books_brings_the_mirror_up_to_date_with_what_was_changed_by_hand(
    claims: Claims, mariadb: MariaDb
) -> None:
    claims.take(want(1))
    mariadb.execute("DELETE FROM esxprov_claim")
    assert len(ledger_of(claims)) == 1
    claims.books()
    assert ledger_of(claims) == set()


class _LosesTheAnswer(Database):
    """Once, the connection is lost after the commit: nobody knows whether it was done."""

    lost = False

    def run(self, work: Callable[[Cursor], T]) -> T:
        result = super().run(work)
        if not self.lost:
            self.lost = True
            raise DependencyUnavailable("gone")
        return result


def test_a_claim_whose_commit_was_not_answered_is_found_again(database: Database) -> None:
    claims = Claims(_LosesTheAnswer(database.config))
    with pytest.raises(DependencyUnavailable):
        claims.take(want(1))
    assert claims.take(want(1, never)).claim == claims.all()[0]


# --- corrections ----------------------------------------------------------------------------------------------------


def test_corrections_are_done_all_and_their_sums_with_them(claims: Claims, database: Database, others: Claims) -> None:
    freed, moved, grown = (claim_of(claims.take(want(number))) for number in (1, 2, 3))
    by_id = {held.claim.id: held for held in claims.held()}
    foreign = Claim("foreign-1", HOSTS[2], 0, 9000, 2, "", ClaimState.FOREIGN)
    corrections = [
        Correction(by_id[freed.id], None, "gone"),
        Correction(by_id[moved.id], replace(moved, host=HOSTS[1]), "moved"),
        Correction(by_id[grown.id], replace(grown, ram_mb=1500, cpus=2), "grown"),
        Correction(None, foreign, "found"),
    ]
    assert claims.correct(corrections) == corrections
    assert used(database) == {"esx1": (1500, 2), "esx2": (1000, 1), "esx3": (9000, 2)}
    expected = {replace(moved, host=HOSTS[1]), replace(grown, ram_mb=1500, cpus=2), foreign}
    assert set(claims.all()) == ledger_of(claims) == ledger_of(others) == expected


def test_a_claim_that_was_changed_since_is_not_corrected(claims: Claims, database: Database) -> None:
    claim = claim_of(claims.take(want(1)))
    (held,) = claims.held()
    claims.mark(claim.id, ClaimState.RUNNING)
    assert claims.correct([Correction(held, None, "expired")]) == []
    assert used(database) == {"esx1": (1000, 1)}


def test_a_claim_with_a_new_sign_of_life_is_not_released_for_the_want_of_one(claims: Claims, mariadb: MariaDb) -> None:
    claims.take(want(1))
    end_leases(mariadb)
    (held,) = claims.held()
    claims.renew(["event-1"])
    assert held.is_abandoned
    assert claims.correct([Correction(held, None, "expired")]) == []


def test_a_foreign_vm_that_comes_back_is_claimed_again(claims: Claims, others: Claims, database: Database) -> None:
    foreign = Claim("foreign-1", KEY, 0, 1000, 1, "", ClaimState.FOREIGN)
    found = Correction(None, foreign, "found")
    assert claims.correct([found]) == [found]
    assert others.correct([found]) == []
    claims.release("foreign-1")
    assert ledger_of(others) == set()
    assert claims.correct([found]) == [found]
    assert ledger_of(others) == {foreign}
    assert used(database) == {"esx1": (1000, 1)}


def test_sums_that_are_wrong_are_set_to_those_of_the_claims(
    claims: Claims, database: Database, mariadb: MariaDb
) -> None:
    claims.take(want(1))
    claims.release(claim_of(claims.take(want(2))).id)
    mariadb.execute("UPDATE esxprov_host SET used_ram_mb = -5, used_cpus = 99")
    claims.sum_up([KEY, HOSTS[1]])
    assert used(database) == {"esx1": (1000, 1), "esx2": (0, 0)}


def test_the_books_are_everything_at_one_moment(claims: Claims) -> None:
    kept, gone = (claim_of(claims.take(want(number))) for number in (1, 2))
    claims.release(gone.id)
    books = claims.books()
    assert [held.claim for held in books.claims] == [kept]
    assert (books.sums, books.released) == ({KEY: (1000, 1)}, frozenset({gone.id}))
    assert (books.claims[0].owner, books.claims[0].event) == ("me", "")


# --- crashes --------------------------------------------------------------------------------------------------------


class _StopsBefore(Database):
    """Stops before the given statement of a transaction (0: before its commit), says so, and waits for its end."""

    def __init__(self, config: DatabaseConfig, statement: int, tell: Connection) -> None:
        super().__init__(config)
        self._statement = statement
        self._tell = tell

    def run(self, work: Callable[[Cursor], T]) -> T:
        def stop() -> None:
            self._tell.send("here")
            threading.Event().wait()
            raise AssertionError("it was to be killed")

        def counted(cursor: Cursor) -> T:
            execute, done = cursor.execute, [0]

            def one(*what: Any) -> int:
                done[0] += 1
                if done[0] == self._statement:
                    stop()
                return execute(*what)

            cursor.execute = one  # type: ignore[assignment, method-assign]
            result = work(cursor)
            stop()
            return result

        return super().run(counted)


def take_and_stop(socket: str, statement: int, tell: Connection) -> None:
    config = DatabaseConfig(unix_socket=socket, user="esxprov", password=PASSWORD)
    Claims(_StopsBefore(config, statement, tell)).take(want(7, first_fit([7, 8, 9, 10, 11])))


def release_and_stop(socket: str, statement: int, tell: Connection) -> None:
    config = DatabaseConfig(unix_socket=socket, user="esxprov", password=PASSWORD)
    Claims(_StopsBefore(config, statement, tell)).release(Claims(database_at(socket)).of_computer(1)[0].id)


def killed_in(work: Callable[[str, int, Connection], None], socket: str, statement: int) -> None:
    """Run it in a process that is killed where it stops."""
    context = multiprocessing.get_context("spawn")
    hear, tell = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(socket, statement, tell))
    process.start()
    assert hear.poll(30)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()


@pytest.mark.parametrize("statement", [2, 3, 4, 5, 0])
def test_a_process_killed_while_it_takes_a_cluster_leaves_nothing_and_blocks_nobody(
    claims: Claims, database: Database, mariadb: MariaDb, statement: int
) -> None:
    claims.take(want(1))
    killed_in(take_and_stop, str(mariadb.socket), statement)
    assert [claim.computer_id for claim in claims.all()] == [1]
    assert claim_of(claims.take(want(7))).event_id == "event-7"
    assert used(database)["esx1"] == (2000, 2)
    assert bad_hosts(database) == []


@pytest.mark.parametrize("statement", [2, 3, 4, 0])
def test_a_process_killed_while_it_releases_has_released_nothing_and_blocks_nobody(
    claims: Claims, database: Database, mariadb: MariaDb, statement: int
) -> None:
    claim = claim_of(claims.take(want(1)))
    killed_in(release_and_stop, str(mariadb.socket), statement)
    assert claims.all() == [claim]
    claims.release(claim.id)
    assert used(database) == {"esx1": (0, 0)}


def hammer(socket: str, number: int, rounds: int, tell: Connection) -> None:
    """Take and release at random, near the capacity, and clusters too. Tells (taken, refused, ids still held)."""
    rng = random.Random(number)
    claims = Claims(database_at(socket), f"process {number}")
    held: list[list[str]] = []
    count = refused = 0
    for turn in range(rounds):
        if held and rng.random() < 0.4:
            claims.release_many(held.pop(rng.randrange(len(held))))
            continue
        ram_mb, cpus = rng.choice([(256, 1), (512, 1), (1024, 2)])
        first = 1 + 1000 * (number * rounds + turn)
        computers = range(first, first + (rng.randint(3, 8) if rng.random() < 0.2 else 1))
        taken = claims.take(Want(f"{number}-{turn}", first, 0, first_fit(computers, ram_mb, cpus)))
        if taken.claim is None:
            refused += 1
        else:
            count += 1
            held.append([taken.claim.id, *(claim.id for claim in taken.waiting)])
    tell.send((count, refused, {claim_id for ids in held for claim_id in ids}))


def test_sixteen_processes_of_which_some_are_killed_never_over_commit(
    claims: Claims, database: Database, mariadb: MariaDb
) -> None:
    context = multiprocessing.get_context("spawn")
    ends = [context.Pipe(duplex=False) for _ in range(16)]
    processes = [
        context.Process(target=hammer, args=(str(mariadb.socket), number, 60, tell))
        for number, (_, tell) in enumerate(ends)
    ]
    for process in processes:
        process.start()
    rng = random.Random(1)
    doomed = processes[:5]
    samples = 0
    while any(process.is_alive() for process in processes):
        assert bad_hosts(database) == []
        samples += 1
        # When those that are to be killed are at work: each has a claim that is held, and is seen in the table.
        if doomed and len(claims.all()) > 5 and rng.random() < 0.3:
            doomed.pop().kill()
    for process in processes:
        process.join()
    told = [hear.recv() for (hear, _), process in zip(ends, processes, strict=True) if process.exitcode == 0]
    assert {process.exitcode for process in processes} == {0, -signal.SIGKILL}
    assert samples > 10
    assert sum(count for count, _, _ in told) > 50
    assert sum(refused for _, refused, _ in told) > 20
    held = set().union(*(ids for _, _, ids in told))
    left = {claim.id for claim in claims.all()}
    assert held <= left
    end_leases(mariadb)
    claims.release_many([claim.id for claim in claims.expired()])
    assert (claims.all(), set(used(database).values())) == ([], {(0, 0)})


# --- servers --------------------------------------------------------------------------------------------------------


def test_claims_work_in_a_server_that_is_not_strict(tmp_path: Path) -> None:
    server = MariaDb(tmp_path, strict=False)
    try:
        server.begin()
        server.finish()
        database = database_at(str(server.socket))
        schema.upgrade(database)
        claims = Claims(database)
        claim = claim_of(claims.take(want(1, first_fit([1, 2]))))
        claims.renew(["event-1"])
        claims.mark(claim.id, ClaimState.RUNNING)
        foreign = Claim("foreign-1", KEY, 0, 1000, 1, "", ClaimState.FOREIGN)
        claims.correct([Correction(None, foreign, "found")])
        claims.sum_up([KEY])
        claims.release_many([claim.id for claim in claims.all()])
        assert (claims.all(), used(database)) == ([], {"esx1": (0, 0)})
        database.close()
    finally:
        server.remove()


def test_claims_of_the_version_before_are_kept_by_the_upgrade(mariadb: MariaDb) -> None:
    mariadb.execute("CREATE DATABASE older; GRANT ALL ON older.* TO esxprov@'%'")
    database = Database(
        DatabaseConfig(unix_socket=str(mariadb.socket), user="esxprov", password=PASSWORD, name="older")
    )
    try:
        schema.upgrade(database)
        mariadb.execute("DROP TABLE esxprov_claim, esxprov_domain, esxprov_host, esxprov_schema", "older")
        for migration in schema.migrations()[:2]:
            mariadb.execute(";".join(migration.statements), "older")
        mariadb.execute(
            "INSERT INTO esxprov_domain VALUES ('blades', 7), ('lab', 12); "
            "INSERT INTO esxprov_claim "
            "(id, pool, endpoint, moid, computer_id, event_id, ram_mb, cpus, state, token, claimed_at) VALUES "
            "('a', 'blades', 'esx1', 'ha-host', 1, 'event-1', 1000, 1, 'claimed', 7, now()), "
            "('b', 'lab', 'esx1', 'ha-host', 2, 'event-2', 1000, 1, 'running', 12, now()); "
            "INSERT INTO esxprov_host VALUES ('esx1', 'ha-host', 2000, 2, 4000, 4)",
            "older",
        )
        schema.upgrade(database)
        claims = Claims(database)
        assert [(one.claim.id, one.lease_s is None) for one in claims.held()] == [("a", False), ("b", True)]
        assert claim_of(claims.take(want(1, never))).id == "a"
        assert claim_of(claims.take(want(3))).host == KEY
        assert token(database) == 14
    finally:
        database.close()
        mariadb.execute("DROP DATABASE older; REVOKE ALL ON older.* FROM esxprov@'%'")
