"""The client against a real broker and a service that is only a few lines."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from bridge.amqp.thread import BrokerThread
from bridge.client import Client, NoReply, NoService
from bridge.contract import Lane, Outcome
from bridge.dead import parked
from bridge.envelope import Event, decode, encode, finished, progressed, request
from bridge.message import BrokerRefused, BrokerUnavailable, Delivery, properties
from bridge.topology import DEAD, lane_queue
from tests.integration.bridge_broker import NODE, BridgeBroker, bridge_host, broker, io_threads
from tests.integration.shim_broker import Wire

__all__ = ["bridge_host", "broker"]


def now() -> datetime:
    return datetime.now(UTC)


def ping(**attributes: Any) -> Event:
    return request("ping", source="urn:test", data={}, now=now(), **attributes)


@dataclass
class FakeService:
    """Answers each request with what `script` makes of it; `received` holds the requests in order."""

    broker: BrokerThread
    script: Callable[[Event], list[Event]] = lambda event: [finished(event, now=now(), outcome=Outcome.OK)]
    received: list[Event] = field(default_factory=list)
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def serve(self) -> None:
        for lane in Lane:
            self.broker.consume(lane_queue(NODE, lane), self._enqueue, 10)

    def close(self) -> None:
        self._pool.shutdown()

    def reply(self, delivery: Delivery, reply: Event) -> None:
        assert delivery.reply_to is not None
        self.broker.publish("", delivery.reply_to, encode(reply), properties(reply))

    def _enqueue(self, delivery: Delivery) -> None:
        self._pool.submit(self._handle, delivery)

    def _handle(self, delivery: Delivery) -> None:
        event = decode(delivery.body)
        self.received.append(event)
        self.broker.ack(delivery)
        for reply in self.script(event) if delivery.reply_to else []:
            self.reply(delivery, reply)


@pytest.fixture
def service(broker: BridgeBroker) -> Iterator[FakeService]:
    service = FakeService(broker.service())
    service.serve()
    yield service
    service.close()


@pytest.fixture
def client(broker: BridgeBroker, service: FakeService) -> Iterator[Client]:
    """Only open where a service has declared the exchange."""
    with Client(broker.as_user("esxprov-cli"), NODE) as client:
        yield client


def test_a_call_is_followed_over_its_progress_to_its_reply(client: Client, service: FakeService) -> None:
    def script(event: Event) -> list[Event]:
        notes = [
            progressed(event, now=now(), sequence=n, step="copy_disk", message=f"note {n}") for n in (1, 2, 2, 1, 3)
        ]
        return [*notes, finished(event, now=now(), outcome=Outcome.OK, result={"version": "1"})]

    service.script = script
    notes: list[Event] = []
    event = ping()
    reply = client.call(event, on_progress=notes.append)
    assert reply.data["result"] == {"version": "1"}
    assert reply.causationid == event.id
    assert [note.data["message"] for note in notes] == ["note 1", "note 2", "note 3"]
    assert [seen.id for seen in service.received] == [event.id]


def test_a_failed_call_is_a_reply_like_any_other(client: Client, service: FakeService) -> None:
    service.script = lambda event: [finished(event, now=now(), outcome=Outcome.FAILED, error={"code": "internal"})]
    assert client.call(ping()).data["outcome"] == "failed"


def test_messages_that_belong_to_another_call_are_passed_over(client: Client, service: FakeService) -> None:
    other = ping()

    def script(event: Event) -> list[Event]:
        return [finished(other, now=now(), outcome=Outcome.FAILED), finished(event, now=now(), outcome=Outcome.OK)]

    service.script = script
    assert client.call(ping()).data["outcome"] == "ok"
    assert client.call(ping()).data["outcome"] == "ok"


def test_nonsense_on_the_reply_queue_is_passed_over(client: Client, service: FakeService) -> None:
    def nonsense_first(delivery: Delivery) -> None:
        reply = finished(decode(delivery.body), now=now(), outcome=Outcome.OK)
        for body in (b"\xff", encode(decode(delivery.body)), encode(reply)):
            service.broker.publish("", delivery.reply_to or "", body, properties(reply))

    service._handle = nonsense_first  # type: ignore[method-assign]
    assert client.call(ping()).data["outcome"] == "ok"


def test_a_node_without_a_service_is_named_at_once(broker: BridgeBroker, service: FakeService) -> None:
    with (
        Client(broker.as_user("esxprov-cli"), "mn7") as client,
        pytest.raises(NoService, match=r"'ping' for management node 'mn7': the exchange 'esxprov' .* 'mn7\.ping'"),
    ):
        client.call(ping())


def test_a_broker_that_never_saw_a_service_is_the_same_as_no_service(
    broker: BridgeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.client.EXCHANGE", "esxprov.cli.absent")
    with Client(broker.as_user("esxprov"), NODE) as client, pytest.raises(NoService, match=r"esxprov\.cli\.absent"):
        client.call(ping())


def test_after_silence_the_same_event_is_published_again(broker: BridgeBroker, service: FakeService) -> None:
    def script(event: Event) -> list[Event]:
        return [finished(event, now=now(), outcome=Outcome.OK)] if len(service.received) == 3 else []

    service.script = script
    event = ping()
    with Client(broker.as_user("esxprov-cli"), NODE, silence_s=0.5) as client:
        assert client.call(event).data["outcome"] == "ok"
    assert [seen.id for seen in service.received] == [event.id] * 3


def test_past_the_deadline_and_its_grace_the_event_is_cancelled(broker: BridgeBroker, service: FakeService) -> None:
    service.script = lambda _: []
    event = ping()
    started = time.monotonic()
    with (
        Client(broker.as_user("esxprov-cli"), NODE, silence_s=120, grace_s=0.2) as client,
        pytest.raises(NoReply, match=f"no reply to ping {event.id}"),
    ):
        client.call(event, timeout_s=0.3)
    assert 0.5 <= time.monotonic() - started < 5
    service.close()
    assert [seen.call for seen in service.received] == ["ping", "cancel"]
    assert service.received[1].data["event"] == event.id


def test_the_deadline_is_the_events_own(broker: BridgeBroker, service: FakeService) -> None:
    service.script = lambda _: []
    with Client(broker.as_user("esxprov-cli"), NODE, grace_s=0.1) as client, pytest.raises(NoReply):
        client.call(request("load", source="urn:test", data={}, now=now(), timeout_s=0.2))


def test_a_call_survives_the_loss_of_its_connection(
    broker: BridgeBroker, service: FakeService, wires: list[Wire]
) -> None:
    wires.append(Wire((broker.private.host, broker.private.port)))

    def script(event: Event) -> list[Event]:
        if len(service.received) == 1:
            wires[0].cut()
            return []
        return [finished(event, now=now(), outcome=Outcome.OK)]

    service.script = script
    event = ping()
    with Client(broker.as_user("esxprov-cli", wires[0].port), NODE) as client:
        assert client.call(event, timeout_s=20).data["outcome"] == "ok"
    assert {seen.id for seen in service.received} == {event.id}


def test_sending_does_not_wait_for_an_answer(client: Client, service: FakeService) -> None:
    handled = threading.Event()

    def script(_: Event) -> list[Event]:
        handled.set()
        return []

    service.script = script
    client.send(ping(), reply_to="esxprov.cli.somebody")
    assert handled.wait(10)


def test_a_user_who_may_not_is_told_so_on_entering(broker: BridgeBroker) -> None:
    for parameters in (broker.as_user("vcld"), replace(broker.as_user("esxprov-cli"), password="wrong")):
        client = Client(parameters, NODE)
        with pytest.raises(BrokerRefused), client:
            raise AssertionError("it was let in")
    assert not io_threads()


def test_a_broker_that_is_not_there_is_told_on_entering(broker: BridgeBroker) -> None:
    client = Client(broker.as_user("esxprov-cli", 1), NODE, connect_s=0.3)
    with pytest.raises(BrokerUnavailable, match="cannot be reached: Connection refused"), client:
        raise AssertionError("it was let in")


# --- dead letters ----------------------------------------------------------------------------------------------------


@pytest.fixture
def parked_three(service: FakeService) -> list[str]:
    """The ids of three parked messages."""
    for number in range(3):
        delivery = Delivery(b"{%d}" % number, "mn1.load", False, 1, 1, message_id=f"m{number}", user_id="vcld")
        body, sent = parked(delivery, f"invalid_event: reason {number}")
        assert service.broker.publish("", DEAD, body, sent).confirmed
    return ["m0", "m1", "m2"]


def test_dead_letters_are_shown_with_their_reasons_and_stay(client: Client, parked_three: list[str]) -> None:
    for _ in range(2):
        letters = client.dead_letters()
        assert [letter.id for letter in letters] == parked_three
        assert letters[1].summary() == {
            "id": "m1",
            "type": "",
            "routing_key": "mn1.load",
            "reason": "invalid_event: reason 1",
            "publisher": "vcld",
            "bytes": 3,
        }
        assert letters[2].body == b"{2}"


def test_a_dead_letter_is_dropped_alone(client: Client, parked_three: list[str]) -> None:
    client.drop_dead_letter("m1")
    assert [letter.id for letter in client.dead_letters()] == ["m0", "m2"]


def test_dropping_a_letter_that_is_not_there_says_so(client: Client, parked_three: list[str]) -> None:
    with pytest.raises(LookupError, match="m9"):
        client.drop_dead_letter("m9")
    assert len(client.dead_letters()) == len(parked_three)
