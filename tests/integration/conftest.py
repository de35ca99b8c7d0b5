"""Real servers for the integration tests. One that cannot be started is an error, never a skip."""

from __future__ import annotations

from collections.abc import Iterator

import pika
import pytest

from tests.integration.shim_broker import ShimBroker
from tests.testbed.certificates import Certificates
from tests.testbed.mariadb import MariaDb
from tests.testbed.rabbitmq import RabbitMq


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.create(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDb]:
    server = MariaDb(tmp_path_factory.mktemp("mariadb"))
    try:
        server.begin()
        server.finish()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[RabbitMq]:
    certificate, key = certificates.issue("rabbitmq")
    server = RabbitMq(tmp_path_factory.mktemp("rabbitmq"), tls=(certificates.ca, certificate, key))
    try:
        server.begin()
        server.finish()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def shim_broker(rabbitmq: RabbitMq) -> ShimBroker:
    """The shim's way to the broker."""
    return ShimBroker(rabbitmq.host, rabbitmq.port, "vcld", rabbitmq.passwords["vcld"])


@pytest.fixture(scope="session")
def peer_parameters(rabbitmq: RabbitMq) -> pika.ConnectionParameters:
    """The service's way to the broker, for a stand-in of the service."""
    credentials = pika.PlainCredentials("esxprov", rabbitmq.passwords["esxprov"])
    return pika.ConnectionParameters(rabbitmq.host, rabbitmq.port, credentials=credentials)
