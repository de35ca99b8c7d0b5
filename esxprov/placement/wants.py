"""What is said between those who want a place and the claims: a want, a proposal for it, what was taken. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeAlias, TypeVar

from esxprov.model import Claim, ClaimState
from esxprov.placement.ledger import Ledger

D = TypeVar("D")
"""What a decision says beside the claims: nothing of it matters here, it is handed back as it is."""


@dataclass(frozen=True, slots=True)
class Room:
    """A claim to make, and what its host may have promised in all claims at most. The claim is given its id later."""

    claim: Claim
    most_ram_mb: int
    most_cpus: int


@dataclass(frozen=True, slots=True)
class Proposal(Generic[D]):
    """A decision and the claims that it makes: all of them or, if it is a no, none.

    One of them is for the computer that asked; the others wait for the reservations they are made for.
    """

    decision: D
    rooms: tuple[Room, ...] = ()


@dataclass(frozen=True, slots=True)
class Later:
    """Not decided yet: `work` takes longer than others should wait. It is done while nobody waits, on what it was given
    (not on the ledger, which changes meanwhile); then the want is decided again, with its result as a hint.
    """

    work: Callable[[], Any]


Decide: TypeAlias = Callable[[Ledger, Any], Proposal[D] | Later]
"""Decides on all claims as they are now, those of other pools too, and on the hint of a `Later` (None the first time).

Pure, and may be repeated: it changes no claim, and believes no hint that the claims do not bear out.
"""


@dataclass(frozen=True, slots=True)
class Want(Generic[D]):
    """A place for the VM that an event builds for a computer and a reservation (0: of none)."""

    event_id: str
    computer_id: int
    reservation_id: int
    decide: Decide[D] = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Taken(Generic[D]):
    """`claim` is None if the decision was a no. `decision` is None if there was none to make: the claim was there.

    `waiting` are the claims made with it, for the other reservations of its cluster.
    """

    decision: D | None
    claim: Claim | None
    waiting: tuple[Claim, ...] = ()


def held_by(ledger: Ledger, want: Want[Any]) -> Claim | None:
    """The claim that the event holds for its computer already, whoever took it for it."""
    for claim in ledger.of_event(want.event_id):
        if claim.computer_id == want.computer_id and claim.state in (ClaimState.CLAIMED, ClaimState.RUNNING):
            return claim
    return None


def waiting_for(ledger: Ledger, want: Want[Any]) -> Claim | None:
    """The claim that was made for this reservation and computer when another one of its cluster was placed."""
    for claim in ledger.of_reservation(want.reservation_id):
        if claim.computer_id == want.computer_id and not claim.event_id and claim.state is ClaimState.CLAIMED:
            return claim
    return None


def named(want: Want[D], proposal: Proposal[D]) -> tuple[Room, ...]:
    """The rooms of a proposal whose claims have ids, and are the event's or wait for theirs."""
    if proposal.rooms and all(room.claim.computer_id != want.computer_id for room in proposal.rooms):
        raise ValueError(f"the proposal has claims, but none for computer {want.computer_id}, which asked for one")
    return tuple(Room(_named(room.claim, want), room.most_ram_mb, room.most_cpus) for room in proposal.rooms)


def _named(claim: Claim, want: Want[Any]) -> Claim:
    is_own = claim.computer_id == want.computer_id
    return replace(claim, id=str(uuid.uuid4()), event_id=want.event_id if is_own else "")


def taken(want: Want[D], proposal: Proposal[D], rooms: Sequence[Room]) -> Taken[D]:
    """The answer to a want whose rooms were claimed."""
    claims = [room.claim for room in rooms]
    own = next((claim for claim in claims if claim.event_id == want.event_id), None)
    return Taken(proposal.decision, own, tuple(claim for claim in claims if claim is not own))
