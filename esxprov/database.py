"""The only place that imports PyMySQL: connections, transactions, and what is asked of VCL's own tables."""

from __future__ import annotations

import queue
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import pymysql
from pymysql.constants import CLIENT
from pymysql.cursors import DictCursor

from esxprov.errors import DependencyUnavailable
from esxprov.model import CatalogueImage, Profile, Promised, Revision

T = TypeVar("T")
Cursor = DictCursor
Connection: TypeAlias = "pymysql.connections.Connection[DictCursor]"

_LOST = {2002, 2003, 2006, 2013, 2055, 1927, 1053, 1152, 1158, 1159, 1160, 1161, 4031}
"""Client and server errors that mean "no connection": refused, gone away, lost in mid-query, killed, shutting down."""

_REFUSED = {1021, 1030, 1040, 1044, 1047, 1114, 1142, 1143, 1180, 1203, 1226, 1290, 1317, 1792, 1836, 1969}
"""It answers, but cannot do it: disk or table full, no privilege, too many connections, read only, out of its Galera
cluster (1180: that happened in the middle of a commit), a statement that was killed.
"""

_NO_TABLE = {1054, 1146}
"""Unknown column, no such table: ours were not made, or by another version."""

_AGAIN = {1213, 1205, 1020}
"""Deadlock (on Galera also a certification failure), lock wait timeout, changed since read: repeat the transaction."""

_UNMET = {1690}
"""A number out of range, which is what FAILS makes."""

_PATIENCE_S = 120.0
"""So long a transaction is repeated. Time, not attempts: on a Galera cluster a row lock holds on one node, and whoever
wants the row that the other nodes change all the time may lose forty times in a row, in half a minute.
"""

_SILENT_S = 20
"""A transaction that says nothing for so long is rolled back by MariaDB: a service that is paused in the middle of one
would hold its locks, and up all others, for as long as it sleeps. MySQL has no such setting and skips the comment.
"""

_TRUSTED_IDLE_S = 5.0
"""A connection used this recently is used again without asking the server whether it is still there."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement and the values of its placeholders."""

    sql: str
    values: Sequence[Any] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """To a statement: the id that LAST_INSERT_ID was given, 0 if none was, and its rows."""

    last_id: int
    rows: list[dict[str, Any]]


BEGIN = Statement("SAVEPOINT begun")
COMMIT = Statement("RELEASE SAVEPOINT begun"), Statement("COMMIT")
"""The first and the last of a transaction whose statements are sent in packets.

When Galera rolls a transaction back for the sake of another node while a packet is being executed, the rest of that
packet is a new transaction, and a mere COMMIT would commit that half. But the savepoint has gone with the old one, and
statements behind one that fails are not executed.
"""

FAILS = "(~0 + 1)"
"""An expression that, where its value is needed, makes a statement fail with Unmet, in every SQL mode."""


class Unmet(Exception):
    """A statement found that what it was to change is not as expected: nothing of its transaction was done."""


def matched(count: int) -> Statement:
    """To be sent behind a statement that changes rows: fails with Unmet unless those were so many."""
    # Not DO, which forgives errors, nor SELECT, whose answer takes long to read.
    return Statement(f"SET @unmet = IF(ROW_COUNT() = {count}, 0, {FAILS})")


def together(cursor: Cursor, statements: Sequence[Statement]) -> list[Answer]:
    """Send statements in one packet. They are executed in their order, up to the first one that fails; that is raised.

    So a COMMIT at the end is done if all went well, and whoever holds a lock waits for no answer in between.
    """
    cursor.execute(";".join([cursor.mogrify(one.sql, one.values or None) for one in statements]))
    answers = [Answer(cursor.lastrowid or 0, rows(cursor))]
    while cursor.nextset():
        answers.append(Answer(cursor.lastrowid or 0, rows(cursor)))
    return answers


_HELD = {1205, 3572}
"""Of a statement with NOWAIT, where another transaction holds a row (MariaDB, MySQL)."""


def has_locked(cursor: Cursor, sql: str, values: Sequence[Any]) -> bool:
    """Whether a SELECT ... FOR UPDATE NOWAIT has locked its rows; false if another transaction holds one of them."""
    try:
        cursor.execute(sql, values)
    except pymysql.err.Error as error:
        if error.args and error.args[0] in _HELD:
            return False
        raise
    return True


