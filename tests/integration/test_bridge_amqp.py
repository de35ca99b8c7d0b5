"""The broker thread against a real broker: confirms, deliveries, and everything that breaks on the way."""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pika
import pytest

from bridge.contract import Lane
from bridge.message import BrokerRefused, BrokerUnavailable, Properties, PublishOutcome
from bridge.topology import DEAD, EXCHANGE, QueueSpec, Topology, lane_queue
from tests.integration.bridge_broker import (
    NODE,
    BridgeBroker,
    Inbox,
    PrivateBroker,
    Ups,
    bridge_host,
    broker,
    io_threads,
)
from tests.integration.shim_broker import Wire
from tests.testbed.certificates import Certificates

__all__ = ["bridge_host", "broker"]

FAST = lane_queue(NODE, Lane.FAST)
CONFIRMED = PublishOutcome(confirmed=True)


def named(message_id: str) -> Properties:
    return Properties(message_id=message_id)


def wire_to(broker: BridgeBroker, wires: list[Wire]) -> Wire:
    wires.append(Wire((broker.private.host, broker.private.port)))
    return wires[-1]


# --- publishing ------------------------------------------------------------------------------------------------------


def test_a_confirmed_message_arrives_with_its_properties_and_the_publishers_name(broker: BridgeBroker) -> None:
    inbox = Inbox()
    service = broker.service()
    service.consume(FAST, inbox, 10)
    sent = Properties("m1", "vcl.ping.requested.v1", "c1", "esxprov.cli.x", 1_795_000_000, "text/plain", {"x-a": "b"})
    shim = broker.open(broker.as_user("vcld"))
    assert shim.publish(EXCHANGE, "mn1.ping", b"{}", sent) == CONFIRMED
    delivery = inbox.next()
    assert (delivery.body, delivery.routing_key, delivery.redelivered) == (b"{}", "mn1.ping", False)
    assert (delivery.message_id, delivery.type, delivery.correlation_id) == ("m1", "vcl.ping.requested.v1", "c1")
    assert (delivery.reply_to, delivery.timestamp, delivery.headers) == ("esxprov.cli.x", 1_795_000_000, {"x-a": "b"})
    assert delivery.user_id == broker.as_user("vcld").user


def test_a_mandatory_message_without_a_queue_comes_back(broker: BridgeBroker) -> None:
    outcome = broker.service().publish(EXCHANGE, "mn9.ping", b"{}", named("m1"))
    assert outcome == PublishOutcome(confirmed=False, reason="NO_ROUTE")


def test_a_message_to_a_missing_exchange_is_known_to_be_nowhere(broker: BridgeBroker) -> None:
    outcome = broker.service().publish("esxprov.absent", "k", b"{}", named("m1"))
    assert not outcome.confirmed
    assert "no exchange" in outcome.reason


def test_many_publishers_at_once_each_learn_of_their_own_message(broker: BridgeBroker) -> None:
    service = broker.service(max_in_flight=4)

    def publish(number: int) -> bool:
        key = "mn1.ping" if number % 3 else "mn9.ping"
        return service.publish(EXCHANGE, key, b"{}", named(str(number % 5))).confirmed

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(publish, range(120)))
    assert outcomes == [bool(number % 3) for number in range(120)]


def test_a_publisher_without_permission_is_told_and_can_go_on(broker: BridgeBroker) -> None:
    broker.service()
    shim = broker.open(broker.as_user("vcld"))
    with pytest.raises(BrokerUnavailable, match="ACCESS_REFUSED"):
        shim.publish("", FAST, b"{}", named("m1"))
    assert shim.publish(EXCHANGE, "mn1.ping", b"{}", named("m2")) == CONFIRMED


def test_what_cannot_be_put_into_amqp_is_its_publishers_error_alone(broker: BridgeBroker) -> None:
    service = broker.service()
    with pytest.raises(pika.exceptions.ShortStringTooLong):
        service.publish(EXCHANGE, "mn1.ping", b"{}", named("x" * 300))
    assert service.publish(EXCHANGE, "mn1.ping", b"{}", named("m1")) == CONFIRMED


