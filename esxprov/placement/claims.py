"""Taking and releasing capacity in MariaDB. The claims are the truth; what hypervisors report only lowers capacity.

Every change of capacity or of a claim takes one row first, then the hosts' in the order of their keys, then the
claims': so decisions are made one after the other on fresh claims, no two changes can deadlock, and the order in which
changes are committed is that of their tokens. The conditional UPDATE of the hosts is the invariant that holds even if
somebody comes past that row. Not GET_LOCK: it is bound to a connection, survives COMMIT, and Galera refuses it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from esxprov.database import Cursor, Database
from esxprov.errors import ProvisioningError
from esxprov.model import Claim, ClaimState, HostKey
from esxprov.placement import claim_rows
from esxprov.placement.batches import Batches
from esxprov.placement.books import Books, Held
from esxprov.placement.claim_rows import LEASE_S, Booking
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
        self._batches = Batches[_Asked, Taken[Any] | Later](self._decide, batch)
        self._turn = threading.Lock()  # guards the two below; taken before the lock in the database
        self._mirror = Mirror(database, monotonic)
        self._with_row: set[HostKey] = set()

    # --- taking ------------------------------------------------------------------------------------------------------

    def take(self, want: Want[D]) -> Taken[D]:
        """Decide and claim in one transaction, together with what others want at the same time.

        An event that holds a claim for the computer already (its service died after the commit, or a handler asks
        twice) gets that one, a reservation for which a claim waits gets that, and there is no new decision. Raises
        what `decide` raises, and `no_capacity` if the hosts it chooses turn out to be full every time.
        """
        asked = _Asked(want)
        for _ in range(1 + _POSTPONED):
            answer = self._batches.ask(asked)
            if isinstance(answer, Taken):
                return answer
            asked.hint = answer.work()
        raise ProvisioningError(
            "no_capacity",
            f"no place for computer {want.computer_id} was found in time: the hosts' claims changed {_POSTPONED} times "
            "while one was worked out",
            retryable=True,
        )

    def _decide(self, batch: Sequence[_Asked]) -> list[Taken[Any] | Later | Exception]:
        """Answers in the order of the batch."""
        for asked in batch:
            asked.answer = None
        with self._turn:
            while left := [asked for asked in batch if asked.answer is None]:
                self._mirror.load()
                draft = _Draft()
                try:
                    self._database.run(partial(self._transaction, batch=left, draft=draft))
                except _CameBetween as error:
                    self._mirror.undo()
                    self._mirror.drop()
                    self._with_row.clear()
                    self._count(left, error.collisions or self._refused(draft))
                except BaseException:
                    self._mirror.undo()
                    raise
                else:
                    self._mirror.keep(draft.token)
                    self._with_row.update(draft.bookings)
                    for asked, answer in draft.answers:
                        asked.answer = answer
        return [asked.answer for asked in batch if asked.answer is not None]

    def _transaction(self, cursor: Cursor, batch: Sequence[_Asked], draft: _Draft) -> None:
        self._mirror.undo()
        draft.begin(claim_rows.lock(cursor))
        self._mirror.catch_up(cursor, draft.token)
        for asked in batch:
            draft.answers.append((asked, self._answer(asked, draft)))
        if draft.rooms:
            if new := [host for host in draft.bookings if host not in self._with_row]:
                claim_rows.make_hosts(cursor, new)
            if not claim_rows.occupy(cursor, draft.bookings):
                raise _CameBetween
            claim_rows.insert(cursor, draft.claims(), draft.token, self._owner)
        for asked, claim in draft.adopted:
            if not claim_rows.adopt(cursor, claim, draft.token, self._owner):
                raise _CameBetween({asked: f"the claim {claim.id} in esxprov_claim was changed without its token"})

    def _answer(self, asked: _Asked, draft: _Draft) -> Taken[Any] | Later | Exception:
        want, ledger = asked.want, self._mirror.ledger
        if (claim := held_by(ledger, want)) is not None:
            return Taken(None, claim)
        if (claim := waiting_for(ledger, want)) is not None:
            claim = replace(claim, event_id=want.event_id)
            self._mirror.put(claim)
            draft.adopted.append((asked, claim))
            return Taken(None, claim)
        try:
            proposal = want.decide(ledger, asked.hint)
            if isinstance(proposal, Later):
                return proposal
            rooms = named(want, proposal)
        except Exception as error:
            return error
        for room in rooms:
            self._mirror.put(room.claim)
            draft.book(asked, room)
        return taken(want, proposal, rooms)

    def _refused(self, draft: _Draft) -> dict[_Asked, str]:
        """Whose hosts cannot take what they chose, and why; everybody if that cannot be told any more."""
        booked = self._database.single(claim_rows.sums)
        refused: dict[_Asked, str] = {}
        for asked in draft.rooms:
            after = dict(booked)
            for room in draft.rooms[asked]:
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
        return refused or dict.fromkeys(draft.rooms, "rows of esxprov_host were changed by hand meanwhile")

    def _count(self, batch: Iterable[_Asked], collisions: dict[_Asked, str]) -> None:
        for asked in batch:
            if asked in collisions:
                asked.collisions += 1
                log.warning("a claim has to be decided again: %s", collisions[asked])
                if asked.collisions >= _DECISIONS:
                    asked.answer = ProvisioningError("no_capacity", collisions[asked], retryable=True)

    # --- changing ----------------------------------------------------------------------------------------------------

    def release(self, claim_id: str, evidence: str = "") -> None:
        """Give the capacity back. Released already is fine. `evidence` says for the log how we know that it is free."""
        self.release_many([claim_id], evidence)

    def release_many(self, claim_ids: Collection[str], evidence: str = "") -> None:
        """As `release`, in one transaction."""

        def work(cursor: Cursor) -> list[Claim]:
            token = claim_rows.lock(cursor)
            released = claim_rows.select_ids(cursor, claim_ids)
            claim_rows.release(cursor, released, token)
            return released

        for claim in self._database.run(work) if claim_ids else []:
            log.info("computer %d: %s is given back%s", claim.computer_id, claim.id, evidence and f", {evidence}")

    def mark(self, claim_id: str, state: ClaimState) -> None:
        """Change a claim's state; its capacity stays taken. Released already is fine."""
        if state is ClaimState.RELEASED:
            raise ValueError("a claim is given back by `release`")

        def work(cursor: Cursor) -> None:
            claim_rows.mark(cursor, claim_id, state, claim_rows.lock(cursor))

        self._database.run(work)

    def renew(self, event_ids: Collection[str], lease_s: float = LEASE_S) -> None:
        """A sign of life for the claims of these events, and for those that wait for others of their clusters."""

        def work(cursor: Cursor) -> None:
            claim_rows.lock(cursor)
            claim_rows.renew(cursor, sorted(event_ids), lease_s, self._owner)

        if event_ids:
            self._database.run(work)

    def correct(self, corrections: Sequence[Correction]) -> list[Correction]:
        """Do those whose claim is still as it was when they were planned; returns them."""
        done: list[Correction] = []
        for begin in range(0, len(corrections), BATCH):
            chunk = corrections[begin : begin + BATCH]
            done += self._database.run(partial(self._correct, corrections=chunk))
        return done

    def _correct(self, cursor: Cursor, corrections: Sequence[Correction]) -> list[Correction]:
        token = claim_rows.lock(cursor)
        now = {held.claim.id: held for held in claim_rows.select_held_ids(cursor, [one.id for one in corrections])}
        done = [one for one in corrections if one.still_holds(now.get(one.id))]
        claim_rows.release(cursor, [one.before for one in done if one.before and one.after is None], token)
        claim_rows.adjust(cursor, _differences(done))
        for one in done:
            if one.before and one.after:
                claim_rows.change(cursor, one.after, token)
        if new := [one.after for one in done if one.after and not one.before]:
            claim_rows.make_way(cursor, [claim.id for claim in new])
            claim_rows.insert(cursor, new, token, self._owner)
        return done

    def sum_up(self, hosts: Collection[HostKey]) -> None:
        """Set the sums of hosts to those of their claims."""

        def work(cursor: Cursor) -> None:
            claim_rows.lock(cursor)
            for host in sorted(hosts, key=lambda host: (host.endpoint, host.moid)):
                claim_rows.sum_up(cursor, host)

        if hosts:
            self._database.run(work)

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


