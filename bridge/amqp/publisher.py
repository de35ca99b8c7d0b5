"""The publishing half of a connection, on a channel of its own."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import pika
from pika.channel import Channel

from bridge.amqp.confirms import Confirms, Publication
from bridge.amqp.translate import missing_exchange, pika_properties, sentence
from bridge.message import BrokerUnavailable
from bridge.parameters import BrokerParameters

log = logging.getLogger(__name__)


class Publisher:
    """Sends what it is given in order, as soon as the broker takes it. Lives on the I/O thread.

    `on_idle` is called whenever nothing is waiting for a confirm any more.
    """

    def __init__(self, parameters: BrokerParameters, on_idle: Callable[[], None]) -> None:
        self._parameters = parameters
        self._on_idle = on_idle
        self._connection: Any = None
        self._channel: Channel | None = None
        self._confirms = Confirms()
        self._unsent: deque[Publication] = deque()
        self.blocked = ""
        """Why the broker takes no messages now (memory or disk alarm), empty if it does."""

    @property
    def idle(self) -> bool:
        return not self._unsent and not self._confirms

    def open(self, connection: Any) -> None:
        """On a new connection."""
        self._connection = connection
        connection.add_on_connection_blocked_callback(self._on_blocked)
        connection.add_on_connection_unblocked_callback(self._on_unblocked)
        connection.channel(on_open_callback=self._on_channel)

    def close(self, reason: str) -> None:
        """The connection is gone, and all that waited for it fails."""
        self._connection = None
        self._channel = None
        self.blocked = ""
        self._confirms.close(reason)
        while self._unsent:
            fail(self._unsent.popleft(), reason)

    def publish(self, publication: Publication) -> None:
        self._unsent.append(publication)
        self._send_waiting()

    def _on_channel(self, channel: Channel) -> None:
        confirms = self._confirms = Confirms()
        channel.add_on_close_callback(partial(self._on_channel_closed, confirms))
        channel.add_on_return_callback(partial(self._on_return, confirms))
        channel.confirm_delivery(partial(self._on_confirm, confirms), callback=lambda _: self._on_ready(channel))

    def _on_ready(self, channel: Channel) -> None:
        self._channel = channel
        self._send_waiting()

    def _send_waiting(self) -> None:
        """While the broker takes nothing they stay here: on the socket's queue they would be beyond recall."""
        while self._unsent and self._channel is not None and not self.blocked:
            publication = self._unsent.popleft()
            if publication.start():
                self._send(publication, self._channel)
        self._tell_if_idle()

    def _send(self, publication: Publication, channel: Channel) -> None:
        try:
            channel.basic_publish(
                publication.exchange,
                publication.key,
                publication.body,
                pika_properties(publication.properties, self._parameters.user),
                mandatory=publication.mandatory,
            )
        except Exception as error:
            # It cannot be put into AMQP (a string too long): its publisher's fault, who is told; nothing was sent.
            publication.outcome.set_exception(error)
        else:
            self._confirms.sent(publication)

    def _on_return(self, confirms: Confirms, _: Channel, method: Any, properties: Any, _body: bytes) -> None:
        confirms.came_back(
            exchange=method.exchange,
            key=method.routing_key,
            message_id=properties.message_id,
            reason=method.reply_text,
        )

    def _on_confirm(self, confirms: Confirms, frame: Any) -> None:
        taken = isinstance(frame.method, pika.spec.Basic.Ack)
        confirms.settle(frame.method.delivery_tag, multiple=frame.method.multiple, taken=taken)
        self._tell_if_idle()

    def _on_channel_closed(self, confirms: Confirms, _: Channel, error: Exception) -> None:
        """The broker closes a channel over a message it refuses. Those sent after it are lost too, and it does not say
        which one it was.
        """
        if not isinstance(error, pika.exceptions.ChannelClosedByBroker):
            return
        reason = sentence(error, self._parameters)
        log.warning("%s", reason)
        self._channel = None
        confirms.close(reason, missing_exchange=missing_exchange(error))
        self._tell_if_idle()
        if self._connection is not None and self._connection.is_open:
            self._connection.channel(on_open_callback=self._on_channel)

    def _on_blocked(self, _: Any, frame: Any) -> None:
        self.blocked = frame.method.reason or "no reason given"
        log.warning("the broker %s takes no messages: %s", self._parameters.address, self.blocked)

    def _on_unblocked(self, _: Any, _frame: Any) -> None:
        self.blocked = ""
        log.info("the broker %s takes messages again", self._parameters.address)
        self._send_waiting()

    def _tell_if_idle(self) -> None:
        if self.idle:
            self._on_idle()


def fail(publication: Publication, reason: str) -> None:
    """Tell its publisher that it was not sent."""
    if publication.start():
        publication.outcome.set_exception(BrokerUnavailable(reason))
