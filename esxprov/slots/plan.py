"""What is to be done to VCL's rows, so that they are what a pool needs. Pure: rows in, changes out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from esxprov.errors import ConfigurationError
from esxprov.model import SlotRules
from esxprov.slots.names import LONGEST, Known, SlotName, numbered
from esxprov.slots.size import MOST_CPUS, MOST_RAM_MB, HostSize, Shape

Values = Mapping[str, Any]
"""Columns of VCL's computer, by name."""

CLOSED = {"RAM": 0, "procnumber": 0, "procspeed": 0, "network": 0}
"""Too small for every image. Unlike a state this only hides a slot: a request that has just chosen it is served."""


class Kind(StrEnum):
    """What becomes of a row.

    `reuse`: it was removed, and comes back. `close`: it is made too small for everything, as it is to be removed.
    """

    ADD = "add"
    REUSE = "reuse"
    CHANGE = "change"
    KEEP = "keep"
    CLOSE = "close"
    REMOVE = "remove"


# --- what VCL's tables have -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """A row of VCL's computer, whoever made it.

    `state` is the name of its state; `values` are the columns that we write. `is_busy`: somebody has or will have it,
    or is just choosing it. `holds`: there is a claim for it. `is_empty`: VCL believes no image is on it.
    """

    id: int
    hostname: str
    is_deleted: bool
    type: str
    state: str
    vmhost_id: int | None
    notes: str
    values: Values
    is_busy: bool = False
    holds: bool = False
    is_empty: bool = True
    image_ram_mb: int = 0

    @property
    def macs(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.values["eth0macaddress"], self.values["eth1macaddress"])))


@dataclass(frozen=True, slots=True)
class SlotRecord:
    """That a row is a slot of ours. `closed_s` is how long it has been too small for everything, None if it is not.
    `is_adopted`: an admin made it, and may have it back.
    """

    computer_id: int
    pool: str
    hostname: str
    note: str | None = None
    closed_s: float | None = None
    is_adopted: bool = False


@dataclass(frozen=True, slots=True)
class HostRecord:
    """Which rows of VCL a hypervisor has; for the pool's host that does not exist `is_pool`. `*_made`: by us."""

    pool: str
    computer_id: int
    vmhost_id: int
    is_pool: bool
    endpoint: str
    uuid: str
    name: str
    ram_mb: int
    cpu_threads: int
    computer_made: bool
    vmhost_made: bool


@dataclass(frozen=True, slots=True)
class Found:
    """What the tables have now.

    `vmhosts` maps (computer id, profile id) to vmhost.id; `members` are (computer id, group id); `node_names` the host
    names of the management nodes; `ids_left` is how many computers can still be added.
    """

    rows: tuple[Row, ...]
    vmhosts: Mapping[tuple[int, int], int] = field(default_factory=dict)
    members: frozenset[tuple[int, int]] = frozenset()
    slots: tuple[SlotRecord, ...] = ()
    hosts: tuple[HostRecord, ...] = ()
    node_names: tuple[str, ...] = ()
    ids_left: int = 65_535


@dataclass(frozen=True, slots=True)
class Words:
    """What VCL calls by numbers: ids of its rows."""

    available: int
    maintenance: int
    vmhostinuse: int
    esxprov: int
    none: int
    module: int
    platform: int
    schedule: int
    owner: int
    noimage: int
    noimage_revision: int
    computer_type: int
    profile: int
    generated_macs: tuple[bool, bool]
    groups: tuple[int, ...]
    host_groups: tuple[int, ...]


# --- what is to be ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a pool is to have: slots of one `shape`, so many, and a row for each host. `others` are the host names that
    other pools' slots have or will have.
    """

    pool: str
    rules: SlotRules
    count: int
    shape: Shape
    hosts: tuple[HostSize, ...]
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """One row and what becomes of it. `values` are the columns that change (all, for a new row); a slot's vmhostid is
    left out: it is the pool's. `groups` are those to be joined; `host` is whose row it is, if a hypervisor's.
    `needs_home`: it is to belong to the pool's host, and does not. `row` is what was there.
    """

    kind: Kind
    what: str
    hostname: str
    row: Row | None = None
    values: Values = field(default_factory=dict)
    groups: tuple[int, ...] = ()
    needs_home: bool = False
    vmhost_id: int | None = None
    host: HostSize | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done for a pool, in this order: its own host, the hypervisors, the slots. `surplus` are slots that
    only `prune` removes. `notes` are what a person should know, `problem` is why it must not be done.
    """

    pool: str
    home: Change
    hosts: tuple[Change, ...]
    slots: tuple[Change, ...]
    surplus: tuple[Change, ...]
    shape: Shape
    notes: tuple[str, ...]
    problem: str | None = None

    @property
    def changes(self) -> tuple[Change, ...]:
        """All, also those that keep a row as it is."""
        return (self.home, *self.hosts, *self.slots, *self.surplus)