def test_publishing_from_a_callback_is_refused_instead_of_hanging(broker: BridgeBroker) -> None:
    service = broker.service()
    caught: list[BaseException] = []
    done = threading.Event()

    def publish(_: object) -> None:
        with contextlib.suppress(RuntimeError):
            try:
                service.publish(EXCHANGE, "mn1.ping", b"{}", named("m2"))
            except RuntimeError as error:
                caught.append(error)
                raise
            finally:
                done.set()

    service.consume(FAST, publish, 1)
    service.publish(EXCHANGE, "mn1.ping", b"{}", named("m1"))
    assert done.wait(10)
    assert caught


def test_a_confirm_takes_milliseconds(broker: BridgeBroker) -> None:
    service = broker.service()
    times = []
    for number in range(50):
        started = time.perf_counter()
        service.publish(EXCHANGE, "mn1.ping", b"{}", named(str(number)))
        times.append(time.perf_counter() - started)
    assert statistics.median(times) < 0.020


@pytest.fixture
def memory_alarm(rabbitmq: PrivateBroker) -> Iterator[Callable[[], None]]:
    """The broker is out of memory until the test calls this, or ends."""
    rabbitmq.ctl("set_vm_memory_high_watermark", "0.000001")
    with contextlib.ExitStack() as stack:
        stack.callback(rabbitmq.ctl, "set_vm_memory_high_watermark", "0.4")
        yield stack.close


def test_a_broker_out_of_memory_is_named_and_gets_nothing_that_was_given_up(
    broker: BridgeBroker, memory_alarm: Callable[[], None]
) -> None:
    inbox = Inbox()
    service = broker.service()
    with pytest.raises(BrokerUnavailable, match="did not confirm"):
        service.publish(EXCHANGE, "mn1.ping", b"{}", named("sent-before-we-knew"), timeout_s=0.5)
    with pytest.raises(BrokerUnavailable, match="low on memory"):
        service.publish(EXCHANGE, "mn1.ping", b"{}", named("given-up"), timeout_s=0.2)
    memory_alarm()
    assert service.publish(EXCHANGE, "mn1.ping", b"{}", named("after")) == CONFIRMED
    service.consume(FAST, inbox, 10)
    assert [inbox.next().message_id, inbox.next().message_id] == ["sent-before-we-knew", "after"]


def test_a_broker_out_of_memory_does_not_hold_up_the_end(
    broker: BridgeBroker, memory_alarm: Callable[[], None]
) -> None:
    service = broker.service()
    with pytest.raises(BrokerUnavailable, match="did not confirm"):
        service.publish(EXCHANGE, "mn1.ping", b"{}", named("m1"), timeout_s=0.2)
    started = time.monotonic()
    service.stop(drain_s=0.1)
    assert time.monotonic() - started < 5


def test_what_may_get_lost_is_posted_in_order_with_the_rest(broker: BridgeBroker) -> None:
    inbox = Inbox()
    service = broker.service()
    service.consume(FAST, inbox, 10)
    service.post(EXCHANGE, "mn1.ping", b"{}", named("first"))
    service.publish(EXCHANGE, "mn1.ping", b"{}", named("second"))
    service.post(EXCHANGE, "mn9.ping", b"{}", named("to-nobody"))
    service.post(EXCHANGE, "mn1.ping", b"{}", named("third"))
    assert [inbox.next().message_id for _ in range(3)] == ["first", "second", "third"]


def test_what_is_posted_while_the_broker_takes_nothing_is_lost(
    broker: BridgeBroker, memory_alarm: Callable[[], None]
) -> None:
    inbox = Inbox()
    service = broker.service()
    with pytest.raises(BrokerUnavailable, match="did not confirm"):
        service.publish(EXCHANGE, "mn1.ping", b"{}", named("sent-before-we-knew"), timeout_s=0.5)
    service.post(EXCHANGE, "mn1.ping", b"{}", named("posted"))
    memory_alarm()
    assert service.publish(EXCHANGE, "mn1.ping", b"{}", named("after")) == CONFIRMED
    service.consume(FAST, inbox, 10)
    assert [inbox.next().message_id, inbox.next().message_id] == ["sent-before-we-knew", "after"]


