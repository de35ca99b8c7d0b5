"""Our own tables in VCL's database: numbered SQL files, applied in order, each once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from importlib import resources

from esxprov.database import Cursor, Database
from esxprov.errors import ConfigurationError

_FILE = re.compile(r"(\d{4})_(\w+)\.sql\Z")


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file. `statements` are in the order of the file."""

    version: int
    name: str
    statements: tuple[str, ...]


def migrations() -> tuple[Migration, ...]:
    """All migrations this program knows, oldest first."""
    found = []
    for entry in resources.files("esxprov").joinpath("share", "schema").iterdir():
        matched = _FILE.match(entry.name)
        if matched:
            found.append(Migration(int(matched[1]), matched[2], _statements(entry.read_text(encoding="utf-8"))))
    return tuple(sorted(found, key=lambda migration: migration.version))


def _statements(text: str) -> tuple[str, ...]:
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("--"))
    return tuple(part.strip() for part in re.split(r";\s*$", code, flags=re.MULTILINE) if part.strip())


def applied(database: Database) -> int:
    """The newest version in the database, 0 if our tables are not there."""

    def ask(cursor: Cursor) -> int:
        cursor.execute("SHOW TABLES LIKE 'esxprov\\_schema'")
        if cursor.fetchone() is None:
            return 0
        cursor.execute("SELECT COALESCE(MAX(version), 0) AS version FROM esxprov_schema")
        row = cursor.fetchone()
        return int(row["version"]) if row else 0

    return database.run(ask)


def upgrade(database: Database) -> list[Migration]:
    """Apply what is missing and return it. May be run again at any time, also after it was killed half way.

    MariaDB commits each DDL statement by itself, so every migration is written to be repeatable (IF NOT EXISTS) and
    its version is recorded after its last statement.
    """
    database.run(_create_version_table)
    known = applied(database)
    refuse_newer(known)
    missing = [migration for migration in migrations() if migration.version > known]
    for migration in missing:
        database.run(partial(_apply, migration=migration))
    return missing


def check(database: Database) -> None:
    """Raises ConfigurationError, with the command to run, unless the tables are exactly those of this program."""
    known, wanted = applied(database), migrations()[-1].version
    refuse_newer(known)
    if known < wanted:
        raise ConfigurationError(
            f"the esxprov tables in {database.config.address} have version {known}, this program needs {wanted}: "
            "run 'esxprov db upgrade'"
        )


def refuse_newer(known: int) -> None:
    """Raises ConfigurationError if tables of that version are those of a newer program."""
    wanted = migrations()[-1].version
    if known > wanted:
        raise ConfigurationError(
            f"the esxprov tables have version {known}, newer than the {wanted} of this program: "
            "install the newer esxprov"
        )


def _create_version_table(cursor: Cursor) -> None:
    cursor.execute(
        "CREATE TABLE IF NOT EXISTS esxprov_schema (version INT UNSIGNED NOT NULL PRIMARY KEY, "
        "name VARCHAR(64) NOT NULL, applied_at DATETIME NOT NULL) ENGINE=InnoDB"
    )


def _apply(cursor: Cursor, migration: Migration) -> None:
    for statement in migration.statements:
        cursor.execute(statement)
    cursor.execute(
        "INSERT IGNORE INTO esxprov_schema (version, name, applied_at) VALUES (%s, %s, UTC_TIMESTAMP())",
        (migration.version, migration.name),
    )
