"""What waiting needs of a place where fresh leases are seen: a file on this machine, or the bus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from esxprov.model import Lease


class Source(Protocol):
    """One place where fresh leases are seen. Thread-safe.

    Marks are of each source's own kind; a source gets back only its own.
    """

    def arm(self, mac: str | None) -> Any:
        """A mark of now, taken before power-on: only what is recorded later is fresh. The MAC may not be known yet."""

    def rearm(self, mac: str | None, at: float) -> Any:
        """A mark that an earlier process took at that time (epoch seconds)."""

    def fresh(self, mac: str, mark: Any) -> Lease | None:
        """The active, unexpired lease of a MAC that was recorded after the mark; a fixed address at once."""

    def waking(self, mac: str, mark: Any, wake: Callable[[], None]) -> AbstractContextManager[None]:
        """While it is entered, `wake` is called whenever `fresh` may have another answer. It must not take long."""

    def active_of(self, mac: str) -> Sequence[Lease]:
        """The active leases of a MAC that are known here, fresh or not, the newest first."""

    def is_declined(self, mac: str, ip: str) -> bool:
        """Whether the MAC has declined the address since, or somebody else was found to have it. Looked up now."""

    def what_was_seen(self, mac: str, mark: Any) -> str:
        """Why there is no fresh lease of this MAC and what to do about it, in one sentence without a full stop."""

    @property
    def is_stopping(self) -> bool:
        """Nothing more will be seen here."""