def plan_of(found: Found, wanted: Wanted, words: Words) -> Plan:
    """What brings the tables to what is wanted. Raises ConfigurationError if the name of the pool's host is taken."""
    own = own_rows(found, wanted.pool)
    said = _Said()
    home = _home(found, wanted, words)
    hosts = tuple(_hosts(found, wanted, words, said.notes))
    ids_left = found.ids_left - sum(change.kind is Kind.ADD for change in (home, *hosts))
    adopted = tuple(
        _known_slot(found, wanted, words, row, record, home) for row, record in adopted_rows(found, wanted.pool)
    )
    own_wanted = replace(wanted, count=max(0, wanted.count - len(adopted)))
    slots = (*adopted, *_slots(found, own_wanted, words, own, home, ids_left, said))
    named = {change.hostname.lower() for change in slots}
    surplus = tuple(
        Change(Kind.REMOVE, "slot", row.hostname, row, detail=_is_kept_by(row, record) or "more than the hosts take")
        for row, record in own.values()
        if not row.is_deleted and row.hostname.lower() not in named
    )
    if surplus:
        said.notes.append(f"{len(surplus)} slots are more than the hosts take: 'esxprov slots prune' removes them")
    return Plan(wanted.pool, home, hosts, slots, surplus, wanted.shape, tuple(said.notes), said.problem)


def own_rows(found: Found, pool: str) -> dict[str, tuple[Row, SlotRecord]]:
    """The slots of a pool that we made, by host name."""
    return {row.hostname.lower(): (row, record) for row, record in _ours(found, pool) if not record.is_adopted}


def adopted_rows(found: Found, pool: str) -> list[tuple[Row, SlotRecord]]:
    """The slots of a pool that an admin made, and that were taken over."""
    return [(row, record) for row, record in _ours(found, pool) if record.is_adopted and not row.is_deleted]


def _ours(found: Found, pool: str) -> Iterator[tuple[Row, SlotRecord]]:
    """A slot is ours as long as its row has the id and the name that we know."""
    by_id = {row.id: row for row in found.rows}
    for record in found.slots:
        row = by_id.get(record.computer_id)
        if record.pool == pool and row is not None and row.hostname.lower() == record.hostname.lower():
            yield row, record


def removal_of(found: Found, wanted: Plan | None, pool: str) -> tuple[Change, ...]:
    """What `prune` does now to the slots that a plan has too many of (all, for a pool that is no more).

    In two turns, as the front end may be choosing one just now: first they are closed; a minute later nobody has them
    in hand any more.
    """
    if wanted is not None:
        rows = [(change.row, change) for change in wanted.surplus if change.row is not None]
    else:
        rows = [
            (row, Change(Kind.REMOVE, "slot", row.hostname, row))
            for row, _ in own_rows(found, pool).values()
            if not row.is_deleted
        ]
    records = {record.computer_id: record for record in found.slots}
    if wanted is None:
        adopted = [row for row, _ in adopted_rows(found, pool)]
        kept = tuple(Change(Kind.KEEP, "slot", row.hostname, row, detail=_GIVE_BACK) for row in adopted)
        return kept + tuple(_removal(row, records[row.id], change) for row, change in rows)
    return tuple(_removal(row, records[row.id], change) for row, change in rows)


_GIVE_BACK = "adopted: 'esxprov slots adopt --undo FILE' gives it back"

CLOSED_LONG_ENOUGH_S = 60
"""VCL's front end holds a computer for 45 s while it makes a request of it (SEMTIMEOUT)."""


def _removal(row: Row, record: SlotRecord, change: Change) -> Change:
    kept = _is_kept_by(row, record)
    if kept:
        return Change(Kind.KEEP, "slot", row.hostname, row, detail=kept)
    if record.closed_s is None or any(row.values[column] != value for column, value in CLOSED.items()):
        return Change(Kind.CLOSE, "slot", row.hostname, row, CLOSED, detail=change.detail)
    if record.closed_s < CLOSED_LONG_ENOUGH_S:
        left = CLOSED_LONG_ENOUGH_S - int(record.closed_s)
        return Change(Kind.KEEP, "slot", row.hostname, row, detail=f"closed, can be removed in {left} s")
    return Change(Kind.REMOVE, "slot", row.hostname, row, detail=change.detail)


