"""The receiving half of a connection: what is declared, what is consumed, what is acknowledged."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pika
from pika.channel import Channel
from pika.exchange_type import ExchangeType

from bridge.amqp.translate import delivery_of, is_refusal, sentence
from bridge.message import Delivery
from bridge.parameters import BrokerParameters
from bridge.topology import Topology

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Consumer:
    """`tag` is None while nothing is consumed: paused, or no connection."""

    queue: str
    callback: Callable[[Delivery], None]
    prefetch: int
    wanted: bool = True
    tag: str | None = None


class Consumers:
    """Remembers what shall be declared and consumed, and does it on each new connection. Lives on the I/O thread.

    `on_ready` is called when the broker has done all of it, `on_broken(reason, refused)` when it closed the channel or
    ended a consumer: this half is not mended, the connection is built anew.
    """

    def __init__(
        self, parameters: BrokerParameters, on_ready: Callable[[], None], on_broken: Callable[[str, bool], None]
    ) -> None:
        self._parameters = parameters
        self._on_ready = on_ready
        self._on_broken = on_broken
        self._topologies: list[Topology] = []
        self._consumers: dict[str, _Consumer] = {}
        self._channel: Channel | None = None
        self._generation = 0
        self._unacked: set[int] = set()

    def open(self, connection: Any, generation: int) -> None:
        """On a new connection."""
        self._generation = generation
        connection.channel(on_open_callback=self._on_channel)

    def close(self) -> None:
        """The connection is gone, and with it all tags: the broker delivers again what was not acknowledged."""
        self._channel = None
        self._unacked.clear()
        for consumer in self._consumers.values():
            consumer.tag = None

    def declare(self, topology: Topology) -> None:
        self._topologies.append(topology)
        if (channel := self._open_channel()) is not None:
            _declare(channel, topology)

    def consume(self, queue: str, callback: Callable[[Delivery], None], prefetch: int) -> None:
        consumer = self._consumers[queue] = _Consumer(queue, callback, prefetch)
        self._start(consumer)

    def want(self, queue: str, wanted: bool) -> None:
        """Pause (False) or resume (True) one queue."""
        consumer = self._consumers[queue]
        consumer.wanted = wanted
        if wanted:
            self._start(consumer)
        else:
            self._stop(consumer)

    def stop(self) -> None:
        """Pause all for good."""
        for queue in self._consumers:
            self.want(queue, False)

    def settle(self, delivery: Delivery, answer: Callable[[Channel], None]) -> None:
        """Ack or nack. A tag of an older connection means another message by now, and one answered twice closes the
        channel: neither is sent.
        """
        channel = self._open_channel()
        if channel is not None and delivery.generation == self._generation and delivery.tag in self._unacked:
            self._unacked.remove(delivery.tag)
            answer(channel)

    def _on_channel(self, channel: Channel) -> None:
        self._channel = channel
        channel.add_on_close_callback(self._on_channel_closed)
        channel.add_on_cancel_callback(self._on_cancelled_by_broker)
        for topology in self._topologies:
            _declare(channel, topology)
        for consumer in self._consumers.values():
            self._start(consumer)
        # All of that was sent without waiting for an answer. This one is waited for: it comes after all the rest.
        channel.basic_qos(prefetch_count=1, callback=lambda _: self._on_ready())

    def _on_channel_closed(self, _: Channel, error: Exception) -> None:
        if isinstance(error, pika.exceptions.ChannelClosedByBroker):
            self._on_broken(sentence(error, self._parameters), is_refusal(error))

    def _on_cancelled_by_broker(self, frame: Any) -> None:
        ended = [consumer.queue for consumer in self._consumers.values() if consumer.tag == frame.method.consumer_tag]
        if ended:
            self._on_broken(f"the broker {self._parameters.address} lost or deleted the queue {ended[0]!r}", False)

    def _open_channel(self) -> Channel | None:
        return self._channel if self._channel is not None and self._channel.is_open else None

    def _start(self, consumer: _Consumer) -> None:
        channel = self._open_channel()
        if channel is not None and consumer.wanted and consumer.tag is None:
            channel.basic_qos(prefetch_count=consumer.prefetch)
            consumer.tag = channel.basic_consume(
                consumer.queue, partial(self._on_delivery, consumer), auto_ack=consumer.prefetch == 0
            )

    def _stop(self, consumer: _Consumer) -> None:
        """What still comes for the tag after this, pika gives back to the queue.

        The broker's answer is asked for only because pika otherwise remembers the tag for ever.
        """
        channel = self._open_channel()
        if channel is not None and consumer.tag is not None:
            channel.basic_cancel(consumer.tag, callback=lambda _: None)
        consumer.tag = None

    def _on_delivery(self, consumer: _Consumer, _: Channel, method: Any, properties: Any, body: bytes) -> None:
        if consumer.prefetch:
            self._unacked.add(method.delivery_tag)
        tell(partial(consumer.callback, delivery_of(method, properties, body, self._generation)))


def tell(callback: Callable[[], None]) -> None:
    """Nothing that others do in a callback may end the I/O thread."""
    try:
        callback()
    except Exception:
        log.exception("a callback on the broker's I/O thread failed")


def _declare(channel: Channel, topology: Topology) -> None:
    """Without waiting for answers: an error closes the channel, and whoever waits for a later answer gets none."""
    if topology.exchange is not None:
        channel.exchange_declare(topology.exchange, ExchangeType("topic"), durable=True)
    for queue in topology.queues:
        channel.queue_declare(
            queue.name,
            durable=not queue.exclusive,
            exclusive=queue.exclusive,
            auto_delete=queue.exclusive,
            arguments=dict(queue.arguments),
        )
        for binding in queue.bindings:
            channel.queue_bind(queue.name, topology.exchange or "", binding)
