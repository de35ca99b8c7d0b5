"""The claims with all that their rows say, as the reconciler reads them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from esxprov.model import Claim, HostKey

Sums = tuple[int, int]
"""RAM in MB, vCPUs."""


@dataclass(frozen=True, slots=True)
class Held:
    """A claim and what its row says beside it.

    `changed` is the token of its last change, `age_s` how long ago that was. `lease_s` is what is left of its lease,
    None if it has none. `event` is "running", "ok", "failed" or "cancelled", "" if the journal does not know it.
    """

    claim: Claim
    changed: int = 0
    age_s: int = 0
    lease_s: float | None = None
    event: str = ""
    owner: str = ""

    @property
    def is_abandoned(self) -> bool:
        """Its lease is over, and nobody will go on with its event."""
        return self.lease_s is not None and self.lease_s <= 0 and self.event != "running"


@dataclass(frozen=True, slots=True)
class Books:
    """All claims and the hosts' sums as they were at one moment; `released` are the ids of claims that lately went."""

    claims: tuple[Held, ...]
    sums: Mapping[HostKey, Sums]
    released: frozenset[str] = frozenset()