@dataclass(frozen=True, slots=True)
class DatabaseConfig:
    """Where VCL's database is. `unix_socket` wins over host and port; `ca_file` switches on verified TLS."""

    host: str = "127.0.0.1"
    port: int = 3306
    unix_socket: str | None = None
    user: str = "vcl"
    password: str = field(default="", repr=False)
    name: str = "vcl"
    ca_file: Path | None = None

    @property
    def address(self) -> str:
        """For error messages."""
        return f"{self.name} at {self.unix_socket or f'{self.host}:{self.port}'}"


class Database:
    """A small pool of connections; every unit of work is one READ COMMITTED transaction, or one statement.

    READ COMMITTED because decisions are made on what has been committed now, not on a snapshot from the first read
    (and because MariaDB 11.6 refuses to update a row changed since a REPEATABLE READ snapshot).
    """

    def __init__(self, config: DatabaseConfig) -> None:
        self.config = config
        # By autocommit: a transaction that must be begun by a statement of its own costs one more round trip.
        self._idle: dict[bool, queue.LifoQueue[tuple[Connection, float]]] = {
            True: queue.LifoQueue(),
            False: queue.LifoQueue(),
        }

    def run(self, work: Callable[[Cursor], T], *, commits: bool = False) -> T:
        """The result of `work`, done in one transaction, repeated whole on a deadlock. `commits`: its last statement
        is COMMIT.

        Raises Unmet if a statement does, and DependencyUnavailable if the database does not answer, the connection is
        lost, or it cannot do such work at all (read only, full, no privilege, no table). Lost at the commit means that
        the outcome is unknown: the caller looks before it does the work again.
        """

        def transaction(connection: Connection) -> T:
            with connection.cursor() as cursor:
                result = work(cursor)
            if not commits:
                connection.commit()
            return result

        return self._repeated(transaction, autocommit=False)

    def single(self, work: Callable[[Cursor], T]) -> T:
        """As `run`, for work that executes one statement: it commits by itself, in one round trip instead of two."""

        def statement(connection: Connection) -> T:
            with connection.cursor() as cursor:
                return work(cursor)

        return self._repeated(statement, autocommit=True)

    def _repeated(self, work: Callable[[Connection], T], *, autocommit: bool) -> T:
        give_up_at, pause_s = time.monotonic() + _PATIENCE_S, 0.004
        while True:
            try:
                connection = self._take(autocommit)
                try:
                    result = work(connection)
                except BaseException:
                    # Closing rolls back on the server too, and unlike ROLLBACK it cannot fail on a broken connection.
                    connection.close()
                    raise
                self._idle[autocommit].put((connection, time.monotonic()))
                return result
            except pymysql.err.Error as error:
                code = error.args[0] if error.args else 0
                if code in _LOST or isinstance(error, pymysql.err.InterfaceError):
                    raise self._unavailable(error) from error
                if code in _AGAIN and time.monotonic() < give_up_at:
                    time.sleep(pause_s)
                    pause_s = min(2 * pause_s, 0.05)
                    continue
                if code in _REFUSED | _NO_TABLE | _AGAIN:
                    raise self._refused(error, code) from error
                if code in _UNMET:
                    raise Unmet(error.args[1]) from error
                raise

    def _take(self, autocommit: bool) -> Connection:
        while True:
            try:
                connection, since = self._idle[autocommit].get_nowait()
            except queue.Empty:
                return self._connect(autocommit)
            if time.monotonic() - since < _TRUSTED_IDLE_S:
                return connection
            try:
                connection.ping(reconnect=False)
            except pymysql.err.Error:
                # The server closed it while it was idle (wait_timeout, restart): that says nothing about now.
                connection.close()
                continue
            return connection

    def _connect(self, autocommit: bool) -> Connection:
        config = self.config
        context = ssl.create_default_context(cafile=str(config.ca_file)) if config.ca_file else None
        try:
            connection: Connection = pymysql.connect(
                host=config.host,
                port=config.port,
                unix_socket=config.unix_socket,
                user=config.user,
                password=config.password,
                database=config.name,
                charset="utf8mb4",
                autocommit=autocommit,
                connect_timeout=10,
                read_timeout=60,
                write_timeout=60,
                cursorclass=DictCursor,
                # rowcount of an UPDATE = rows that matched, so that zero means "not mine", never "nothing to change"
                client_flag=CLIENT.FOUND_ROWS | CLIENT.MULTI_STATEMENTS,
                init_command="SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
                ssl=context,
                # On one machine nobody listens, and to prepare for TLS takes longer than the rest of connecting.
                ssl_disabled=config.unix_socket is not None,
            )
            with connection.cursor() as cursor:
                limit = f"/*M!100300 , SESSION idle_transaction_timeout = {_SILENT_S} */"
                cursor.execute(f"SET SESSION innodb_lock_wait_timeout = {2 * _SILENT_S} {limit}")
        except (pymysql.err.Error, OSError) as error:
            raise self._unavailable(error) from error
        return connection

    def _unavailable(self, error: Exception) -> DependencyUnavailable:
        text = error.args[1] if len(error.args) > 1 else str(error)
        return DependencyUnavailable(
            f"the database {self.config.address} does not answer user {self.config.user!r}: {text}; "
            "check [database] in esxprov.conf and that MariaDB runs"
        )

    def _refused(self, error: Exception, code: int) -> DependencyUnavailable:
        cure = "see to its privileges, its disk and its settings"
        if code in _NO_TABLE:
            cure = "run 'esxprov db upgrade'"
        elif code in _AGAIN:
            cure = f"others have changed the same rows for {_PATIENCE_S:g} s"
        return DependencyUnavailable(
            f"the database {self.config.address} refuses user {self.config.user!r}: {error.args[1]}; {cure}"
        )

    def close(self) -> None:
        """Close the idle connections; those in use are closed by their users' ends."""
        for idle in self._idle.values():
            while not idle.empty():
                idle.get_nowait()[0].close()


