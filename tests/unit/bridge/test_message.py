"""AMQP properties of events, and dead letters."""

from __future__ import annotations

from datetime import UTC, datetime

from bridge.contract import Outcome
from bridge.dead import DeadLetter, parked
from bridge.envelope import CONTENT_TYPE, MAX_BYTES, again, finished, request
from bridge.message import Delivery, Properties, properties

NOW = datetime(2026, 11, 22, 5, 41, 7, tzinfo=UTC)
EVENT = request("load", source="urn:test", data={}, now=NOW)


def delivery(body: bytes = b"{}", message_id: str | None = "m1") -> Delivery:
    return Delivery(body, "mn1.load", False, 1, 1, message_id=message_id, type="vcl.load.requested.v1", user_id="vcld")


def letter(body: bytes, sent: Properties) -> DeadLetter:
    return DeadLetter.of(
        Delivery(body, "esxprov.dead", False, 2, 2, message_id=sent.message_id, type=sent.type, headers=sent.headers)
    )


def test_the_properties_mirror_the_event() -> None:
    assert properties(EVENT, "vcl.reply.mn1.5678") == Properties(
        message_id=EVENT.id,
        type="vcl.load.requested.v1",
        correlation_id=EVENT.id,
        reply_to="vcl.reply.mn1.5678",
        timestamp=int(NOW.timestamp()),
        content_type=CONTENT_TYPE,
    )


def test_an_answer_correlates_with_its_request() -> None:
    assert properties(finished(EVENT, now=NOW, outcome=Outcome.OK)).correlation_id == EVENT.id


def test_a_replayed_request_correlates_with_itself() -> None:
    replay = again(EVENT, now=NOW, timeout_s=60)
    assert properties(replay).correlation_id == replay.id


def test_a_parked_message_tells_where_from_who_and_why() -> None:
    found = letter(*parked(delivery(), "invalid_event: nonsense"))
    assert found == DeadLetter(
        "m1", "vcl.load.requested.v1", "mn1.load", "invalid_event: nonsense", "vcld", size_bytes=2, body=b"{}"
    )


def test_a_parked_message_without_an_id_gets_one() -> None:
    assert letter(*parked(delivery(message_id=None), "why")).id


def test_the_head_of_an_oversized_message_is_kept_and_its_size() -> None:
    found = letter(*parked(delivery(b"x" * (MAX_BYTES + 5)), "too large"))
    assert len(found.body) == MAX_BYTES
    assert found.summary()["bytes"] == MAX_BYTES + 5


def test_a_long_reason_does_not_burst_the_header_frame() -> None:
    _, sent = parked(delivery(), "x" * 500_000)
    assert len(sent.headers["x-esxprov-reason"]) == 1000


def test_a_message_that_somebody_else_put_into_the_dead_queue_is_shown_as_far_as_it_goes() -> None:
    assert DeadLetter.of(Delivery(b"abc", "esxprov.dead", False, 1, 1)).summary() == {
        "id": "",
        "type": "",
        "routing_key": "",
        "reason": "",
        "publisher": "",
        "bytes": 3,
    }
