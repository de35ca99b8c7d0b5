"""Real servers for the integration tests, and the ways to them. One that does not start is an error, never a skip."""

from __future__ import annotations

from collections.abc import Iterator

import pika
import pytest

from tests.integration.calls import Slot
from tests.integration.shim_broker import ShimBroker, Wire
from tests.testbed.bed import Bed, Plan
from tests.testbed.certificates import Certificates
from tests.testbed.mariadb import MariaDb
from tests.testbed.rabbitmq import RabbitMq

TASK_MS = 120
"""What each vSphere task takes: long enough for a step to be seen at work."""


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDb]:
    with MariaDb(tmp_path_factory.mktemp("mariadb")) as server:
        yield server


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[RabbitMq]:
    tls = (certificates.ca, *certificates.server("rabbitmq"))
    with RabbitMq(tmp_path_factory.mktemp("rabbitmq"), tls=tls) as server:
        yield server


@pytest.fixture(scope="session")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """Everything together, with our tables and a site, and no service."""
    with Bed(tmp_path_factory.mktemp("bed"), Plan(task_ms=TASK_MS, computers=100)) as bed:
        bed.make_site()
        upgraded = bed.esxprov("db", "upgrade")
        assert upgraded.returncode == 0, upgraded.stderr
        yield bed


@pytest.fixture(scope="session")
def slots(bed: Bed) -> Iterator[Slot]:
    """Computers that no test has used yet."""
    return (Slot(number, bed.site.computers[f"slot{number}"]) for number in range(1, bed.plan.computers + 1))


@pytest.fixture
def slot(slots: Iterator[Slot]) -> Slot:
    return next(slots)


@pytest.fixture
def shim_broker(rabbitmq: RabbitMq) -> ShimBroker:
    """The broker as vcld's user sees it."""
    return ShimBroker(rabbitmq.host, rabbitmq.port, "vcld", rabbitmq.password("vcld"))


@pytest.fixture
def vcld_parameters(rabbitmq: RabbitMq) -> pika.ConnectionParameters:
    """pika as vcld's user."""
    return _parameters(rabbitmq, "vcld")


@pytest.fixture
def peer_parameters(rabbitmq: RabbitMq) -> pika.ConnectionParameters:
    """pika as the service's user, for a stand-in of the service."""
    return _parameters(rabbitmq, "esxprov")


def _parameters(rabbitmq: RabbitMq, user: str) -> pika.ConnectionParameters:
    credentials = pika.PlainCredentials(user, rabbitmq.password(user))
    return pika.ConnectionParameters(rabbitmq.host, rabbitmq.port, credentials=credentials)


@pytest.fixture
def wires() -> Iterator[list[Wire]]:
    """A list whose wires are closed after the test."""
    opened: list[Wire] = []
    yield opened
    for wire in opened:
        wire.close()
