"""Dead letters: messages that were parked instead of obeyed, with the reason."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from bridge.envelope import MAX_BYTES
from bridge.message import Delivery, Properties

_REASON = "x-esxprov-reason"
_KEY = "x-esxprov-key"
_PUBLISHER = "x-esxprov-publisher"
_BYTES = "x-esxprov-bytes"
_REASON_LENGTH = 1000
"""All headers must fit into one AMQP frame, or the broker closes the connection; the reason may quote the message."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One parked message.

    `routing_key` is where it was sent, `publisher` the broker user who did; `body` has at most MAX_BYTES of the
    original's `size_bytes`.
    """

    id: str
    type: str | None
    routing_key: str
    reason: str
    publisher: str
    size_bytes: int
    body: bytes

    @classmethod
    def of(cls, delivery: Delivery) -> DeadLetter:
        """From what stands in the dead queue, whoever put it there."""
        headers = delivery.headers
        size_bytes = headers.get(_BYTES)
        return cls(
            id=delivery.message_id or "",
            type=delivery.type,
            routing_key=str(headers.get(_KEY, "")),
            reason=str(headers.get(_REASON, "")),
            publisher=str(headers.get(_PUBLISHER, "")),
            size_bytes=size_bytes if isinstance(size_bytes, int) else len(delivery.body),
            body=delivery.body,
        )

    def summary(self) -> dict[str, Any]:
        """id, type, routing_key, reason, publisher, bytes: one row of a table."""
        return {
            "id": self.id,
            "type": self.type or "",
            "routing_key": self.routing_key,
            "reason": self.reason,
            "publisher": self.publisher,
            "bytes": self.size_bytes,
        }


def parked(delivery: Delivery, reason: str) -> tuple[bytes, Properties]:
    """Body and properties to publish to the dead queue for a delivery.

    It gets an id if it has none, so that it can be named; of an oversized body the head is kept.
    """
    headers = {
        _REASON: reason[:_REASON_LENGTH],
        _KEY: delivery.routing_key,
        _PUBLISHER: delivery.user_id or "",
        _BYTES: len(delivery.body),
    }
    return delivery.body[:MAX_BYTES], Properties(
        message_id=delivery.message_id or str(uuid.uuid4()),
        type=delivery.type,
        correlation_id=delivery.correlation_id,
        timestamp=delivery.timestamp,
        headers=headers,
    )
