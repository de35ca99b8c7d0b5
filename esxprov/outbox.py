"""What leaves the service over the broker: replies, progress, parked messages; and when it takes in no more."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

from bridge.amqp.thread import BrokerThread
from bridge.contract import Lane
from bridge.dead import parked
from bridge.envelope import Event, decode, encode, progressed
from bridge.message import BrokerUnavailable, Delivery, properties
from bridge.topology import DEAD, lane_queue
from esxprov.journal import Journal, Record

log = logging.getLogger(__name__)

REPLIES = ""
"""The default exchange: replies go straight to the queue that the request named."""


class Outbox:
    """Sends. A reply is sent only after its outcome is stored, and marked as sent only after the broker's confirm."""

    def __init__(self, broker: BrokerThread, journal: Journal, now: Callable[[], datetime]) -> None:
        self._broker = broker
        self._journal = journal
        self._now = now

    def send(self, record: Record) -> bool:
        """Publish a command's stored outcome. Without a broker it stays in the journal as unsent, and False is
        returned.
        """
        if record.reply_to is None or record.reply is None:
            return True
        try:
            described = properties(decode(record.reply))
            outcome = self._broker.publish(REPLIES, record.reply_to, record.reply, described)
        except BrokerUnavailable as error:
            log.warning("the reply stays in the journal until the broker is back: %s", error)
            return False
        if not outcome.confirmed:
            log.warning("nobody waits for the reply in %s any more: %s", record.reply_to, outcome.reason)
        self._journal.replied(record, delivered=outcome.confirmed)
        return True

    def flush(self) -> None:
        """Publish all replies that were stored while they could not be sent, as long as the broker takes them."""
        for record in self._journal.unsent():
            if not self.send(record):
                return

    def answer(self, reply: Event, reply_to: str | None) -> None:
        """Publish the answer to a query; lost if it cannot be sent, since the caller asks again."""
        if reply_to is None:
            return
        try:
            self._broker.publish(REPLIES, reply_to, encode(reply), properties(reply))
        except BrokerUnavailable as error:
            log.warning("the answer to %s is lost: %s", reply.call, error)

    def progress(self, cause: Event, reply_to: str | None, sequence: int, **note: Any) -> None:
        """Publish a progress note; it may get lost, so the work does not wait for the broker."""
        if reply_to is None:
            return
        event = progressed(cause, now=self._now(), sequence=sequence, **note)
        self._broker.post(REPLIES, reply_to, encode(event), properties(event))

    def park(self, delivery: Delivery, reason: str) -> None:
        """Put a message that is not obeyed into the dead queue, with the reason and where it came from.

        Raises BrokerUnavailable if that is not certain; the message must then stay in its queue.
        """
        body, described = parked(delivery, reason)
        outcome = self._broker.publish(REPLIES, DEAD, body, described)
        if not outcome.confirmed:
            raise BrokerUnavailable(
                f"the queue {DEAD} does not take it ({outcome.reason}): restart the service, which makes that queue"
            )


class Lanes:
    """Taking in, lane by lane. A lane is paused for as long as there is any reason: no free worker, no database."""

    def __init__(self, broker: BrokerThread, node: str) -> None:
        self._broker = broker
        self._node = node
        self._lock = threading.Lock()
        self._reasons: dict[Lane, set[str]] = {lane: set() for lane in Lane}

    def pause(self, lane: Lane, reason: str) -> None:
        with self._lock:
            if not self._reasons[lane]:
                self._broker.pause(lane_queue(self._node, lane))
            self._reasons[lane].add(reason)

    def resume(self, lane: Lane, reason: str) -> None:
        with self._lock:
            if reason in self._reasons[lane]:
                self._reasons[lane].discard(reason)
                if not self._reasons[lane]:
                    self._broker.resume(lane_queue(self._node, lane))

    def paused_for(self, reason: str) -> bool:
        with self._lock:
            return any(reason in reasons for reasons in self._reasons.values())

    def ack(self, delivery: Delivery) -> None:
        self._broker.ack(delivery)

    def requeue(self, delivery: Delivery) -> None:
        self._broker.nack(delivery, requeue=True)
