"""A private Galera cluster: MariaDB servers that certify each other's transactions, on loopback."""

from __future__ import annotations

import shutil
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import Self

import pymysql
from pymysql.cursors import DictCursor

from tests.testbed.mariadb import MariaDb
from tests.testbed.ports import free_ports
from tests.testbed.vsphere import TestbedError

_JOIN_TIMEOUT_S = 30.0

# A node that is silent is put out after a second instead of five.
_EVS = "evs.keepalive_period=PT0.25S;evs.inactive_check_period=PT0.25S;evs.suspect_timeout=PT1S;"
_EVS += "evs.inactive_timeout=PT2S;evs.install_timeout=PT2S"


class GaleraNode(MariaDb):
    """One server of a cluster. `peers` are the ports on which the servers talk to each other, by number. Number 0
    founds the cluster; the others join it and get its data.
    """

    def __init__(self, directory: Path, number: int, peers: list[int]) -> None:
        super().__init__(directory)
        self._number = number
        self._peers = peers
        self._rows, self._files = free_ports(2)
        self._founds = number == 0

    def finish(self) -> None:
        if self._number == 0:
            super().finish()
        else:
            self._wait()
        self._founds = False

    def _prepare(self) -> None:
        if self._number == 0:
            super()._prepare()
        else:
            self._data.mkdir()
        if self._as_root:
            # The rsync that brings what a joining node lacks writes as this user if root has started it.
            shutil.chown(self._data, "nobody")

    def _options(self) -> list[str]:
        mine = f"{self.host}:{self._peers[self._number]}"
        provider = f"gmcast.listen_addr=tcp://{mine};ist.recv_addr={self.host}:{self._rows};gcache.size=16M;{_EVS}"
        options = ["--wsrep-on=ON", f"--wsrep-provider={_library()}", f"--wsrep-provider-options={provider}"]
        options += [f"--wsrep-cluster-address=gcomm://{','.join(f'{self.host}:{port}' for port in self._peers)}"]
        options += [f"--wsrep-node-address={mine}", f"--wsrep-node-name=node{self._number}", "--wsrep-sst-method=rsync"]
        options += [f"--wsrep-sst-receive-address={self.host}:{self._files}"]
        options += ["--binlog-format=ROW", "--innodb-autoinc-lock-mode=2"]
        return [*super()._options(), *options, *(["--wsrep-new-cluster"] if self._founds else [])]

    def administrator(self) -> pymysql.connections.Connection[DictCursor]:
        """A connection that may do everything."""
        return pymysql.connect(unix_socket=str(self.socket), user="root", cursorclass=DictCursor)

    def wait_until_ready(self) -> None:
        """Until it takes part in the cluster, after that was interrupted, and has what was committed meanwhile."""
        end = time.monotonic() + _JOIN_TIMEOUT_S
        while self.status("wsrep_ready") != "ON":
            if time.monotonic() > end:
                raise TestbedError(f"it is not back in its cluster after {_JOIN_TIMEOUT_S:g} s, see {self.log}")
            threading.Event().wait(0.05)
        self.catch_up()

    def status(self, name: str) -> str:
        """The value of one of its wsrep_... status variables."""
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute("SHOW GLOBAL STATUS LIKE %s", [name])
            row = cursor.fetchone()
            assert row is not None, name
            return str(row["Value"])

    def catch_up(self) -> None:
        """Until it has what any node has committed before."""
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute("SET SESSION wsrep_sync_wait = 1")
            cursor.execute("SELECT 1")

    def _wait(self) -> None:
        super()._wait()
        self.child.wait_for("WSREP: Synchronized with group", _JOIN_TIMEOUT_S)


class Galera:
    """`nodes`, all with database and users as a MariaDb. As a context manager it is started, and in the end removed."""

    def __init__(self, directory: Path, count: int = 3) -> None:
        peers = free_ports(count)
        self.nodes = [GaleraNode(directory / f"node{number}", number, peers) for number in range(count)]
        self._ends = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as ends:
            for node in self.nodes:
                # One after the other: a node gives its data to one joining node at a time.
                ends.enter_context(node)
            self._ends = ends.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.close()


def _library() -> Path:
    for found in Path("/usr").glob("lib*/galera*/libgalera_smm.so"):
        return found
    raise TestbedError("libgalera_smm.so is not installed: see the package galera-4")