def _is_kept_by(row: Row, record: SlotRecord) -> str | None:
    """Why a slot that is there must be left as it is, None if nobody minds."""
    if row.state == "maintenance" and (record.note is None or row.notes != record.note):
        return "in maintenance"
    if row.is_busy:
        return "in use"
    if row.state not in ("available", "maintenance"):
        return row.state
    if row.holds or not row.is_empty:
        return "loaded"
    return None


# --- hosts -----------------------------------------------------------------------------------------------------------


def _home(found: Found, wanted: Wanted, words: Words) -> Change:
    name = wanted.rules.pool_host
    values = _host_values(wanted, words, name) | {"procnumber": MOST_CPUS}
    record = next((one for one in found.hosts if one.pool == wanted.pool and one.is_pool), None)
    row = next((one for one in found.rows if record is not None and one.id == record.computer_id), None)
    vmhost_id = found.vmhosts.get((row.id, words.profile)) if row else None
    taken = next((one for one in found.rows if one.hostname.lower() == name and one is not row), None)
    if taken is not None:
        gone = ", which was deleted but keeps its name" if taken.is_deleted else ""
        raise ConfigurationError(
            f"VCL has a computer {taken.hostname} (id {taken.id}){gone}, which is not ours: give [slots {wanted.pool}] "
            "another pool_host"
        )
    # Front end: the sum of what images need on the host, this one included, must be *less* than its RAM.
    on_it = sum(one.image_ram_mb for one in found.rows if vmhost_id is not None and one.vmhost_id == vmhost_id)
    values["RAM"] = min(MOST_RAM_MB + 1, on_it + wanted.shape.ram_mb + 1)
    detail = "where idle slots belong"
    if row is None:
        return Change(Kind.ADD, "pool", name, values=values, groups=words.host_groups, detail=detail)
    change = _changed(Kind.REUSE if row.is_deleted else Kind.CHANGE, "pool", row, values, words.host_groups, found)
    if vmhost_id is None and change.kind is Kind.KEEP:
        change = replace(change, kind=Kind.CHANGE)
    return replace(change, vmhost_id=vmhost_id, hostname=name, detail=change.detail or detail)


def _hosts(found: Found, wanted: Wanted, words: Words, notes: list[str]) -> Iterator[Change]:
    seen: dict[str, HostSize] = {}
    for host in wanted.hosts:
        name = host.name.lower()
        if name in seen:
            notes.append(
                f"the hosts of {seen[name].endpoint} and {host.endpoint} are both called {host.name}: VCL cannot tell "
                "them apart, give each a name of its own"
            )
            continue
        seen[name] = host
        change = _host(found, wanted, words, host, notes)
        if change is not None:
            yield change


def _host(found: Found, wanted: Wanted, words: Words, host: HostSize, notes: list[str]) -> Change | None:
    record = next(
        (one for one in found.hosts if one.pool == wanted.pool and not one.is_pool and one.name == host.name), None
    )
    row = _row_of(found.rows, host.name)
    if row is None:
        gone = next((one for one in found.rows if one.hostname.lower() == host.name.lower()), None)
        if gone is not None and not (record is not None and record.computer_id == gone.id and record.computer_made):
            notes.append(
                f"VCL has deleted its computer {gone.hostname} (id {gone.id}): undelete it on the web page, so that a "
                "VM on that host is shown there"
            )
            return None
        if len(host.name) > LONGEST:
            notes.append(
                f"host {host.name} gets no row in VCL, where a name has {LONGEST} characters: its VMs are shown on "
                f"{wanted.rules.pool_host}"
            )
            return None
        row = gone
    values = _host_values(wanted, words, host.name) | {
        "RAM": min(MOST_RAM_MB + 1, host.ram_mb),
        "procnumber": min(MOST_CPUS, host.cpu_threads),
    }
    if row is None:
        return Change(Kind.ADD, "host", host.name, values=values, groups=words.host_groups, host=host)
    vmhost_id = found.vmhosts.get((row.id, words.profile))
    is_ours = record is not None and record.computer_id == row.id and record.computer_made
    if is_ours and not host.silent:
        del values["hostname"]
        change = _changed(Kind.REUSE if row.is_deleted else Kind.CHANGE, "host", row, values, words.host_groups, found)
    else:
        if row.state != "vmhostinuse":
            notes.append(
                f"VCL's computer {row.hostname} is in state {row.state}, not vmhostinuse: it counts as a VM host only "
                "after it is made one on the web page"
            )
        change = Change(Kind.KEEP, "host", row.hostname, row, detail="" if is_ours else "made by hand")
    if vmhost_id is None and change.kind is Kind.KEEP:
        change = replace(change, kind=Kind.CHANGE, detail="becomes a VM host of the profile")
    return replace(change, vmhost_id=vmhost_id, host=host)


