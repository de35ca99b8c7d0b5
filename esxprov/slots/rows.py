"""VCL's rows of slots and their hosts: reading them, and writing a plan. One statement a function, on the caller's
cursor: whatever is done together is one transaction of the caller's.

Every statement is valid in strict and in non-strict SQL mode: columns without a default are given, and no zero date is
ever written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from esxprov.database import Cursor, has_locked, rows
from esxprov.errors import ConfigurationError, ProvisioningError
from esxprov.model import Pool
from esxprov.slots.plan import Change, Found, HostRecord, Kind, Plan, Row, SlotRecord, Words

COLUMNS = (
    "stateid",
    "ownerid",
    "platformid",
    "scheduleid",
    "RAM",
    "procnumber",
    "procspeed",
    "network",
    "hostname",
    "eth0macaddress",
    "eth1macaddress",
    "type",
    "provisioningid",
    "location",
    "predictivemoduleid",
)
"""What a plan may write."""

HIGHEST_ID = 65_535
"""Of a smallint."""

_BATCH = 500
"""Rows of one statement: far below max_allowed_packet."""

IDLE = (
    "NOT EXISTS (SELECT 1 FROM reservation v JOIN request q ON q.id = v.requestid JOIN state s ON s.id = q.stateid "
    "WHERE v.computerid = c.id AND s.name NOT IN ('complete', 'failed')) "
    "AND NOT EXISTS (SELECT 1 FROM semaphore e WHERE e.computerid = c.id AND e.expires > NOW()) "
    "AND NOT EXISTS (SELECT 1 FROM blockComputers b JOIN blockTimes t ON t.id = b.blockTimeid "
    "WHERE b.computerid = c.id AND t.skip = 0 AND t.end > NOW())"
)
"""That nobody has, will have, or is just choosing the computer `c`. A failed request waits for its end, and does no
more.
"""

HOLDS = "EXISTS (SELECT 1 FROM esxprov_claim k WHERE k.computer_id = c.id AND k.state <> 'released')"
"""That there is a claim for the computer `c`."""


# --- the turn --------------------------------------------------------------------------------------------------------


def make_turn(cursor: Cursor, pool: str) -> None:
    """The row that `lock` takes. In a transaction of its own, so that two who begin do not wait for each other."""
    # Looked for first: an INSERT of what is there would wait for whoever holds it.
    cursor.execute("SELECT 1 FROM esxprov_slot_turn WHERE pool = %s", (pool,))
    if not rows(cursor):
        cursor.execute("INSERT IGNORE INTO esxprov_slot_turn (pool) VALUES (%s)", (pool,))


def lock(cursor: Cursor, pool: str) -> None:
    """Hold the pool's slots until the end of the transaction. Raises `conflict` if somebody else does.

    The write makes Galera certify the transaction: of two on different nodes one is rolled back, and begins again.
    """
    if not has_locked(cursor, "SELECT pool FROM esxprov_slot_turn WHERE pool = %s FOR UPDATE NOWAIT", (pool,)):
        raise ProvisioningError(
            "conflict", f"another 'esxprov slots' is at work on pool {pool}: wait for its end, then run this again"
        )
    cursor.execute("UPDATE esxprov_slot_turn SET turn_at = UTC_TIMESTAMP(6) WHERE pool = %s", (pool,))


# --- reading ---------------------------------------------------------------------------------------------------------


def read(cursor: Cursor) -> Found:
    """Everything that a plan is made on."""
    return Found(
        rows=tuple(_computers(cursor)),
        vmhosts=_vmhosts(cursor),
        members=frozenset(_members(cursor)),
        slots=tuple(_slot_records(cursor)),
        hosts=tuple(host_records(cursor)),
        node_names=tuple(_node_names(cursor)),
        ids_left=_ids_left(cursor),
    )


def words(cursor: Cursor, pool: Pool) -> Words:
    """The ids of what the pool's rows refer to. Raises ConfigurationError naming the row that VCL does not have."""
    rules = pool.slots
    assert rules is not None
    unityid, _, affiliation = rules.owner.partition("@")
    cursor.execute(
        _WORDS,
        {
            "schedule": rules.schedule,
            "unityid": unityid,
            "affiliation": affiliation,
            "profile": pool.profile,
        },
    )
    (found,) = rows(cursor)
    section = f"[slots {pool.name}]"
    cures = {
        "esxprov": "no provisioning engine esxprov: run 'esxprov vcl register'",
        "module": "no module predictive_level_2: it comes with VCL, see its table module",
        "schedule": f"no schedule {rules.schedule!r}: make it on the web page, or name another in {section} schedule",
        "owner": f"no user {rules.owner!r}: name another in {section} owner",
        "profile": f"no VM host profile {pool.profile!r}, which [pool {pool.name}] names: make it on the web page",
    }
    for name, value in found.items():
        if value is None:
            raise ConfigurationError(f"VCL has {cures.get(name, f'no {name}: is this the database of a VCL?')}")
    return Words(
        **{name: int(value) for name, value in found.items() if name not in ("generated0", "generated1")},
        generated_macs=(bool(found["generated0"]), bool(found["generated1"])),
        groups=_groups(cursor, rules.groups, f"{section} groups"),
        host_groups=_groups(cursor, rules.host_groups, f"{section} host_groups"),
    )