# --- consuming -------------------------------------------------------------------------------------------------------


def test_no_more_than_the_prefetch_is_delivered_until_something_is_acknowledged(broker: BridgeBroker) -> None:
    inbox = Inbox()
    service = broker.service()
    service.consume(FAST, inbox, 1)
    for name in ("m1", "m2"):
        service.publish(EXCHANGE, "mn1.ping", b"{}", named(name))
    first = inbox.next()
    assert inbox.stays_empty()
    service.ack(first)
    assert inbox.next().message_id == "m2"


def test_a_paused_queue_delivers_nothing_and_everything_in_order_when_resumed(broker: BridgeBroker) -> None:
    inbox = Inbox()
    service = broker.service()
    service.consume(FAST, inbox, 10)
    service.pause(FAST)
    service.pause(FAST)
    for number in range(5):
        service.publish(EXCHANGE, "mn1.ping", b"{}", named(str(number)))
    assert inbox.stays_empty()
    service.resume(FAST)
    service.resume(FAST)
    assert [inbox.next().message_id for _ in range(5)] == ["0", "1", "2", "3", "4"]
    assert inbox.stays_empty(0.1)


def test_pausing_over_and_over_loses_and_doubles_nothing(broker: BridgeBroker) -> None:
    inbox = Inbox()
    service = broker.service()
    service.consume(FAST, inbox, 3)
    for number in range(60):
        service.publish(EXCHANGE, "mn1.ping", b"{}", named(str(number)))
        (service.pause if number % 2 else service.resume)(FAST)
    service.resume(FAST)
    arrived = []
    for _ in range(60):
        delivery = inbox.next()
        arrived.append(int(delivery.message_id or -1))
        service.ack(delivery)
    assert sorted(arrived) == list(range(60))
    assert inbox.stays_empty(0.1)


def test_a_delivery_given_back_comes_again(broker: BridgeBroker) -> None:
    inbox = Inbox()
    service = broker.service()
    service.consume(FAST, inbox, 1)
    service.publish(EXCHANGE, "mn1.ping", b"{}", named("m1"))
    service.nack(inbox.next(), requeue=True)
    assert inbox.next().redelivered


def test_acknowledging_twice_does_no_harm(broker: BridgeBroker) -> None:
    inbox, ups = Inbox(), Ups()
    service = broker.service(on_up=ups)
    service.consume(FAST, inbox, 1)
    service.publish(EXCHANGE, "mn1.ping", b"{}", named("m1"))
    delivery = inbox.next()
    service.ack(delivery)
    service.ack(delivery)
    service.nack(delivery, requeue=True)
    service.publish(EXCHANGE, "mn1.ping", b"{}", named("m2"))
    assert inbox.next().message_id == "m2"
    assert ups.count == 1


def test_a_callback_that_fails_does_not_end_the_thread(broker: BridgeBroker, caplog: pytest.LogCaptureFixture) -> None:
    service = broker.service()
    failed = threading.Event()

    def fail(_: object) -> None:
        failed.set()
        raise ValueError("the callback's own fault")

    service.consume(FAST, fail, 1)
    service.publish(EXCHANGE, "mn1.ping", b"{}", named("m1"))
    assert failed.wait(10)
    assert service.publish(EXCHANGE, "mn1.ping", b"{}", named("m2")) == CONFIRMED
    assert "the callback's own fault" in caplog.text


def test_a_property_that_is_no_text_is_as_good_as_absent(broker: BridgeBroker) -> None:
    inbox = Inbox()
    service = broker.service()
    service.consume(FAST, inbox, 1)
    vcld = broker.as_user("vcld")
    credentials = pika.PlainCredentials(vcld.user, vcld.password)
    with pika.BlockingConnection(
        pika.ConnectionParameters(vcld.host, vcld.port, vcld.virtual_host, credentials)
    ) as raw:
        raw.channel().basic_publish(EXCHANGE, "mn1.ping", b"", pika.BasicProperties(message_id=b"\xff\xfe"))  # type: ignore[arg-type]
    delivery = inbox.next()
    assert delivery.message_id is None
    assert delivery.user_id is None