def _row_of(rows: Iterable[Row], name: str) -> Row | None:
    """The live row of a hypervisor: by its full name, or else the first with the same short one."""
    name = name.lower()
    short = name.partition(".")[0]
    candidates = [
        row
        for row in rows
        if not row.is_deleted
        and row.type != "virtualmachine"
        and (row.hostname.lower() == name or row.hostname.lower().partition(".")[0] == short)
    ]
    return min(candidates, key=lambda row: (row.hostname.lower() != name, row.id), default=None)


def _host_values(wanted: Wanted, words: Words, name: str) -> dict[str, Any]:
    return _common(wanted, words) | {
        "stateid": words.vmhostinuse,
        "hostname": name,
        "type": "blade",
        "provisioningid": words.none,
        "eth0macaddress": None,
        "eth1macaddress": None,
    }


# --- slots -----------------------------------------------------------------------------------------------------------


def _slots(
    found: Found,
    wanted: Wanted,
    words: Words,
    own: Mapping[str, tuple[Row, SlotRecord]],
    home: Change,
    ids_left: int,
    said: _Said,
) -> Iterator[Change]:
    others = _Others.of(found, wanted, own)
    elsewhere = Known(wanted.others)
    given, skipped, waiting, first_clash = 0, 0, 0, ""
    for number in range(1, wanted.rules.most + 1):
        if given == wanted.count:
            break
        slot = numbered(wanted.rules, number, words.generated_macs)
        other = elsewhere.clash(slot.hostname)
        if other is not None:
            said.problem = (
                f"[slots {wanted.pool}] would name a slot {slot.hostname}, which VCL cannot tell from {other} of "
                "another pool: change either's names"
            )
            return
        known_here = own.get(slot.hostname)
        if known_here is None or known_here[0].is_deleted:
            why = others.clash(slot)
            if why is not None:
                skipped, first_clash = skipped + 1, first_clash or why
                continue
            if others.must_wait(slot):
                waiting += 1
                continue
        if known_here is None:
            if ids_left <= 0:
                said.notes.append("VCL has no number left for another computer: computer.id ends at 65535")
                break
            ids_left -= 1
        given += 1
        yield _slot(found, wanted, words, slot, known_here, home)
    if not given and skipped and not waiting:
        said.problem = f"[slots {wanted.pool}] has no name that can be given: {first_clash}"
    if skipped:
        said.notes.append(f"{skipped} of the pool's numbers are left out, the first because {first_clash}")
    if waiting:
        said.notes.append(
            f"{waiting} slots wait for names or MAC addresses that slots of earlier settings still have: run 'esxprov "
            "slots prune', and sync again"
        )
    elif given < wanted.count and ids_left > 0:
        said.notes.append(
            f"the hosts take {wanted.count} of the smallest image, [slots {wanted.pool}] most = {wanted.rules.most} "
            f"allows {given}"
        )


@dataclass(slots=True)
class _Said:
    """What a person should know of a plan, and why it cannot be done."""

    notes: list[str] = field(default_factory=list)
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class _Others:
    """What others are called, and their MAC addresses (to whose they are); and those of our own slots that are there,
    of which some go, because the settings do not name them any more.
    """

    names: Known
    macs: Mapping[str, str]
    leaving_names: Known
    own_macs: frozenset[str]

    @classmethod
    def of(cls, found: Found, wanted: Wanted, own: Mapping[str, tuple[Row, SlotRecord]]) -> _Others:
        ours = {row.id for row, _ in own.values()}
        strangers = [row for row in found.rows if row.id not in ours]
        leaving = [row for row, _ in own.values() if not _is_named_by(wanted.rules, row.hostname)]
        names = [row.hostname for row in (*strangers, *(row for row in leaving if row.is_deleted))]
        names += [*found.node_names, wanted.rules.pool_host, *(host.name for host in wanted.hosts)]
        return cls(
            Known(names),
            {mac.lower(): row.hostname for row in strangers for mac in row.macs},
            Known(row.hostname for row in leaving if not row.is_deleted),
            frozenset(mac.lower() for row, _ in own.values() if not row.is_deleted for mac in row.macs),
        )

    def clash(self, slot: SlotName) -> str | None:
        other = self.names.clash(slot.hostname)
        if other is not None:
            return f"VCL cannot tell {slot.hostname} from {other}, which is not ours"
        for mac in _macs(slot):
            if mac in self.macs:
                return f"{slot.hostname} would have the MAC address {mac} of {self.macs[mac]}"
        return None

    def must_wait(self, slot: SlotName) -> bool:
        return self.leaving_names.clash(slot.hostname) is not None or any(mac in self.own_macs for mac in _macs(slot))