_WORDS = """
SELECT
  (SELECT id FROM state WHERE name = 'available') AS available,
  (SELECT id FROM state WHERE name = 'maintenance') AS maintenance,
  (SELECT id FROM state WHERE name = 'vmhostinuse') AS vmhostinuse,
  (SELECT id FROM provisioning WHERE name = 'esxprov') AS esxprov,
  (SELECT id FROM provisioning WHERE name = 'none') AS none,
  (SELECT id FROM module WHERE name = 'predictive_level_2') AS module,
  (SELECT id FROM platform WHERE name = 'i386') AS platform,
  (SELECT id FROM schedule WHERE name = %(schedule)s) AS schedule,
  (SELECT u.id FROM user u JOIN affiliation a ON a.id = u.affiliationid WHERE u.unityid = %(unityid)s
    AND (%(affiliation)s = '' OR a.name = %(affiliation)s) ORDER BY u.id LIMIT 1) AS owner,
  (SELECT id FROM image WHERE name = 'noimage') AS noimage,
  (SELECT r.id FROM imagerevision r JOIN image i ON i.id = r.imageid WHERE i.name = 'noimage'
    ORDER BY r.production DESC, r.id LIMIT 1) AS noimage_revision,
  (SELECT id FROM resourcetype WHERE name = 'computer') AS computer_type,
  (SELECT id FROM vmprofile WHERE profilename = %(profile)s) AS profile,
  COALESCE((SELECT eth0generated FROM vmprofile WHERE profilename = %(profile)s), 0) AS generated0,
  COALESCE((SELECT eth1generated FROM vmprofile WHERE profilename = %(profile)s), 0) AS generated1
"""


def _groups(cursor: Cursor, names: Sequence[str], key: str) -> tuple[int, ...]:
    cursor.execute(
        "SELECT g.id, g.name FROM resourcegroup g JOIN resourcetype t ON t.id = g.resourcetypeid "
        "WHERE t.name = 'computer'"
    )
    known = {row["name"].lower(): int(row["id"]) for row in rows(cursor)}
    for name in names:
        if name.lower() not in known:
            raise ConfigurationError(
                f"VCL has no group of computers called {name!r}: make it on the web page, or name another in {key}"
            )
    return tuple(dict.fromkeys(known[name.lower()] for name in names))


def _computers(cursor: Cursor) -> Iterator[Row]:
    columns = ", ".join(f"c.{column}" for column in COLUMNS)
    cursor.execute(
        f"SELECT c.id, c.deleted, c.vmhostid, c.notes, i.name AS image, t.name AS state, i.minram, {columns}, "
        "NOT (c.type <> 'virtualmachine' OR (" + IDLE + ")) AS busy, "
        f"{HOLDS} AS holds "
        "FROM computer c JOIN state t ON t.id = c.stateid JOIN image i ON i.id = c.currentimageid"
    )
    for row in rows(cursor):
        yield Row(
            id=int(row["id"]),
            hostname=row["hostname"],
            is_deleted=bool(row["deleted"]),
            type=row["type"],
            state=row["state"],
            vmhost_id=row["vmhostid"],
            notes=row["notes"] or "",
            values={column: row[column] for column in COLUMNS},
            is_busy=bool(row["busy"]),
            holds=bool(row["holds"]),
            is_empty=row["image"] == "noimage",
            image_ram_mb=int(row["minram"]),
        )


