"""The test bed's servers as fixtures. One that cannot be started is an error, never a skip."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.testbed.certificates import Certificates
from tests.testbed.mariadb import MariaDb
from tests.testbed.rabbitmq import RabbitMq


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
