"""Taking and releasing capacity in MariaDB. The claims are the truth; what hypervisors report only lowers capacity.

Every change of capacity takes the pool's row first and then the hosts', so that decisions are made one after the other
on fresh claims and no two changes can deadlock. The conditional UPDATE of the host is the invariant that holds even if
somebody comes past that row, as another pool with the same host does. Not GET_LOCK: it is bound to a connection,
survives COMMIT, and Galera refuses it.
"""

from __future__ import annotations

import uuid
from functools import partial
from typing import Any

from esxprov.database import Cursor, Database, rows
from esxprov.errors import ProvisioningError
from esxprov.model import Claim, ClaimState, HostKey
from esxprov.placement.choose import Decision
from esxprov.placement.room import Decide, Room

_DECISIONS = 10
"""So often another pool may take the same room between our reading the claims and our taking it."""


class _HostFull(Exception):
    """The host has promised more since the claims were read, or the decision was wrong."""


class Claims:
    """The claims of all pools (ports.ClaimBook)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, pool: str, event_id: str, computer_id: int, decide: Decide) -> tuple[Decision | None, Claim | None]:
        """Decide and claim in one transaction.

        An event that holds a claim for the computer already (its service died after the commit) gets that one, and no
        new decision. `decide` must be pure: it runs again if the transaction has to be repeated. Raises `no_capacity`
        if the host it chooses turns out to be full every time.
        """
        work = partial(self._take, pool=pool, event=event_id, computer=computer_id, decide=decide)
        for _ in range(_DECISIONS):
            try:
                return self._database.run(work)
            except _HostFull as error:
                full = error
        raise ProvisioningError("no_capacity", str(full), retryable=True)

    def _take(
        self, cursor: Cursor, pool: str, event: str, computer: int, decide: Decide
    ) -> tuple[Decision | None, Claim | None]:
        token = _lock(cursor, pool)
        claims = _select(cursor, "TRUE")
        for held in claims:
            if (held.event_id, held.computer_id) == (event, computer) and held.state is not ClaimState.TO_BE_DESTROYED:
                return None, held
        decision, room = decide(claims)
        if not decision.placements:
            return decision, None
        claim = Claim(str(uuid.uuid4()), decision.placements[0].host, computer, room.ram_mb, room.cpus, event)
        _occupy(cursor, claim, room)
        _insert(cursor, claim, pool, token)
        return decision, claim

    def release(self, claim_id: str) -> None:
        """Give the capacity back. Released already is fine."""

        def work(cursor: Cursor) -> None:
            cursor.execute("SELECT pool FROM esxprov_claim WHERE id = %s", (claim_id,))
            row = cursor.fetchone()
            if row is None:
                return
            _lock(cursor, row["pool"])
            for claim in _select(cursor, "id = %s", claim_id):
                _release(cursor, claim)

        self._database.run(work)

    def mark(self, claim_id: str, state: ClaimState) -> None:
        """Change a claim's state; its capacity stays taken, so no decision has to wait. Released already is fine."""
        self._database.single(
            lambda cursor: cursor.execute("UPDATE esxprov_claim SET state = %s WHERE id = %s", (state.value, claim_id))
        )

    def of_computer(self, computer_id: int) -> list[Claim]:
        """All claims of a computer, oldest first."""
        return self._database.single(lambda cursor: _select(cursor, "computer_id = %s", computer_id))

    def of_pool(self, pool: str) -> list[Claim]:
        """All claims of a pool, oldest first."""
        return self._database.single(lambda cursor: _select(cursor, "pool = %s", pool))


def _lock(cursor: Cursor, pool: str) -> int:
    """Take the pool's row until the end of the transaction; returns the new fencing token."""
    cursor.execute(
        "INSERT INTO esxprov_domain (pool, token) VALUES (%s, LAST_INSERT_ID(1)) "
        "ON DUPLICATE KEY UPDATE token = LAST_INSERT_ID(token + 1)",
        (pool,),
    )
    return int(cursor.lastrowid)


def _occupy(cursor: Cursor, claim: Claim, room: Room) -> None:
    """Add a claim to its host's sums. Raises _HostFull if they would be more than the host may promise."""
    key = (claim.host.endpoint, claim.host.moid)
    # Not INSERT IGNORE: of a row that exists it takes a shared lock, and two pools that do would deadlock.
    cursor.execute(
        "INSERT INTO esxprov_host (endpoint, moid, capacity_ram_mb, capacity_cpus) VALUES (%s, %s, %s, %s) "
        "ON DUPLICATE KEY UPDATE capacity_ram_mb = VALUES(capacity_ram_mb), capacity_cpus = VALUES(capacity_cpus)",
        (*key, room.most_ram_mb, room.most_cpus),
    )
    changed = cursor.execute(
        "UPDATE esxprov_host SET used_ram_mb = used_ram_mb + %s, used_cpus = used_cpus + %s WHERE endpoint = %s AND "
        "moid = %s AND used_ram_mb + %s <= capacity_ram_mb AND used_cpus + %s <= capacity_cpus",
        (claim.ram_mb, claim.cpus, *key, claim.ram_mb, claim.cpus),
    )
    if changed != 1:
        raise _HostFull(
            f"{claim.host} was chosen for {claim.ram_mb} MB and {claim.cpus} vCPUs, but by esxprov_host it cannot take "
            "them: compare that row with the host's claims in esxprov_claim"
        )


def _insert(cursor: Cursor, claim: Claim, pool: str, token: int) -> None:
    values = {
        "id": claim.id,
        "pool": pool,
        "endpoint": claim.host.endpoint,
        "moid": claim.host.moid,
        "computer": claim.computer_id,
        "event": claim.event_id,
        "ram": claim.ram_mb,
        "cpus": claim.cpus,
        "state": claim.state.value,
        "token": token,
    }
    cursor.execute(
        "INSERT INTO esxprov_claim "
        "(id, pool, endpoint, moid, computer_id, event_id, ram_mb, cpus, state, token, claimed_at) VALUES (%(id)s, "
        "%(pool)s, %(endpoint)s, %(moid)s, %(computer)s, %(event)s, %(ram)s, %(cpus)s, %(state)s, %(token)s, "
        "UTC_TIMESTAMP(6))",
        values,
    )


def _release(cursor: Cursor, claim: Claim) -> None:
    cursor.execute(
        "UPDATE esxprov_host SET used_ram_mb = used_ram_mb - %s, used_cpus = used_cpus - %s "
        "WHERE endpoint = %s AND moid = %s",
        (claim.ram_mb, claim.cpus, claim.host.endpoint, claim.host.moid),
    )
    cursor.execute("DELETE FROM esxprov_claim WHERE id = %s", (claim.id,))


def _select(cursor: Cursor, condition: str, *values: Any) -> list[Claim]:
    cursor.execute(
        "SELECT id, endpoint, moid, computer_id, event_id, ram_mb, cpus, state FROM esxprov_claim "
        f"WHERE {condition} ORDER BY claimed_at, id",
        values,
    )
    return [
        Claim(
            row["id"],
            HostKey(row["endpoint"], row["moid"]),
            int(row["computer_id"]),
            int(row["ram_mb"]),
            int(row["cpus"]),
            row["event_id"],
            ClaimState(row["state"]),
        )
        for row in rows(cursor)
    ]
