"""Looking at what endpoints have: side by side, and once for all who ask at the same time.

At the start of a class dozens of loads want to know the same thing of the same hosts.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from esxprov.errors import ProvisioningError
from esxprov.ports import Hypervisor, Hypervisors, Look, Watches

T = TypeVar("T")

log = logging.getLogger(__name__)

RECENT_S = 0.1
"""How long ago a recent look has begun: an answer travels as long, and grows as old while one decides."""


class Looks:
    """One thread for each endpoint, and so one session, however many ask (ports.Looks). `watches` spare asking."""

    def __init__(
        self,
        hypervisors: Hypervisors,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        watches: Watches | None = None,
    ) -> None:
        self._hypervisors = hypervisors
        self._watches = watches
        self._monotonic = monotonic
        self._lock = threading.RLock()  # guards all below
        self._threads: dict[str, ThreadPoolExecutor] = {}
        self._newest: dict[str, _Ordered] = {}

    def at(self, endpoints: Sequence[str], *, recent: bool = False) -> list[Look]:
        """A look at each of them, begun after this was called; with `recent` what is watched, or a look begun at most
        RECENT_S before.
        """
        since = self._monotonic() - (RECENT_S if recent else 0)
        watched = {name: self._watches.look(name) for name in endpoints} if recent and self._watches else {}
        looks = [watched.get(name) or self._order(name, since) for name in endpoints]
        return [look if isinstance(look, Look) else look.result() for look in looks]

    def ask(
        self, endpoints: Sequence[str], question: Callable[[Hypervisor], T]
    ) -> list[tuple[str, T | ProvisioningError]]:
        """Each endpoint's name and answer, or why it has none; the question goes to all of them side by side."""
        asked = [(name, self._thread_of(name).submit(self._ask, name, question)) for name in endpoints]
        return [(name, answer.result()) for name, answer in asked]

    def close(self) -> None:
        """End the threads; nobody may ask any more."""
        for thread in self._threads.values():
            thread.shutdown()

    def _order(self, name: str, since: float) -> Future[Look]:
        with self._lock:
            newest = self._newest.get(name)
            if newest is None or newest.begun_at < since:
                newest = self._newest[name] = _Ordered()
                newest.look = self._thread_of(name).submit(self._look, name, newest)
            return newest.look

    def _thread_of(self, name: str) -> ThreadPoolExecutor:
        with self._lock:
            return self._threads.setdefault(name, ThreadPoolExecutor(1, f"look at {name}"))

    def _ask(self, name: str, question: Callable[[Hypervisor], T]) -> T | ProvisioningError:
        try:
            return question(self._hypervisors.endpoint(name))
        except ProvisioningError as error:
            return error

    def _look(self, name: str, ordered: _Ordered) -> Look:
        ordered.begun_at = self._monotonic()
        try:
            return self._hypervisors.endpoint(name).look()
        except ProvisioningError as error:
            # The watch says once that an endpoint is silent.
            log.log(logging.DEBUG if self._watches else logging.WARNING, "%s is left out: %s", name, error)
            known = self._watches.look(name) if self._watches else None
            return known if known and known.problem else Look(name, problem=error.message)


@dataclass(slots=True)
class _Ordered:
    """A look to come, under way, or done. `begun_at` is written once, by the thread that looks."""

    look: Future[Look] = field(default_factory=Future)
    begun_at: float = math.inf
