"""Accept, run the handler, retry, deadline, cancel, reply: the only place with those rules.

A delivery is never held while a VM is built. A command is accepted into the journal, acknowledged, and then worked on;
a query is answered and then acknowledged. The outcome is stored first and published afterwards.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from bridge.contract import CALLS, PROGRESS_INTERVAL_S, Kind, Lane, Outcome
from bridge.envelope import EnvelopeError, Event, decode, encode, finished
from bridge.message import BrokerUnavailable, Delivery
from bridge.topology import CLI_REPLY_PREFIX, VCLD_REPLY_PREFIX, may_reply_to
from esxprov import request as requests
from esxprov.errors import Cancelled, DependencyUnavailable, HandedOver, OwnershipLost, ProvisioningError
from esxprov.handlers import Handler
from esxprov.job import Job, Unrecorded, cancelled
from esxprov.journal import MAX_TAKEOVERS, Acceptance, Journal, Record
from esxprov.logs import about
from esxprov.outbox import Lanes, Outbox
from esxprov.ports import Clock, Tools

log = logging.getLogger(__name__)

REPLY_QUEUES = f"{VCLD_REPLY_PREFIX}* or {CLI_REPLY_PREFIX}*"

RETRY_FIRST_S = 1.0
RETRY_MOST_S = 30.0
_SHORT = 2000
"""So much of an error's message is told if all of it is too much."""

TURN_POLL_S = 1.0
"""How often another service's unfinished event of the same computer is looked at; our own wake us at once."""


class Refused(Exception):
    """A message that is parked instead of obeyed; the text is the reason."""


@dataclass(slots=True)
class _Running:
    """A command at work in this process."""

    record: Record
    job: Job
    silent_since: float


@dataclass(frozen=True, slots=True)
class Limits:
    """How much this service does at once, and whom it obeys."""

    workers_slow: int
    workers_fast: int
    publishers: frozenset[str]


@dataclass(slots=True)
class _Book:
    """A job's book in the journal."""

    journal: Journal
    record: Record

    def step(self, name: str, steps: dict[str, Any], decision: dict[str, Any] | None) -> None:
        self.journal.step(self.record, name, steps, decision)


@dataclass(slots=True)
class _Pools:
    """The worker threads of both lanes. `intake` is one thread: accepting is short, and its order is the queue's.

    `fast` accepts and answers; the fast lane's commands, which wait for their turn and for addresses, have `power`.
    There are twice as many workers for commands as work at once: each may wait for an abandoned one, which somebody
    must work on, or they would all wait for ever.
    """

    intake: ThreadPoolExecutor
    slow: ThreadPoolExecutor
    fast: ThreadPoolExecutor
    power: ThreadPoolExecutor


