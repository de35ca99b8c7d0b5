"""The statements behind the claims. Each works on the open transaction of its caller."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from esxprov.database import Cursor, rows
from esxprov.model import Claim, ClaimState, HostKey
from esxprov.placement.books import Books, Held

LEASE_S = 300
"""How long a claim on its way is held without a sign of life from its owner."""

WAITING_LEASE_S = 900
"""How long a claim waits for its reservation to ask for it: vcld begins all of a cluster at once, but the workers may
be busy.
"""

# In one column, because the client needs as long for each column of an answer as for a row of them, and does it while
# it holds the lock.
_CLAIM = (
    "JSON_ARRAY(c.id, c.endpoint, c.moid, c.computer_id, c.ram_mb, c.cpus, c.event_id, c.state, c.pool, "
    "c.reservation_id, c.claim_group, c.disk_mb, c.datastore, c.ends_at) AS claim"
)

_NOW = "UTC_TIMESTAMP(6)"


@dataclass(slots=True)
class Booking:
    """What is added to a host's sums, and the most that its sums may have been before for it to be added."""

    ram_mb: int
    cpus: int
    most_before_ram_mb: int
    most_before_cpus: int


def lock(cursor: Cursor) -> int:
    """Take the row of all claims until the end of the transaction; returns the new fencing token.

    Locks, increments and returns in one round trip; that it writes makes Galera certify the transaction.
    """
    cursor.execute(
        "INSERT INTO esxprov_domain (name, token) VALUES ('all', LAST_INSERT_ID(1)) "
        "ON DUPLICATE KEY UPDATE token = LAST_INSERT_ID(token + 1)"
    )
    return int(cursor.lastrowid)


# --- hosts ----------------------------------------------------------------------------------------------------------

_TAKEN = "SELECT CONVERT(%s USING utf8mb4) AS endpoint, CONVERT(%s USING ascii) AS moid, %s AS ram_mb, %s AS cpus, "
_TAKEN += "%s AS most_before_ram_mb, %s AS most_before_cpus"


def make_hosts(cursor: Cursor, hosts: Collection[HostKey]) -> None:
    """See that they have a row."""
    cursor.execute(
        f"INSERT INTO esxprov_host (endpoint, moid) VALUES {', '.join(['(%s, %s)'] * len(hosts))} "
        "ON DUPLICATE KEY UPDATE used_ram_mb = used_ram_mb",
        [part for host in _ordered(hosts) for part in (host.endpoint, host.moid)],
    )


def occupy(cursor: Cursor, bookings: Mapping[HostKey, Booking]) -> bool:
    """Add to the sums of hosts, in the order of their keys, where they stay below the most they may be; False if one of
    them would not, and the transaction must be rolled back.

    This condition is the invariant, even for those who come past the lock.
    """
    values: list[Any] = []
    for host in _ordered(bookings):
        one = bookings[host]
        values += [host.endpoint, host.moid, one.ram_mb, one.cpus, one.most_before_ram_mb, one.most_before_cpus]
    # STRAIGHT_JOIN: the hosts are locked in the order in which they stand here.
    matched = cursor.execute(
        f"UPDATE ({' UNION ALL '.join([_TAKEN] * len(bookings))}) AS taken STRAIGHT_JOIN esxprov_host AS h "
        "ON h.endpoint = taken.endpoint AND h.moid = taken.moid "
        "SET h.used_ram_mb = h.used_ram_mb + taken.ram_mb, h.used_cpus = h.used_cpus + taken.cpus, "
        "h.capacity_ram_mb = taken.most_before_ram_mb + taken.ram_mb, "
        "h.capacity_cpus = taken.most_before_cpus + taken.cpus "
        "WHERE h.used_ram_mb <= taken.most_before_ram_mb AND h.used_cpus <= taken.most_before_cpus",
        values,
    )
    return matched == len(bookings)


def adjust(cursor: Cursor, changes: Mapping[HostKey, tuple[int, int]]) -> None:
    """Add (RAM in MB, vCPUs) to the sums of hosts, whatever they are: what is given back, and what is there anyhow."""
    if not changes:
        return
    hosts = _ordered(changes)
    cursor.execute(
        "INSERT INTO esxprov_host (endpoint, moid, used_ram_mb, used_cpus) "
        f"VALUES {', '.join(['(%s, %s, %s, %s)'] * len(hosts))} ON DUPLICATE KEY UPDATE "
        "used_ram_mb = used_ram_mb + VALUES(used_ram_mb), "
        "used_cpus = used_cpus + VALUES(used_cpus)",
        [part for host in hosts for part in (host.endpoint, host.moid, *changes[host])],
    )


def sums(cursor: Cursor) -> dict[HostKey, tuple[int, int]]:
    """(RAM in MB, vCPUs) promised on each host, as its row says."""
    cursor.execute("SELECT endpoint, moid, used_ram_mb, used_cpus FROM esxprov_host")
    return {
        HostKey(row["endpoint"], row["moid"]): (int(row["used_ram_mb"]), int(row["used_cpus"])) for row in rows(cursor)
    }