@dataclass(slots=True, eq=False)
class _Asked:
    """A want, what was worked out for it, and how it goes. `answer` is None while it has none."""

    want: Want[Any]
    hint: Any = None
    collisions: int = 0
    answer: Taken[Any] | Later | Exception | None = None


@dataclass(slots=True)
class _Draft:
    """What one transaction is about to write."""

    token: int = 0
    answers: list[tuple[_Asked, Taken[Any] | Later | Exception]] = field(default_factory=list)
    rooms: dict[_Asked, list[Room]] = field(default_factory=dict)
    adopted: list[tuple[_Asked, Claim]] = field(default_factory=list)
    bookings: dict[HostKey, Booking] = field(default_factory=dict)

    def begin(self, token: int) -> None:
        """Anew, with this token: a transaction may be repeated."""
        self.token = token
        for kept in (self.answers, self.rooms, self.adopted, self.bookings):
            kept.clear()

    def claims(self) -> list[Claim]:
        """To be inserted."""
        return [room.claim for rooms in self.rooms.values() for room in rooms]

    def book(self, asked: _Asked, room: Room) -> None:
        """Each claim of a batch has a limit of its own, and those booked before it count."""
        self.rooms.setdefault(asked, []).append(room)
        claim = room.claim
        one = self.bookings.get(claim.host)
        before = (one.ram_mb, one.cpus) if one else (0, 0)
        ram_mb, cpus = before[0] + claim.ram_mb, before[1] + claim.cpus
        most = room.most_ram_mb - ram_mb, room.most_cpus - cpus
        if one:
            most = min(most[0], one.most_before_ram_mb), min(most[1], one.most_before_cpus)
        self.bookings[claim.host] = Booking(ram_mb, cpus, *most)


class _CameBetween(Exception):
    """Rows are not as they were read, although they were read under the lock. `collisions` says whose, if known."""

    def __init__(self, collisions: Mapping[_Asked, str] | None = None) -> None:
        super().__init__()
        self.collisions = dict(collisions or {})


def _differences(corrections: Iterable[Correction]) -> dict[HostKey, tuple[int, int]]:
    """What corrections that free nothing add to the sums of hosts."""
    changes: dict[HostKey, tuple[int, int]] = {}
    for one in corrections:
        if one.after is not None:
            for claim, sign in ((one.before, -1), (one.after, 1)):
                if claim is not None:
                    ram_mb, cpus = changes.get(claim.host, (0, 0))
                    changes[claim.host] = ram_mb + sign * claim.ram_mb, cpus + sign * claim.cpus
    return {host: change for host, change in changes.items() if change != (0, 0)}
