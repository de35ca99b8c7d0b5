"""What must stand in VCL's own tables: our module, each pool's profile, this management node."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from esxprov import layout
from esxprov.config import Config
from esxprov.database import Cursor
from esxprov.doctor.finding import Finding, ok, warn, wrong
from esxprov.doctor.patient import Patient
from esxprov.errors import ProvisioningError
from esxprov.model import Pool

CHECKS = ("vcl.rows", "vcl.profile", "vcl.node")

CHECKIN_S = 300
"""VCL's front end passes over a management node that has not been heard of for so long."""

_MODULE = "VCL::Module::Provisioning::esxprov"

_ROWS = """
SELECT m.perlpackage AS package, p.id AS provisioning, t.id AS install
FROM (SELECT 'provisioning_esxprov' AS name) w LEFT JOIN module m ON m.name = w.name
LEFT JOIN provisioning p ON p.name = 'esxprov' AND p.moduleid = m.id
LEFT JOIN provisioningOSinstalltype x ON x.provisioningid = p.id
LEFT JOIN OSinstalltype t ON t.id = x.OSinstalltypeid AND t.name = 'vmware'
ORDER BY t.id IS NULL LIMIT 1
"""

_NODE = """
SELECT n.hostname, s.name AS state, n.lastcheckin, TIMESTAMPDIFF(SECOND, n.lastcheckin, NOW()) AS age_s
FROM managementnode n JOIN state s ON s.id = n.stateid
WHERE SUBSTRING_INDEX(n.hostname, '.', 1) = %s AND s.name <> 'deleted'
ORDER BY n.lastcheckin DESC LIMIT 1
"""


def look(patient: Patient) -> Iterator[Finding]:
    """These do not need each other."""
    yield _rows(patient.database.single(_module))
    for pool in patient.config.pools.values():
        yield _profile(patient, pool)
    yield _node(patient.config, patient.database.single(lambda cursor: _ask_node(cursor, patient.config)))


def _module(cursor: Cursor) -> dict[str, Any]:
    cursor.execute(_ROWS)
    row = cursor.fetchone()
    assert row is not None
    return row


def _rows(row: dict[str, Any]) -> Finding:
    missing = ""
    if row["package"] != _MODULE:
        missing = f"the row of module with perlpackage {_MODULE}"
    elif row["provisioning"] is None:
        missing = "the row of provisioning named esxprov, with that module"
    elif row["install"] is None:
        missing = "the row of provisioningOSinstalltype for esxprov and vmware"
    if missing:
        text = f"VCL does not know the module: {missing} is missing"
        return wrong("vcl.rows", text, "esxprov vcl register")
    return ok("vcl.rows", "VCL knows the module")


def _profile(patient: Patient, pool: Pool) -> Finding:
    profile = patient.profile(pool)
    cure = f"correct it under Virtual Hosts > VM Host Profiles, or profile in [pool {pool.name}]"
    if profile is None:
        text = f"VCL has no VM host profile {pool.profile!r}, which [pool {pool.name}] names"
        return wrong("vcl.profile", text, cure)
    try:
        layout.of(pool, profile)
    except ProvisioningError as error:
        return wrong("vcl.profile", error.message, cure)
    if not profile.networks or not profile.networks[0]:
        return wrong("vcl.profile", f"VM host profile {profile.name!r} names no private network", cure)
    return ok("vcl.profile", f"pool {pool.name}: profile {profile.name!r} names datastore and networks")


def _ask_node(cursor: Cursor, config: Config) -> dict[str, Any] | None:
    cursor.execute(_NODE, (config.service.management_node,))
    return cursor.fetchone()


def _node(config: Config, row: dict[str, Any] | None) -> Finding:
    node = config.service.management_node
    if row is None:
        cure = "set [service] management_node to the short name of a management node, or add it in VCL's web front end"
        return wrong("vcl.node", f"VCL has no management node with the short name {node!r}", cure)
    name = row["hostname"]
    if row["state"] != "available":
        cure = "set it to available under Management Nodes in VCL's web front end"
        return warn("vcl.node", f"management node {name} is in state {row['state']}: it is given no reservations", cure)
    if row["lastcheckin"] is None or row["age_s"] > CHECKIN_S:
        since = "never" if row["lastcheckin"] is None else f"for {row['age_s']} s not"
        text = f"vcld of {name} has {since} checked in: the front end passes it over"
        return warn("vcl.node", text, "systemctl start vcld")
    return ok("vcl.node", f"management node {name} is available, vcld checked in {row['age_s']} s ago")
