"""What recurs, in a thread of its own: signs of life, taking over abandoned events, sending replies, forgetting."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from esxprov.errors import DependencyUnavailable, ProvisioningError
from esxprov.ports import Clock

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Chore:
    name: str
    interval_s: float
    work: Callable[[], object]
    due: float


class Housekeeping:
    """Runs its chores one after the other, each at its interval; `soon` brings one forward.

    A chore that fails for want of a server is tried again at its next turn; the log says so once until it works again.
    """

    def __init__(self, clock: Clock, name: str = "housekeeping") -> None:
        self._clock = clock
        self._chores: dict[str, _Chore] = {}
        self._changed = threading.Condition()
        self._ended = False
        self._failing: set[str] = set()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def every(self, interval_s: float, name: str, work: Callable[[], object], *, first_s: float | None = None) -> None:
        """Register a chore before `start`; it first runs after `first_s` (default: one interval)."""
        due = self._clock.monotonic() + (interval_s if first_s is None else first_s)
        self._chores[name] = _Chore(name, interval_s, work, due)

    def start(self) -> None:
        self._thread.start()

    def soon(self, name: str) -> None:
        """Any thread: run this chore now rather than at its turn."""
        with self._changed:
            self._chores[name].due = self._clock.monotonic()
            self._changed.notify()

    def stop(self) -> None:
        """End after the chore under way."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while (chore := self._next()) is not None:
            try:
                chore.work()
            except (DependencyUnavailable, ProvisioningError) as error:
                if chore.name not in self._failing:
                    self._failing.add(chore.name)
                    log.warning("%s: %s", chore.name, error)
            except Exception:
                # A chore must not end the thread that keeps every running job alive.
                log.exception("%s failed", chore.name)
            else:
                if chore.name in self._failing:
                    self._failing.discard(chore.name)
                    log.info("%s works again", chore.name)

    def _next(self) -> _Chore | None:
        """The chore whose turn it is, after waiting for it; None at the end."""
        with self._changed:
            while not self._ended:
                chore = min(self._chores.values(), key=lambda candidate: candidate.due)
                wait_s = chore.due - self._clock.monotonic()
                if wait_s <= 0:
                    chore.due = self._clock.monotonic() + chore.interval_s
                    return chore
                self._changed.wait(wait_s)
        return None
