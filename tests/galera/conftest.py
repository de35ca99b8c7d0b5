"""A real cluster; one that does not start is an error, never a skip."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from esxprov.database import Database
from tests.galera.nodes import begin_anew, database_of
from tests.testbed.galera import Galera


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Galera]:
    with Galera(tmp_path_factory.mktemp("galera")) as started:
        yield started


@pytest.fixture
def galera(cluster: Galera) -> Galera:
    """With our tables, and nothing in those of claims."""
    begin_anew(cluster)
    return cluster


@pytest.fixture
def databases(galera: Galera) -> Iterator[list[Database]]:
    """One for each node."""
    opened = [database_of(node) for node in galera.nodes]
    yield opened
    for database in opened:
        database.close()
