"""What one transaction is about to write, gathered want by want, then written together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from esxprov.database import Statement
from esxprov.model import Claim, ClaimState, HostKey
from esxprov.placement import claim_rows
from esxprov.placement.claim_rows import Booking
from esxprov.placement.wants import Room


@dataclass(slots=True)
class Draft:
    """`states` are new ones of claims, by id; what is released by them is free for the wants."""

    states: Mapping[str, ClaimState]
    made: list[Claim] = field(default_factory=list)
    adopted: list[Claim] = field(default_factory=list)
    bookings: dict[HostKey, Booking] = field(default_factory=dict)

    def make(self, rooms: Sequence[Room]) -> None:
        """New claims. Each has a limit of its own, and what is in the draft already counts."""
        for room in rooms:
            claim = room.claim
            self.made.append(claim)
            booking = self.bookings.get(claim.host) or self.bookings.setdefault(claim.host, Booking())
            booking.add(claim.ram_mb, claim.cpus)
            booking.limit(room.most_ram_mb, room.most_cpus)

    def adopt(self, claim: Claim) -> None:
        """A claim that waited has got its event."""
        self.adopted.append(claim)

    def statements(self, owner: str) -> list[Statement]:
        """To be executed in this order, under the lock. One of them fails with Unmet if a row is not as it was read."""
        released = self._of(ClaimState.RELEASED)
        found = [claim_rows.give_back(released)] if released else []
        found += [claim_rows.occupy(self.bookings)] if self.bookings else []
        found += [claim_rows.mark(self._of(state), state) for state in dict.fromkeys(self.states.values())]
        found += [claim_rows.insert(self.made, owner)] if self.made else []
        for claim in self.adopted:
            found += claim_rows.adopt(claim, owner)
        return found

    def _of(self, state: ClaimState) -> list[str]:
        return sorted(claim_id for claim_id, now in self.states.items() if now is state)
