"""The ledger as the database has it: loaded once, then kept by what was changed since.

Every change has the token of its transaction, and tokens are committed in their order, so a delta misses nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from esxprov.database import Cursor, Database
from esxprov.model import Claim
from esxprov.placement import claim_rows
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

    def catch_up(self, cursor: Cursor, token: int) -> None:
        """Read what was changed before this token, which belongs to the transaction under way."""
        now = self._monotonic()
        if token <= self._token:
            # The tokens begin anew: somebody has restored the database.
            self._read(claim_rows.select(cursor, "c.state <> 'released'"), token - 1, now)
        elif token > self._token + 1:
            for claim in claim_rows.select_changed(cursor, self._token):
                self.ledger.put(claim)
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
            changed = self._database.single(lambda cursor: claim_rows.select_changed(cursor, self._token))
            for claim in changed:
                self.ledger.put(claim)
            self._token = token
        self._read_at = self._monotonic()

    def replace(self, claims: Iterable[Claim], token: int) -> None:
        """Somebody has read everything, as it was with this token: make use of it, if that is not too long ago."""
        if token >= self._token:
            self._read(claims, token, self._monotonic())

    def put(self, claim: Claim) -> None:
        """A change of the transaction under way."""
        self._before.append((claim.id, self.ledger.put(claim)))

    def keep(self, token: int) -> None:
        """The transaction was committed, its changes stay."""
        self._before.clear()
        self._token = token

    def undo(self) -> None:
        """The transaction failed, its changes go. If it was committed nevertheless, the next delta brings them."""
        while self._before:
            claim_id, before = self._before.pop()
            if before is None:
                self.ledger.remove(claim_id)
            else:
                self.ledger.put(before)

    def _read(self, claims: Iterable[Claim], token: int, now: float) -> None:
        self.ledger.replace_all(claims)
        self._token = token
        self._read_at = now
