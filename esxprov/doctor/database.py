"""VCL's database: the way in, our tables, the SQL mode, and whether we may do what the service does."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from esxprov import schema
from esxprov.database import Cursor
from esxprov.doctor import vcl
from esxprov.doctor.finding import Finding, ok, warn, wrong
from esxprov.doctor.patient import Patient
from esxprov.errors import ConfigurationError, DependencyUnavailable

CHECKS = ("database.login", "database.schema", "database.rights", "database.mode", *vcl.CHECKS)
"""In the order they are looked at."""

READ = (
    "OS",
    "OSinstalltype",
    "blockComputers",
    "blockRequest",
    "blockTimes",
    "computer",
    "image",
    "imagerevision",
    "log",
    "managementnode",
    "module",
    "provisioning",
    "provisioningOSinstalltype",
    "request",
    "reservation",
    "state",
    "sublog",
    "vmhost",
    "vmprofile",
)
"""VCL's tables that the service reads."""

WRITTEN = {"computer": ("UPDATE", "privateIPaddress")}
"""VCL's tables that the service writes, with the verb and the column."""

_VERBS = ("SELECT", "INSERT", "UPDATE", "DELETE")


def look(patient: Patient) -> Iterator[Finding]:
    """All of it needs the login."""
    database = patient.database
    try:
        database.single(lambda cursor: cursor.execute("SELECT 1"))
    except DependencyUnavailable as error:
        yield wrong("database.login", str(error), "correct [database] in esxprov.conf, or start MariaDB")
        return
    yield ok("database.login", f"user {database.config.user} gets into {database.config.address}")
    try:
        schema.check(database)
    except ConfigurationError as error:
        cure = "esxprov db upgrade" if "db upgrade" in str(error) else "install the newer esxprov"
        yield wrong("database.schema", str(error), cure)
    else:
        yield ok("database.schema", f"our tables have version {schema.migrations()[-1].version}")
        yield from _rights(patient)
    yield _mode(patient)
    yield from vcl.look(patient)


def _mode(patient: Patient) -> Finding:
    row = patient.database.single(partial(_one, sql="SELECT @@GLOBAL.sql_mode AS mode"))
    strict = [word for word in row["mode"].split(",") if word.startswith("STRICT_")]
    if not strict:
        return ok("database.mode", "the SQL mode is not strict, as VCL wants it")
    text = f"the SQL mode has {strict[0]}, with which some statements of VCL fail (none of ours)"
    return warn("database.mode", text, "sql_mode = NO_ENGINE_SUBSTITUTION in MariaDB's [mysqld] section")


def _rights(patient: Patient) -> Iterator[Finding]:
    """Each is tried on no row."""
    database = patient.database
    columns = database.single(_columns)
    refused: dict[str, list[str]] = {}
    wanted = [(table, "SELECT", "") for table in READ]
    wanted += [(table, verb, column) for table, (verb, column) in WRITTEN.items()]
    wanted += [(table, verb, column) for table, column in columns.items() for verb in _VERBS]
    for table, verb, column in wanted:
        try:
            database.run(partial(_try, sql=_statement(table, verb, column)))
        except DependencyUnavailable as error:
            if "denied" not in str(error):
                yield wrong("database.rights", str(error), "")
                return
            refused.setdefault(verb, []).append(table)
    whom = database.single(partial(_one, sql="SELECT CURRENT_USER() AS me"))["me"]
    user, _, host = whom.rpartition("@")
    for verb, tables in refused.items():
        where = f"{database.config.name}.{tables[0] if len(tables) == 1 else '*'}"
        cure = f"GRANT {verb} ON {where} TO '{user}'@'{host}';   # in mariadb, as its administrator"
        yield wrong("database.rights", f"user {whom} may not {verb} in {', '.join(tables)}", cure)
    if not refused:
        yield ok("database.rights", f"user {whom} may do all that is done to {len(READ) + len(columns)} tables")


def _statement(table: str, verb: str, column: str) -> str:
    return {
        "SELECT": f"SELECT 1 FROM {table} WHERE 1 = 0",
        "INSERT": f"INSERT INTO {table} SELECT * FROM {table} WHERE 1 = 0",
        "UPDATE": f"UPDATE {table} SET {column} = {column} WHERE 1 = 0",
        "DELETE": f"DELETE FROM {table} WHERE 1 = 0",
    }[verb]


def _columns(cursor: Cursor) -> dict[str, str]:
    """Our tables, each with its first column."""
    cursor.execute(
        "SELECT TABLE_NAME AS name, COLUMN_NAME AS first FROM information_schema.COLUMNS WHERE "
        "TABLE_SCHEMA = DATABASE() AND TABLE_NAME LIKE 'esxprov\\_%' AND ORDINAL_POSITION = 1 ORDER BY TABLE_NAME"
    )
    return {row["name"]: row["first"] for row in cursor.fetchall()}


def _try(cursor: Cursor, sql: str) -> None:
    cursor.execute(sql)


def _one(cursor: Cursor, sql: str) -> dict[str, str]:
    cursor.execute(sql)
    row = cursor.fetchone()
    assert row is not None, sql
    return row