def _vmhosts(cursor: Cursor) -> dict[tuple[int, int], int]:
    cursor.execute("SELECT id, computerid, vmprofileid FROM vmhost")
    return {(int(row["computerid"]), int(row["vmprofileid"])): int(row["id"]) for row in rows(cursor)}


def _members(cursor: Cursor) -> Iterator[tuple[int, int]]:
    cursor.execute(
        "SELECT r.subid, m.resourcegroupid FROM resource r JOIN resourcegroupmembers m ON m.resourceid = r.id "
        "JOIN resourcetype t ON t.id = r.resourcetypeid AND t.name = 'computer'"
    )
    for row in rows(cursor):
        yield int(row["subid"]), int(row["resourcegroupid"])


def _slot_records(cursor: Cursor) -> Iterator[SlotRecord]:
    cursor.execute(
        "SELECT computer_id, pool, hostname, note, made_by, "
        "TIMESTAMPDIFF(MICROSECOND, closed_at, UTC_TIMESTAMP(6)) / 1000000 AS closed_s FROM esxprov_slot"
    )
    for row in rows(cursor):
        yield SlotRecord(
            computer_id=int(row["computer_id"]),
            pool=row["pool"],
            hostname=row["hostname"],
            note=row["note"],
            closed_s=None if row["closed_s"] is None else float(row["closed_s"]),
            is_adopted=row["made_by"] == "adopt",
        )


def pools(cursor: Cursor) -> list[str]:
    """Pools that have slots of ours, whether or not they are still configured."""
    cursor.execute(
        "SELECT DISTINCT s.pool FROM esxprov_slot s JOIN computer c ON c.id = s.computer_id "
        "AND c.hostname = s.hostname WHERE c.deleted = 0 "
        "UNION SELECT DISTINCT h.pool FROM esxprov_slot_host h JOIN computer c ON c.id = h.computer_id "
        "WHERE c.deleted = 0 AND h.computer_made = 1 ORDER BY 1"
    )
    return [row["pool"] for row in rows(cursor)]


def host_records(cursor: Cursor) -> Iterator[HostRecord]:
    """What we know of all pools' hosts."""
    cursor.execute(
        "SELECT pool, computer_id, vmhost_id, kind, endpoint, uuid, name, ram_mb, cpu_threads, computer_made, "
        "vmhost_made FROM esxprov_slot_host ORDER BY pool, vmhost_id"
    )
    for row in rows(cursor):
        yield HostRecord(
            pool=row["pool"],
            computer_id=int(row["computer_id"]),
            vmhost_id=int(row["vmhost_id"]),
            is_pool=row["kind"] == "pool",
            endpoint=row["endpoint"],
            uuid=row["uuid"],
            name=row["name"],
            ram_mb=int(row["ram_mb"]),
            cpu_threads=int(row["cpu_threads"]),
            computer_made=bool(row["computer_made"]),
            vmhost_made=bool(row["vmhost_made"]),
        )


def _node_names(cursor: Cursor) -> Iterator[str]:
    cursor.execute("SELECT hostname FROM managementnode")
    for row in rows(cursor):
        yield row["hostname"]


def _ids_left(cursor: Cursor) -> int:
    """How many computers can still be added: ids of deleted ones do not come back, and Galera's nodes take turns."""
    cursor.execute(
        "SELECT GREATEST(COALESCE(t.AUTO_INCREMENT, 1), COALESCE((SELECT MAX(id) FROM computer), 0) + 1) AS next, "
        "@@auto_increment_increment AS step "
        "FROM information_schema.TABLES t WHERE t.TABLE_SCHEMA = DATABASE() AND t.TABLE_NAME = 'computer'"
    )
    (row,) = rows(cursor)
    return max(0, HIGHEST_ID - int(row["next"]) + 1) // int(row["step"])


