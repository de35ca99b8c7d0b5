"""Claims in a server that is not strict, and those of the version before."""

from __future__ import annotations

from pathlib import Path

from esxprov import schema
from esxprov.database import Database, DatabaseConfig
from esxprov.model import Claim, ClaimState
from esxprov.placement.claims import Claims
from esxprov.placement.reconcile import Correction
from tests.integration.claims_rig import KEY, claim_of, database_at, first_fit, never, token, used, want
from tests.testbed.mariadb import PASSWORD, MariaDb


def test_claims_work_in_a_server_that_is_not_strict(tmp_path: Path) -> None:
    server = MariaDb(tmp_path, strict=False)
    try:
        server.begin()
        server.finish()
        database = database_at(str(server.socket))
        schema.upgrade(database)
        claims = Claims(database)
        claim = claim_of(claims.take(want(1, first_fit([1, 2]))))
        claims.renew(["event-1"])
        claims.mark(claim.id, ClaimState.RUNNING)
        foreign = Claim("foreign-1", KEY, 0, 1000, 1, "", ClaimState.FOREIGN)
        claims.correct([Correction(None, foreign, "found")])
        claims.sum_up([KEY])
        claims.release_many([claim.id for claim in claims.all()])
        assert (claims.all(), used(database)) == ([], {"esx1": (0, 0)})
        database.close()
    finally:
        server.remove()


def test_claims_of_the_version_before_are_kept_by_the_upgrade(mariadb: MariaDb) -> None:
    mariadb.execute("CREATE DATABASE older; GRANT ALL ON older.* TO esxprov@'%'")
    database = Database(
        DatabaseConfig(unix_socket=str(mariadb.socket), user="esxprov", password=PASSWORD, name="older")
    )
    try:
        schema.upgrade(database)
        mariadb.execute("DROP TABLE esxprov_claim, esxprov_domain, esxprov_host, esxprov_schema", "older")
        for migration in schema.migrations()[:2]:
            mariadb.execute(";".join(migration.statements), "older")
        mariadb.execute(
            "INSERT INTO esxprov_domain VALUES ('blades', 7), ('lab', 12); "
            "INSERT INTO esxprov_claim "
            "(id, pool, endpoint, moid, computer_id, event_id, ram_mb, cpus, state, token, claimed_at) VALUES "
            "('a', 'blades', 'esx1', 'ha-host', 1, 'event-1', 1000, 1, 'claimed', 7, now()), "
            "('b', 'lab', 'esx1', 'ha-host', 2, 'event-2', 1000, 1, 'running', 12, now()); "
            "INSERT INTO esxprov_host VALUES ('esx1', 'ha-host', 2000, 2, 4000, 4)",
            "older",
        )
        schema.upgrade(database)
        claims = Claims(database)
        assert [(one.claim.id, one.lease_s is None) for one in claims.held()] == [("a", False), ("b", True)]
        assert claim_of(claims.take(want(1, never))).id == "a"
        assert claim_of(claims.take(want(3))).host == KEY
        assert token(database) == 14
    finally:
        database.close()
        mariadb.execute("DROP DATABASE older; REVOKE ALL ON older.* FROM esxprov@'%'")
