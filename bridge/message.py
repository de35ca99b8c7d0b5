"""What goes to and comes from the broker, and how that fails. Knows no client library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bridge.contract import Phase
from bridge.envelope import CONTENT_TYPE, Event


class BrokerUnavailable(Exception):
    """The broker did not do what was asked, and asking again later may help. The text is one sentence for people."""


class BrokerRefused(BrokerUnavailable):
    """The broker said no (login, permission, certificate, a queue of another kind): somebody must change something."""


@dataclass(frozen=True, slots=True)
class Properties:
    """The AMQP properties of a message to publish; `user_id` is added for all alike.

    `timestamp` is in epoch seconds. Strings may have 255 bytes, except in `headers`. What is not `persistent` costs the
    broker no disk, and a restart of it the message.
    """

    message_id: str | None = None
    type: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    timestamp: int | None = None
    content_type: str | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)
    persistent: bool = True


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message as it came, with nothing in it trusted but `user_id`, which the broker has checked.

    `generation` numbers the connection it came by: an acknowledgement is worth nothing on a later one.
    """

    body: bytes
    routing_key: str
    redelivered: bool
    generation: int
    tag: int
    message_id: str | None = None
    type: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    user_id: str | None = None
    timestamp: int | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PublishOutcome:
    """`confirmed`: the broker has it safe in a queue. Otherwise it is in no queue, and `reason` says why."""

    confirmed: bool
    reason: str = ""


def properties(event: Event, reply_to: str | None = None) -> Properties:
    """The properties that mirror an event for tools. The correlation id is the id of the request in question."""
    answers = event.phase is not Phase.REQUESTED
    return Properties(
        message_id=event.id,
        type=event.type,
        correlation_id=event.causationid if answers else event.id,
        reply_to=reply_to,
        timestamp=int(event.time.timestamp()),
        content_type=CONTENT_TYPE,
        persistent=event.phase is not Phase.PROGRESSED,
    )
