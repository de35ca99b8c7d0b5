"""The ledger as the database has it: loaded once, then kept by what was changed since.

Every change has the token of its transaction, and tokens are committed in their order, so a delta misses nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from esxprov.database import Cursor, Database
from esxprov.model import Claim, ClaimState
from esxprov.placement import claim_rows
from esxprov.placement.claim_rows import Change
from esxprov.placement.ledger import Ledger

STALE_S = 1800.0
"""A mirror that was not read for so long is loaded anew: rows of released claims, by which it would learn that they are
no more, stay for an hour only.
"""


class Mirror:
    """Not for two threads at once. `ledger` also holds what the transaction under way has changed; see `keep`."""

    def __init__(self, database: Database, monotonic: Callable[[], float]) -> None:
        self.ledger = Ledger()
        self._database = database
        self._monotonic = monotonic
        self._token = 0
        self._read_at = -math.inf
        self._before: list[tuple[str, Claim | None]] = []  # of the transaction under way: (id, claim as it was before)

    def load(self) -> None:
        """Read everything, unless it was read lately. Takes no lock: what is changed meanwhile is in the next delta."""
        now = self._monotonic()
        if now - self._read_at > STALE_S:
            token = self._database.single(claim_rows.token)
            claims = self._database.single(lambda cursor: claim_rows.select(cursor, "c.state <> 'released'"))
            self._read(claims, token, now)

    def drop(self) -> None:
        """Somebody has changed rows and no token: believe nothing that was read."""
        self._read_at = -math.inf

    def lock(self, cursor: Cursor) -> None:
        """Begin a transaction: what was changed before it is known from now on."""
        self.undo()
        now = self._monotonic()
        token, changes = claim_rows.lock_and_read(cursor, self._token)
        if token <= self._token:
            # The tokens begin anew: somebody has restored the database.
            self._read(claim_rows.select(cursor, "c.state <> 'released'"), token - 1, now)
        else:
            self._apply(changes)
        self._token = token - 1
        self._read_at = now

    def follow(self) -> None:
        """Read what was changed until now, without the lock: for those who only look."""
        token = self._database.single(claim_rows.token)
        if token < self._token:
            self.drop()
            self.load()
        elif token > self._token:
            # May bring later changes too, which the next delta then brings once more.
            self._apply(self._database.single(lambda cursor: claim_rows.select_changed(cursor, self._token)))
            self._token = token
        self._read_at = self._monotonic()

    def replace(self, claims: Iterable[Claim], token: int) -> None:
        """Somebody has read everything, as it was with this token: make use of it, if that is not too long ago."""
        if token >= self._token:
            self._read(claims, token, self._monotonic())

    def mark(self, states: Mapping[str, ClaimState]) -> None:
        """Other states of claims, of the transaction under way."""
        for claim_id, state in states.items():
            if (claim := self.ledger.get(claim_id)) is not None:
                self.put(replace(claim, state=state))

    def put(self, claim: Claim) -> None:
        """A change of the transaction under way."""
        self._before.append((claim.id, self.ledger.put(claim)))

    def keep(self) -> None:
        """The transaction was committed, its changes stay."""
        self._before.clear()
        self._token += 1

    def undo(self) -> None:
        """The transaction failed, its changes go. If it was committed nevertheless, the next delta brings them."""
        while self._before:
            claim_id, before = self._before.pop()
            if before is None:
                self.ledger.remove(claim_id)
            else:
                self.ledger.put(before)

    def _apply(self, changes: Iterable[Change]) -> None:
        for change in changes:
            if isinstance(change, str):
                self.ledger.remove(change)
            else:
                self.ledger.put(change)

    def _read(self, claims: Iterable[Claim], token: int, now: float) -> None:
        self.ledger.replace_all(claims)
        self._token = token
        self._read_at = now
