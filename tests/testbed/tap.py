"""Listening in on the broker: every message that anybody publishes, by RabbitMQ's own tracing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pika

from bridge.envelope import EnvelopeError, Event, decode
from tests.testbed.rabbitmq import RabbitMq

Heard = Callable[[float, Event], None]


class Tap:
    """Calls `heard(monotonic seconds, event)` for each event on the broker, from a thread of its own."""

    def __init__(self, rabbitmq: RabbitMq, heard: Heard) -> None:
        self._heard = heard
        rabbitmq.ctl("trace_on")
        credentials = pika.PlainCredentials("onlooker", rabbitmq.password("onlooker"))
        parameters = pika.ConnectionParameters(rabbitmq.host, rabbitmq.port, credentials=credentials)
        self._connection = pika.BlockingConnection(parameters)
        self._channel = self._connection.channel()
        queue = self._channel.queue_declare("", exclusive=True).method.queue or ""
        self._channel.queue_bind(queue, "amq.rabbitmq.trace", "publish.#")
        self._channel.basic_consume(queue, self._on_message, auto_ack=True)
        self._thread = threading.Thread(target=self._channel.start_consuming, name="tap", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening, after what has been said already."""
        self._connection.add_callback_threadsafe(self._channel.stop_consuming)
        self._thread.join()
        self._connection.close()

    def _on_message(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        at = time.monotonic()
        try:
            event = decode(body)
        except EnvelopeError:
            return
        self._heard(at, event)
