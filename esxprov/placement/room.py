"""What passes between a decision and the claims made for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from esxprov.model import Claim
from esxprov.placement.choose import Decision


@dataclass(frozen=True, slots=True)
class Room:
    """What a claim takes, and what its host may have promised in all claims at most."""

    ram_mb: int
    cpus: int
    most_ram_mb: int
    most_cpus: int


Decide = Callable[[Sequence[Claim]], tuple[Decision, Room]]
"""Given all claims as they are now, those of other pools too: the decision, and the room on the host it chose."""
