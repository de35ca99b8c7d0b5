"""What would keep VCL's front end from offering slots, although their rows are right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from esxprov.database import Cursor, rows
from esxprov.model import Pool, SlotRules
from esxprov.slots.plan import Words
from esxprov.slots.size import Shape


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One sentence: what hides slots, and what to do. `hides_all`: nobody is offered any."""

    text: str
    hides_all: bool = False


@dataclass(frozen=True, slots=True)
class _Ours:
    """What the questions are asked for."""

    rules: SlotRules
    shape: Shape
    words: Words


def warnings(cursor: Cursor, pool: Pool, shape: Shape, words: Words) -> Iterator[Obstacle]:
    """Everything that would hide the slots of a pool, or some of them from some images. Only reads."""
    assert pool.slots is not None
    ours = _Ours(pool.slots, shape, words)
    for ask in _QUESTIONS:
        yield from ask(cursor, ours)
    if pool.image_hosts:
        yield Obstacle(
            "image_hosts is a rule of placement that VCL does not know: it offers slots for those images, and their "
            "loads fail when their hosts are full"
        )


def _no_install_type(cursor: Cursor, ours: _Ours) -> Iterator[Obstacle]:
    cursor.execute("SELECT 1 FROM provisioningOSinstalltype WHERE provisioningid = %s LIMIT 1", (ours.words.esxprov,))
    if not rows(cursor):
        yield Obstacle("VCL has no OS install type for esxprov: run 'esxprov vcl register'", True)


def _unmapped_images(cursor: Cursor, ours: _Ours) -> Iterator[Obstacle]:
    """The front end takes a computer for an image only if groups of both are mapped, in either direction."""
    names = _images(
        cursor,
        ours,
        "NOT EXISTS (SELECT 1 FROM resource r JOIN resourcetype t ON t.id = r.resourcetypeid AND t.name = 'image' "
        "JOIN resourcegroupmembers m ON m.resourceid = r.id JOIN resourcemap p ON "
        "(p.resourcegroupid1 = m.resourcegroupid AND p.resourcegroupid2 IN %(groups)s) OR "
        "(p.resourcegroupid2 = m.resourcegroupid AND p.resourcegroupid1 IN %(groups)s) WHERE r.subid = i.id)",
        {"groups": _some(ours.words.groups)},
    )
    if names:
        yield Obstacle(
            f"no group of {_listed(names)} is mapped to {_groups(ours)}, so no slot is offered for them: map them on "
            "the web page (Manage Images, mapping)",
            len(names) == len(_images(cursor, ours, "TRUE", {})),
        )


def _management_nodes(cursor: Cursor, ours: _Ours) -> Iterator[Obstacle]:
    """A slot that no live management node is mapped to is silently passed over."""
    cursor.execute(
        "SELECT DISTINCT n.hostname, s.name AS state, n.publicIPconfiguration AS public, "
        "n.lastcheckin < NOW() - INTERVAL 300 SECOND AS is_silent "
        "FROM managementnode n JOIN state s ON s.id = n.stateid JOIN resource r ON r.subid = n.id "
        "JOIN resourcetype t ON t.id = r.resourcetypeid AND t.name = 'managementnode' "
        "JOIN resourcegroupmembers m ON m.resourceid = r.id JOIN resourcemap p ON "
        "(p.resourcegroupid1 = m.resourcegroupid AND p.resourcegroupid2 IN %(groups)s) OR "
        "(p.resourcegroupid2 = m.resourcegroupid AND p.resourcegroupid1 IN %(groups)s) "
        "WHERE s.name <> 'deleted' ORDER BY n.hostname",
        {"groups": _some(ours.words.groups)},
    )
    nodes = rows(cursor)
    if not nodes:
        yield Obstacle(
            f"no management node is mapped to {_groups(ours)}, so no slot is used: map its group on the web page "
            "(Management Nodes, mapping)",
            True,
        )
        return
    ready = [node for node in nodes if node["state"] != "maintenance" and not node["is_silent"]]
    if not ready:
        names = ", ".join(node["hostname"] for node in nodes)
        yield Obstacle(
            f"no management node of the slots is at work ({names}: in maintenance, or vcld has not checked in for 5 "
            "minutes), so no slot is offered: start vcld",
            True,
        )
    for node in nodes:
        if node["public"] == "static":
            yield Obstacle(
                f"{node['hostname']} gives out static public addresses, and slots have none: set its public NIC "
                "configuration to DHCP, or write each slot's IPaddress by hand"
            )


def _privileges(cursor: Cursor, ours: _Ours) -> Iterator[Obstacle]:
    """Somebody must hold imageCheckOut or imageAdmin where a group of the slots is `available`; both cascade.

    Privileges that are blocked further down are not looked at.
    """
    cursor.execute(
        "WITH RECURSIVE up AS (SELECT id AS node, id AS above FROM privnode UNION "
        "SELECT up.node, p.parent FROM up JOIN privnode p ON p.id = up.above), "
        "offered AS (SELECT up.node FROM up JOIN resourcepriv a ON a.privnodeid = up.above AND a.type = 'available' "
        "AND a.resourcegroupid IN %(groups)s WHERE up.node = up.above OR EXISTS (SELECT 1 FROM resourcepriv x "
        "WHERE x.privnodeid = a.privnodeid AND x.resourcegroupid = a.resourcegroupid AND x.type = 'cascade')), "
        "taken AS (SELECT up.node FROM up JOIN userpriv u ON u.privnodeid = up.above JOIN userprivtype t "
        "ON t.id = u.userprivtypeid AND t.name IN ('imageCheckOut', 'imageAdmin') WHERE up.node = up.above OR EXISTS "
        "(SELECT 1 FROM userpriv y JOIN userprivtype z ON z.id = y.userprivtypeid AND z.name = 'cascade' "
        "WHERE y.privnodeid = u.privnodeid AND y.userid <=> u.userid AND y.usergroupid <=> u.usergroupid)) "
        "SELECT EXISTS (SELECT 1 FROM offered JOIN taken ON taken.node = offered.node) AS is_offered",
        {"groups": _some(ours.words.groups)},
    )
    (row,) = rows(cursor)
    if not row["is_offered"]:
        yield Obstacle(
            f"nobody may check out images where {_groups(ours)} are available: grant 'available' on one of them at a "
            "node of VCL's privileges where users have imageCheckOut",
            True,
        )


