"""Taking over slots that an admin made by hand, and giving them back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from esxprov.database import Cursor, rows
from esxprov.errors import ConfigurationError
from esxprov.slots.plan import Found, Plan, Words
from esxprov.slots.rows import HOLDS, IDLE, join, make_resources, record, write_hosts

KEPT_COLUMNS = (
    "provisioningid",
    "vmhostid",
    "predictivemoduleid",
    "currentimageid",
    "imagerevisionid",
    "privateIPaddress",
    "RAM",
    "procnumber",
    "procspeed",
    "network",
)
"""What adoption changes, and what `sync` changes of an adopted slot later: all that is given back."""

_TAKEN_STATES = ("available", "maintenance", "failed")

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Candidate:
    """A slot that somebody else made, on a host of the pool. `was` are its KEPT_COLUMNS, `groups` those that it joins;
    `why_not`: why it is left, "" if it is taken.
    """

    computer_id: int
    hostname: str
    state: str
    host: str
    was: Mapping[str, Any]
    groups: tuple[int, ...] = ()
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class OldVms:
    """What the pool's hypervisors have that is not ours: MAC (lower case) to (VM, host); and the short names of hosts
    that say nothing.
    """

    macs: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    silent_hosts: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class GivenBack:
    """A slot of an undo file. `why_not`: why it was left, "" if it is as it was."""

    computer_id: int
    hostname: str
    why_not: str = ""


def candidates(cursor: Cursor, found: Found, hosts: Iterable[str], words: Words, old: OldVms) -> Iterator[Candidate]:
    """Every VM of VCL on hosts of these names that is not ours yet."""
    ours = {(one.computer_id, one.hostname.lower()) for one in found.slots}
    short = {_short(name) for name in hosts}
    columns = ", ".join(f"c.{column}" for column in KEPT_COLUMNS)
    cursor.execute(
        f"SELECT c.id, c.hostname, h.hostname AS host, t.name AS state, c.eth0macaddress, c.eth1macaddress, {columns}, "
        f"{IDLE} AS is_idle, {HOLDS} AS holds "
        "FROM computer c JOIN state t ON t.id = c.stateid JOIN vmhost v ON v.id = c.vmhostid "
        "JOIN computer h ON h.id = v.computerid "
        "WHERE c.deleted = 0 AND c.type = 'virtualmachine' ORDER BY c.hostname"
    )
    for row in rows(cursor):
        computer_id = int(row["id"])
        if _short(row["host"]) in short and (computer_id, row["hostname"].lower()) not in ours:
            yield Candidate(
                computer_id=computer_id,
                hostname=row["hostname"],
                state=row["state"],
                host=row["host"],
                was={column: row[column] for column in KEPT_COLUMNS},
                groups=tuple(group for group in words.groups if (computer_id, group) not in found.members),
                why_not=_why_not(row, old),
            )


def _why_not(row: Mapping[str, Any], old: OldVms) -> str:
    if row["state"] not in _TAKEN_STATES:
        return f"in state {row['state']}"
    if not row["is_idle"]:
        return "in use"
    if row["holds"]:
        return "loaded by esxprov"
    if _short(row["host"]) in old.silent_hosts:
        return f"{row['host']} does not answer, so nobody knows whether its VM is still there"
    for mac in (row["eth0macaddress"], row["eth1macaddress"]):
        if mac and mac.lower() in old.macs:
            vm, host = old.macs[mac.lower()]
            return f"its VM {vm} is still on {host}: remove it there first"
    return ""


def take(cursor: Cursor, plan: Plan, words: Words, wanted: Sequence[Candidate]) -> list[Candidate]:
    """Make candidates slots of ours, those that may be. Returns all, with those that were taken meanwhile told so."""
    home_id = write_hosts(cursor, plan, words)
    told, taken = [], []
    for one in wanted:
        if not one.why_not and not _take(cursor, one, words, home_id):
            one = replace(one, why_not="somebody has taken it meanwhile")
        told.append(one)
        if not one.why_not:
            taken.append(one)
    make_resources(cursor, [one.computer_id for one in taken], words)
    for group in words.groups:
        join(cursor, [one.computer_id for one in taken if group in one.groups], group, words)
    record(cursor, plan.pool, {one.hostname: one.computer_id for one in taken}, "adopt")
    return told


def _take(cursor: Cursor, one: Candidate, words: Words, home_id: int) -> bool:
    cursor.execute(
        "UPDATE computer c JOIN state t ON t.id = c.stateid SET c.provisioningid = %s, c.vmhostid = %s, "
        "c.predictivemoduleid = %s, c.currentimageid = %s, c.imagerevisionid = %s, c.privateIPaddress = NULL "
        f"WHERE c.id = %s AND c.hostname = %s AND c.deleted = 0 AND c.vmhostid <=> %s AND t.name = %s AND {IDLE}",
        (
            *(words.esxprov, home_id, words.module, words.noimage, words.noimage_revision),
            *(one.computer_id, one.hostname, one.was["vmhostid"], one.state),
        ),
    )
    return cursor.rowcount == 1


# --- the way back ----------------------------------------------------------------------------------------------------


def write_undo(path: Path, pool: str, taken: Iterable[Candidate]) -> None:
    """Write what the slots were, and see it on the disk. Raises ConfigurationError if there is such a file."""
    slots = [
        {"computer_id": one.computer_id, "hostname": one.hostname, "was": dict(one.was), "groups": list(one.groups)}
        for one in taken
    ]
    text = json.dumps({"version": _VERSION, "pool": pool, "slots": slots}, indent=1)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as error:
        raise ConfigurationError(f"{path} is there already: name another file with --undo-file") from error
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written ({error.strerror}), so nothing is adopted") from error


def read_undo(path: Path) -> tuple[str, list[Candidate]]:
    """(pool, slots as they were) of a file that `write_undo` wrote. Raises ConfigurationError if it is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["version"] != _VERSION:
            raise ConfigurationError(f"{path} has version {data['version']}, this program reads {_VERSION}")
        slots = [
            Candidate(
                computer_id=int(one["computer_id"]),
                hostname=str(one["hostname"]),
                state="",
                host="",
                was={column: one["was"][column] for column in KEPT_COLUMNS},
                groups=tuple(int(group) for group in one["groups"]),
            )
            for one in data["slots"]
        ]
        return str(data["pool"]), slots
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path} is no file that 'esxprov slots adopt' wrote") from error


