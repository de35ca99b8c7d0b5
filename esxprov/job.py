"""What a handler is given: the request, named steps whose results survive a crash, progress, and the reasons to stop.

A step's result is kept in memory and written down when the next step is entered, so that a load costs one UPDATE per
step. A crash in between looks the same as one just before the result was known: the handler runs again, and each step
first asks the world whether it is already true.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Protocol

from bridge.envelope import Event
from esxprov.errors import Cancelled, OwnershipLost, ProvisioningError
from esxprov.ports import Clock
from esxprov.request import Request

log = logging.getLogger(__name__)


class Book(Protocol):
    """Where a job writes down what it did: the journal's row, or nowhere for a query."""

    def step(self, name: str, steps: dict[str, Any], decision: dict[str, Any] | None) -> None:
        """The step entered now, the results of those before, and a placement's input and answer if there is a new one.
        Raises OwnershipLost.
        """


class Unrecorded:
    """The book of a query: it changes nothing, so nothing has to survive."""

    def step(self, name: str, steps: dict[str, Any], decision: dict[str, Any] | None) -> None: ...


class Notify(Protocol):
    """Tells the caller how far the work is. Never blocks for long, never raises."""

    def __call__(self, step: str, message: str, loadstate: str | None, percent: int | None) -> None: ...


class Step:
    """The step being done. `result` is what an earlier run of this job found out, None the first time."""

    def __init__(self, job: Job, name: str, message: str, loadstate: str | None) -> None:
        self._job = job
        self._name = name
        self._message = message
        self._loadstate = loadstate
        self._percent = -1

    @property
    def result(self) -> dict[str, Any] | None:
        result: dict[str, Any] | None = self._job.steps.get(self._name)
        return result

    def keep(self, **result: Any) -> dict[str, Any]:
        """Remember the step's result (small, plain JSON) for a later run; returns it."""
        return self._job.keep(self._name, **result)

    def progress(self, percent: int) -> None:
        """How far the step is, in percent; raises if the job shall stop, which abandons a running vSphere task."""
        self._job.check()
        if percent > self._percent:
            self._percent = percent
            self._job.notify(self._name, self._message, self._loadstate, percent)


class Job:
    """One run of one event's handler. Only its worker thread calls it, except `interrupt`.

    `epoch` grows with each service that takes the event over: one that was overtaken while it slept has a smaller one.
    """

    def __init__(
        self,
        event: Event,
        request: Request,
        *,
        book: Book,
        notify: Notify,
        clock: Clock,
        steps: dict[str, Any] | None = None,
        epoch: int = 1,
    ) -> None:
        self.event = event
        self.request = request
        self.epoch = epoch
        self.steps = steps if steps is not None else {}
        self.notify = notify
        self._book = book
        self._clock = clock
        self._interrupted = threading.Event()
        self._reason: Exception | None = None
        self._decision: dict[str, Any] | None = None
        self.last_step = ("accept", "accepted")

    # --- steps ------------------------------------------------------------------------------------------------------

    @contextmanager
    def step(self, name: str, message: str, loadstate: str | None = None) -> Iterator[Step]:
        """Enter a step: a border at which cancel, deadline and the end of the service are honoured."""
        self.check()
        self.write_down(name)
        self.last_step = (name, message)
        self.notify(name, message, loadstate, None)
        started = self._clock.monotonic()
        yield Step(self, name, message, loadstate)
        log.info("%s: %s, done in %.3f s", name, message, self._clock.monotonic() - started)

    def write_down(self, step: str) -> None:
        """Store where the work is and what was found out so far, before more is done. Raises OwnershipLost."""
        self._book.step(step, self.steps, self._decision)
        self._decision = None

    def keep(self, name: str, **result: Any) -> dict[str, Any]:
        """Remember a result (small, plain JSON) for a later run, stored at the next border; returns it."""
        self.steps[name] = result
        return result

    def forget(self, *names: str) -> None:
        """Take back the results of steps, because their world is gone (the VM goes to another host)."""
        for name in names:
            self.steps.pop(name, None)

    def decided(self, decision: dict[str, Any]) -> None:
        """Record a placement decision with its input, for `esxprov replay`; stored at the next border."""
        self._decision = decision

    # --- time and reasons to stop -----------------------------------------------------------------------------------

    def now(self) -> datetime:
        return self._clock.now()

    def remaining_s(self) -> float:
        """Seconds until the event's deadline."""
        return self.event.remaining_s(self._clock.now())

    def interrupt(self, reason: Exception) -> None:
        """Any thread: stop this job at its next border with `reason`. The first reason counts, a lost ownership
        always.
        """
        if self._reason is None or isinstance(reason, OwnershipLost):
            self._reason = reason
        self._interrupted.set()

    def interrupted(self) -> bool:
        """Whether `check` would raise; for loops that wait inside an adapter."""
        return self._interrupted.is_set() or self.remaining_s() <= 0

    def check(self) -> None:
        """Raise the reason to stop, if there is one: Cancelled, HandedOver, OwnershipLost or deadline_exceeded."""
        if self._reason is not None:
            raise self._reason
        if self.remaining_s() <= 0:
            raise ProvisioningError(
                "deadline_exceeded",
                f"{self.event.call} was not done by its deadline; it was at step {self.last_step[0]}",
            )

    def pause(self, seconds: float) -> None:
        """Wait, but not past an interrupt or the deadline."""
        self._interrupted.wait(max(0.0, min(seconds, self.remaining_s())))
        self.check()


def cancelled(reason: str) -> Cancelled:
    """The interrupt of a cancel request."""
    return Cancelled(f"cancelled: {reason}")