def _schedule(cursor: Cursor, ours: _Ours) -> Iterator[Obstacle]:
    cursor.execute(
        "SELECT start, end FROM scheduletimes WHERE scheduleid = %s ORDER BY start, end", (ours.words.schedule,)
    )
    covered = 0
    for row in rows(cursor):
        if row["start"] <= covered:
            covered = max(covered, row["end"])
    if covered < _WEEK_MINUTES:
        yield Obstacle(
            f"schedule {ours.rules.schedule!r} does not cover the whole week: outside of its times no slot is offered",
            covered == 0,
        )


_WEEK_MINUTES = 7 * 24 * 60


def _image_columns(cursor: Cursor, ours: _Ours) -> Iterator[Obstacle]:
    asked = [
        (
            "i.platformid <> %(platform)s",
            "are for another platform than the slots' i386, so no slot is offered for them: change their platform",
        ),
        (
            "i.minram > %(ram)s OR i.minprocnumber > %(cpus)s",
            f"need more than an idle slot shows ({ours.shape.ram_mb} MB, {ours.shape.cpus} vCPUs: what the largest "
            "empty host takes), so no slot is offered for them",
        ),
        (
            "i.minprocspeed > %(procspeed)s",
            f"need a faster CPU than [slots] procspeed = {ours.rules.procspeed}, so no slot is offered for them",
        ),
        (
            "i.minnetwork > %(network)s",
            f"need a faster network than [slots] network = {ours.rules.network}, so no slot is offered for them",
        ),
        (
            "o.minram > i.minram",
            "get more RAM than VCL counts for them (their OS asks for more than the image does): raise the images' "
            "minimum RAM to their OS's, or their loads may fail where VCL saw room",
        ),
    ]
    values = {
        "platform": ours.words.platform,
        "ram": ours.shape.ram_mb,
        "cpus": ours.shape.cpus,
        "procspeed": ours.rules.procspeed,
        "network": ours.rules.network,
    }
    for condition, text in asked:
        names = _images(cursor, ours, condition, values)
        if names:
            yield Obstacle(f"{_listed(names)} {text}")


def _profile(cursor: Cursor, ours: _Ours) -> Iterator[Obstacle]:
    cursor.execute("SELECT profilename FROM vmprofile WHERE id = %s AND secretid IS NOT NULL", (ours.words.profile,))
    for row in rows(cursor):
        yield Obstacle(
            f"the VM host profile {row['profilename']!r} has a password of its own, for which VCL wants a key of every "
            "management node: empty it on the web page, we do not use it"
        )


def _strict_mode(cursor: Cursor, ours: _Ours) -> Iterator[Obstacle]:
    """VCL's INSERT into its table of hosts fails there if the first host that it meets has no computer."""
    cursor.execute(
        "SELECT h.hostname, @@GLOBAL.sql_mode AS mode, COUNT(c.id) AS computers FROM vmhost v "
        "JOIN computer h ON h.id = v.computerid JOIN state s ON s.id = h.stateid AND s.name = 'vmhostinuse' "
        "LEFT JOIN computer c ON c.vmhostid = v.id GROUP BY v.id, h.hostname ORDER BY v.id LIMIT 1"
    )
    for row in rows(cursor):
        if "STRICT" in row["mode"] and not row["computers"]:
            yield Obstacle(
                f"{row['hostname']}, VCL's first VM host, has no VM, and the database is in strict mode: VCL's check "
                "of the hosts' RAM fails then; run the web front end's database without STRICT_TRANS_TABLES"
            )


_QUESTIONS: Sequence[Callable[[Cursor, _Ours], Iterator[Obstacle]]] = (
    _no_install_type,
    _unmapped_images,
    _management_nodes,
    _privileges,
    _schedule,
    _image_columns,
    _profile,
    _strict_mode,
)


def _images(cursor: Cursor, ours: _Ours, condition: str, values: dict[str, Any]) -> list[str]:
    """Names of the images that esxprov could provision and for which a condition is true."""
    cursor.execute(
        "SELECT i.name FROM image i JOIN OS o ON o.id = i.OSid JOIN OSinstalltype k ON k.name = o.installtype "
        "JOIN provisioningOSinstalltype e ON e.OSinstalltypeid = k.id AND e.provisioningid = %(esxprov)s "
        f"WHERE i.deleted = 0 AND i.name <> 'noimage' AND ({condition}) ORDER BY i.name",
        values | {"esxprov": ours.words.esxprov},
    )
    return [row["name"] for row in rows(cursor)]


def _some(groups: Sequence[int]) -> tuple[int, ...]:
    """IN () is no SQL."""
    return tuple(groups) or (0,)


def _groups(ours: _Ours) -> str:
    return "the groups " + ", ".join(ours.rules.groups) if ours.rules.groups else "a group (the slots are in none)"


_SHOWN = 4


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more images"
