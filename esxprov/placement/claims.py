"""Taking and releasing capacity in MariaDB. The claims are the truth; what hypervisors report only lowers capacity.

Every change of capacity or of a claim takes one row first, then the hosts' in the order of their keys, then the
claims': so decisions are made one after the other on fresh claims, no two changes can deadlock, and the order in which
changes are committed is that of their tokens. The limit of each host's sums is the invariant that holds even if
somebody comes past that row. Whoever holds it says all that is left to say, COMMIT included, in one packet: others wait
for its decision, but for none of its round trips. Not GET_LOCK: it is bound to a connection, survives COMMIT, and
Galera refuses it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar, cast

from esxprov.database import COMMIT, Cursor, Database, Statement, Unmet, together
from esxprov.errors import ProvisioningError
from esxprov.model import Claim, ClaimState, HostKey
from esxprov.placement import claim_rows
from esxprov.placement.batches import Batches
from esxprov.placement.books import Books, Held
from esxprov.placement.claim_rows import LEASE_S, Booking
from esxprov.placement.draft import Draft
from esxprov.placement.ledger import Ledger
from esxprov.placement.mirror import Mirror
from esxprov.placement.reconcile import Correction
from esxprov.placement.wants import D, Later, Room, Taken, Want, held_by, named, taken, waiting_for

T = TypeVar("T")

log = logging.getLogger(__name__)

BATCH = 64
"""So many wants are decided in one transaction at most."""

_DECISIONS = 5
"""So often somebody may come past the lock and take the room between our reading the claims and our taking it."""

_POSTPONED = 3
"""So often a decision may say that it needs to work longer."""


class Claims:
    """The claims of all pools (ports.ClaimBook). `owner` names this service in the claims it makes."""

    def __init__(
        self, database: Database, owner: str = "", monotonic: Callable[[], float] = time.monotonic, batch: int = BATCH
    ) -> None:
        self._database = database
        self._owner = owner
        self._batches = Batches[_Asked, _Answer](self._answer, batch)
        self._turn = threading.Lock()  # guards the mirror; taken before the lock in the database
        self._mirror = Mirror(database, monotonic)

    # --- taking and giving back --------------------------------------------------------------------------------------

    def take(self, want: Want[D]) -> Taken[D]:
        """Decide and claim in one transaction, together with what others want at the same time.

        An event that holds a claim for the computer already (its service died after the commit, or a handler asks
        twice) gets that one, a reservation for which a claim waits gets that, and there is no new decision. Raises
        what `decide` raises, and `no_capacity` if the hosts it chooses turn out to be full every time.
        """
        asked = _Asked(want)
        for _ in range(1 + _POSTPONED):
            answer = self._batches.ask(asked)
            if not isinstance(answer, Later):
                return cast(Taken[D], answer)
            asked.hint = answer.work()
        raise ProvisioningError(
            "no_capacity",
            f"no place for computer {want.computer_id} was found in time: the hosts' claims changed {_POSTPONED} times "
            "while one was worked out",
            retryable=True,
        )

    def release(self, claim_id: str, evidence: str = "") -> None:
        """Give the capacity back. Released already is fine. `evidence` says for the log how we know that it is free."""
        self.release_many([claim_id], evidence)

    def release_many(self, claim_ids: Collection[str], evidence: str = "") -> None:
        """As `release`, in one transaction."""
        if claim_ids:
            self._change(claim_ids, ClaimState.RELEASED)
            log.info("given back%s: %s", evidence and f", {evidence}", ", ".join(claim_ids))

    def mark(self, claim_id: str, state: ClaimState) -> None:
        """Change a claim's state; its capacity stays taken. Released already is fine."""
        if state is ClaimState.RELEASED:
            raise ValueError("a claim is given back by `release`")
        self._change([claim_id], state)

    def _change(self, claim_ids: Collection[str], state: ClaimState) -> None:
        self._batches.ask(_Asked(_Change(tuple(claim_ids), state)))

    def _answer(self, batch: Sequence[_Asked]) -> list[_Answer | Exception]:
        """In the order of the batch."""
        for asked in batch:
            asked.answer = None
        with self._turn:
            while left := [asked for asked in batch if asked.answer is None]:
                try:
                    self._answer_together(left)
                except Unmet:
                    self._mirror.drop()
                    # Whoever wants no room is not to blame, and need not wait until it is clear who is.
                    self._answer_together([one for one in left if isinstance(one.question, _Change)])
                    self._count(self._refused([one for one in left if one.answer is None]))
                finally:
                    self._mirror.undo()
        return [asked.answer for asked in batch if asked.answer is not None]

    def _answer_together(self, batch: Sequence[_Asked]) -> None:
        """In one transaction: first what is changed, which needs no decision, then what is wanted."""
        states: dict[str, ClaimState] = {}
        for one in batch:
            if isinstance(one.question, _Change):
                for claim_id in one.question.claim_ids:
                    if states.get(claim_id) is not ClaimState.RELEASED:
                        states[claim_id] = one.question.state
        wants = [(one, one.question) for one in batch if isinstance(one.question, Want)]
        answers: list[_Answer | Exception] = []
        if wants:
            self._mirror.load()
            answers = self._database.run(partial(self._take, wants=wants, states=states), commits=True)
            self._mirror.keep()
        elif states:
            # Nobody has to know the claims, and all is said in one round trip.
            statements = [claim_rows.LOCK, *Draft(states).statements(self._owner), COMMIT]
            self._database.run(partial(together, statements=statements), commits=True)
        for asked in batch:
            asked.answer = True
        for (asked, _), answer in zip(wants, answers, strict=True):
            asked.answer = answer

    def _take(
        self, cursor: Cursor, wants: Sequence[tuple[_Asked, Want[Any]]], states: Mapping[str, ClaimState]
    ) -> list[_Answer | Exception]:
        self._mirror.lock(cursor)
        self._mirror.mark(states)
        draft = Draft(states)
        answers = [self._decide(asked, want, draft) for asked, want in wants]
        together(cursor, [*draft.statements(self._owner), COMMIT])
        return answers

    def _decide(self, asked: _Asked, want: Want[Any], draft: Draft) -> _Answer | Exception:
        ledger = self._mirror.ledger
        asked.rooms = ()
        if (claim := held_by(ledger, want)) is not None:
            return Taken(None, claim)
        if (claim := waiting_for(ledger, want)) is not None:
            claim = replace(claim, event_id=want.event_id)
            self._mirror.put(claim)
            draft.adopt(claim)
            return Taken(None, claim)
        try:
            proposal = want.decide(ledger, asked.hint)
            if isinstance(proposal, Later):
                return proposal
            asked.rooms = named(want, proposal)
        except Exception as error:
            return error
        for room in asked.rooms:
            self._mirror.put(room.claim)
        draft.make(asked.rooms)
        return taken(want, proposal, asked.rooms)

    def _refused(self, batch: Sequence[_Asked]) -> dict[_Asked, str]:
        """Whose hosts cannot take what they chose, and why; everybody if that cannot be told any more."""
        booked = self._database.single(claim_rows.sums)
        refused: dict[_Asked, str] = {}
        for asked in batch:
            after = dict(booked)
            for room in asked.rooms:
                claim = room.claim
                ram_mb, cpus = after.get(claim.host, (0, 0))
                after[claim.host] = ram_mb + claim.ram_mb, cpus + claim.cpus
                if after[claim.host][0] > room.most_ram_mb or after[claim.host][1] > room.most_cpus:
                    refused[asked] = (
                        f"{claim.host} was chosen for {claim.ram_mb} MB and {claim.cpus} vCPUs, but by its row in "
                        f"esxprov_host ({ram_mb} MB and {cpus} vCPUs used) it cannot take them: run 'esxprov claims "
                        "reconcile'"
                    )
                    break
            else:
                booked = after
        return refused or dict.fromkeys(batch, "rows of esxprov_host or esxprov_claim were changed by hand meanwhile")

    def _count(self, collisions: Mapping[_Asked, str]) -> None:
        for asked, why in collisions.items():
            asked.collisions += 1
            log.warning("a claim has to be decided again: %s", why)
            if asked.collisions >= _DECISIONS:
                asked.answer = ProvisioningError("no_capacity", why, retryable=True)

    # --- other changes -----------------------------------------------------------------------------------------------

    def renew(self, event_ids: Collection[str], lease_s: float = LEASE_S) -> None:
        """A sign of life for the claims of these events, and for those that wait for others of their clusters."""

        def work(cursor: Cursor) -> None:
            together(cursor, [claim_rows.LOCK])
            claim_rows.renew(cursor, sorted(event_ids), lease_s, self._owner)

        if event_ids:
            self._database.run(work)

    def correct(self, corrections: Sequence[Correction]) -> list[Correction]:
        """Do those whose claim is still as it was when they were planned; returns them."""
        done: list[Correction] = []
        for begin in range(0, len(corrections), BATCH):
            chunk = corrections[begin : begin + BATCH]
            done += self._database.run(partial(self._correct, corrections=chunk), commits=True)
        return done

    def _correct(self, cursor: Cursor, corrections: Sequence[Correction]) -> list[Correction]:
        together(cursor, [claim_rows.LOCK])
        now = {held.claim.id: held for held in claim_rows.select_held_ids(cursor, [one.id for one in corrections])}
        done = [one for one in corrections if one.still_holds(now.get(one.id))]
        together(cursor, [*_statements(done, self._owner), COMMIT])
        return done

    def sum_up(self, hosts: Collection[HostKey]) -> None:
        """Set the sums of hosts to those of their claims."""
        ordered = sorted(hosts, key=lambda host: (host.endpoint, host.moid))
        statements = [claim_rows.LOCK, *(one for host in ordered for one in claim_rows.sum_up(host)), COMMIT]
        if hosts:
            self._database.run(lambda cursor: together(cursor, statements), commits=True)

    def forget(self, hours: int = 1) -> int:
        """Delete rows of claims that were released so long ago; they count nowhere, so nobody has to wait."""
        return self._database.single(partial(claim_rows.forget, hours=hours))

    # --- reading -----------------------------------------------------------------------------------------------------

    def listen(self, listener: Callable[[Claim | None, Claim | None], None]) -> None:
        """Follow the ledger: `listener` hears of every change, in the thread that makes it; see Ledger.listen."""
        with self._turn:
            self._mirror.ledger.listen(listener)

    def read(self, question: Callable[[Ledger], T]) -> T:
        """The answer to a question on all claims as they are now; the ledger must not be kept."""
        with self._turn:
            self._mirror.load()
            self._mirror.follow()
            return question(self._mirror.ledger)

    def of_computer(self, computer_id: int) -> list[Claim]:
        """All claims of a computer, oldest first."""
        return self._select("c.computer_id = %s AND c.state <> 'released'", computer_id)

    def of_pool(self, pool: str) -> list[Claim]:
        """All claims of a pool, oldest first."""
        return self._select("c.pool = %s AND c.state <> 'released'", pool)

    def all(self) -> list[Claim]:
        """All claims, oldest first."""
        return self._select("c.state <> 'released'")

    def expired(self) -> list[Claim]:
        """Those on their way without a sign of life from their owner."""
        return self._select("c.state = 'claimed' AND c.leased_until < UTC_TIMESTAMP(6)")

    def held(self) -> list[Held]:
        """All claims with their leases and what became of their events, oldest first."""
        return self._database.single(partial(claim_rows.select_held, condition="c.state <> 'released'"))

    def books(self) -> Books:
        """Everything as it was at one moment. The mirror makes use of it, should rows have been changed by hand."""
        token, books = self._database.run(claim_rows.books)
        with self._turn:
            self._mirror.replace((held.claim for held in books.claims), token)
        return books

    def _select(self, condition: str, *values: Any) -> list[Claim]:
        return self._database.single(lambda cursor: claim_rows.select(cursor, condition, *values))


