"""All claims in memory, found by what is asked of them. Pure: who fills it and keeps it current is claims.py."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Generic, TypeVar

from esxprov.model import Claim, ClaimState, HostKey

K = TypeVar("K", bound=Hashable)

Listener = Callable[[Claim | None, Claim | None], None]
"""Told of each change after it was made: the claim before (None: there was none) and after (None: it is gone)."""


class Ledger:
    """Claims by id, and by computer, host, reservation, event and group. A released claim is no claim."""

    def __init__(self) -> None:
        self._claims: dict[str, Claim] = {}
        self._hosts = _Index[HostKey]()
        self._computers = _Index[int]()
        self._reservations = _Index[int]()
        self._events = _Index[str]()
        self._groups = _Index[str]()
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> None:
        """Follow every change from now on, beginning with the claims that are here."""
        self._listeners.append(listener)
        for claim in self._claims.values():
            listener(None, claim)

    def put(self, claim: Claim) -> Claim | None:
        """Add a claim, or replace the one with its id; one that is released goes. Returns what was there before."""
        if claim.state is ClaimState.RELEASED:
            return self.remove(claim.id)
        before = self._claims.get(claim.id)
        if before != claim:
            self._change(before, claim)
        return before

    def remove(self, claim_id: str) -> Claim | None:
        """Forget a claim; returns it, None if there is none."""
        before = self._claims.get(claim_id)
        if before is not None:
            self._change(before, None)
        return before

    def replace_all(self, claims: Iterable[Claim]) -> None:
        """Hold exactly these; listeners hear of the differences only."""
        left = set(self._claims)
        for claim in claims:
            self.put(claim)
            left.discard(claim.id)
        for claim_id in left:
            self.remove(claim_id)

    def _change(self, before: Claim | None, after: Claim | None) -> None:
        if before is not None:
            del self._claims[before.id]
            self._hosts.remove(before.host, before)
            self._computers.remove(before.computer_id, before)
            self._reservations.remove(before.reservation_id, before)
            self._events.remove(before.event_id, before)
            self._groups.remove(before.group, before)
        if after is not None:
            self._claims[after.id] = after
            self._hosts.add(after.host, after)
            self._computers.add(after.computer_id, after)
            self._reservations.add(after.reservation_id, after)
            self._events.add(after.event_id, after)
            self._groups.add(after.group, after)
        for listener in self._listeners:
            listener(before, after)

    def get(self, claim_id: str) -> Claim | None:
        return self._claims.get(claim_id)

    def __iter__(self) -> Iterator[Claim]:
        return iter(self._claims.values())

    def __len__(self) -> int:
        return len(self._claims)

    def of_host(self, host: HostKey) -> tuple[Claim, ...]:
        return self._hosts.of(host)

    def of_computer(self, computer_id: int) -> tuple[Claim, ...]:
        return self._computers.of(computer_id)

    def of_reservation(self, reservation_id: int) -> tuple[Claim, ...]:
        return self._reservations.of(reservation_id)

    def of_event(self, event_id: str) -> tuple[Claim, ...]:
        return self._events.of(event_id)

    def of_group(self, group: str) -> tuple[Claim, ...]:
        return self._groups.of(group)


class _Index(Generic[K]):
    """Claims by one of their fields. A field that says nothing ("" or 0) is not indexed."""

    def __init__(self) -> None:
        self._claims: dict[K, dict[str, Claim]] = {}

    def add(self, key: K, claim: Claim) -> None:
        if key:
            self._claims.setdefault(key, {})[claim.id] = claim

    def remove(self, key: K, claim: Claim) -> None:
        if key:
            held = self._claims[key]
            del held[claim.id]
            if not held:
                del self._claims[key]

    def of(self, key: K) -> tuple[Claim, ...]:
        return tuple(self._claims.get(key, {}).values())
