"""The statements behind the claims. What changes rows is a statement to be sent together with others, under the lock;
what reads works on the open transaction of its caller.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from esxprov.database import BEGIN, FAILS, Cursor, Statement, Unmet, matched, rows, together
from esxprov.model import Claim, ClaimState, HostKey
from esxprov.placement.books import Books, Held

LEASE_S = 300
"""How long a claim on its way is held without a sign of life from its owner."""

WAITING_LEASE_S = 900
"""How long a claim waits for its reservation to ask for it: vcld begins all of a cluster at once, but the workers may
be busy.
"""

_NOW = "UTC_TIMESTAMP(6)"

LOCK = (
    BEGIN,
    Statement(
        "INSERT INTO esxprov_domain (name, token) VALUES ('all', LAST_INSERT_ID(1)) "
        "ON DUPLICATE KEY UPDATE token = LAST_INSERT_ID(token + 1)"
    ),
)
"""Takes the row of all claims until the end of the transaction, whose fencing token is then LAST_INSERT_ID(): the other
statements need not wait for it.

Locks and increments in one statement; that it writes makes Galera certify the transaction.
"""

_TOKEN = "LAST_INSERT_ID()"


def lock_and_read(cursor: Cursor, since: int) -> tuple[int, list[Change]]:
    """Take the row of all claims: the new token, and what was changed after the token `since`; in one round trip."""
    _, locked, read = together(cursor, [*LOCK, _changed(since)])
    return locked.last_id, _changes(read.rows)


# --- hosts ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Booking:
    """What is added to a host's sums, and the most that its sums, (RAM in MB, vCPUs), may have been before for it to be
    added; None: whatever they are.
    """

    ram_mb: int = 0
    cpus: int = 0
    most_before: tuple[int, int] | None = None

    def add(self, ram_mb: int, cpus: int) -> None:
        self.ram_mb += ram_mb
        self.cpus += cpus

    def limit(self, most_ram_mb: int, most_cpus: int) -> None:
        """With what was added so far, the sums must not be more than that."""
        most = most_ram_mb - self.ram_mb, most_cpus - self.cpus
        if self.most_before is not None:
            most = min(self.most_before[0], most[0]), min(self.most_before[1], most[1])
        self.most_before = most


_ADDED = (
    "ON DUPLICATE KEY UPDATE used_ram_mb = esxprov_host.used_ram_mb + VALUES(used_ram_mb), "
    "used_cpus = esxprov_host.used_cpus + VALUES(used_cpus)"
)

_FITS = (
    "used_ram_mb + VALUES(used_ram_mb) <= VALUES(capacity_ram_mb) AND "
    "used_cpus + VALUES(used_cpus) <= VALUES(capacity_cpus)"
)


def occupy(bookings: Mapping[HostKey, Booking]) -> Statement:
    """Add to the sums of hosts, which all have a limit, in the order of their keys; fails with Unmet if one of them is
    above it.

    This condition is the invariant, even for those who come past the lock. Raises Unmet itself if a host would have had
    to promise less than nothing before, because nobody asks a host that has no row yet.
    """
    # Not an UPDATE: that cannot fail by itself, and who holds the lock would have to wait for its count.
    values: list[Any] = []
    for host in _ordered(bookings):
        one = bookings[host]
        assert one.most_before is not None, "a limit"
        if min(one.most_before) < 0:
            raise Unmet(f"{host} is too small")
        most = one.most_before[0] + one.ram_mb, one.most_before[1] + one.cpus
        values += [host.endpoint, host.moid, one.ram_mb, one.cpus, *most]
    # Evaluated from left to right: the condition sees both sums as they were.
    return Statement(
        "INSERT INTO esxprov_host (endpoint, moid, used_ram_mb, used_cpus, capacity_ram_mb, capacity_cpus) "
        f"VALUES {', '.join(['(%s, %s, %s, %s, %s, %s)'] * len(bookings))} ON DUPLICATE KEY UPDATE "
        f"used_ram_mb = IF({_FITS}, used_ram_mb + VALUES(used_ram_mb), {FAILS}), "
        "used_cpus = used_cpus + VALUES(used_cpus), "
        "capacity_ram_mb = VALUES(capacity_ram_mb), capacity_cpus = VALUES(capacity_cpus)",
        values,
    )


def adjust(bookings: Mapping[HostKey, Booking]) -> Statement:
    """Add to the sums of hosts, whatever they are: for what is there anyhow."""
    values: list[Any] = []
    for host in _ordered(bookings):
        values += [host.endpoint, host.moid, bookings[host].ram_mb, bookings[host].cpus]
    return Statement(
        "INSERT INTO esxprov_host (endpoint, moid, used_ram_mb, used_cpus) "
        f"VALUES {', '.join(['(%s, %s, %s, %s)'] * len(bookings))} {_ADDED}",
        values,
    )


def give_back(claim_ids: Sequence[str]) -> Statement:
    """Take claims that are about to be released, those that were not before, off the sums of their hosts."""
    return Statement(
        "INSERT INTO esxprov_host (endpoint, moid, used_ram_mb, used_cpus) "
        "SELECT c.endpoint, c.moid, -CAST(c.ram_mb AS SIGNED), -CAST(c.cpus AS SIGNED) FROM esxprov_claim c "
        f"WHERE c.id IN {_places(claim_ids)} AND c.state <> 'released' ORDER BY c.endpoint, c.moid {_ADDED}",
        claim_ids,
    )


def sums(cursor: Cursor) -> dict[HostKey, tuple[int, int]]:
    """(RAM in MB, vCPUs) promised on each host, as its row says."""
    cursor.execute("SELECT endpoint, moid, used_ram_mb, used_cpus FROM esxprov_host")
    return {
        HostKey(row["endpoint"], row["moid"]): (int(row["used_ram_mb"]), int(row["used_cpus"])) for row in rows(cursor)
    }


def sum_up(host: HostKey) -> list[Statement]:
    """Set a host's sums to those of its claims."""
    ours = "FROM esxprov_claim c WHERE c.endpoint = h.endpoint AND c.moid = h.moid AND c.state <> 'released'"
    return [
        adjust({host: Booking()}),
        Statement(
            f"UPDATE esxprov_host h SET h.used_ram_mb = (SELECT COALESCE(SUM(c.ram_mb), 0) {ours}), "
            f"h.used_cpus = (SELECT COALESCE(SUM(c.cpus), 0) {ours}) WHERE h.endpoint = %s AND h.moid = %s",
            (host.endpoint, host.moid),
        ),
    ]


