"""A private MariaDB with VCL's tables: our own schema, or VCL's if VCL_SRC names an extracted source of it."""

from __future__ import annotations

import os
from pathlib import Path

import pymysql
from pymysql.cursors import DictCursor

from tests.testbed.ports import free_ports
from tests.testbed.processes import Child, run
from tests.testbed.server import Server

PASSWORD = "database-secret"
"""Of both users; the server is on loopback and lives as long as its tests."""

USERS = ("vcl", "esxprov")
_SCHEMA = Path(__file__).parent / "schema"
_STRICT = "STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_AUTO_CREATE_USER,NO_ENGINE_SUBSTITUTION"
_NOT_STRICT = "NO_ENGINE_SUBSTITUTION"
_START_TIMEOUT_S = 30.0


class MariaDb(Server):
    """Database `vcl`; users `vcl` and `esxprov`, on `socket` and on `port`. `strict` is MariaDB's default SQL mode;
    VCL's web front end needs the other one.
    """

    name = "mariadb"
    host = "127.0.0.1"

    def __init__(self, directory: Path, *, strict: bool = True) -> None:
        super().__init__(directory)
        (self.port,) = free_ports(1)
        self.sql_mode = _STRICT if strict else _NOT_STRICT
        self.socket = self.scratch.path / "sql"
        self._data = self.scratch.path / "data"
        self._as_root = ["--user=root"] if os.geteuid() == 0 else []

    def finish(self) -> None:
        super().finish()
        users = (
            f"CREATE USER {user}@'%' IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON vcl.* TO {user}@'%';" for user in USERS
        )
        self.execute(f"CREATE DATABASE vcl; {' '.join(users)}", database="")
        self._fill("vcl")

    def begin_anew(self, database: str = "vcl") -> None:
        """A database with VCL's tables as they are on the first day, whatever was in it."""
        self.execute(f"DROP DATABASE IF EXISTS {database}; CREATE DATABASE {database}", database="")
        self._fill(database)

    def _fill(self, database: str) -> None:
        source = os.environ.get("VCL_SRC")
        for file in [Path(source) / "mysql/vcl.sql"] if source else [_SCHEMA / "vcl.sql", _SCHEMA / "seed.sql"]:
            self.execute(file.read_text(encoding="utf-8"), database)

    def execute(self, sql: str, database: str = "vcl") -> None:
        """Run a script as the administrator. TestbedError with the server's message if a statement fails."""
        # By stdin: the client's own `source` goes on after an error and ends well.
        run(["mariadb", "--no-defaults", "-uroot", f"--socket={self.socket}", database], text=sql)

    def connect(self, user: str = "vcl", database: str = "vcl") -> pymysql.connections.Connection[DictCursor]:
        """A connection in autocommit."""
        return pymysql.connect(
            unix_socket=str(self.socket),
            user=user,
            password=PASSWORD,
            database=database,
            autocommit=True,
            cursorclass=DictCursor,
        )

    def _prepare(self) -> None:
        install = ["mariadb-install-db", "--no-defaults", f"--datadir={self._data}", *self._as_root, "--skip-test-db"]
        install += [self._tmpdir]
        run([*install, "--auth-root-authentication-method=normal", "--skip-name-resolve", "--innodb-log-file-size=4M"])

    def _spawn(self) -> Child:
        command = ["mariadbd", "--no-defaults", *self._options()]
        return Child(command, self.log, ready=r"mariadbd: ready for connections")

    def _options(self) -> list[str]:
        options = [*self._as_root, f"--datadir={self._data}", f"--socket={self.socket}"]
        options += [f"--pid-file={self.scratch.path}/pid", f"--port={self.port}", f"--bind-address={self.host}"]
        options += ["--skip-name-resolve", "--innodb-buffer-pool-size=32M", "--innodb-log-file-size=4M"]
        # No fsync anywhere: what is killed here is the process, never the machine.
        options += ["--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0", "--innodb-flush-method=nosync"]
        return [*options, self._tmpdir, "--skip-log-bin", "--performance-schema=0", f"--sql-mode={self.sql_mode}"]

    @property
    def _tmpdir(self) -> str:
        """Its own: a server that starts deletes the temporary tables that it finds, in /tmp those of its neighbours."""
        return f"--tmpdir={self.scratch.path}"

    def _wait(self) -> None:
        self.child.wait_until_ready(_START_TIMEOUT_S)