_CATALOGUE_S = 300.0


class VclInventory:
    """VCL's own tables: what handlers read there, and the one thing we write (ports.Inventory)."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._sizes: tuple[float, list[tuple[int, int, int]]] | None = None  # when they were read, and what

    def vmhost_id(self, host_name: str, profile_id: int) -> int | None:
        """vmhost.id of the hypervisor with that host name (full or short), preferring its row with this profile."""
        short = host_name.split(".", 1)[0]

        def ask(cursor: Cursor) -> int | None:
            cursor.execute(
                "SELECT h.id FROM vmhost h JOIN computer c ON c.id = h.computerid "
                "WHERE c.deleted = 0 AND (c.hostname = %s OR c.hostname = %s OR c.hostname LIKE %s) "
                "ORDER BY c.hostname = %s DESC, h.vmprofileid = %s DESC, h.id LIMIT 1",
                (host_name, short, _like_prefix(short + "."), host_name, profile_id),
            )
            row = cursor.fetchone()
            return int(row["id"]) if row else None

        return self._database.single(ask)

    def profile(self, name: str) -> Profile | None:
        """VCL's VM host profile of that name."""

        def ask(cursor: Cursor) -> Profile | None:
            cursor.execute(
                "SELECT id, profilename, datastorepath, vmpath, repositorypath, vmdisk, eth0generated, eth1generated, "
                "virtualswitch0, virtualswitch1, virtualswitch2, virtualswitch3 FROM vmprofile WHERE profilename = %s",
                (name,),
            )
            row = cursor.fetchone()
            return _profile(row) if row else None

        return self._database.single(ask)

    def image_sizes(self) -> list[tuple[int, int, int]]:
        """(RAM in MB, vCPUs, how often it was asked for lately, and once more) of every image VCL could ask for: the
        catalogue that placement keeps room for.

        As it was up to _CATALOGUE_S ago: it weighs hosts against each other, and no load should pay for a large site.
        """
        known, now = self._sizes, time.monotonic()
        if known is None or now - known[0] > _CATALOGUE_S:
            known = self._sizes = now, self._read_sizes()
        return known[1]

    def _read_sizes(self) -> list[tuple[int, int, int]]:

        def ask(cursor: Cursor) -> list[tuple[int, int, int]]:
            cursor.execute(_SIZES_ASKED_FOR)
            return [(int(row["ram_mb"]), int(row["cpus"]), 1 + int(row["asked"])) for row in cursor.fetchall()]

        return self._database.single(ask)

    def images(self) -> list[CatalogueImage]:
        """Every image VCL could ask for, by name."""

        def ask(cursor: Cursor) -> list[CatalogueImage]:
            cursor.execute(
                f"SELECT {_IMAGE} FROM image i JOIN OS o ON o.id = i.OSid "
                "WHERE i.deleted = 0 AND i.name <> 'noimage' ORDER BY i.name"
            )
            return [_catalogue_image(row) for row in cursor.fetchall()]

        return self._database.single(ask)

    def members(self, reservation_id: int, profile: str) -> list[Promised]:
        """What VCL gave to the request of a reservation, that one included, on computers of a VM host profile that the
        same engine provisions. Images go by the names of their revisions. Empty if VCL does not know the reservation.
        """
        return self._promised(_MEMBERS, {"reservation": reservation_id, "profile": profile})

    def promised(self, profile: str) -> list[Promised]:
        """What VCL has promised on the computers of a VM host profile, now and later, the earliest first."""
        return self._promised(_PROMISED, {"profile": profile, "states": _HOLDING})

    def set_private_address(self, computer_id: int, address: str) -> bool:
        """Write a computer's private address, and take it from any other that the same engine provisions: a lease is
        exclusive, and VCL looks computers up by address, too. False if it was known.
        """

        def write(cursor: Cursor) -> bool:
            cursor.execute("SELECT privateIPaddress FROM computer WHERE id = %s FOR UPDATE", (computer_id,))
            row = cursor.fetchone()
            if row is None or row["privateIPaddress"] == address:
                return False
            cursor.execute(
                "UPDATE computer c JOIN computer own ON own.id = %s AND own.provisioningid = c.provisioningid "
                "SET c.privateIPaddress = NULL WHERE c.privateIPaddress = %s AND c.id <> own.id AND c.deleted = 0",
                (computer_id, address),
            )
            cursor.execute("UPDATE computer SET privateIPaddress = %s WHERE id = %s", (address, computer_id))
            return True

        return self._database.run(write)

    def _promised(self, question: str, values: dict[str, Any]) -> list[Promised]:

        def ask(cursor: Cursor) -> list[Promised]:
            cursor.execute(question, values)
            return [
                Promised(
                    reservation_id=int(row["reservation_id"]),
                    group=row["promised_group"],
                    computer_id=int(row["computer_id"]),
                    image=_catalogue_image(row),
                    starts_at=int(row["starts_at"]),
                    ends_at=None if row["ends_at"] is None else int(row["ends_at"]),
                )
                for row in cursor.fetchall()
            ]

        return self._database.single(ask)

    def revisions(self) -> list[Revision]:
        """Every revision of every image that VCL knows, deleted ones too, by the names of their directories."""

        def ask(cursor: Cursor) -> list[Revision]:
            cursor.execute(_REVISIONS, {"blocks": _BLOCKS})
            return [
                Revision(
                    imagename=row["imagename"],
                    title=row["prettyname"],
                    revision=int(row["revision"]),
                    production=bool(row["production"]),
                    deleted=bool(row["deleted"]),
                    deleted_at=row["datedeleted"].isoformat() if row["datedeleted"] else None,
                    size_mb=int(row["size"]),
                    reservations=int(row["reservations"]),
                    computers=int(row["computers"]),
                )
                for row in cursor.fetchall()
            ]

        return self._database.single(ask)


