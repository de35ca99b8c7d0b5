"""What is sent, what stays, and what is believed of the broker's word."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

import pytest

from bridge.contract import Outcome
from bridge.envelope import encode, finished, request
from bridge.message import BrokerUnavailable, Delivery, PublishOutcome
from esxprov.journal import Record
from esxprov.outbox import Outbox

NOW = datetime(2026, 11, 22, 5, 41, 7, tzinfo=UTC)


class Broker:
    """Gives the same answer to every message."""

    def __init__(self, answer: PublishOutcome | BrokerUnavailable) -> None:
        self.answer = answer
        self.asked: list[str] = []

    def publish(self, exchange: str, key: str, *_: Any, **__: Any) -> PublishOutcome:
        self.asked.append(key)
        if isinstance(self.answer, BrokerUnavailable):
            raise self.answer
        return self.answer


class Unsent:
    """A journal with three replies that were not sent yet."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, bool]] = []

    def unsent(self) -> list[Record]:
        load = request("load", source="urn:test", data={}, now=NOW)
        reply = encode(finished(load, now=NOW, outcome=Outcome.OK))
        return [Record(number, load, 1, "vcl.reply.mn1.5", {}, reply=reply) for number in (1, 2, 3)]

    def replied(self, record: Record, *, delivered: bool) -> None:
        self.sent.append((record.seq, delivered))


def outbox(broker: Broker, journal: Unsent | None = None) -> Outbox:
    return Outbox(cast(Any, broker), cast(Any, journal), lambda: NOW)


def test_a_message_that_found_no_dead_queue_is_not_taken_for_parked() -> None:
    box = outbox(Broker(PublishOutcome(confirmed=False, reason="NO_ROUTE")))
    with pytest.raises(BrokerUnavailable, match=r"esxprov\.dead does not take it"):
        box.park(Delivery(b"{}", "mn1.load", False, 1, 1), "why")


@pytest.mark.parametrize("confirmed", [True, False])
def test_a_reply_is_marked_by_what_became_of_it(confirmed: bool) -> None:
    journal = Unsent()
    outbox(Broker(PublishOutcome(confirmed)), journal).flush()
    assert journal.sent == [(1, confirmed), (2, confirmed), (3, confirmed)]


def test_a_broker_that_takes_nothing_is_not_tried_with_every_reply() -> None:
    broker, journal = Broker(BrokerUnavailable("it is out of memory")), Unsent()
    outbox(broker, journal).flush()
    assert (len(broker.asked), journal.sent) == (1, [])
