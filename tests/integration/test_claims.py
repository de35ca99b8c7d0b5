"""Claims on a real MariaDB: wants, alone, in clusters and in batches."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from esxprov.database import Database
from esxprov.errors import ProvisioningError
from esxprov.model import Claim, ClaimState, HostKey
from esxprov.placement.claims import Claims
from esxprov.placement.ledger import Ledger
from esxprov.placement.wants import Later, Proposal, Room, Taken, Want
from tests.integration.claims_rig import (
    HOSTS,
    KEY,
    MOST_CPUS,
    always,
    bad_hosts,
    claim_of,
    claim_on,
    first_fit,
    ledger_of,
    never,
    one_batch,
    opened,
    state_of,
    token,
    used,
    want,
)
from tests.testbed.mariadb import MariaDb


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


# --- taking -----------------------------------------------------------------------------------------------------------


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


# --- clusters ---------------------------------------------------------------------------------------------------------


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


# --- several at once --------------------------------------------------------------------------------------------------


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


def test_what_is_given_back_is_free_for_a_want_that_comes_with_it(claims: Claims, database: Database) -> None:
    old, kept = (claim_of(claims.take(want(number, always(claim_on(KEY, number, 2000))))) for number in (1, 2))
    before = token(database)
    new = want(3, first_fit([3], 2000, hosts=[KEY]))
    with one_batch(claims, [new, partial(claims.release, old.id)]) as answers:
        assert claim_of(answers[0]).host == KEY
    assert {claim.computer_id for claim in claims.all()} == {2, 3}
    assert token(database) == before + 2
    assert ledger_of(claims) == {kept, answers[0].claim}
    assert bad_hosts(database) == []


def test_what_is_given_back_is_so_although_a_want_that_came_with_it_chooses_a_full_host(
    claims: Claims, database: Database
) -> None:
    old = claim_of(claims.take(want(1)))
    with one_batch(claims, [want(2, always(claim_on(KEY, 2, 9000))), partial(claims.release, old.id)]) as answers:
        assert answers[0].code == "no_capacity"
        assert answers[1] is None
    assert (claims.all(), used(database)) == ([], {"esx1": (0, 0)})
    assert ledger_of(claims) == set()


@pytest.mark.parametrize("first", ["release", "mark"])
def test_a_claim_that_is_marked_and_given_back_at_once_is_given_back(
    claims: Claims, database: Database, first: str
) -> None:
    claim = claim_of(claims.take(want(1)))
    changes = {
        "release": partial(claims.release, claim.id),
        "mark": partial(claims.mark, claim.id, ClaimState.RUNNING),
    }
    with one_batch(claims, [changes.pop(first), *changes.values(), want(2)]):
        pass
    assert (state_of(database, claim), used(database)) == ("released", {"esx1": (1000, 1)})
    assert {one.computer_id for one in ledger_of(claims)} == {2}


def test_each_claim_of_a_batch_keeps_to_its_own_limit(claims: Claims, database: Database) -> None:
    """As those of two pools with different ratios: 3000 of 4000 MB, then 1000 of 3000, which is one too many."""
    strict = Proposal("yes", (Room(claim_on(KEY, 2, 1000), 3000, MOST_CPUS),))
    with one_batch(claims, [want(1, always(claim_on(KEY, 1, 3000))), want(2, lambda *_: strict)]) as answers:
        pass
    assert answers[1].code == "no_capacity"
    assert claim_of(answers[0]).ram_mb == 3000
    assert used(database)["esx1"] == (3000, 1)


# --- decisions that take long -----------------------------------------------------------------------------------------


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