_BLOCKS = ("requested", "accepted")
"""States of a block allocation that has, or will have, machines."""

_REVISIONS = """
SELECT r.imagename, i.prettyname, r.revision, r.production, r.deleted, r.datedeleted, i.size,
  (SELECT COUNT(*) FROM reservation v WHERE v.imagerevisionid = r.id)
    + (SELECT COUNT(*) FROM blockRequest b WHERE b.imageid = r.imageid AND r.production = 1 AND b.status IN %(blocks)s)
    AS reservations,
  (SELECT COUNT(*) FROM computer c WHERE c.deleted = 0 AND (c.imagerevisionid = r.id
    OR r.production = 1 AND r.imageid IN (c.currentimageid, c.nextimageid))) AS computers
FROM imagerevision r JOIN image i ON i.id = r.imageid WHERE r.imagename <> 'noimage' ORDER BY r.imagename, r.id
"""


_SIZES = "i.prettyname, GREATEST(i.minram, o.minram) AS ram_mb, GREATEST(1, i.minprocnumber) AS cpus, i.size AS disk_mb"
_IMAGE = f"i.name, {_SIZES}"

_SIZES_ASKED_FOR = f"""
SELECT {_SIZES}, COALESCE(d.asked, 0) AS asked FROM image i JOIN OS o ON o.id = i.OSid LEFT JOIN (
  SELECT s.imageid, COUNT(*) AS asked FROM log l JOIN sublog s ON s.logid = l.id
  WHERE l.start > NOW() - INTERVAL 28 DAY GROUP BY s.imageid
) d ON d.imageid = i.id
WHERE i.deleted = 0 AND i.name <> 'noimage'
"""
"""A line of sublog is one machine of a reservation. Four weeks: this term's classes, not the last one's."""

