"""The DHCP server on another machine: `esxprov leases publish` there, the service with `bus:` as its only source."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pika
import pytest

from esxprov.leases.follower import LeaseFile
from esxprov.leases.watcher import LeaseWatcher
from tests.integration.calls import Following, Slot, call
from tests.testbed.audit import leftovers
from tests.testbed.bed import Bed
from tests.testbed.processes import Child
from tests.testbed.rabbitmq import RabbitMq


@pytest.fixture
def service(bed: Bed) -> Iterator[Child]:
    """It cannot look into the lease file."""
    child = bed.service(ESXPROV_LEASES_SOURCE="bus:", ESXPROV_LEASES_CONF="")
    yield child
    child.stop()


@pytest.fixture
def publisher(bed: Bed) -> Iterator[Child]:
    child = bed.publisher()
    yield child
    child.stop()


def wait_until_written(bed: Bed, mac: str, since: float) -> None:
    with LeaseWatcher(LeaseFile(bed.lan.leases)) as watcher:
        assert watcher.wait(mac, watcher.rearm(mac, since), 30) is not None


def unload(bed: Bed, slot: Slot) -> None:
    reply = call(bed, slot.request("unload", state="deleted"))
    assert reply["outcome"] == "ok", reply
    assert leftovers(bed) == []


def test_a_lease_that_is_seen_elsewhere_ends_a_load(bed: Bed, slot: Slot, publisher: Child, service: Child) -> None:
    for _ in range(2):  # the second time there is an old lease
        reply = call(bed, slot.request("load"))
        assert reply["outcome"] == "ok", reply
        assert reply["result"]["evidence"] == "lease-file"
        publisher.wait_for(f"{slot.data()['computer']['private_mac']} has {reply['result']['private_ip']}")
        unload(bed, slot)


def test_a_publisher_that_comes_only_when_the_lease_is_written_is_asked_for_it(
    bed: Bed, slot: Slot, service: Child
) -> None:
    begun = time.time()
    load = Following(bed, slot.request("load"))
    load.wait_for_step("wait_for_address")
    mac = slot.data()["computer"]["private_mac"]
    wait_until_written(bed, mac, begun)
    publisher = bed.publisher()
    reply = load.reply()
    assert (reply["outcome"], reply["result"]["mac"]) == ("ok", mac)
    publisher.stop()
    unload(bed, slot)


def test_a_publisher_and_a_service_that_are_killed_while_an_address_is_waited_for_lose_no_lease(
    bed: Bed, slot: Slot
) -> None:
    begun = time.time()
    bed.lan.stop_dhcpd()
    try:
        service, publisher = bed.service(ESXPROV_LEASES_SOURCE="bus:", ESXPROV_LEASES_CONF=""), bed.publisher()
        load = Following(bed, slot.request("load"))
        load.wait_for_step("wait_for_address")
        publisher.kill()
        service.kill()
    finally:
        bed.lan.restart_dhcpd()
    wait_until_written(bed, slot.data()["computer"]["private_mac"], begun)
    service, publisher = bed.service(ESXPROV_LEASES_SOURCE="bus:", ESXPROV_LEASES_CONF=""), bed.publisher()
    reply = load.reply()
    assert reply["outcome"] == "ok", reply
    publisher.stop()
    unload(bed, slot)
    service.stop()


def test_the_check_says_who_answers_on_the_bus(bed: Bed) -> None:
    on_bus = ("--set", "leases.source=bus:", "--set", "leases.conf=", "leases", "check")
    alone = bed.esxprov(*on_bus)
    assert (alone.returncode, "nobody who sees leases answers" in alone.stdout) == (1, True), alone
    publisher = bed.publisher()
    checked = bed.esxprov(*on_bus)
    assert checked.returncode == 0, checked
    assert f"(dhcpd:{bed.lan.leases}) answers" in checked.stdout
    publisher.stop()


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("leases.source=bus:", "no lease file here to publish from"),
        ("publisher.url=", "[publisher] url is missing"),
        ("publisher.url=amqp://esxprov-leases@127.0.0.1:1/", "127.0.0.1:1"),
    ],
)
def test_a_publisher_that_cannot_publish_says_why_in_one_sentence(bed: Bed, override: str, sentence: str) -> None:
    done = bed.esxprov("--set", "leases.conf=", "--set", override, "leases", "publish")
    assert done.returncode in (69, 78)
    assert sentence in done.stderr.splitlines()[-1]


# --- what the publisher's broker user may not -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "attempt",
    [
        lambda channel: channel.basic_publish("esxprov", "mn1.load", b"{}"),
        lambda channel: channel.basic_publish("", "esxprov.mn1.slow", b"{}"),
        lambda channel: channel.queue_bind("esxprov.leases.x", "esxprov", "#"),
        lambda channel: channel.basic_get("esxprov.mn1.slow"),
        lambda channel: channel.queue_declare("vcl.reply.mn1.1"),
    ],
    ids=["command", "command by queue", "listen to commands", "take commands", "listen to replies"],
)
def test_the_user_of_publishers_comes_near_no_command(
    rabbitmq: RabbitMq, attempt: Callable[[pika.adapters.blocking_connection.BlockingChannel], None]
) -> None:
    credentials = pika.PlainCredentials("esxprov-leases", rabbitmq.password("esxprov-leases"))
    onlooker = pika.PlainCredentials("onlooker", rabbitmq.password("onlooker"))
    with pika.BlockingConnection(
        pika.ConnectionParameters(rabbitmq.host, rabbitmq.port, credentials=onlooker)
    ) as connection:
        channel = connection.channel()
        channel.exchange_declare("esxprov", "topic", durable=True)  # type: ignore[arg-type]  # it takes both
        channel.queue_declare("esxprov.mn1.slow", durable=True, arguments={"x-queue-type": "classic"})
    with pika.BlockingConnection(
        pika.ConnectionParameters(rabbitmq.host, rabbitmq.port, credentials=credentials)
    ) as connection:
        channel = connection.channel()
        channel.queue_declare("esxprov.leases.x", exclusive=True)
        channel.confirm_delivery()
        with pytest.raises(pika.exceptions.ChannelClosedByBroker) as refused:
            attempt(channel)
        assert refused.value.reply_code == 403
