"""The rows by which VCL knows the engine: module, provisioning, and the install type of the images it can run.

Every INSERT names each column that has no default, so that strict and non-strict SQL mode store the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from esxprov.database import Cursor, Database
from esxprov.errors import ConfigurationError

PACKAGE = "VCL::Module::Provisioning::esxprov"


@dataclass(frozen=True, slots=True)
class Row:
    """One row. `find` is a SELECT that gives it if it is there; `insert` does nothing if it is."""

    what: str
    find: str
    insert: str
    delete: str


ROWS = (
    Row(
        "module provisioning_esxprov",
        f"SELECT id FROM module WHERE name = 'provisioning_esxprov' AND perlpackage = '{PACKAGE}'",
        "INSERT INTO module (name, prettyname, description, perlpackage)\n"
        f"  SELECT 'provisioning_esxprov', 'ESX (esxprov) Provisioning Module', '', '{PACKAGE}'\n"
        "  FROM DUAL WHERE NOT EXISTS (SELECT 1 FROM module WHERE name = 'provisioning_esxprov')",
        f"DELETE FROM module WHERE name = 'provisioning_esxprov' AND perlpackage = '{PACKAGE}'",
    ),
    Row(
        "provisioning esxprov",
        "SELECT p.id FROM provisioning p JOIN module m ON m.id = p.moduleid "
        "WHERE p.name = 'esxprov' AND m.name = 'provisioning_esxprov'",
        "INSERT INTO provisioning (name, prettyname, moduleid)\n"
        "  SELECT 'esxprov', 'ESX (esxprov)', m.id FROM module m WHERE m.name = 'provisioning_esxprov'\n"
        "  AND NOT EXISTS (SELECT 1 FROM provisioning WHERE name = 'esxprov')",
        "DELETE FROM provisioning WHERE name = 'esxprov'",
    ),
    Row(
        "provisioningOSinstalltype esxprov, vmware",
        "SELECT p.id FROM provisioningOSinstalltype x JOIN provisioning p ON p.id = x.provisioningid "
        "JOIN OSinstalltype t ON t.id = x.OSinstalltypeid WHERE p.name = 'esxprov' AND t.name = 'vmware'",
        "INSERT INTO provisioningOSinstalltype (provisioningid, OSinstalltypeid)\n"
        "  SELECT p.id, t.id FROM provisioning p, OSinstalltype t WHERE p.name = 'esxprov' AND t.name = 'vmware'\n"
        "  AND NOT EXISTS (SELECT 1 FROM provisioningOSinstalltype x"
        " WHERE x.provisioningid = p.id AND x.OSinstalltypeid = t.id)",
        "DELETE x FROM provisioningOSinstalltype x JOIN provisioning p ON p.id = x.provisioningid "
        "WHERE p.name = 'esxprov'",
    ),
)


def as_sql() -> str:
    """A script that may be run again at any time, for those who let nobody else write into VCL's tables."""
    statements = "".join(f"{row.insert};\n" for row in ROWS)
    return f"-- What VCL's tables need so that vcld loads the shim. May be run again, in any SQL mode.\n{statements}"


@dataclass(frozen=True, slots=True)
class Step:
    """A row, and whether it was there before."""

    what: str
    was_there: bool


def registered(database: Database) -> list[Step]:
    """What is there. ConfigurationError if a row of ours belongs to somebody else."""
    return database.run(_found)


def register(database: Database) -> list[Step]:
    """Insert what is missing, all or nothing. ConfigurationError if VCL's tables are not as they must be."""

    def work(cursor: Cursor) -> list[Step]:
        before = _found(cursor, locked=True)
        for row in ROWS:
            cursor.execute(row.insert)
        for step in _found(cursor):
            if not step.was_there:
                raise ConfigurationError(f"VCL's database did not keep the row of {step.what}: nothing was changed")
        return before

    return database.run(work)


def unregister(database: Database, *, dry_run: bool = False) -> list[Step]:
    """Delete what `register` inserts, all or nothing.

    ConfigurationError, with the names, while computers have the engine.
    """

    def work(cursor: Cursor) -> list[Step]:
        before = _found(cursor, locked=not dry_run)
        _refuse_used(cursor)
        for row in reversed(ROWS if not dry_run else ()):
            cursor.execute(row.delete)
        return before

    return database.run(work)


def _found(cursor: Cursor, *, locked: bool = False) -> list[Step]:
    _refuse_other_tables(cursor)
    # Two at once: the second waits here, and then finds what the first has done.
    cursor.execute(f"SELECT id FROM OSinstalltype WHERE name = 'vmware'{' FOR UPDATE' if locked else ''}")
    if cursor.fetchone() is None:
        raise ConfigurationError("VCL's table OSinstalltype has no row vmware: load VCL's mysql/vcl.sql first")
    _refuse_foreign(cursor)
    steps = []
    for row in ROWS:
        cursor.execute(row.find)
        steps.append(Step(row.what, cursor.fetchone() is not None))
    return steps


def _refuse_other_tables(cursor: Cursor) -> None:
    cursor.execute(
        "SELECT COUNT(*) AS tables, DATABASE() AS name FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() "
        "AND TABLE_NAME IN ('module', 'provisioning', 'provisioningOSinstalltype', 'OSinstalltype', 'computer')"
    )
    found = cursor.fetchone()
    if found and found["tables"] < 5:
        raise ConfigurationError(
            f"the database {found['name']} has not VCL's tables, or its user may not see them: "
            "see [database] name and user, or load VCL's mysql/vcl.sql first"
        )


def _refuse_foreign(cursor: Cursor) -> None:
    cursor.execute("SELECT perlpackage FROM module WHERE name = 'provisioning_esxprov'")
    module = cursor.fetchone()
    if module and module["perlpackage"] != PACKAGE:
        raise ConfigurationError(
            f"VCL's module provisioning_esxprov loads {module['perlpackage']}, expected {PACKAGE}: "
            "correct its perlpackage, or delete that row"
        )
    cursor.execute(
        "SELECT m.name FROM provisioning p JOIN module m ON m.id = p.moduleid "
        "WHERE p.name = 'esxprov' AND m.name <> 'provisioning_esxprov'"
    )
    engine = cursor.fetchone()
    if engine:
        raise ConfigurationError(
            f"VCL's provisioning engine esxprov belongs to module {engine['name']}, expected provisioning_esxprov: "
            "rename that engine"
        )


def _refuse_used(cursor: Cursor) -> None:
    cursor.execute(
        "SELECT c.hostname, c.deleted FROM computer c JOIN provisioning p ON p.id = c.provisioningid "
        "WHERE p.name = 'esxprov' ORDER BY c.deleted, c.hostname"
    )
    users = list(cursor.fetchall())
    if not users:
        return
    names = ", ".join(f"{one['hostname']}{' (deleted)' if one['deleted'] else ''}" for one in users[:5])
    more = f" and {len(users) - 5} more" if len(users) > 5 else ""
    raise ConfigurationError(
        f"the provisioning engine esxprov is that of {names}{more}: give them another one first, "
        "also those that are deleted: VCL keeps their rows"
    )
