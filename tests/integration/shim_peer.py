"""A small service for the Perl shim to talk to: real broker, real messages, scripted answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection

from bridge import topology
from bridge.contract import Lane, Outcome
from bridge.envelope import CONTENT_TYPE, Event, decode, encode, finished, progressed

Answer = Callable[[Event], Iterable[Event]]


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came: routing key, AMQP properties, raw body and what it decodes to."""

    routing_key: str
    properties: pika.BasicProperties
    body: bytes
    event: Event


def done(event: Event, **result: Any) -> Event:
    """The reply `ok`."""
    return finished(event, now=datetime.now(UTC), outcome=Outcome.OK, result=result)


def refused(event: Event, code: str, message: str, outcome: Outcome = Outcome.FAILED) -> Event:
    """The reply `failed` (or `cancelled`)."""
    error = {"code": code, "message": message, "retryable": False, "detail": None}
    return finished(event, now=datetime.now(UTC), outcome=outcome, error=error)


def note(event: Event, sequence: int, loadstate: str | None, message: str, percent: int | None = None) -> Event:
    """A progress note."""
    now = datetime.now(UTC)
    return progressed(
        event, now=now, sequence=sequence, step="step", message=message, loadstate=loadstate, percent=percent
    )


@dataclass
class Peer:
    """Consumes both lanes of `node` and sends what `answers[call]` yields; a call without an answer stays silent."""

    parameters: pika.ConnectionParameters
    node: str = "mn1"
    answers: dict[str, Answer] = field(default_factory=dict)
    received: list[Received] = field(default_factory=list)
    _arrived: threading.Condition = field(default_factory=threading.Condition)
    _ready: threading.Event = field(default_factory=threading.Event)
    _connection: BlockingConnection | None = None
    _thread: threading.Thread | None = None

    def __enter__(self) -> Peer:
        self._thread = threading.Thread(target=self._serve, name="peer", daemon=True)
        self._thread.start()
        if not self._ready.wait(20):
            raise RuntimeError("the peer did not reach the broker within 20 s")
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None and self._connection.is_open:
            self._connection.add_callback_threadsafe(self._channel.stop_consuming)
        if self._thread is not None:
            self._thread.join(10)

    def calls(self) -> list[str]:
        """The calls received so far, in order."""
        with self._arrived:
            return [message.event.call for message in self.received]

    def wait_for(self, count: int, timeout_s: float = 10) -> list[Received]:
        """The first `count` requests. Raises AssertionError if they do not come in time."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self.received) >= count, timeout_s):
                raise AssertionError(f"{len(self.received)} of {count} requests came within {timeout_s} s")
            return self.received[:count]

    def send(self, message: Received, *replies: Event) -> None:
        """Reply later, from the test's own thread."""
        for reply in replies:
            self.send_raw(message, encode(reply))

    def send_raw(self, message: Received, body: bytes) -> None:
        """Send any octets to where the reply is awaited."""
        assert self._connection is not None
        self._connection.add_callback_threadsafe(lambda: self._reply(message.properties, body))

    def _serve(self) -> None:
        self._connection = BlockingConnection(self.parameters)
        self._channel = self._connection.channel()
        topic: Any = "topic"  # types-pika and pika do not agree on what this is
        self._channel.exchange_declare(topology.EXCHANGE, topic, durable=True)
        for queue in topology.lane_queues(self.node):
            self._channel.queue_declare(queue.name, durable=True)
            self._channel.queue_purge(queue.name)  # what the test before has left
            for binding in queue.bindings:
                self._channel.queue_bind(queue.name, topology.EXCHANGE, binding)
        for lane in Lane:
            self._channel.basic_consume(topology.lane_queue(self.node, lane), self._on_message)
        self._ready.set()
        self._channel.start_consuming()
        self._connection.close()

    def _on_message(self, channel: BlockingChannel, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        message = Received(method.routing_key, properties, body, decode(body))
        with self._arrived:
            self.received.append(message)
            self._arrived.notify_all()
        answer = self.answers.get(message.event.call)
        for reply in answer(message.event) if answer else ():
            self._reply(properties, encode(reply))
        channel.basic_ack(method.delivery_tag)

    def _reply(self, properties: pika.BasicProperties, body: bytes) -> None:
        reply = pika.BasicProperties(content_type=CONTENT_TYPE, correlation_id=properties.message_id, delivery_mode=2)
        self._channel.basic_publish("", properties.reply_to or "", body, reply)
