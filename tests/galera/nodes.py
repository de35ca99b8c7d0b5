"""A cluster's nodes as a service sees them, each by itself."""

from __future__ import annotations

from contextlib import closing

from esxprov import schema
from esxprov.database import Database
from tests.integration.claims_rig import database_at
from tests.testbed.galera import Galera, GaleraNode


def database_of(node: GaleraNode) -> Database:
    return database_at(str(node.socket))


def begin_anew(cluster: Galera) -> None:
    """Our tables, and nothing in those of claims, on all nodes."""
    first = cluster.nodes[0]
    with closing(database_of(first)) as database:
        schema.upgrade(database)
    for table in ("esxprov_claim", "esxprov_host", "esxprov_domain"):
        first.execute(f"DELETE FROM {table}")
    for node in cluster.nodes:
        node.catch_up()
