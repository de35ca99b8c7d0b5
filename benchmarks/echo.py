"""A peer that sends every message back as it came: the least that an answer over the broker can cost."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any, Self

import pika

from bridge.topology import EXCHANGE, routing_key
from tests.testbed.bed import NODE
from tests.testbed.rabbitmq import RabbitMq

_QUEUE = "esxprov.echo"


class EchoPeer:
    """Answers what comes by the key `<node>.echo`, from a thread of its own, for as long as the context lasts."""

    def __init__(self, broker: RabbitMq) -> None:
        credentials = pika.PlainCredentials("esxprov", broker.password("esxprov"))
        self._connection = pika.BlockingConnection(
            pika.ConnectionParameters(broker.host, broker.port, credentials=credentials)
        )
        self._channel = self._connection.channel()
        self._channel.queue_declare(_QUEUE, exclusive=True)
        self._channel.queue_bind(_QUEUE, EXCHANGE, routing_key(NODE, "echo"))
        self._channel.basic_consume(_QUEUE, self._answer)
        self._thread = threading.Thread(target=self._channel.start_consuming, name="echo", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.add_callback_threadsafe(self._channel.stop_consuming)
        self._thread.join()
        self._connection.close()

    @staticmethod
    def _answer(channel: Any, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        channel.basic_publish("", properties.reply_to, body, pika.BasicProperties(delivery_mode=2))
        channel.basic_ack(method.delivery_tag)