# --- claims ---------------------------------------------------------------------------------------------------------


def insert(claims: Sequence[Claim], owner: str) -> Statement:
    """Write new claims; those on their way under a lease."""
    row = f"(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, {_TOKEN}, %s, "
    row += f"{_NOW} + INTERVAL %s SECOND, {_NOW}, {_NOW})"
    values: list[Any] = []
    for claim in claims:
        lease_s = LEASE_S if claim.event_id else WAITING_LEASE_S
        values += [*_values(claim), owner, lease_s if claim.state is ClaimState.CLAIMED else None]
    return Statement(
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


def make_way(claim_ids: Collection[str]) -> Statement:
    """Delete released claims of these ids: a VM that nobody claimed has the same one whenever it is found."""
    return Statement(
        f"DELETE FROM esxprov_claim WHERE state = 'released' AND id IN {_places(claim_ids)}", list(claim_ids)
    )


def adopt(claim: Claim, owner: str) -> list[Statement]:
    """Give a waiting claim to its event; fails with Unmet if it does not wait any more."""
    return [
        Statement(
            f"UPDATE esxprov_claim SET event_id = %s, owner = %s, leased_until = {_NOW} + INTERVAL {LEASE_S} SECOND, "
            f"changed = {_TOKEN}, changed_at = {_NOW} WHERE id = %s AND event_id = '' AND state = 'claimed'",
            (claim.event_id, owner, claim.id),
        ),
        matched(1),
    ]


def change(claim: Claim) -> Statement:
    """Write what may change of a claim: its host, size and state. Only one on its way keeps its lease."""
    lease = "leased_until" if claim.state is ClaimState.CLAIMED else "NULL"
    return Statement(
        "UPDATE esxprov_claim SET endpoint = %s, moid = %s, ram_mb = %s, cpus = %s, state = %s, "
        f"leased_until = {lease}, changed = {_TOKEN}, changed_at = {_NOW} WHERE id = %s",
        (claim.host.endpoint, claim.host.moid, claim.ram_mb, claim.cpus, claim.state.value, claim.id),
    )


def mark(claim_ids: Sequence[str], state: ClaimState) -> Statement:
    """Write another state of claims, which ends their leases. One that was released stays so."""
    return Statement(
        f"UPDATE esxprov_claim SET state = %s, leased_until = NULL, changed = {_TOKEN}, changed_at = {_NOW} "
        f"WHERE id IN {_places(claim_ids)} AND state <> 'released'",
        (state.value, *claim_ids),
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
    cursor.execute(f"SELECT c.line FROM esxprov_claim c WHERE {condition} ORDER BY c.claimed_at, c.id", values)
    return [_claim_of(one) for one in _parsed(rows(cursor))]


def select_ids(cursor: Cursor, claim_ids: Collection[str]) -> list[Claim]:
    """Those of these claims that were not released."""
    return select(cursor, f"c.id IN {_places(claim_ids)} AND c.state <> 'released'", *claim_ids)


def select_held_ids(cursor: Cursor, claim_ids: Collection[str]) -> list[Held]:
    """As `select_ids`, with what else is known of them."""
    return select_held(cursor, f"c.id IN {_places(claim_ids)} AND c.state <> 'released'", *claim_ids)


def select_changed(cursor: Cursor, since: int) -> list[Change]:
    """What was changed after a token."""
    (answer,) = together(cursor, [_changed(since)])
    return _changes(answer.rows)


Change = Claim | str
"""A claim as it is now, or the id of one that was released."""


def _changed(since: int) -> Statement:
    return Statement("SELECT c.line FROM esxprov_claim c WHERE c.changed > %s", (since,))


def _changes(found: Sequence[Mapping[str, Any]]) -> list[Change]:
    return [one if isinstance(one, str) else _claim_of(one) for one in _parsed(found)]


def select_held(cursor: Cursor, condition: str, *values: Any) -> list[Held]:
    """Claims with what else is known of them, oldest first. Leases are compared with the database's clock only."""
    cursor.execute(
        f"SELECT c.line, c.changed, TIMESTAMPDIFF(SECOND, c.changed_at, {_NOW}) AS age_s, "
        f"TIMESTAMPDIFF(MICROSECOND, {_NOW}, c.leased_until) / 1000000 AS lease_s, c.owner, "
        "CASE WHEN e.state = 'running' THEN 'running' ELSE COALESCE(e.outcome, e.state, '') END AS event "
        "FROM esxprov_claim c LEFT JOIN esxprov_event e ON e.id = c.event_id "
        f"WHERE {condition} ORDER BY c.claimed_at, c.id",
        values,
    )
    found = rows(cursor)
    return [
        Held(
            _claim_of(one),
            int(row["changed"]),
            int(row["age_s"] or 0),
            None if row["lease_s"] is None else float(row["lease_s"]),
            row["event"],
            row["owner"],
        )
        for one, row in zip(_parsed(found), found, strict=True)
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


def _parsed(found: Sequence[Mapping[str, Any]]) -> list[Any]:
    """What is in the column `line` of rows, which is JSON: one column, because the client needs as long for each column
    of an answer as for a row of them, and does it while it holds the lock. One call for all, each has its price, too.
    """
    parsed: list[Any] = json.loads(f"[{','.join([row['line'] for row in found])}]")
    return parsed


_STATES = {state.value: state for state in ClaimState}

_host = lru_cache(maxsize=100_000)(HostKey)
"""One key for a host, because one that is the same is found faster than one that is equal."""


def _claim_of(parts: list[Any]) -> Claim:
    claim_id, endpoint, moid, computer, ram_mb, cpus, event, state, *rest = parts
    return Claim(claim_id, _host(endpoint, moid), computer, ram_mb, cpus, event, _STATES[state], *rest)


def _places(values: Collection[Any]) -> str:
    """The placeholders of a list for IN."""
    return f"({', '.join(['%s'] * len(values))})"


def _ordered(hosts: Iterable[HostKey]) -> list[HostKey]:
    return sorted(hosts, key=lambda host: (host.endpoint, host.moid))