# --- writing ---------------------------------------------------------------------------------------------------------


def write(cursor: Cursor, plan: Plan, words: Words) -> list[Change]:
    """Do what a plan says, but for its surplus. Returns what could not be done: somebody has taken it meanwhile."""
    home_id = write_hosts(cursor, plan, words)
    added = [change for change in plan.slots if change.kind is Kind.ADD]
    _insert(cursor, added, words, home_id)
    ids = _ids(cursor, [change.hostname for change in added])
    changed, late = [], []
    for change in plan.slots:
        if change.kind not in (Kind.CHANGE, Kind.REUSE) or change.row is None:
            continue
        if (change.values or change.needs_home) and not _update_slot(cursor, change, words, home_id):
            late.append(change)
            continue
        ids[change.hostname] = change.row.id
        if change.values or change.needs_home:
            changed.append(change.row.id)
    make_resources(cursor, ids.values(), words)
    for group, members in _by_group(plan.slots, ids).items():
        join(cursor, members, group, words)
    record(cursor, plan.pool, {change.hostname: ids[change.hostname] for change in added})
    _forget_marks(cursor, changed)
    return late


def write_hosts(cursor: Cursor, plan: Plan, words: Words) -> int:
    """Write the hosts' rows; returns vmhost.id of the pool's own.

    That one comes first: its vmhost row must have a lower id than those of hypervisors without VMs. VCL's INSERT of the
    RAM check fails in strict mode if the first row it meets has none.
    """
    home_id = _write_host(cursor, plan.home, plan.pool, words)
    for change in plan.hosts:
        _write_host(cursor, change, plan.pool, words)
    return home_id


def _write_host(cursor: Cursor, change: Change, pool: str, words: Words) -> int:
    """Write a host's rows; returns its vmhost.id."""
    is_pool = change.what == "pool"
    made = change.row is None
    if change.row is None:
        _insert(cursor, [change], words, None)
        (computer_id,) = _ids(cursor, [change.hostname]).values()
    else:
        computer_id = change.row.id
        if change.values or change.kind is Kind.REUSE:
            _update_host(cursor, computer_id, change)
    vmhost_id = change.vmhost_id
    if vmhost_id is None:
        cursor.execute("INSERT INTO vmhost (computerid, vmprofileid) VALUES (%s, %s)", (computer_id, words.profile))
        vmhost_id = int(cursor.lastrowid or 0)
    if change.groups:
        make_resources(cursor, [computer_id], words)
        for group in change.groups:
            join(cursor, [computer_id], group, words)
    _record_host(cursor, pool, change, computer_id, vmhost_id, is_pool=is_pool, made=made)
    return vmhost_id


def _insert(cursor: Cursor, changes: Sequence[Change], words: Words, vmhost_id: int | None) -> None:
    columns = ", ".join(COLUMNS)
    row = "(" + ", ".join(["%s"] * (len(COLUMNS) + 6)) + ")"
    for batch in _batches(changes):
        values: list[Any] = []
        for change in batch:
            values += [change.values[column] for column in COLUMNS]
            values += [vmhost_id, words.noimage, words.noimage, words.noimage_revision, "", ""]
        cursor.execute(
            f"INSERT INTO computer ({columns}, vmhostid, currentimageid, nextimageid, imagerevisionid, IPaddress, "
            f"notes) VALUES {', '.join([row] * len(batch))}",
            values,
        )


