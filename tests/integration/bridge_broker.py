"""A virtual host of its own on the private broker, with the users and permissions that the design gives them."""

from __future__ import annotations

import queue
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import pytest

from bridge.amqp.thread import BrokerThread
from bridge.message import Delivery
from bridge.parameters import BrokerParameters
from bridge.topology import service_topology

NODE = "mn1"
PERMISSIONS = {
    "vcld": (rf"^vcl\.reply\.{NODE}\.", "^esxprov$", rf"^vcl\.reply\.{NODE}\."),
    "esxprov": ("^esxprov", r"^(esxprov.*|amq\.default)$", "^esxprov"),
    "esxprov-cli": (r"^esxprov\.cli\.", "^esxprov$", r"^(esxprov\.dead|esxprov\.cli\..*)$"),
}


class PrivateBroker(Protocol):
    """What the testbed's RabbitMQ offers."""

    host: str
    port: int

    def ctl(self, *arguments: str) -> str:
        """rabbitmqctl's output."""


@dataclass
class BridgeBroker:
    """`as_user("vcld")` is the way in for one of the design's users; what is opened here is closed after the test."""

    private: PrivateBroker
    virtual_host: str
    prefix: str
    password: str
    opened: list[BrokerThread] = field(default_factory=list)

    def as_user(self, user: str, port: int | None = None) -> BrokerParameters:
        return BrokerParameters(
            host=self.private.host,
            port=port or self.private.port,
            virtual_host=self.virtual_host,
            user=f"{self.prefix}{user}",
            password=self.password,
            tls=False,
        )

    def open(self, parameters: BrokerParameters, **options: Any) -> BrokerThread:
        """A connection that is up."""
        thread = self.prepare(parameters, **options)
        thread.start()
        thread.wait_until_connected(10)
        return thread

    def prepare(self, parameters: BrokerParameters, **options: Any) -> BrokerThread:
        """A connection that is not started."""
        thread = BrokerThread(parameters, **options)
        self.opened.append(thread)
        return thread

    def service(self, port: int | None = None, **options: Any) -> BrokerThread:
        """The service's connection, with everything declared and nothing consumed."""
        thread = self.prepare(self.as_user("esxprov", port), **options)
        thread.declare(service_topology(NODE))
        thread.start()
        thread.wait_until_connected(10)
        return thread


class Inbox:
    """A consumer's callback that keeps what comes."""

    def __init__(self) -> None:
        self._deliveries: queue.SimpleQueue[Delivery] = queue.SimpleQueue()

    def __call__(self, delivery: Delivery) -> None:
        self._deliveries.put(delivery)

    def next(self, timeout_s: float = 10) -> Delivery:
        try:
            return self._deliveries.get(timeout=timeout_s)
        except queue.Empty:
            raise AssertionError(f"nothing was delivered within {timeout_s} s") from None

    def stays_empty(self, for_s: float = 0.3) -> bool:
        try:
            self._deliveries.get(timeout=for_s)
        except queue.Empty:
            return True
        return False


class Ups:
    """An on_up hook that counts."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.count = 0

    def __call__(self) -> None:
        with self._changed:
            self.count += 1
            self._changed.notify_all()

    def wait_for(self, count: int, timeout_s: float = 20) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.count >= count, timeout_s), (
                f"{self.count} of {count} connections"
            )


def io_threads() -> list[threading.Thread]:
    """The I/O threads that run in this process."""
    return [thread for thread in threading.enumerate() if thread.name == "broker"]


@pytest.fixture(scope="module")
def bridge_host(rabbitmq: PrivateBroker) -> Iterator[BridgeBroker]:
    """One for each module."""
    name = f"bridge-{secrets.token_hex(4)}"
    broker = BridgeBroker(rabbitmq, name, f"{name}-", secrets.token_hex(8))
    rabbitmq.ctl("add_vhost", name)
    for user, permissions in PERMISSIONS.items():
        rabbitmq.ctl("add_user", f"{name}-{user}", broker.password)
        rabbitmq.ctl("set_permissions", "-p", name, f"{name}-{user}", *permissions)
    yield broker
    rabbitmq.ctl("delete_vhost", name)


@pytest.fixture
def broker(bridge_host: BridgeBroker) -> Iterator[BridgeBroker]:
    """With empty queues, and all connections closed after the test."""
    broker = replace(bridge_host, opened=[])
    service = broker.service()
    for queue_spec in service_topology(NODE).queues:
        service.browse(queue_spec.name, drop=lambda _: True)
    service.stop()
    yield broker
    for thread in broker.opened:
        thread.stop(drain_s=0)
    assert not io_threads()