class Dispatcher:
    """Deliveries in, replies out. `deliver_*` are called on the broker's I/O thread and only enqueue."""

    def __init__(
        self,
        *,
        journal: Journal,
        handlers: Mapping[str, Handler],
        tools: Tools,
        outbox: Outbox,
        lanes: Lanes,
        clock: Clock,
        limits: Limits,
        about_us: Mapping[str, Any],
    ) -> None:
        self._journal = journal
        self._handlers = handlers
        self._tools = tools
        self._outbox = outbox
        self._lanes = lanes
        self._clock = clock
        self._limits = limits
        self._about_us = about_us
        self._pools = _Pools(
            ThreadPoolExecutor(1, "intake"),
            ThreadPoolExecutor(2 * limits.workers_slow, "slow"),
            ThreadPoolExecutor(limits.workers_fast, "fast"),
            ThreadPoolExecutor(2 * limits.workers_fast, "power"),
        )
        # Owned by the condition's lock: which commands wait for a worker or run here, and whether we are ending.
        self._changed = threading.Condition()
        self._queued: dict[int, Record] = {}
        self._running: dict[int, _Running] = {}
        self._asked_from: dict[int, str] = {}
        self._slow_taken = 0
        self._ending = False

    # --- deliveries -------------------------------------------------------------------------------------------------

    def deliver_slow(self, delivery: Delivery) -> None:
        """A delivery of the slow lane: only ever commands."""
        self._pools.intake.submit(self._guard, self._take_in, delivery)

    def deliver_fast(self, delivery: Delivery) -> None:
        """A delivery of the fast lane: a query, a power command or a control message."""
        self._pools.fast.submit(self._guard, self._take_in, delivery)

    def _guard(self, work: Callable[[Delivery], None], delivery: Delivery) -> None:
        """Nothing a message does may end a worker thread; without the database nothing is accepted."""
        try:
            work(delivery)
        except Refused as refusal:
            log.warning("parking a message for %s: %s", delivery.routing_key, refusal)
            self._park(delivery, str(refusal))
        except DependencyUnavailable as error:
            log.warning("accepting nothing: %s", error)
            self._pause("database")
            self._lanes.requeue(delivery)
        except Exception:
            log.exception("a message for %s could not be handled", delivery.routing_key)
            self._park(delivery, "internal error, see the service's log")

    def _pause(self, reason: str) -> None:
        """Until `take_in_again` finds that it is over: a message put back is delivered again at once."""
        for lane in Lane:
            self._lanes.pause(lane, reason)

    def _park(self, delivery: Delivery, reason: str) -> None:
        try:
            self._outbox.park(delivery, reason)
        except BrokerUnavailable as error:
            # Unacknowledged, so the broker delivers it again and it is parked then.
            log.warning("taking in nothing, since a message cannot be parked: %s", error)
            self._pause("parking")
            self._lanes.requeue(delivery)
            return
        self._lanes.ack(delivery)

    def _take_in(self, delivery: Delivery) -> None:
        if self._ending:
            self._lanes.requeue(delivery)
            return
        event = self._obeyable(delivery)
        with about(event):
            kind = CALLS[event.call].kind
            if kind is Kind.COMMAND:
                self._accept(event, delivery)
            else:
                self._answer(event, delivery.reply_to)
                self._lanes.ack(delivery)

    def _obeyable(self, delivery: Delivery) -> Event:
        """The event in a delivery. Raises Refused for anything that is none, or is not for us to obey."""
        try:
            event = decode(delivery.body)
        except EnvelopeError as error:
            raise Refused(f"{error.code}: {error}") from error
        if event.phase.value != "requested":
            raise Refused(f"invalid_event: {event.type} is not a request")
        if delivery.user_id is None:
            raise Refused("invalid_event: it does not say which broker user sent it (AMQP property user_id)")
        if delivery.user_id not in self._limits.publishers:
            allowed = ", ".join(sorted(self._limits.publishers))
            raise Refused(
                f"invalid_event: broker user {delivery.user_id!r} may not give commands here, only {allowed} may"
            )
        if delivery.reply_to is not None and not may_reply_to(delivery.reply_to):
            raise Refused(
                f"invalid_event: replies must not go to the queue {delivery.reply_to!r}, only to {REPLY_QUEUES}"
            )
        return event

    # --- queries and control ----------------------------------------------------------------------------------------

    def _answer(self, event: Event, reply_to: str | None) -> None:
        if event.remaining_s(self._clock.now()) <= 0:
            log.info("%s is past its deadline, nobody waits for the answer", event.call)
            return
        started = self._clock.monotonic()
        outcome, result, error = self._outcome(lambda: self._query(event))
        reply = _reply(
            event,
            now=self._clock.now(),
            outcome=outcome,
            result=result,
            error=error,
            seconds=self._clock.monotonic() - started,
        )
        self._outbox.answer(reply, reply_to)

    def _query(self, event: Event) -> dict[str, Any]:
        if event.call == "ping":
            return {**self._about_us, "slow_running": self._slow_taken, "slow_workers": self._limits.workers_slow}
        if event.call == "cancel":
            return self._cancel(event)
        job = Job(event, requests.read(event), book=Unrecorded(), notify=_silent, clock=self._clock)
        return self._handlers[event.call].run(job, self._tools)

    def _cancel(self, event: Event) -> dict[str, Any]:
        target, reason = event.data.get("event"), event.data.get("reason", "")
        if not isinstance(target, str) or not isinstance(reason, str) or not 1 <= len(target) <= 64:
            raise ProvisioningError("invalid_event", "cancel needs data.event, the id of the event to cancel")
        accepted = self._journal.cancel(target, reason or "no reason given")
        with self._changed:
            for running in self._running.values():
                if running.record.event.id == target:
                    running.job.interrupt(cancelled(reason))
        return {"cancelled": accepted}

    # --- commands ---------------------------------------------------------------------------------------------------

    def _accept(self, event: Event, delivery: Delivery) -> None:
        acceptance, record = self._journal.accept(event, delivery.reply_to)
        if acceptance is Acceptance.OWNED:
            if CALLS[event.call].replaces:
                self._interrupt_superseded(record)
            # The slot is taken before the acknowledgement, so that the broker sends nothing more than we have room for.
            self._start(record)
        elif acceptance is Acceptance.DONE:
            log.info("%s is done already, sending its reply again", event.call)
            self._outbox.send(record)
        else:
            log.info("%s is under way already", event.call)
            with self._changed:
                if record.reply_to is not None and record.seq in {**self._queued, **self._running}:
                    self._asked_from[record.seq] = record.reply_to
        self._lanes.ack(delivery)

    def _interrupt_superseded(self, newer: Record) -> None:
        """Tell our own older jobs of this computer at once; those of another service learn it from the journal."""
        computer = requests.computer_id(newer.event)
        with self._changed:
            for running in self._running.values():
                record = running.record
                if (
                    computer is not None
                    and requests.computer_id(record.event) == computer
                    and record.seq < newer.seq
                    and CALLS[record.event.call].replaceable
                ):
                    running.job.interrupt(cancelled(f"superseded by the newer {newer.event.call} {newer.event.id}"))

    def _start(self, record: Record) -> None:
        lane = CALLS[record.event.call].lane
        with self._changed:
            # The pools take work until we are ending, which nobody can begin while we hold the lock.
            if not self._ending:
                self._queued[record.seq] = record
                if lane is Lane.SLOW:
                    self._slow_taken += 1
                    if self._slow_taken >= self._limits.workers_slow:
                        self._lanes.pause(Lane.SLOW, "full")
                pool = self._pools.slow if lane is Lane.SLOW else self._pools.power
                pool.submit(self._work, record, lane)
                return
        self._hand_over(record)

    def _work(self, record: Record, lane: Lane) -> None:
        with about(record.event):
            try:
                self._run(record)
            except OwnershipLost:
                log.warning("%s was taken over by another service, stopping", record.event.call)
            except HandedOver:
                log.info("%s is left to the next service", record.event.call)
                self._hand_over(record)
            except DependencyUnavailable as error:
                log.warning("%s stays in the journal for later: %s", record.event.call, error)
            except Exception:
                log.exception("%s stays in the journal for later", record.event.call)
            finally:
                self._leave(record, lane)

    def _hand_over(self, record: Record) -> None:
        try:
            self._journal.release(record)
        except (OwnershipLost, DependencyUnavailable) as error:
            log.warning("could not be released, it is taken over when its ownership runs out: %r", error)

    def _leave(self, record: Record, lane: Lane) -> None:
        with self._changed:
            # Not what a later run of the same event, which we took over from ourselves, has put there.
            if self._queued.get(record.seq) is record:
                del self._queued[record.seq]
            if record.seq in self._running and self._running[record.seq].record is record:
                del self._running[record.seq]
            if record.seq not in {**self._queued, **self._running}:
                self._asked_from.pop(record.seq, None)
            if lane is Lane.SLOW:
                self._slow_taken -= 1
                if not self._ending and self._slow_taken < self._limits.workers_slow:
                    self._lanes.resume(Lane.SLOW, "full")
            self._changed.notify_all()

    def _run(self, record: Record) -> None:
        """Work on an owned command until it has an outcome, store that, and send the reply."""
        event = record.event
        sequence = _Sequence(record.epoch)
        started = self._clock.monotonic()

        def notify(step: str, message: str, loadstate: str | None, percent: int | None) -> None:
            running = self._running.get(record.seq)
            if running is None:
                return  # housekeeping speaks for a job that has just ended
            running.silent_since = self._clock.monotonic()
            self._outbox.progress(
                event,
                self._as_asked_last(record).reply_to,
                sequence.next(),
                step=step,
                message=message,
                loadstate=loadstate,
                percent=percent,
            )

        attempts = _Attempts(record.attempts)
        outcome, result, error = self._outcome(lambda: self._handle(record, notify, attempts))
        reply = _reply(
            event,
            now=self._clock.now(),
            outcome=outcome,
            result=result,
            error=error,
            attempts=attempts.count,
            seconds=self._clock.monotonic() - started,
        )
        done = self._journal.finish(self._as_asked_last(record), outcome, reply)
        log.info("%s %s in %.1f s%s", event.call, outcome.value, self._clock.monotonic() - started, _why(error))
        self._outbox.send(done)

    def _as_asked_last(self, record: Record) -> Record:
        """The record with the queue from which it was last asked for: the first asker's may be gone."""
        return replace(record, reply_to=self._asked_from.get(record.seq, record.reply_to))

    def _handle(self, record: Record, notify: Any, attempts: _Attempts) -> dict[str, Any]:
        event = record.event
        handler = self._handlers[event.call]
        job = Job(
            event,
            requests.read(event),
            book=_Book(self._journal, record),
            notify=notify,
            clock=self._clock,
            steps=record.steps,
            epoch=record.epoch,
        )
        with self._changed:
            if self._queued.get(record.seq) is record:
                del self._queued[record.seq]
            earlier = self._running.get(record.seq)
            if earlier is not None and earlier.record.epoch > record.epoch:
                raise OwnershipLost
            if earlier is not None:
                earlier.job.interrupt(OwnershipLost())
            self._running[record.seq] = _Running(record, job, self._clock.monotonic())
            if self._ending:
                raise HandedOver
        try:
            if record.cancel_reason is not None:
                raise cancelled(record.cancel_reason)
            if record.takeovers > MAX_TAKEOVERS:
                raise ProvisioningError("internal", f"given up after {record.takeovers} services died working on it")
            self._wait_for_turn(record, job)
            return self._attempt(record, job, handler, attempts)
        except (OwnershipLost, HandedOver, DependencyUnavailable):
            raise
        except Exception:
            # Also what nobody foresaw: it ends the command, and must not leave its VM and its claim behind.
            self._undo(job, handler)
            raise

    def _attempt(self, record: Record, job: Job, handler: Handler, attempts: _Attempts) -> dict[str, Any]:
        """Run the handler; after a passing failure wait and run it again, within the deadline."""
        delay_s = RETRY_FIRST_S
        while True:
            try:
                if attempts.count > record.attempts:
                    self._journal.retried(record, attempts.count)
                return handler.run(job, self._tools)
            except (ProvisioningError, DependencyUnavailable) as error:
                passing = isinstance(error, DependencyUnavailable) or error.retryable
                if not passing or job.remaining_s() <= delay_s:
                    raise
                log.warning("trying again in %.0f s: %s", delay_s, error)
                job.notify("retry", f"trying again in {delay_s:.0f} s: {error}", "info", None)
                job.pause(delay_s)
                attempts.count += 1
                delay_s = min(2 * delay_s, RETRY_MOST_S)

    def _undo(self, job: Job, handler: Handler) -> None:
        """Take back what a failed or cancelled command left; what cannot be taken back now is recorded by the
        handler.

        Raises OwnershipLost: a service that was overtaken fails in every way, and must not remove its successor's VM.
        Raises DependencyUnavailable: then it is not taken back, and the command not at its end.
        """
        if handler.undo is None:
            return
        job.write_down("undo")
        try:
            handler.undo(job, self._tools)
        except ProvisioningError as error:
            log.warning("cleaning up after %s: %s", job.event.call, error)

    def _wait_for_turn(self, record: Record, job: Job) -> None:
        """One command at a time works on a computer, over all services, in the order they were accepted.

        One that nobody works on is taken over here: `recover` finds no room for it while all workers wait like this.
        """
        while (older := self._journal.older_running(record)) is not None:
            event_id, is_abandoned = older
            try:
                job.check()
            except ProvisioningError as error:
                if isinstance(error, Cancelled):
                    raise
                raise ProvisioningError(
                    "conflict",
                    f"{record.event.call} waited until its deadline for event {event_id}, which still works on this "
                    "computer: see 'esxprov events show'",
                ) from error
            if is_abandoned:
                self._take_over(self._journal.recover(1, before=record))
            with self._changed:
                self._changed.wait(TURN_POLL_S)

    def _outcome(
        self, work: Callable[[], dict[str, Any]]
    ) -> tuple[Outcome, dict[str, Any] | None, dict[str, Any] | None]:
        try:
            return Outcome.OK, work(), None
        except Cancelled as error:
            return Outcome.CANCELLED, None, _error(error)
        except ProvisioningError as error:
            return Outcome.FAILED, None, _error(error)
        except (OwnershipLost, HandedOver, DependencyUnavailable):
            raise
        except Exception as error:
            log.exception("a handler failed in a way it should not")
            return Outcome.FAILED, None, _error(ProvisioningError("internal", f"{type(error).__name__}: {error}"))

    # --- chores, called by housekeeping -----------------------------------------------------------------------------

    def renew(self) -> None:
        """Keep the ownership of all that runs here or waits for a worker, and learn what shall stop."""
        with self._changed:
            held = list(self._running.values())
            queued = list(self._queued.values())
        kept = self._journal.renew([*(running.record for running in held), *queued])
        for running in held:
            if running.record.seq not in kept:
                running.job.interrupt(OwnershipLost())
            elif (reason := kept[running.record.seq]) is not None:
                running.job.interrupt(cancelled(reason))

    def at_work(self) -> list[str]:
        """The ids of the events that run here or wait for a worker."""
        with self._changed:
            return [record.event.id for record in [*(r.record for r in self._running.values()), *self._queued.values()]]

    def break_silence(self) -> None:
        """Say what each long step is at, so that no caller takes us for dead."""
        now = self._clock.monotonic()
        with self._changed:
            silent = [r for r in self._running.values() if now - r.silent_since >= PROGRESS_INTERVAL_S * 0.8]
        for running in silent:
            step, message = running.job.last_step
            running.job.notify(step, message, None, None)

    def recover(self) -> None:
        """Take over events whose service is gone, as many as there is room for."""
        with self._changed:
            free = 0 if self._ending else self._limits.workers_slow - self._slow_taken
        self._take_over(self._journal.recover(free))

    def _take_over(self, records: list[Record]) -> None:
        for record in records:
            with about(record.event):
                log.info("taking over %s at step %s", record.event.call, list(record.steps)[-1:] or "accept")
            self._start(record)

    def take_in_again(self) -> None:
        """Consume again after the database was away, or a message could not be parked."""
        if self._lanes.paused_for("database"):
            self._journal.ping()
        for lane in Lane:
            self._lanes.resume(lane, "database")
            self._lanes.resume(lane, "parking")

    def stop(self) -> None:
        """Stop every job at its next border and wait for them; their events stay in the journal, released."""
        with self._changed:
            self._ending = True
            for running in self._running.values():
                running.job.interrupt(HandedOver())
            self._changed.notify_all()
        self._pools.intake.shutdown(wait=True, cancel_futures=True)
        self._pools.slow.shutdown(wait=True, cancel_futures=False)
        self._pools.fast.shutdown(wait=True, cancel_futures=False)
        self._pools.power.shutdown(wait=True, cancel_futures=False)