def sum_up(cursor: Cursor, host: HostKey) -> None:
    """Set a host's sums to those of its claims."""
    make_hosts(cursor, [host])
    ours = "FROM esxprov_claim c WHERE c.endpoint = h.endpoint AND c.moid = h.moid AND c.state <> 'released'"
    cursor.execute(
        f"UPDATE esxprov_host h SET h.used_ram_mb = (SELECT COALESCE(SUM(c.ram_mb), 0) {ours}), "
        f"h.used_cpus = (SELECT COALESCE(SUM(c.cpus), 0) {ours}) WHERE h.endpoint = %s AND h.moid = %s",
        (host.endpoint, host.moid),
    )


# --- claims ---------------------------------------------------------------------------------------------------------


def insert(cursor: Cursor, claims: Sequence[Claim], token: int, owner: str) -> None:
    """Write new claims; those on their way under a lease."""
    row = "(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, "
    row += f"{_NOW} + INTERVAL %s SECOND, {_NOW}, {_NOW})"
    values: list[Any] = []
    for claim in claims:
        lease_s = LEASE_S if claim.event_id else WAITING_LEASE_S
        values += [*_values(claim), token, owner, lease_s if claim.state is ClaimState.CLAIMED else None]
    cursor.execute(
        "INSERT INTO esxprov_claim (id, endpoint, moid, computer_id, ram_mb, cpus, event_id, state, pool, "
        "reservation_id, claim_group, disk_mb, datastore, ends_at, changed, owner, leased_until, claimed_at, "
        f"changed_at) VALUES {', '.join([row] * len(claims))}",
        values,
    )


def _values(claim: Claim) -> list[Any]:
    return [
        claim.id,
        claim.host.endpoint,
        claim.host.moid,
        claim.computer_id,
        claim.ram_mb,
        claim.cpus,
        claim.event_id,
        claim.state.value,
        claim.pool,
        claim.reservation_id,
        claim.group,
        claim.disk_mb,
        claim.datastore,
        claim.ends_at,
    ]


def make_way(cursor: Cursor, claim_ids: Collection[str]) -> None:
    """Delete released claims of these ids: a VM that nobody claimed has the same one whenever it is found."""
    cursor.execute(
        f"DELETE FROM esxprov_claim WHERE state = 'released' AND id IN {_places(claim_ids)}", list(claim_ids)
    )


def adopt(cursor: Cursor, claim: Claim, token: int, owner: str) -> bool:
    """Give a waiting claim to its event; False if it does not wait any more."""
    matched = cursor.execute(
        f"UPDATE esxprov_claim SET event_id = %s, owner = %s, leased_until = {_NOW} + INTERVAL {LEASE_S} SECOND, "
        f"changed = %s, changed_at = {_NOW} WHERE id = %s AND event_id = '' AND state = 'claimed'",
        (claim.event_id, owner, token, claim.id),
    )
    return matched == 1


def change(cursor: Cursor, claim: Claim, token: int) -> None:
    """Write what may change of a claim: its host, size and state. Only one on its way keeps its lease."""
    lease = "leased_until" if claim.state is ClaimState.CLAIMED else "NULL"
    cursor.execute(
        "UPDATE esxprov_claim SET endpoint = %s, moid = %s, ram_mb = %s, cpus = %s, state = %s, "
        f"leased_until = {lease}, changed = %s, changed_at = {_NOW} WHERE id = %s",
        (claim.host.endpoint, claim.host.moid, claim.ram_mb, claim.cpus, claim.state.value, token, claim.id),
    )


def release(cursor: Cursor, claims: Collection[Claim], token: int) -> None:
    """Their rows say from now on that they are no more, and give their capacity back."""
    if not claims:
        return
    given_back: dict[HostKey, tuple[int, int]] = {}
    for claim in claims:
        ram_mb, cpus = given_back.get(claim.host, (0, 0))
        given_back[claim.host] = ram_mb - claim.ram_mb, cpus - claim.cpus
    adjust(cursor, given_back)
    cursor.execute(
        f"UPDATE esxprov_claim SET state = 'released', leased_until = NULL, changed = %s, changed_at = {_NOW} "
        f"WHERE id IN {_places(claims)}",
        (token, *sorted(claim.id for claim in claims)),
    )


def mark(cursor: Cursor, claim_id: str, state: ClaimState, token: int) -> None:
    """Write a claim's state; one that was released stays so."""
    cursor.execute(
        f"UPDATE esxprov_claim SET state = %s, leased_until = NULL, changed = %s, changed_at = {_NOW} "
        "WHERE id = %s AND state <> 'released'",
        (state.value, token, claim_id),
    )


