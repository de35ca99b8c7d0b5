"""Publish an event and follow it to its reply: for the CLI and tests, as the Perl shim does it for vcld."""

from __future__ import annotations

import logging
import queue
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import NoReturn

from bridge.amqp.thread import BrokerThread
from bridge.contract import CALLS, GRACE_S, SILENCE_S, Phase
from bridge.dead import DeadLetter
from bridge.envelope import EnvelopeError, Event, decode, encode, request
from bridge.message import BrokerUnavailable, Delivery, properties
from bridge.parameters import BrokerParameters
from bridge.topology import CLI_REPLY_PREFIX, DEAD, EXCHANGE, own_reply_queue, routing_key

log = logging.getLogger(__name__)


class NoService(Exception):
    """No service takes this call for this management node; the text is one sentence."""


class NoReply(Exception):
    """The deadline passed without the reply; the event was asked to be cancelled. The text is one sentence."""


class _Reconnected:
    """In an inbox: the reply queue is a new one, so what was sent to the old is lost."""


class Client:
    """A connection with a reply queue of its own. For one thread; use it as a context manager.

    `reply_prefix` must be one that the user may declare and the service accepts.
    """

    def __init__(
        self,
        parameters: BrokerParameters,
        node: str,
        *,
        reply_prefix: str = CLI_REPLY_PREFIX,
        connect_s: float = 10.0,
        silence_s: float = SILENCE_S,
        grace_s: float = GRACE_S,
    ) -> None:
        self._address = parameters.address
        self._node = node
        self._reply_queue = f"{reply_prefix}{uuid.uuid4()}"
        self._connect_s = connect_s
        self._silence_s = silence_s
        self._grace_s = grace_s
        # Filled by the I/O thread; a new one for each call, so that no call reads what belongs to an earlier one.
        self._inbox: queue.SimpleQueue[Delivery | _Reconnected] = queue.SimpleQueue()
        self._broker = BrokerThread(parameters, name=f"esxprov client of {node}", on_up=self._on_up)
        self._broker.declare(own_reply_queue(self._reply_queue))
        self._broker.consume(self._reply_queue, self._on_delivery, prefetch=0)

    def __enter__(self) -> Client:
        """Connect. BrokerUnavailable if that takes longer than `connect_s`, BrokerRefused if we may not."""
        self._broker.start()
        try:
            self._broker.wait_until_connected(self._connect_s)
        except BrokerUnavailable:
            self._broker.stop(drain_s=0)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._broker.stop()

    def call(
        self, event: Event, *, on_progress: Callable[[Event], None] | None = None, timeout_s: float | None = None
    ) -> Event:
        """Publish `event` and return its reply, which may well say `failed`; progress notes are handed on in order.

        `timeout_s` defaults to what is left until the event's own deadline. After `silence_s` without a word, and after
        a new connection, the same event is published again: its id makes that harmless. NoService if it cannot be
        delivered, NoReply at the deadline plus `grace_s`, BrokerUnavailable if it cannot even be published.
        """
        if timeout_s is None:
            timeout_s = min(event.remaining_s(datetime.now(UTC)), float(CALLS[event.call].deadline_s))
        give_up = time.monotonic() + timeout_s + self._grace_s
        self._inbox = queue.SimpleQueue()
        try:
            self.send(event, reply_to=self._reply_queue)
        except BrokerUnavailable:
            # Whether the broker got it, nobody knows; a second try tells a short break from a broker that is gone.
            self._broker.wait_until_connected(self._connect_s)
            self.send(event, reply_to=self._reply_queue)
        sequence = -1
        while True:
            message = self._next(event, min(self._silence_s, give_up - time.monotonic()))
            if message is None and time.monotonic() >= give_up:
                self._give_up(event, timeout_s)
            elif message is None:
                self._ask_again(event)
            elif message.phase is Phase.FINISHED:
                return message
            elif message.sequence is None or message.sequence > sequence:
                sequence = message.sequence or sequence
                if on_progress is not None:
                    on_progress(message)

    def send(self, event: Event, reply_to: str | None = None) -> None:
        """Publish `event` and return once the broker has it. Raises NoService or BrokerUnavailable."""
        key = routing_key(self._node, event.call)
        outcome = self._broker.publish(EXCHANGE, key, encode(event), properties(event, reply_to))
        if not outcome.confirmed:
            raise NoService(
                f"nobody takes {event.call!r} for management node {self._node!r}: the exchange {EXCHANGE!r} of "
                f"{self._address} has no queue for {key!r}; start esxprov.service there, or check the node's name"
            )

    def cancel(self, event: Event, reason: str) -> None:
        """Ask the service to stop working on `event`; its own reply will say `cancelled`."""
        self.send(
            request(
                "cancel",
                source=event.source,
                now=datetime.now(UTC),
                data={"event": event.id, "reason": reason},
                correlationid=event.correlationid,
                partitionkey=event.partitionkey,
            )
        )

    def dead_letters(self) -> list[DeadLetter]:
        """What is parked, oldest first; it stays there."""
        return [DeadLetter.of(delivery) for delivery in self._broker.browse(DEAD)]

    def drop_dead_letter(self, message_id: str) -> None:
        """Remove a parked message for good. LookupError if there is none with that id."""

        def named(delivery: Delivery) -> bool:
            return delivery.message_id == message_id

        if not any(named(delivery) for delivery in self._broker.browse(DEAD, drop=named)):
            raise LookupError(f"no message {message_id} is parked: see 'esxprov dead list'")

    def _next(self, event: Event, timeout_s: float) -> Event | None:
        """The next word on `event`; None when it is time to ask again."""
        until = time.monotonic() + timeout_s
        while True:
            try:
                item = self._inbox.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return None
            if isinstance(item, _Reconnected):
                return None
            answer = _answer(item)
            if answer is not None and answer.causationid == event.id and answer.call == event.call:
                return answer

    def _ask_again(self, event: Event) -> None:
        try:
            self.send(event, reply_to=self._reply_queue)
        except BrokerUnavailable as error:
            log.warning("%s was not published again, waiting on: %s", event.call, error)

    def _give_up(self, event: Event, timeout_s: float) -> NoReturn:
        reason = f"no reply to {event.call} {event.id} came within {timeout_s + self._grace_s:.0f} s"
        try:
            self.cancel(event, reason)
        except (BrokerUnavailable, NoService) as error:
            raise NoReply(f"{reason}, and it could not be cancelled: {error}") from error
        raise NoReply(
            f"{reason}, so it is being cancelled: does esxprov.service run on {self._node}? See 'esxprov events show "
            f"{event.id}'"
        )

    def _on_up(self) -> None:
        self._inbox.put(_Reconnected())

    def _on_delivery(self, delivery: Delivery) -> None:
        self._inbox.put(delivery)


def _answer(delivery: Delivery) -> Event | None:
    try:
        event = decode(delivery.body)
    except EnvelopeError as error:
        log.warning("ignored a reply that is none: %s", error)
        return None
    return None if event.phase is Phase.REQUESTED else event
