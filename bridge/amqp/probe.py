"""One short connection to try what a user may do and what the broker has, for `esxprov doctor`. Leaves nothing."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import pika
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection

from bridge.amqp.translate import is_refusal, pika_parameters, sentence
from bridge.message import BrokerRefused, BrokerUnavailable
from bridge.parameters import BrokerParameters
from bridge.topology import QueueSpec

T = TypeVar("T")

_ACCESS_REFUSED, _NOT_FOUND, _INEQUIVALENT = 403, 404, 406


@dataclass(frozen=True, slots=True)
class Depth:
    """What a queue holds, and how many take from it."""

    messages: int
    consumers: int


class Forbidden(Exception):
    """The broker does not allow that; the text is its own."""


class NoPermissions(BrokerRefused):
    """The password is right, but the user has no permissions at all in the virtual host."""


class Probe:
    """Each try has a channel of its own, because a refusal closes it. Raises BrokerUnavailable if the connection goes.

    Queues made here are exclusive: they go with the connection, and nobody else can use them.
    """

    def __init__(self, connection: BlockingConnection, parameters: BrokerParameters) -> None:
        self._connection = connection
        self._parameters = parameters

    def depth(self, queue: str) -> Depth | None:
        """None if there is no such queue. Needs no permission."""

        def ask(channel: BlockingChannel) -> Depth:
            method = channel.queue_declare(queue, passive=True).method
            return Depth(method.message_count or 0, method.consumer_count or 0)

        return self._unless(_NOT_FOUND, ask)

    def has_exchange(self, name: str) -> bool:
        """Needs no permission."""
        return self._unless(_NOT_FOUND, lambda channel: bool(channel.exchange_declare(name, passive=True))) or False

    def is_as(self, queue: QueueSpec) -> bool:
        """Whether a queue that exists has these arguments. Makes it if it is gone meanwhile: the broker compares
        arguments only for one who would make it. Raises Forbidden.
        """

        def ask(channel: BlockingChannel) -> bool:
            channel.queue_declare(queue.name, durable=True, arguments=dict(queue.arguments))
            return True

        return self._unless(_INEQUIVALENT, ask) or False

    def make(self, prefix: str) -> str:
        """Make a queue with a name of its own. Raises Forbidden."""
        name = f"{prefix}doctor-{uuid.uuid4()}"
        self._try(lambda channel: channel.queue_declare(name, exclusive=True))
        return name

    def bind(self, queue: str, exchange: str, key: str) -> None:
        """Raises Forbidden if the queue may not be written to, or the exchange not be read."""
        self._unless(_NOT_FOUND, lambda channel: channel.queue_bind(queue, exchange, key))

    def write(self, exchange: str, key: str) -> None:
        """Publish what comes back if no queue has that key. Raises Forbidden."""

        def publish(channel: BlockingChannel) -> None:
            channel.confirm_delivery()
            try:
                channel.basic_publish(exchange, key, b"", mandatory=True)
            except pika.exceptions.UnroutableError:
                return

        self._unless(_NOT_FOUND, publish)

    def read(self, queue: str) -> None:
        """Look at the first message and put it back. Raises Forbidden."""
        self._unless(_NOT_FOUND, lambda channel: channel.basic_get(queue))

    def _unless(self, code: int, work: Callable[[BlockingChannel], T]) -> T | None:
        """None if the broker closes the channel with that code."""
        try:
            return self._try(work)
        except pika.exceptions.ChannelClosedByBroker as error:
            if error.reply_code == code:
                return None
            raise BrokerUnavailable(sentence(error, self._parameters)) from error

    def _try(self, work: Callable[[BlockingChannel], T]) -> T:
        try:
            channel = self._connection.channel()
            result = work(channel)
            channel.close()
            return result
        except pika.exceptions.ChannelClosedByBroker as error:
            if error.reply_code == _ACCESS_REFUSED:
                raise Forbidden(error.reply_text) from error
            raise
        except (pika.exceptions.AMQPError, OSError) as error:
            raise BrokerUnavailable(sentence(error, self._parameters)) from error


@contextmanager
def probing(parameters: BrokerParameters, name: str) -> Iterator[Probe]:
    """Connect as that user. Raises NoPermissions or BrokerRefused for what cannot work, else BrokerUnavailable."""
    try:
        connection = BlockingConnection(pika_parameters(parameters, name))
    except pika.exceptions.ProbableAccessDeniedError as error:
        refused = NoPermissions if is_refusal(error) else BrokerUnavailable
        raise refused(sentence(error, parameters)) from error
    except (pika.exceptions.AMQPError, OSError) as error:
        refused = BrokerRefused if is_refusal(error) else BrokerUnavailable
        raise refused(sentence(error, parameters)) from error
    try:
        yield Probe(connection, parameters)
    finally:
        if connection.is_open:
            connection.close()