_HOLDING = (
    "new", "reserved", "classreserved", "inuse", "imageinuse", "serverinuse", "servermodified", "rebootsoft",
    "reboothard", "reinstall", "imageprep", "image", "checkpoint",
)  # fmt: skip
"""States of a request that has, or will have, its machine. A pending one counts by the state it comes from."""

_ENDLESS = "'2038-01-01'"
"""What VCL writes as the end of a server request that has none."""

_PROMISED = f"""
WITH held AS (
  SELECT v.id, q.id AS request_id, v.computerid, v.imageid, q.start, q.end
  FROM request q JOIN reservation v ON v.requestid = q.id
  JOIN state s ON s.id = q.stateid JOIN state l ON l.id = q.laststateid
  WHERE q.end > NOW() AND IF(s.name = 'pending', l.name, s.name) IN %(states)s
), promised AS (
  SELECT id AS reservation_id, CONCAT('request-', request_id) AS promised_group, computerid, imageid, start, end
  FROM held
  UNION ALL
  SELECT 0, CONCAT('block-', t.id), c.computerid, c.imageid, t.start, t.end
  FROM blockComputers c JOIN blockTimes t ON t.id = c.blockTimeid
  WHERE t.end > NOW() AND t.skip = 0 AND NOT EXISTS (
    SELECT 1 FROM held WHERE held.computerid = c.computerid AND held.start < t.end AND held.end > t.start)
)
SELECT p.reservation_id, p.promised_group, p.computerid AS computer_id, UNIX_TIMESTAMP(p.start) AS starts_at,
  IF(p.end >= {_ENDLESS}, NULL, UNIX_TIMESTAMP(p.end)) AS ends_at, {_IMAGE}
FROM promised p JOIN computer c ON c.id = p.computerid JOIN vmhost h ON h.id = c.vmhostid
JOIN vmprofile f ON f.id = h.vmprofileid JOIN image i ON i.id = p.imageid JOIN OS o ON o.id = i.OSid
WHERE f.profilename = %(profile)s ORDER BY starts_at, p.promised_group, p.reservation_id, p.computerid
"""


_MEMBERS = f"""
SELECT v.id AS reservation_id, CONCAT('request-', v.requestid) AS promised_group, v.computerid AS computer_id,
  UNIX_TIMESTAMP(q.start) AS starts_at, IF(q.end >= {_ENDLESS}, NULL, UNIX_TIMESTAMP(q.end)) AS ends_at,
  r.imagename AS name, {_SIZES}
FROM reservation mine JOIN computer own ON own.id = mine.computerid
JOIN reservation v ON v.requestid = mine.requestid JOIN request q ON q.id = v.requestid
JOIN computer c ON c.id = v.computerid AND c.provisioningid = own.provisioningid
JOIN vmhost h ON h.id = c.vmhostid JOIN vmprofile f ON f.id = h.vmprofileid
JOIN imagerevision r ON r.id = v.imagerevisionid JOIN image i ON i.id = v.imageid JOIN OS o ON o.id = i.OSid
WHERE mine.id = %(reservation)s AND f.profilename = %(profile)s ORDER BY v.id
"""


def _catalogue_image(row: dict[str, Any]) -> CatalogueImage:
    return CatalogueImage(row["name"], row["prettyname"], int(row["ram_mb"]), int(row["cpus"]), int(row["disk_mb"]))


def _profile(row: dict[str, Any]) -> Profile:
    switches = [row[f"virtualswitch{number}"] or "" for number in range(4)]
    while switches and not switches[-1]:
        switches.pop()
    return Profile(
        id=int(row["id"]),
        name=row["profilename"],
        datastore_path=row["datastorepath"],
        vm_path=row["vmpath"] or "",
        repository_path=row["repositorypath"] or "",
        disk=row["vmdisk"],
        networks=tuple(switches),
        generated_macs=(bool(row["eth0generated"]), bool(row["eth1generated"])),
    )


def _like_prefix(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"


def rows(cursor: Cursor) -> list[dict[str, Any]]:
    """All rows of the last query, as a list (PyMySQL answers an empty result with a tuple)."""
    return list(cursor.fetchall())