@dataclass(slots=True)
class _Attempts:
    count: int


class _Sequence:
    """Growing numbers for progress notes, also over a change of owner; gaps mean nothing."""

    def __init__(self, epoch: int) -> None:
        self._lock = threading.Lock()
        self._next = epoch * 1_000_000

    def next(self) -> int:
        with self._lock:
            self._next += 1
            return self._next


def _silent(step: str, message: str, loadstate: str | None, percent: int | None) -> None:
    """A query has no progress."""


def _reply(
    event: Event, *, outcome: Outcome, result: dict[str, Any] | None, error: dict[str, Any] | None, **said: Any
) -> Event:
    """The reply, in any case one that can be sent: an outcome that is too large is told without its details."""
    reply = finished(event, outcome=outcome, result=result, error=error, **said)
    try:
        encode(reply)
    except EnvelopeError as problem:
        log.warning("the outcome of %s cannot be told in full: %s", event.call, problem)
        if error is None:
            outcome = Outcome.FAILED
            error = _error(ProvisioningError("internal", f"the answer cannot be sent: {problem}; ask for less at once"))
        text = error["message"][:_SHORT].encode(errors="replace").decode()
        return finished(event, outcome=outcome, error={**error, "message": text, "detail": {}}, **said)
    return reply


def _error(error: ProvisioningError) -> dict[str, Any]:
    return {"code": error.code, "message": error.message, "retryable": error.retryable, "detail": error.detail}


def _why(error: dict[str, Any] | None) -> str:
    return f": {error['code']}: {error['message']}" if error else ""