# --- looking into a queue --------------------------------------------------------------------------------------------


def test_a_queue_is_looked_through_without_taking_and_single_messages_dropped(broker: BridgeBroker) -> None:
    service = broker.service()
    for number in range(5):
        service.publish("", DEAD, b"{}", named(str(number)))

    def ids(**options: object) -> list[str | None]:
        return [delivery.message_id for delivery in service.browse(DEAD, **options)]  # type: ignore[arg-type]

    assert ids() == ["0", "1", "2", "3", "4"]
    assert ids(limit=2) == ["0", "1"]
    assert ids(drop=lambda delivery: delivery.message_id == "3") == ["0", "1", "2", "3", "4"]
    assert ids() == ["0", "1", "2", "4"]


def test_looking_into_a_queue_that_is_not_there_is_an_error_and_nothing_else(broker: BridgeBroker) -> None:
    ups = Ups()
    service = broker.service(on_up=ups)
    with pytest.raises(BrokerUnavailable, match=r"no queue .esxprov\.absent.: start esxprov\.service"):
        service.browse("esxprov.absent")
    assert service.publish(EXCHANGE, "mn1.ping", b"{}", named("m1")) == CONFIRMED
    assert ups.count == 1


# --- losing and finding the broker -----------------------------------------------------------------------------------


def test_after_a_cut_the_delivery_comes_again_and_only_its_new_tag_counts(
    broker: BridgeBroker, wires: list[Wire]
) -> None:
    wire, inbox, ups = wire_to(broker, wires), Inbox(), Ups()
    service = broker.service(wire.port, on_up=ups)
    service.consume(FAST, inbox, 1)
    service.publish(EXCHANGE, "mn1.ping", b"{}", named("m1"))
    old = inbox.next()
    wire.cut()
    new = inbox.next()
    assert new.redelivered
    assert new.generation > old.generation
    service.ack(old)
    service.publish(EXCHANGE, "mn1.ping", b"{}", named("m2"))
    assert inbox.stays_empty()
    service.ack(new)
    assert inbox.next().message_id == "m2"


def test_without_a_connection_a_publish_fails_at_once_with_the_reason(broker: BridgeBroker, wires: list[Wire]) -> None:
    wire, downs = wire_to(broker, wires), threading.Event()
    service = broker.service(wire.port, on_down=lambda _: downs.set())
    wire.refuse = True
    wire.cut()
    assert downs.wait(10)
    started = time.monotonic()
    with pytest.raises(BrokerUnavailable, match=r"lost|cannot be reached"):
        service.publish(EXCHANGE, "mn1.ping", b"{}", named("m1"))
    assert time.monotonic() - started < 1
    assert not service.connected


def test_a_deleted_queue_is_declared_and_consumed_again(broker: BridgeBroker) -> None:
    inbox, ups = Inbox(), Ups()
    service = broker.service(on_up=ups)
    service.consume(FAST, inbox, 1)
    assert service.publish(EXCHANGE, "mn1.ping", b"{}", named("m1")) == CONFIRMED
    service.ack(inbox.next())
    user = broker.as_user("esxprov")
    credentials = pika.PlainCredentials(user.user, user.password)
    with pika.BlockingConnection(
        pika.ConnectionParameters(user.host, user.port, user.virtual_host, credentials)
    ) as raw:
        raw.channel().queue_delete(FAST)
    ups.wait_for(2)
    assert service.publish(EXCHANGE, "mn1.ping", b"{}", named("m2")) == CONFIRMED
    assert inbox.next().message_id == "m2"


