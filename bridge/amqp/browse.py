"""Look through a queue without taking from it, on a channel of its own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pika
from pika.channel import Channel

from bridge.amqp.translate import delivery_of
from bridge.message import BrokerUnavailable, Delivery

_ACCESS_REFUSED, _NOT_FOUND = 403, 404


class Browse:
    """Gets up to `limit` messages, acknowledges those for which `drop` is true, and closes the channel.

    With that the broker puts all others back where they were. `found` becomes all messages seen, the dropped included.
    Lives on the I/O thread.
    """

    def __init__(
        self, queue: str, drop: Callable[[Delivery], bool], limit: int, found: Future[list[Delivery]], generation: int
    ) -> None:
        self._queue = queue
        self._drop = drop
        self._limit = limit
        self._found = found
        self._generation = generation
        self._seen: list[Delivery] = []

    def run(self, channel: Channel) -> None:
        """To be called with a channel that was just opened for this."""
        channel.add_on_close_callback(self._on_closed)
        channel.add_callback(lambda _: channel.close(), [pika.spec.Basic.GetEmpty])
        self._next(channel)

    def _next(self, channel: Channel) -> None:
        if len(self._seen) < self._limit:
            channel.basic_get(self._queue, self._on_message)
        else:
            channel.close()

    def _on_message(self, channel: Channel, method: Any, properties: Any, body: bytes) -> None:
        delivery = delivery_of(method, properties, body, self._generation)
        self._seen.append(delivery)
        if self._drop(delivery):
            channel.basic_ack(delivery.tag)
        self._next(channel)

    def _on_closed(self, _: Channel, error: Exception) -> None:
        if not self._found.set_running_or_notify_cancel():
            return
        if isinstance(error, pika.exceptions.ChannelClosedByClient):
            self._found.set_result(self._seen)
        else:
            self._found.set_exception(BrokerUnavailable(self._why(error)))

    def _why(self, error: Exception) -> str:
        code = getattr(error, "reply_code", None)
        if code == _NOT_FOUND:
            return f"the broker has no queue {self._queue!r}: start esxprov.service, which declares it"
        if code == _ACCESS_REFUSED:
            return (
                f"we may not read the queue {self._queue!r}: give our broker user the permission, see docs/install.md"
            )
        return f"the queue {self._queue!r} cannot be looked through: {error}"