def _macs(slot: SlotName) -> list[str]:
    return [mac for mac in (slot.private_mac, slot.public_mac) if mac]


def _is_named_by(rules: SlotRules, hostname: str) -> bool:
    """Whether the pattern, as it is now, gives that name."""
    run = "#" * rules.names.count("#")
    before, _, after = rules.names.partition(run)
    digits = hostname.lower().removeprefix(before).removesuffix(after)
    return hostname.lower() == f"{before}{digits}{after}" and digits.isdigit() and len(digits) == len(run)


def _slot(
    found: Found, wanted: Wanted, words: Words, slot: SlotName, own: tuple[Row, SlotRecord] | None, home: Change
) -> Change:
    values = _common(wanted, words) | {
        "stateid": words.available,
        "hostname": slot.hostname,
        "type": "virtualmachine",
        "provisioningid": words.esxprov,
        "RAM": wanted.shape.ram_mb,
        "procnumber": wanted.shape.cpus,
        "eth0macaddress": slot.private_mac,
        "eth1macaddress": slot.public_mac,
    }
    if own is None:
        return Change(Kind.ADD, "slot", slot.hostname, values=values, groups=words.groups, needs_home=True)
    row, record = own
    if row.is_deleted:
        change = _changed(Kind.REUSE, "slot", row, values, words.groups, found)
        return replace(change, hostname=slot.hostname, needs_home=True)
    return _known_slot(found, wanted, words, row, record, home)


def _known_slot(found: Found, wanted: Wanted, words: Words, row: Row, record: SlotRecord, home: Change) -> Change:
    """A slot that is there. Its MAC addresses stay: DHCP's leases and reservations know it by them."""
    groups = _missing(found, row, words.groups)
    kept = _is_kept_by(row, record)
    if kept:
        return Change(Kind.CHANGE if groups else Kind.KEEP, "slot", row.hostname, row, groups=groups, detail=kept)
    values: dict[str, Any] = {
        "provisioningid": words.esxprov,
        "predictivemoduleid": words.module,
        "RAM": wanted.shape.ram_mb,
        "procnumber": wanted.shape.cpus,
        "procspeed": wanted.rules.procspeed,
        "network": wanted.rules.network,
    }
    if not record.is_adopted:
        values |= _common(wanted, words) | {"stateid": words.available, "type": "virtualmachine"}
    change = _changed(Kind.CHANGE, "slot", row, values, words.groups, found)
    if home.vmhost_id is not None and row.vmhost_id == home.vmhost_id:
        return change
    detail = ", ".join(filter(None, (change.detail, "vmhostid")))
    return replace(change, kind=Kind.CHANGE, needs_home=True, detail=detail)


def _common(wanted: Wanted, words: Words) -> dict[str, Any]:
    return {
        "ownerid": words.owner,
        "platformid": words.platform,
        "scheduleid": words.schedule,
        "procspeed": wanted.rules.procspeed,
        "network": wanted.rules.network,
        "location": f"managed by esxprov, pool {wanted.pool}",
        "predictivemoduleid": words.module,
    }


# --- changes ---------------------------------------------------------------------------------------------------------


def _changed(kind: Kind, what: str, row: Row, values: Values, groups: Sequence[int], found: Found) -> Change:
    """What differs; a change with nothing in it keeps the row."""
    differing = {column: value for column, value in values.items() if not _equal(row.values[column], value)}
    missing = _missing(found, row, groups)
    if kind is Kind.CHANGE and not differing and not missing:
        kind = Kind.KEEP
    shown = [
        column if column.endswith("id") else f"{column} {row.values[column]} to {value}"
        for column, value in differing.items()
        if column not in ("location", "hostname")
    ]
    detail = ", ".join(shown + (["groups"] if missing else [])) if kind is not Kind.REUSE else ""
    return Change(kind, what, row.hostname, row, differing, missing, detail=detail)


def _equal(one: Any, other: Any) -> bool:
    return bool(one.lower() == other.lower() if isinstance(one, str) and isinstance(other, str) else one == other)


def _missing(found: Found, row: Row, groups: Iterable[int]) -> tuple[int, ...]:
    return tuple(group for group in groups if (row.id, group) not in found.members)
