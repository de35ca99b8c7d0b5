"""Confirms find their messages, in whatever order and bundle the broker sends them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.amqp.confirms import Confirms, Publication
from bridge.message import BrokerUnavailable, Properties, PublishOutcome

TAKEN = PublishOutcome(confirmed=True)


def sent(confirms: Confirms, count: int, exchange: str = "", message_id: str | None = None) -> list[Publication]:
    publications = [Publication(exchange, "key", b"", Properties(message_id=message_id), True) for _ in range(count)]
    for publication in publications:
        assert publication.start()
        confirms.sent(publication)
    return publications


@given(st.permutations(range(1, 9)), st.data())
def test_every_message_is_settled_once_whatever_is_bundled(order: list[int], data: st.DataObject) -> None:
    confirms = Confirms()
    publications = sent(confirms, 8)
    for tag in order:
        confirms.settle(tag, multiple=data.draw(st.booleans()), taken=True)
    assert [publication.outcome.result(0) for publication in publications] == [TAKEN] * 8
    assert not len(confirms)


def test_a_single_confirm_settles_no_other_message() -> None:
    confirms = Confirms()
    first, second = sent(confirms, 2)
    confirms.settle(2, multiple=False, taken=True)
    assert second.outcome.result(0) == TAKEN
    assert not first.outcome.done()


def test_a_returned_message_is_known_to_be_in_no_queue() -> None:
    confirms = Confirms()
    first, second = sent(confirms, 1, message_id="a") + sent(confirms, 1, message_id="b")
    confirms.came_back(exchange="", key="key", message_id="b", reason="NO_ROUTE")
    confirms.settle(2, multiple=True, taken=True)
    assert first.outcome.result(0) == TAKEN
    assert second.outcome.result(0) == PublishOutcome(confirmed=False, reason="NO_ROUTE")


def test_two_returns_of_the_same_message_are_two_messages() -> None:
    confirms = Confirms()
    publications = sent(confirms, 2, message_id="a")
    for _ in publications:
        confirms.came_back(exchange="", key="key", message_id="a", reason="NO_ROUTE")
    confirms.settle(2, multiple=True, taken=True)
    assert [publication.outcome.result(0).confirmed for publication in publications] == [False, False]


def test_a_message_refused_by_its_queue_is_an_error() -> None:
    confirms = Confirms()
    (publication,) = sent(confirms, 1)
    confirms.settle(1, multiple=False, taken=False)
    with pytest.raises(BrokerUnavailable, match="full"):
        publication.outcome.result(0)


def test_with_its_channel_a_message_is_lost() -> None:
    confirms = Confirms()
    (publication,) = sent(confirms, 1)
    confirms.close("gone")
    with pytest.raises(BrokerUnavailable, match="gone"):
        publication.outcome.result(0)


def test_only_what_went_to_a_missing_exchange_is_known_to_be_nowhere() -> None:
    confirms = Confirms()
    there, elsewhere = sent(confirms, 1, exchange="absent") + sent(confirms, 1, exchange="")
    confirms.close("no exchange", missing_exchange="absent")
    assert there.outcome.result(0) == PublishOutcome(confirmed=False, reason="no exchange")
    assert elsewhere.outcome.exception(0) is not None


def test_a_message_given_up_before_it_was_sent_is_not_sent() -> None:
    publication = Publication("", "key", b"", Properties(), True)
    publication.outcome.cancel()
    assert not publication.start()
