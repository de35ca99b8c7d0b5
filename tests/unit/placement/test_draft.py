"""What one transaction writes: limits that add up, and the order of its statements."""

from __future__ import annotations

import pytest

from esxprov.database import Unmet
from esxprov.model import Claim, ClaimState, HostKey
from esxprov.placement.claim_rows import Booking
from esxprov.placement.draft import Draft
from esxprov.placement.wants import Room

HOST = HostKey("esx1", "ha-host")


def room(ram_mb: int, most_ram_mb: int, host: HostKey = HOST) -> Room:
    return Room(Claim(f"claim of {ram_mb}", host, 1, ram_mb, 1, "event"), most_ram_mb, 8)


def tables(draft: Draft) -> list[str]:
    """What each statement begins with."""
    return [" ".join(statement.sql.split()[:3]) for statement in draft.statements("me")]


def test_the_strictest_of_a_hosts_claims_counts_together_with_those_before_it() -> None:
    draft = Draft({})
    draft.make([room(1000, 4000), room(500, 2000), room(100, 9000)])
    assert draft.bookings == {HOST: Booking(1600, 3, (500, 5))}


def test_a_claim_that_is_larger_than_its_host_is_not_even_asked_for() -> None:
    draft = Draft({})
    draft.make([room(4001, 4000)])
    with pytest.raises(Unmet, match="esx1/ha-host is too small"):
        draft.statements("me")


def test_hosts_are_written_before_claims_and_in_the_order_of_their_keys() -> None:
    draft = Draft({"b": ClaimState.RUNNING, "a": ClaimState.RELEASED})
    draft.make([room(1, 9, HostKey("esx2", "ha-host")), room(1, 9)])
    insert, update = "INSERT INTO esxprov_", "UPDATE esxprov_claim SET"
    assert tables(draft) == [insert + "host", insert + "host", update, update, insert + "claim"]
    endpoints = [value for value in draft.statements("me")[1].values if str(value).startswith("esx")]
    assert endpoints == ["esx1", "esx2"]


def test_nothing_to_write_is_no_statement() -> None:
    assert Draft({}).statements("me") == []
