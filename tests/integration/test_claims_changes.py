"""Claims on a real MariaDB: what becomes of them, and rows that somebody else has changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

import pytest

from esxprov.database import Cursor, Database
from esxprov.errors import DependencyUnavailable, ProvisioningError
from esxprov.model import Claim, ClaimState
from esxprov.placement.claims import Claims
from esxprov.placement.reconcile import Correction
from tests.integration.claims_rig import (
    HOSTS,
    KEY,
    always,
    ask,
    bad_hosts,
    claim_of,
    claim_on,
    end_leases,
    first_fit,
    ledger_of,
    never,
    opened,
    state_of,
    token,
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


@pytest.fixture
def others(database: Database) -> Claims:
    """Another service on the same database."""
    return Claims(database, "somebody else")


# --- changing ---------------------------------------------------------------------------------------------------------


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


# --- leases -----------------------------------------------------------------------------------------------------------


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


# --- corrections ------------------------------------------------------------------------------------------------------


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


# --- what somebody else did -------------------------------------------------------------------------------------------


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

    def run(self, work: Callable[[Cursor], T], *, commits: bool = False) -> T:
        result = super().run(work, commits=commits)
        if not self.lost:
            self.lost = True
            raise DependencyUnavailable("gone")
        return result


def test_a_claim_whose_commit_was_not_answered_is_found_again(database: Database) -> None:
    claims = Claims(_LosesTheAnswer(database.config))
    with pytest.raises(DependencyUnavailable):
        claims.take(want(1))
    assert claims.take(want(1, never)).claim == claims.all()[0]