def give_back(cursor: Cursor, slots: Iterable[Candidate]) -> list[GivenBack]:
    """Make slots what they were: those that are ours by adoption, idle and empty, and whose old host is still there."""
    return [GivenBack(one.computer_id, one.hostname, _give_back(cursor, one)) for one in slots]


def _give_back(cursor: Cursor, one: Candidate) -> str:
    cursor.execute(
        "SELECT s.made_by FROM esxprov_slot s JOIN computer c ON c.id = s.computer_id AND c.hostname = s.hostname "
        "WHERE c.id = %s AND c.hostname = %s AND c.deleted = 0",
        (one.computer_id, one.hostname),
    )
    known = rows(cursor)
    if not known or known[0]["made_by"] != "adopt":
        return "it is not adopted any more"
    cursor.execute("SELECT 1 FROM vmhost WHERE id = %s", (one.was["vmhostid"],))
    if not rows(cursor):
        return "VCL does not have its old VM host any more"
    assignments = ", ".join(f"c.{column} = %s" for column in KEPT_COLUMNS)
    cursor.execute(
        f"UPDATE computer c JOIN state t ON t.id = c.stateid JOIN image i ON i.id = c.currentimageid SET {assignments} "
        "WHERE c.id = %s AND t.name IN ('available', 'maintenance', 'failed') AND i.name = 'noimage' "
        f"AND NOT {HOLDS} AND {IDLE}",
        [*(one.was[column] for column in KEPT_COLUMNS), one.computer_id],
    )
    if cursor.rowcount != 1:
        return "it is in use, or loaded"
    for group in one.groups:
        cursor.execute(
            "DELETE m FROM resourcegroupmembers m JOIN resource r ON r.id = m.resourceid JOIN resourcetype t "
            "ON t.id = r.resourcetypeid AND t.name = 'computer' WHERE r.subid = %s AND m.resourcegroupid = %s",
            (one.computer_id, group),
        )
    cursor.execute("DELETE FROM esxprov_slot WHERE computer_id = %s", (one.computer_id,))
    return ""


def _short(name: str) -> str:
    return name.lower().partition(".")[0]
