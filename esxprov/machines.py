"""Where the VMs of claims lie and whether they were on, and the hosts by the uuid of their hardware, in MariaDB."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Any

from esxprov.database import Cursor, Database, rows
from esxprov.model import Host, HostKey, KnownHost, Machine

_HELD = "JOIN esxprov_claim c ON c.id = m.claim_id AND c.state <> 'released'"


class Machines:
    """What our tables remember for the hosts (ports.MachineBook). Of a claim that was released nothing is told."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- machines ----------------------------------------------------------------------------------------------------

    def record(self, machine: Machine) -> None:
        self._write(
            "INSERT INTO esxprov_machine (claim_id, computer_id, vmx_path, power, armed_at) "
            "VALUES (%s, %s, %s, %s, %s) ON DUPLICATE KEY UPDATE vmx_path = VALUES(vmx_path), power = VALUES(power), "
            "armed_at = VALUES(armed_at)",
            machine.claim_id,
            machine.computer_id,
            machine.vmx_path,
            _power(machine.is_on),
            machine.armed_at,
        )

    def switched(self, claim_id: str, *, is_on: bool) -> None:
        self._write("UPDATE esxprov_machine SET power = %s WHERE claim_id = %s", _power(is_on), claim_id)

    def armed(self, claim_id: str, at: float | None) -> None:
        self._write("UPDATE esxprov_machine SET armed_at = %s WHERE claim_id = %s", at, claim_id)

    def of(self, claim_id: str) -> Machine | None:
        ask = partial(_machines, where="WHERE m.claim_id = %s", values=(claim_id,))
        return next(iter(self._database.single(ask)), None)

    def all(self) -> list[Machine]:
        return self._database.single(_machines)

    def forget(self) -> None:
        """Delete the rows of claims that are held no more."""
        self._write(f"DELETE m FROM esxprov_machine m LEFT {_HELD} WHERE c.id IS NULL")

    # --- hosts -------------------------------------------------------------------------------------------------------

    def hosts(self) -> list[KnownHost]:
        return self._database.single(_hosts)

    def seen(self, host: Host) -> None:
        def write(cursor: Cursor) -> None:
            # Another one that was there before is there no more: should it turn up, no claims follow it.
            cursor.execute(
                "UPDATE esxprov_host_seen SET endpoint = '', moid = '' "
                "WHERE endpoint = %s AND moid = %s AND uuid <> %s",
                (host.key.endpoint, host.key.moid, host.uuid),
            )
            # One that was added anew is to be looked at again, though it has not booted.
            cursor.execute(
                "INSERT INTO esxprov_host_seen (uuid, endpoint, moid, booted_at, noticed_at) "
                "VALUES (%s, %s, %s, %s, UTC_TIMESTAMP(6)) ON DUPLICATE KEY UPDATE recovered_boot = NULL, "
                "noticed_at = VALUES(noticed_at), endpoint = VALUES(endpoint), moid = VALUES(moid), "
                "booted_at = VALUES(booted_at)",
                (host.uuid, host.key.endpoint, host.key.moid, _moment(host)),
            )

        self._database.run(write)

    def recovered(self, host: Host) -> None:
        self._write(
            "UPDATE esxprov_host_seen SET recovered_boot = booted_at WHERE uuid = %s AND booted_at = %s",
            host.uuid,
            _moment(host),
        )

    def _write(self, sql: str, *values: Any) -> None:
        def work(cursor: Cursor) -> None:
            cursor.execute(sql, values)

        self._database.single(work)


def _power(is_on: bool) -> str:
    return "on" if is_on else "off"


def _moment(host: Host) -> datetime:
    assert host.booted_at is not None, "only hosts that say when they booted are remembered"
    return host.booted_at.astimezone(UTC).replace(tzinfo=None)


def _machines(cursor: Cursor, where: str = "", values: tuple[Any, ...] = ()) -> list[Machine]:
    cursor.execute(
        f"SELECT m.claim_id, m.computer_id, m.vmx_path, m.power, m.armed_at FROM esxprov_machine m {_HELD} {where} "
        "ORDER BY c.claimed_at, c.id",
        values,
    )
    return [
        Machine(
            str(row["claim_id"]),
            int(row["computer_id"]),
            row["vmx_path"],
            row["power"] == "on",
            None if row["armed_at"] is None else float(row["armed_at"]),
        )
        for row in rows(cursor)
    ]


def _hosts(cursor: Cursor) -> list[KnownHost]:
    cursor.execute(
        "SELECT uuid, endpoint, moid, booted_at, TIMESTAMPDIFF(SECOND, noticed_at, UTC_TIMESTAMP(6)) AS noticed_s, "
        "COALESCE(recovered_boot = booted_at, 0) AS is_recovered FROM esxprov_host_seen"
    )
    return [
        KnownHost(
            row["uuid"],
            HostKey(row["endpoint"], row["moid"]),
            row["booted_at"].replace(tzinfo=UTC),
            int(row["noticed_s"]),
            bool(row["is_recovered"]),
        )
        for row in rows(cursor)
    ]