@dataclass(frozen=True, slots=True)
class _Change:
    """Another state for claims."""

    claim_ids: tuple[str, ...]
    state: ClaimState


_Answer = Taken[Any] | Later | bool
"""True: the change was made."""


@dataclass(slots=True, eq=False)
class _Asked:
    """A want or a change, what was worked out for it, and how it goes. `answer` is None while it has none."""

    question: Want[Any] | _Change
    hint: Any = None
    rooms: tuple[Room, ...] = ()
    collisions: int = 0
    answer: _Answer | Exception | None = None


def _statements(corrections: Sequence[Correction], owner: str) -> list[Statement]:
    """To be executed in this order."""
    freed = [one.id for one in corrections if one.after is None]
    changed = [one.after for one in corrections if one.before and one.after]
    new = [one.after for one in corrections if one.after and not one.before]
    added: defaultdict[HostKey, Booking] = defaultdict(Booking)
    for one in corrections:
        if one.after:
            added[one.after.host].add(one.after.ram_mb, one.after.cpus)
            if one.before:
                added[one.before.host].add(-one.before.ram_mb, -one.before.cpus)
    found = [claim_rows.give_back(freed)] if freed else []
    found += [claim_rows.adjust(added)] if added else []
    found += [claim_rows.mark(freed, ClaimState.RELEASED)] if freed else []
    found += [claim_rows.change(claim) for claim in changed]
    found += [claim_rows.make_way([claim.id for claim in new]), claim_rows.insert(new, owner)] if new else []
    return found