def test_reconnecting_many_times_leaks_neither_threads_nor_descriptors(
    broker: BridgeBroker, wires: list[Wire], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.amqp.thread.RECONNECT_FIRST_S", 0.01)
    monkeypatch.setattr("bridge.amqp.thread.RECONNECT_MOST_S", 0.01)
    ups = Ups()
    wire = wire_to(broker, wires)
    service = broker.service(wire.port, on_up=ups)

    def reconnect(times: int) -> None:
        for _ in range(times):
            wire.cut()
            ups.wait_for(ups.count + 1)
        service.publish(EXCHANGE, "mn1.ping", b"{}", named("m1"))

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    reconnect(3)
    before = descriptors()
    reconnect(20)
    # The wire, which is in this process too, closes its own ends a little later.
    patience = time.monotonic() + 5
    while descriptors() > before and time.monotonic() < patience:
        threading.Event().wait(0.01)
    assert descriptors() <= before
    assert len(io_threads()) == 1


def test_an_error_on_the_io_thread_is_logged_and_all_is_built_anew(
    broker: BridgeBroker, caplog: pytest.LogCaptureFixture
) -> None:
    inbox, ups = Inbox(), Ups()
    service = broker.service(on_up=ups)
    service.consume(FAST, inbox, 1)
    service.pause("a queue that nobody consumes")
    ups.wait_for(2)
    service.wait_until_connected(10)
    assert service.publish(EXCHANGE, "mn1.ping", b"{}", named("m1")) == CONFIRMED
    assert inbox.next().message_id == "m1"
    assert "a queue that nobody consumes" in caplog.text


def test_a_restart_of_the_broker_loses_no_confirmed_message(broker: BridgeBroker, rabbitmq: PrivateBroker) -> None:
    inbox, ups = Inbox(), Ups()
    service = broker.service(on_up=ups)
    service.consume(FAST, inbox, 10)
    shim = broker.open(broker.as_user("vcld"))
    confirmed: list[str] = []
    stop = threading.Event()

    def publish() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            try:
                if shim.publish(EXCHANGE, "mn1.ping", b"{}", named(str(number)), timeout_s=2).confirmed:
                    confirmed.append(str(number))
            except BrokerUnavailable:
                stop.wait(0.05)

    publisher = threading.Thread(target=publish)
    publisher.start()
    try:
        rabbitmq.ctl("stop_app")
        before = len(confirmed)
        rabbitmq.ctl("start_app")
        ups.wait_for(2)
        shim.wait_until_connected(20)
        reached = time.monotonic() + 10
        while len(confirmed) < before + 20 and time.monotonic() < reached:
            stop.wait(0.01)
    finally:
        stop.set()
        publisher.join()
    assert len(confirmed) >= before + 20 > 20
    missing = set(confirmed)
    while missing:
        delivery = inbox.next()
        service.ack(delivery)
        missing.discard(delivery.message_id or "")


# --- being let in ----------------------------------------------------------------------------------------------------


def test_a_wrong_password_is_told_at_once(broker: BridgeBroker) -> None:
    thread = broker.prepare(replace(broker.as_user("vcld"), password="wrong"))
    thread.start()
    started = time.monotonic()
    with pytest.raises(BrokerRefused, match="check password and permissions"):
        thread.wait_until_connected(20)
    assert time.monotonic() - started < 5


def test_a_queue_of_another_kind_is_told_at_once(broker: BridgeBroker) -> None:
    broker.service()
    thread = broker.prepare(broker.as_user("esxprov"))
    thread.declare(Topology(None, (QueueSpec(FAST, arguments={"x-queue-type": "quorum"}),)))
    thread.start()
    with pytest.raises(BrokerRefused, match="inequivalent arg 'x-queue-type'"):
        thread.wait_until_connected(20)


def test_a_user_may_not_declare_what_is_not_its_own(broker: BridgeBroker) -> None:
    thread = broker.prepare(broker.as_user("vcld"))
    thread.declare(Topology(None, (QueueSpec("esxprov.mn1.mine"),)))
    thread.start()
    with pytest.raises(BrokerRefused, match="ACCESS_REFUSED"):
        thread.wait_until_connected(20)


def test_a_broker_that_is_not_there_is_waited_for(broker: BridgeBroker, wires: list[Wire]) -> None:
    wire = wire_to(broker, wires)
    wire.refuse = True
    thread = broker.prepare(broker.as_user("esxprov", wire.port))
    thread.start()
    with pytest.raises(BrokerUnavailable):
        thread.wait_until_connected(0.3)
    wire.refuse = False
    thread.wait_until_connected(10)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Somebody listens there, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_broker_that_says_nothing_is_given_up_and_tried_again(
    broker: BridgeBroker, silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.amqp.translate.CONNECT_S", 0.2)
    thread = broker.prepare(broker.as_user("esxprov", silent_port))
    thread.start()
    with pytest.raises(BrokerUnavailable, match="does not answer"):
        thread.wait_until_connected(0.5)


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> tuple[Certificates, Certificates]:
    directory = tmp_path_factory.mktemp("ca")
    return Certificates(directory), Certificates(directory, "stranger")


@pytest.mark.parametrize(
    ("certified", "host", "ours", "problem"),
    [
        ("localhost", "localhost", True, None),
        ("localhost", "localhost", False, "certificate of the broker"),
        ("broker.example.edu", "localhost", True, "Hostname mismatch"),
        ("localhost", "127.0.0.1", True, "IP address mismatch"),
    ],
)
def test_a_broker_is_trusted_by_its_authority_and_name(
    broker: BridgeBroker,
    wires: list[Wire],
    authorities: tuple[Certificates, Certificates],
    certified: str,
    host: str,
    ours: bool,
    problem: str | None,
) -> None:
    ca, stranger = authorities
    wires.append(
        Wire((broker.private.host, broker.private.port), ca.issue(certified, names=f"DNS:{certified}").context())
    )
    ca_file = (ca if ours else stranger).ca
    thread = broker.prepare(
        replace(broker.as_user("esxprov"), host=host, port=wires[-1].port, tls=True, ca_file=ca_file)
    )
    thread.start()
    if problem is None:
        thread.wait_until_connected(10)
        assert thread.publish("", DEAD, b"x" * 200_000, named("m1")) == CONFIRMED
    else:
        with pytest.raises(BrokerRefused, match=problem):
            thread.wait_until_connected(10)


# --- the end ---------------------------------------------------------------------------------------------------------


def test_stopping_leaves_no_thread_and_gives_back_what_was_not_acknowledged(broker: BridgeBroker) -> None:
    inbox, again = Inbox(), Inbox()
    service = broker.service()
    service.consume(FAST, inbox, 1)
    service.publish(EXCHANGE, "mn1.ping", b"{}", named("m1"))
    inbox.next()
    service.stop()
    service.stop()
    assert not io_threads()
    with pytest.raises(BrokerUnavailable, match="closed by us"):
        service.publish(EXCHANGE, "mn1.ping", b"{}", named("m2"))
    broker.service().consume(FAST, again, 1)
    assert again.next().redelivered


def test_stopping_waits_for_the_confirms_under_way(broker: BridgeBroker) -> None:
    service = broker.service()
    with ThreadPoolExecutor(8) as pool:
        outcomes = [pool.submit(service.publish, EXCHANGE, "mn1.ping", b"x" * 100_000, named(str(n))) for n in range(8)]
        service.stop()
        for outcome in outcomes:
            with contextlib.suppress(BrokerUnavailable):
                assert outcome.result(5) == CONFIRMED
    stored = {delivery.message_id for delivery in broker.service().browse(FAST)}
    known = {str(n) for n, outcome in enumerate(outcomes) if outcome.exception() is None}
    assert known == stored


def test_stopping_while_connecting_neither_waits_nor_complains(
    broker: BridgeBroker, wires: list[Wire], silent_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    wire = wire_to(broker, wires)
    wire.refuse = True
    for port in (wire.port, 1, silent_port):
        thread = broker.prepare(broker.as_user("esxprov", port))
        thread.start()
        with pytest.raises(BrokerUnavailable):
            thread.wait_until_connected(0.1)
        started = time.monotonic()
        thread.stop()
        assert time.monotonic() - started < 2
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
