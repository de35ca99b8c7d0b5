"""Leases over the broker, both sides wired: the service's questions, and `esxprov leases publish`. Decides nothing."""

from __future__ import annotations

import logging
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from bridge.amqp.thread import BrokerThread
from bridge.contract import Phase
from bridge.envelope import Event, encode
from bridge.message import BrokerUnavailable, properties
from bridge.topology import LEASES_EXCHANGE, lease_answers, lease_questions, lease_queue, lease_topology
from esxprov import systemd
from esxprov.broker import CONNECT_S, broker_parameters
from esxprov.config import Config, LeasesConfig, PublisherConfig
from esxprov.errors import DependencyUnavailable
from esxprov.leases.bus import Bus
from esxprov.leases.publisher import Publisher
from esxprov.leases.sources import fresh_leases, watching

log = logging.getLogger(__name__)

SEND_S = 2.0
"""How long the broker may take to confirm an answer: who waits for it asks again after three."""


ANSWERS_S = 2.0
"""How long publishers may take to answer a question of `leases check`; it is asked of all of them."""

NOBODYS_MAC = "02:00:00:00:00:00"


def who_answers(config: Config) -> dict[str, str]:
    """Asks, as the service would, all who publish leases; what each says of a MAC that nobody has.

    Raises BrokerUnavailable.
    """
    node = config.service.management_node
    with connected(config, node) as bus:
        question = bus.rearm(NOBODYS_MAC, time.time())
        time.sleep(ANSWERS_S)  # there is no event for the last of an unknown number
        return bus.heard(question)


@contextmanager
def connected(config: Config, node: str) -> Iterator[Bus]:
    """A service's way to those who publish leases, on a connection of its own."""
    broker = BrokerThread(broker_parameters(config.broker), name=f"esxprov leases check of {node}")
    bus = on_bus(broker, node, config.leases)
    broker.start()
    try:
        broker.wait_until_connected(CONNECT_S)
        yield bus
    finally:
        broker.stop()


def on_bus(broker: BrokerThread, node: str, config: LeasesConfig) -> Bus:
    """The source that asks on the bus, over a connection that is not started yet."""

    def ask(question: Event) -> None:
        broker.post(LEASES_EXCHANGE, lease_questions(node), encode(question), properties(question))

    bus = Bus(node, config.publisher, ask)
    queue = lease_queue(f"{node}-{uuid.uuid4()}")
    broker.declare(lease_topology(queue, lease_answers(node)))
    broker.consume(queue, bus.on_delivery, prefetch=0)
    return bus


def serve(config: PublisherConfig, nodes: Sequence[str] = ()) -> None:
    """Answer the services of these management nodes, of all without any, until SIGTERM or SIGINT.

    Raises ConfigurationError or DependencyUnavailable if it cannot even start.
    """
    ended = threading.Event()

    def on_signal(number: int, _: FrameType | None) -> None:
        log.info("%s: ending", signal.Signals(number).name)
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    host = socket.gethostname().split(".", 1)[0]
    broker = BrokerThread(broker_parameters(config.broker), name=f"esxprov leases of {host}")

    def send(node: str, answer: Event) -> None:
        try:
            if answer.phase is Phase.FINISHED:
                broker.publish(
                    LEASES_EXCHANGE, lease_answers(node), encode(answer), properties(answer), timeout_s=SEND_S
                )
            else:
                broker.post(LEASES_EXCHANGE, lease_answers(node), encode(answer), properties(answer))
        except BrokerUnavailable as error:
            log.warning("an answer was lost, it will be asked for again: %s", error)

    with watching(config.leases) as watchers:
        publisher = Publisher(fresh_leases(config.leases, watchers), f"{host} ({config.leases})", send)
        queue = lease_queue(f"{host}-{uuid.uuid4()}")
        broker.declare(lease_topology(queue, *map(lease_questions, nodes or ["*"])))
        broker.consume(queue, publisher.on_delivery, prefetch=0)
        publisher.start()
        broker.start()
        try:
            broker.wait_until_connected(CONNECT_S)
            systemd.notify("READY=1")
            log.info("leases of %s are told to %s", config.leases, ", ".join(nodes) or "all management nodes")
            ended.wait()
            systemd.notify("STOPPING=1")
        except BrokerUnavailable as error:
            raise DependencyUnavailable(str(error)) from error
        finally:
            broker.stop()
            publisher.stop()
    log.info("ended")