def renew(cursor: Cursor, event_ids: Sequence[str], lease_s: float, owner: str) -> None:
    """Extend the leases of claims of these events, and of those that wait for others of their clusters."""
    events = _places(event_ids)
    cursor.execute(
        f"SELECT DISTINCT claim_group FROM esxprov_claim WHERE event_id IN {events} AND claim_group <> '' "
        "AND state <> 'released'",
        list(event_ids),
    )
    groups = [str(row["claim_group"]) for row in rows(cursor)]
    waiting = f"OR event_id = '' AND claim_group IN {_places(groups)}" if groups else ""
    cursor.execute(
        "UPDATE esxprov_claim SET owner = %s, "
        f"leased_until = GREATEST(COALESCE(leased_until, {_NOW}), {_NOW} + INTERVAL %s SECOND) "
        f"WHERE state = 'claimed' AND (event_id IN {events} {waiting})",
        [owner, lease_s, *event_ids, *groups],
    )


def forget(cursor: Cursor, hours: int) -> int:
    """Delete rows of claims that were released so long ago; returns how many."""
    return cursor.execute(
        f"DELETE FROM esxprov_claim WHERE state = 'released' AND changed_at < {_NOW} - INTERVAL %s HOUR LIMIT 1000",
        (hours,),
    )


# --- reading --------------------------------------------------------------------------------------------------------


def select(cursor: Cursor, condition: str, *values: Any) -> list[Claim]:
    """Claims, oldest first; of the condition's columns the table is called c."""
    cursor.execute(f"SELECT {_CLAIM} FROM esxprov_claim c WHERE {condition} ORDER BY c.claimed_at, c.id", values)
    return [_claim(row) for row in rows(cursor)]


def select_ids(cursor: Cursor, claim_ids: Collection[str]) -> list[Claim]:
    """Those of these claims that were not released."""
    return select(cursor, f"c.id IN {_places(claim_ids)} AND c.state <> 'released'", *claim_ids)


def select_held_ids(cursor: Cursor, claim_ids: Collection[str]) -> list[Held]:
    """As `select_ids`, with what else is known of them."""
    return select_held(cursor, f"c.id IN {_places(claim_ids)} AND c.state <> 'released'", *claim_ids)


def select_changed(cursor: Cursor, token: int) -> list[Claim]:
    """What was changed after a token, released ones too."""
    cursor.execute(f"SELECT {_CLAIM} FROM esxprov_claim c WHERE c.changed > %s", (token,))
    return [_claim(row) for row in rows(cursor)]


def select_held(cursor: Cursor, condition: str, *values: Any) -> list[Held]:
    """Claims with what else is known of them, oldest first. Leases are compared with the database's clock only."""
    cursor.execute(
        f"SELECT {_CLAIM}, c.changed, TIMESTAMPDIFF(SECOND, c.changed_at, {_NOW}) AS age_s, "
        f"TIMESTAMPDIFF(MICROSECOND, {_NOW}, c.leased_until) / 1000000 AS lease_s, c.owner, "
        "CASE WHEN e.state = 'running' THEN 'running' ELSE COALESCE(e.outcome, e.state, '') END AS event "
        "FROM esxprov_claim c LEFT JOIN esxprov_event e ON e.id = c.event_id "
        f"WHERE {condition} ORDER BY c.claimed_at, c.id",
        values,
    )
    return [
        Held(
            _claim(row),
            int(row["changed"]),
            int(row["age_s"] or 0),
            None if row["lease_s"] is None else float(row["lease_s"]),
            row["event"],
            row["owner"],
        )
        for row in rows(cursor)
    ]


def token(cursor: Cursor) -> int:
    """The token of the last change that was committed."""
    cursor.execute("SELECT COALESCE(MAX(token), 0) AS token FROM esxprov_domain")
    row = cursor.fetchone()
    return int(row["token"]) if row else 0


def books(cursor: Cursor) -> tuple[int, Books]:
    """Everything as it was at one moment, and the token of that moment. Must be the first of its transaction."""
    # READ COMMITTED would show each statement another moment; to read all under the lock would make placement wait.
    cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    now = token(cursor)
    claims = select_held(cursor, "c.state <> 'released'")
    cursor.execute("SELECT id FROM esxprov_claim WHERE state = 'released'")
    released = frozenset(str(row["id"]) for row in rows(cursor))
    return now, Books(tuple(claims), sums(cursor), released)


def _claim(row: Mapping[str, Any]) -> Claim:
    claim_id, endpoint, moid, computer, ram_mb, cpus, event, state, *rest = json.loads(row["claim"])
    return Claim(claim_id, HostKey(endpoint, moid), computer, ram_mb, cpus, event, ClaimState(state), *rest)


def _places(values: Collection[Any]) -> str:
    """The placeholders of a list for IN."""
    return f"({', '.join(['%s'] * len(values))})"


def _ordered(hosts: Iterable[HostKey]) -> list[HostKey]:
    return sorted(hosts, key=lambda host: (host.endpoint, host.moid))