def _ids(cursor: Cursor, hostnames: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for batch in _batches(hostnames):
        places = ", ".join(["%s"] * len(batch))
        cursor.execute(f"SELECT id, hostname FROM computer WHERE deleted = 0 AND hostname IN ({places})", list(batch))
        found |= {row["hostname"]: int(row["id"]) for row in rows(cursor)}
    return found


def _update_host(cursor: Cursor, computer_id: int, change: Change) -> None:
    assignments, values = _assignments(change.values)
    # DEFAULT, because a literal zero date is refused where the SQL mode has NO_ZERO_DATE.
    assignments += ["deleted = 0", "datedeleted = DEFAULT"] if change.kind is Kind.REUSE else []
    cursor.execute(f"UPDATE computer SET {', '.join(assignments)} WHERE id = %s", [*values, computer_id])


def _update_slot(cursor: Cursor, change: Change, words: Words, home_id: int) -> bool:
    """False, and nothing is done, if the slot is no more as it was when the plan was made."""
    row = change.row
    assert row is not None
    assignments, values = _assignments(change.values)
    if change.needs_home:
        assignments.append("c.vmhostid = %s")
        values.append(home_id)
    if change.kind is Kind.REUSE:
        assignments += ["c.deleted = 0", "c.datedeleted = DEFAULT", "c.currentimageid = %s", "c.imagerevisionid = %s"]
        values += [words.noimage, words.noimage_revision]
    if "stateid" in change.values:
        assignments.append("c.notes = ''")
    cursor.execute(
        f"UPDATE computer c SET {', '.join(assignments)} WHERE c.id = %s AND c.stateid = %s AND c.deleted = %s "
        f"AND c.vmhostid <=> %s AND {IDLE}",
        [*values, row.id, row.values["stateid"], int(row.is_deleted), row.vmhost_id],
    )
    return cursor.rowcount == 1


def _assignments(values: Mapping[str, Any]) -> tuple[list[str], list[Any]]:
    assert set(values) <= set(COLUMNS)
    return [f"{column} = %s" for column in values], list(values.values())


def make_resources(cursor: Cursor, computer_ids: Iterable[int], words: Words) -> None:
    """The resource rows of computers that have none."""
    for batch in _batches(list(computer_ids)):
        places = ", ".join(["%s"] * len(batch))
        cursor.execute(
            "INSERT INTO resource (resourcetypeid, subid) SELECT %s, c.id FROM computer c LEFT JOIN resource r "
            f"ON r.resourcetypeid = %s AND r.subid = c.id WHERE c.id IN ({places}) AND r.id IS NULL",
            [words.computer_type, words.computer_type, *batch],
        )


def join(cursor: Cursor, computer_ids: Iterable[int], group: int, words: Words) -> None:
    """Make computers members of a group, those that are not."""
    for batch in _batches(list(computer_ids)):
        places = ", ".join(["%s"] * len(batch))
        cursor.execute(
            "INSERT INTO resourcegroupmembers (resourceid, resourcegroupid) SELECT r.id, %s FROM resource r "
            "LEFT JOIN resourcegroupmembers m ON m.resourceid = r.id AND m.resourcegroupid = %s "
            f"WHERE r.resourcetypeid = %s AND r.subid IN ({places}) AND m.resourceid IS NULL",
            [group, group, words.computer_type, *batch],
        )


def _by_group(changes: Iterable[Change], ids: Mapping[str, int]) -> dict[int, list[int]]:
    members: dict[int, list[int]] = {}
    for change in changes:
        for group in change.groups:
            if change.hostname in ids:
                members.setdefault(group, []).append(ids[change.hostname])
    return members


def record(cursor: Cursor, pool: str, ids: Mapping[str, int], made_by: str = "sync") -> None:
    """That these rows are slots of ours. An id may have been another's: of a row that VCL has deleted for good."""
    for batch in _batches(list(ids.items())):
        cursor.execute(
            "REPLACE INTO esxprov_slot (computer_id, pool, hostname, made_by) VALUES "
            + ", ".join(["(%s, %s, %s, %s)"] * len(batch)),
            [value for hostname, computer_id in batch for value in (computer_id, pool, hostname, made_by)],
        )


def _forget_marks(cursor: Cursor, computer_ids: Sequence[int]) -> None:
    for batch in _batches(computer_ids):
        places = ", ".join(["%s"] * len(batch))
        cursor.execute(
            f"UPDATE esxprov_slot SET closed_at = NULL, note = NULL, removed_at = NULL WHERE computer_id IN ({places})",
            list(batch),
        )


def _record_host(
    cursor: Cursor, pool: str, change: Change, computer_id: int, vmhost_id: int, *, is_pool: bool, made: bool
) -> None:
    """What a silent host has stays as it was; what we made stays made."""
    host = change.host
    size = (host.ram_mb, host.cpu_threads) if host else (0, 0)
    cursor.execute(
        "INSERT INTO esxprov_slot_host (pool, computer_id, vmhost_id, kind, endpoint, uuid, name, ram_mb, cpu_threads, "
        "computer_made, vmhost_made) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) "
        "ON DUPLICATE KEY UPDATE endpoint = VALUES(endpoint), uuid = VALUES(uuid), name = VALUES(name), "
        "ram_mb = VALUES(ram_mb), cpu_threads = VALUES(cpu_threads)",
        (
            pool,
            computer_id,
            vmhost_id,
            "pool" if is_pool else "host",
            host.endpoint if host else "",
            host.uuid if host else "",
            host.name if host else change.hostname,
            *size,
            int(made),
            int(change.vmhost_id is None),
        ),
    )


_MAINTENANCE = "(SELECT id FROM state WHERE name = 'maintenance')"


# --- removing --------------------------------------------------------------------------------------------------------


def close(cursor: Cursor, change: Change) -> bool:
    """Make a slot too small for everything, as its removal's first half. False if it is no more as it was."""
    row = change.row
    assert row is not None
    assignments, values = _assignments(change.values)
    cursor.execute(
        f"UPDATE computer c SET {', '.join(assignments)} WHERE c.id = %s AND c.stateid = %s AND c.deleted = 0",
        [*values, row.id, row.values["stateid"]],
    )
    if cursor.rowcount != 1:
        return False
    cursor.execute("UPDATE esxprov_slot SET closed_at = UTC_TIMESTAMP(6) WHERE computer_id = %s", (row.id,))
    return True


def remove(cursor: Cursor, change: Change) -> bool:
    """Delete a closed slot as VCL does, and give its MAC addresses free. False if it is no more as it was.

    The row stays, as logs refer to it, and with it its resource: the name comes back with the same id.
    """
    row = change.row
    assert row is not None
    cursor.execute(
        "UPDATE computer c SET c.deleted = 1, c.datedeleted = NOW(), c.vmhostid = NULL, "
        f"c.stateid = {_MAINTENANCE}, c.eth0macaddress = NULL, c.eth1macaddress = NULL "
        f"WHERE c.id = %s AND c.stateid = %s AND c.deleted = 0 AND c.RAM = 0 AND {IDLE}",
        (row.id, row.values["stateid"]),
    )
    if cursor.rowcount != 1:
        return False
    cursor.execute("UPDATE esxprov_slot SET removed_at = UTC_TIMESTAMP(6) WHERE computer_id = %s", (row.id,))
    cursor.execute(
        "DELETE m FROM resourcegroupmembers m JOIN resource r ON r.id = m.resourceid "
        "JOIN resourcetype t ON t.id = r.resourcetypeid AND t.name = 'computer' WHERE r.subid = %s",
        (row.id,),
    )
    return True


def retire_host(cursor: Cursor, host: HostRecord) -> bool:
    """Delete a host's computer row that we made, unless a VM refers to it, or another pool. Never its vmhost row: that
    would make the slots of it, and those who come back, invisible (ON DELETE SET NULL).
    """
    cursor.execute(
        f"UPDATE computer h SET h.stateid = {_MAINTENANCE}, h.deleted = 1, h.datedeleted = NOW() "
        "WHERE h.id = %s AND h.hostname = %s AND h.deleted = 0 "
        # DISTINCT, because the table that is changed must not be read but through a copy.
        "AND NOT EXISTS (SELECT 1 FROM (SELECT DISTINCT vmhostid FROM computer WHERE deleted = 0) c "
        "JOIN vmhost v ON v.id = c.vmhostid WHERE v.computerid = h.id) "
        "AND NOT EXISTS (SELECT 1 FROM esxprov_slot_host o WHERE o.computer_id = h.id AND o.pool <> %s)",
        (host.computer_id, host.name, host.pool),
    )
    return cursor.rowcount == 1


def _batches(items: Collection[Any]) -> Iterator[list[Any]]:
    whole = list(items)
    return (whole[start : start + _BATCH] for start in range(0, len(whole), _BATCH))
