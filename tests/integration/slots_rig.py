"""A VCL with nothing but what an admin enters on the first day, and a pool whose hypervisors are said, not asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pymysql
from pymysql.cursors import DictCursor

from esxprov import schema
from esxprov.database import Database, DatabaseConfig, VclInventory
from esxprov.errors import ProvisioningError
from esxprov.model import Host, HostKey, Nic, Pool, PowerState, SlotRules, Vm
from esxprov.ports import Look
from esxprov.slots.sync import Outcome, Pruned, Slots
from tests.testbed.mariadb import PASSWORD, MariaDb
from tests.testbed.vcl_rows import ImageRows, VclRows

RULES = SlotRules("vm###.vcl.test", 0x005056010000, most=400, pool_host="esxprov-main.vcl.test")
PROFILE = "blades"
VCL_TABLES = (
    "computer", "vmhost", "vmprofile", "resource", "resourcegroup", "resourcegroupmembers", "resourcemap", "image",
    "imagerevision", "managementnode", "schedule", "request", "reservation", "log", "privnode", "userpriv",
    "resourcepriv", "state", "module", "provisioning",
)  # fmt: skip
OUR_TABLES = ("esxprov_slot", "esxprov_slot_host")


def hosts(count: int, ram_mb: int = 65536, threads: int = 32) -> tuple[Host, ...]:
    """Hypervisors, each with an endpoint of its own."""
    return tuple(
        Host(HostKey(f"esx{number}", "ha-host"), f"esx{number}.vcl.test", "connected", False, ram_mb, 0, threads)
        for number in range(1, count + 1)
    )


@dataclass
class SaidLooks:
    """Answers with `hosts` and `vms`, of which those of `silent` endpoints say nothing (ports.Looks). `macs` has those
    of each VM, by its moid.
    """

    hosts: tuple[Host, ...]
    silent: set[str] = field(default_factory=set)
    vms: tuple[Vm, ...] = ()
    macs: dict[str, str] = field(default_factory=dict)

    def at(self, endpoints: Sequence[str], *, recent: bool = False, within_s: float | None = None) -> list[Look]:
        return [
            Look(name, problem="it does not answer")
            if name in self.silent
            else Look(
                name,
                tuple(host for host in self.hosts if host.key.endpoint == name),
                tuple(vm for vm in self.vms if vm.endpoint == name),
            )
            for name in endpoints
        ]

    def ask(self, endpoints: Sequence[str], question: Callable[[Any], Any]) -> list[tuple[str, Any]]:
        return [
            (name, ProvisioningError("host_unavailable", "it does not answer"))
            if name in self.silent
            else (name, question(SaidHypervisor(self.at([name])[0], self.macs)))
            for name in endpoints
        ]


@dataclass(frozen=True)
class SaidHypervisor:
    """Of ports.Hypervisor what slots ask."""

    said: Look
    macs: dict[str, str]

    def look(self) -> Look:
        return self.said

    def nics(self, vm: Vm) -> list[Nic]:
        return [Nic(self.macs[vm.moid], "Private")]


@dataclass(frozen=True)
class SaidTools:
    """Of ports.Tools what slots use."""

    looks: SaidLooks
    inventory: VclInventory


class SlotsRig:
    """A database with our tables and VCL's, and the slots of pool `main`."""

    def __init__(self, mariadb: MariaDb) -> None:
        mariadb.begin_anew()
        self.mariadb = mariadb
        self.connection = mariadb.connect()
        self.rows = VclRows(self.connection)
        self.provisioning = self.rows.esxprov_module()
        self.node = self.rows.management_node("mn1.vcl.test")
        self.rows.execute("UPDATE managementnode SET lastcheckin = NOW()")
        self.profile = self.rows.profile(PROFILE, "nfs1")
        self.image = self.rows.image("vmwarelinux-base9-v3", ram_mb=1024)
        self.looks = SaidLooks(hosts(2))
        self.pool = Pool("main", (), PROFILE, reserved_ram_mb=1024, slots=RULES)
        self.database = self.opened()
        schema.upgrade(self.database)

    def opened(self, user: str = "esxprov") -> Database:
        return Database(DatabaseConfig(unix_socket=str(self.mariadb.socket), user=user, password=PASSWORD, name="vcl"))

    def close(self) -> None:
        self.database.close()
        self.connection.close()

    def slots(self, *others: Pool, database: Database | None = None) -> Slots:
        database = database or self.database
        tools: Any = SaidTools(self.looks, VclInventory(database))
        return Slots(database, tools, [self.current, *others])

    @property
    def current(self) -> Pool:
        return replace(self.pool, endpoints=tuple(host.key.endpoint for host in self.looks.hosts))

    def sync(self) -> Outcome:
        return self.slots().sync(self.current)

    def plan(self) -> Outcome:
        return self.slots().plan(self.current)

    def prune(self, *, dry_run: bool = False) -> Pruned:
        return self.slots().prune(self.pool.name, dry_run=dry_run)

    def old_vm(self, host: str, name: str, mac: str, annotation: str = "") -> None:
        """A VM that is on a host."""
        vm = Vm(host, name, name, "ha-host", f"[nfs1] {name}/{name}.vmx", PowerState.ON, 1024, 1, annotation)
        self.looks.vms = (*self.looks.vms, vm)
        self.looks.macs[name] = mac

    def rules(self, **values: Any) -> None:
        """Change `[slots main]`."""
        assert self.pool.slots is not None
        self.pool = replace(self.pool, slots=replace(self.pool.slots, **values))

    # --- looking ----------------------------------------------------------------------------------------------------

    def all(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        with self.connection.cursor() as cursor:
            cursor.execute(sql, values)
            return list(cursor.fetchall())

    def computer(self, hostname: str) -> dict[str, Any]:
        (row,) = self.all(
            "SELECT c.*, s.name AS state, h.hostname AS home FROM computer c JOIN state s ON s.id = c.stateid "
            "LEFT JOIN vmhost v ON v.id = c.vmhostid LEFT JOIN computer h ON h.id = v.computerid WHERE c.hostname = %s",
            hostname,
        )
        return row

    def live_slots(self) -> list[str]:
        found = self.all("SELECT hostname FROM computer WHERE type = 'virtualmachine' AND deleted = 0 ORDER BY id")
        return [row["hostname"] for row in found]

    def checksums(self) -> dict[str, int]:
        names = ", ".join((*VCL_TABLES, *OUR_TABLES))
        return {row["Table"]: row["Checksum"] for row in self.all(f"CHECKSUM TABLE {names}")}

    def reserve(self, hostname: str, image: ImageRows | None = None) -> int:
        """A reservation of a slot; returns request.id."""
        computer_id = self.computer(hostname)["id"]
        return self.rows.reservation(computer_id, image or self.image, self.node).request_id

    @contextmanager
    def held(self, sql: str) -> Iterator[pymysql.connections.Connection[DictCursor]]:
        """Another transaction that has done a statement and goes on holding what it locked."""
        other = self.mariadb.connect()
        try:
            other.begin()
            with other.cursor() as cursor:
                cursor.execute(sql)
            yield other
        finally:
            other.rollback()
            other.close()
