from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esxprov.model import Claim, ClaimState, HostKey
from esxprov.placement.ledger import Ledger

HOSTS = [HostKey("esx1", "ha-host"), HostKey("esx2", "ha-host")]
CLAIM = Claim("a", HOSTS[0], 7, 1000, 1, "event-1", reservation_id=12, group="request/3")

changes = st.lists(
    st.builds(
        Claim,
        id=st.sampled_from("abcdef"),
        host=st.sampled_from(HOSTS),
        computer_id=st.integers(0, 2),
        ram_mb=st.integers(1, 4),
        cpus=st.integers(1, 2),
        event_id=st.sampled_from(["", "event-1", "event-2"]),
        state=st.sampled_from(ClaimState),
        reservation_id=st.integers(0, 2),
        group=st.sampled_from(["", "one", "two"]),
    ),
    max_size=30,
)
"""Claims as they were written, one after the other."""


def last_of(written: list[Claim]) -> set[Claim]:
    """What a full load finds."""
    rows = {claim.id: claim for claim in written}
    return {claim for claim in rows.values() if claim.state is not ClaimState.RELEASED}


@pytest.mark.parametrize(
    "question",
    [
        lambda ledger: ledger.of_host(HOSTS[0]),
        lambda ledger: ledger.of_computer(7),
        lambda ledger: ledger.of_reservation(12),
        lambda ledger: ledger.of_event("event-1"),
        lambda ledger: ledger.of_group("request/3"),
    ],
)
def test_a_claim_is_found_by_what_it_is_for_until_it_is_released(
    question: Callable[[Ledger], tuple[Claim, ...]],
) -> None:
    ledger = Ledger()
    assert question(ledger) == ()
    ledger.put(CLAIM)
    assert question(ledger) == (CLAIM,)
    ledger.put(replace(CLAIM, state=ClaimState.RELEASED))
    assert question(ledger) == ()


def test_what_a_claim_does_not_say_finds_nothing() -> None:
    ledger = Ledger()
    ledger.put(Claim("a", HOSTS[0], 0, 1000, 1, ""))
    assert ledger.of_computer(0) == ledger.of_reservation(0) == ledger.of_event("") == ledger.of_group("") == ()


def test_who_comes_to_listen_late_hears_of_what_is_there() -> None:
    ledger = Ledger()
    ledger.put(CLAIM)
    heard: list[tuple[Claim | None, Claim | None]] = []
    ledger.listen(lambda before, after: heard.append((before, after)))
    assert heard == [(None, CLAIM)]


def test_a_claim_that_is_put_as_it_was_changes_nothing() -> None:
    ledger = Ledger()
    heard: list[Claim | None] = []
    ledger.listen(lambda _, after: heard.append(after))
    ledger.put(CLAIM)
    ledger.put(replace(CLAIM))
    assert heard == [CLAIM]


@given(changes, st.lists(st.integers(0, 30)))
def test_deltas_in_batches_of_any_size_end_as_a_full_load(written: list[Claim], cuts: list[int]) -> None:
    """A delta has each claim once, as it is at its end, and in no order: whoever reads late, reads the same."""
    ledger = Ledger()
    begin = 0
    for end in [*sorted(min(cut, len(written)) for cut in cuts), len(written)]:
        delta = {claim.id: claim for claim in written[begin:end]}
        for claim in reversed(list(delta.values())):
            ledger.put(claim)
        begin = end
    assert set(ledger) == last_of(written)


@given(changes)
def test_listeners_know_all_that_the_ledger_knows(written: list[Claim]) -> None:
    ledger = Ledger()
    ram_mb: dict[HostKey, int] = dict.fromkeys(HOSTS, 0)

    def follow(before: Claim | None, after: Claim | None) -> None:
        if before is not None:
            ram_mb[before.host] -= before.ram_mb
        if after is not None:
            ram_mb[after.host] += after.ram_mb

    ledger.listen(follow)
    for claim in written:
        ledger.put(claim)
    assert ram_mb == {host: sum(claim.ram_mb for claim in ledger.of_host(host)) for host in HOSTS}


@given(changes, changes)
def test_a_full_load_over_what_is_there_is_a_full_load(before: list[Claim], after: list[Claim]) -> None:
    ledger = Ledger()
    ledger.replace_all(last_of(before))
    ledger.replace_all(last_of(after))
    assert set(ledger) == last_of(after)
    assert {claim for host in HOSTS for claim in ledger.of_host(host)} == last_of(after)
