"""Hosts that failed to switch a VM on: nobody chooses them for a while, longer each time, until one succeeds there."""

from __future__ import annotations

from esxprov.database import Cursor, Database, rows
from esxprov.model import HostKey

FIRST_MINUTES = 5
MOST_MINUTES = 80
"""After the first failure, and after many: twice as long each time."""

FORGET_DAYS = 1
"""A host that failed so long ago, and not since, begins anew."""


class Quarantine:
    """The table of them, shared by all services (ports.Quarantine). Only the database's clock counts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, host: HostKey, reason: str, image: str = "") -> None:
        """The host failed; with `image` it is kept from that image only."""
        minutes = f"LEAST({FIRST_MINUTES} * POW(2, LEAST(failures - 1, 10)), {MOST_MINUTES})"
        self._database.single(
            # `failures` is counted before `until` is worked out of it, in the order of the assignments.
            lambda cursor: cursor.execute(
                "INSERT INTO esxprov_quarantine (endpoint, moid, image, failures, reason, until) "
                f"VALUES (%s, %s, %s, 1, %s, UTC_TIMESTAMP(6) + INTERVAL {FIRST_MINUTES} MINUTE) "
                "ON DUPLICATE KEY UPDATE "
                f"failures = IF(until < UTC_TIMESTAMP(6) - INTERVAL {FORGET_DAYS} DAY, 1, failures + 1), "
                f"reason = VALUES(reason), until = UTC_TIMESTAMP(6) + INTERVAL {minutes} MINUTE",
                (host.endpoint, host.moid, image, reason[:255]),
            )
        )

    def of(self, image: str) -> dict[HostKey, str]:
        """The hosts that are not to be chosen for an image now, and why."""

        def ask(cursor: Cursor) -> dict[HostKey, str]:
            cursor.execute(
                "SELECT endpoint, moid, reason FROM esxprov_quarantine "
                "WHERE image IN ('', %s) AND until > UTC_TIMESTAMP(6)",
                (image,),
            )
            return {HostKey(row["endpoint"], row["moid"]): row["reason"] for row in rows(cursor)}

        return self._database.single(ask)

    def clear(self, host: HostKey, image: str) -> None:
        """The host has switched a VM of this image on."""
        self._database.single(
            lambda cursor: cursor.execute(
                "DELETE FROM esxprov_quarantine WHERE endpoint = %s AND moid = %s AND image IN ('', %s)",
                (host.endpoint, host.moid, image),
            )
        )
