"""What is written down for hosts that boot from the network, on a real MariaDB."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from esxprov import schema
from esxprov.database import Database, DatabaseConfig, VclInventory
from esxprov.machines import Machines
from esxprov.model import Claim, ClaimState, Host, HostKey, KnownHost, Machine
from esxprov.placement.claims import Claims
from esxprov.placement.wants import Proposal, Room, Want
from tests.testbed.mariadb import PASSWORD, MariaDb
from tests.testbed.vcl_rows import VclRows

BOOTED = datetime(2026, 11, 22, 5, 0, 0, 123456, tzinfo=UTC)
HOST = Host(
    HostKey("esx1", "ha-host"), "esx1", "connected", False, 65536, 0, 32, uuid="4c4c4544-0042", booted_at=BOOTED
)


@pytest.fixture
def database(mariadb: MariaDb) -> Iterator[Database]:
    made = Database(DatabaseConfig(unix_socket=str(mariadb.socket), user="esxprov", password=PASSWORD))
    schema.upgrade(made)
    for table in ("esxprov_claim", "esxprov_host", "esxprov_domain", "esxprov_machine", "esxprov_host_seen"):
        mariadb.execute(f"DELETE FROM {table}")
    yield made
    made.close()


@pytest.fixture
def machines(database: Database) -> Machines:
    return Machines(database)


@pytest.fixture
def claims(database: Database) -> Claims:
    return Claims(database)


def machine(claims: Claims, number: int = 7) -> Machine:
    """The VM of a new claim."""
    proposed = Claim("", HOST.key, number, 4096, 2, "", ClaimState.RUNNING)
    taken = claims.take(Want(f"event-{number}", number, 0, lambda *_: Proposal("", (Room(proposed, 10**6, 10**6),))))
    assert taken.claim is not None
    return Machine(taken.claim.id, number, f"[nfs1] inuse/vm{number}/vm{number}.vmx", is_on=True)


# --- machines -------------------------------------------------------------------------------------------------------


def test_what_is_written_down_of_a_vm_is_known_until_its_claim_is_released(machines: Machines, claims: Claims) -> None:
    first, second = machine(claims, 7), machine(claims, 8)
    machines.record(first)
    machines.record(second)
    assert (machines.of(first.claim_id), machines.all()) == (first, [first, second])
    claims.release(first.claim_id)
    assert (machines.of(first.claim_id), machines.all()) == (None, [second])


def test_a_vm_is_written_over_what_was_known_of_it(machines: Machines, claims: Claims) -> None:
    known = machine(claims)
    machines.record(replace(known, armed_at=1.5))
    moved = replace(known, vmx_path="[nfs2] elsewhere/ü.vmx", is_on=False)
    machines.record(moved)
    assert machines.all() == [moved]


def test_a_vm_that_is_switched_or_waited_for_is_known_so(machines: Machines, claims: Claims) -> None:
    known = machine(claims)
    machines.record(known)
    machines.switched(known.claim_id, is_on=False)
    machines.armed(known.claim_id, 1795676467.25)
    assert machines.all() == [replace(known, is_on=False, armed_at=1795676467.25)]
    machines.switched(known.claim_id, is_on=True)
    machines.armed(known.claim_id, None)
    assert machines.all() == [known]


def test_of_a_vm_of_which_nothing_is_known_nothing_is_written(machines: Machines, claims: Claims) -> None:
    known = machine(claims)
    machines.switched(known.claim_id, is_on=True)
    machines.armed(known.claim_id, 1.0)
    assert machines.all() == []


def test_only_the_rows_of_claims_that_are_held_no_more_are_forgotten(
    machines: Machines, claims: Claims, mariadb: MariaDb, database: Database
) -> None:
    gone, kept = machine(claims, 7), machine(claims, 8)
    machines.record(gone)
    machines.record(kept)
    claims.release(gone.claim_id)
    machines.forget()
    left = database.single(lambda cursor: cursor.execute("SELECT claim_id FROM esxprov_machine"))
    assert (left, machines.all()) == (1, [kept])


# --- hosts ----------------------------------------------------------------------------------------------------------


def known(host: Host = HOST, *, is_recovered: bool = False) -> KnownHost:
    assert host.booted_at is not None
    return KnownHost(host.uuid, host.key, host.booted_at, 0, is_recovered)


def test_a_host_is_to_be_recovered_until_it_was(machines: Machines) -> None:
    machines.seen(HOST)
    assert machines.hosts() == [known()]
    machines.recovered(HOST)
    assert machines.hosts() == [known(is_recovered=True)]


def test_a_host_that_has_booted_or_was_added_anew_is_to_be_recovered_again(machines: Machines) -> None:
    for changed in ({"booted_at": BOOTED + timedelta(hours=1)}, {"key": HostKey("vc1", "host-9")}):
        machines.seen(HOST)
        machines.recovered(HOST)
        machines.seen(replace(HOST, **changed))
        assert machines.hosts() == [known(replace(HOST, **changed))]


def test_a_host_that_has_booted_again_meanwhile_is_not_recovered(machines: Machines) -> None:
    machines.seen(replace(HOST, booted_at=BOOTED + timedelta(hours=1)))
    machines.recovered(HOST)
    assert [one.is_recovered for one in machines.hosts()] == [False]


def test_no_claims_follow_a_host_whose_place_another_has_taken(machines: Machines) -> None:
    replaced = replace(HOST, uuid="another-board")
    machines.seen(HOST)
    machines.seen(replaced)
    assert {one.uuid: one.key for one in machines.hosts()} == {
        HOST.uuid: HostKey("", ""), replaced.uuid: replaced.key,
    }  # fmt: skip


def test_how_long_ago_a_boot_was_noticed_is_told_by_the_databases_clock(machines: Machines, mariadb: MariaDb) -> None:
    machines.seen(HOST)
    mariadb.execute("UPDATE esxprov_host_seen SET noticed_at = UTC_TIMESTAMP(6) - INTERVAL 2 HOUR")
    assert [one.noticed_s for one in machines.hosts()] == [7200]


# --- VCL's own tables -----------------------------------------------------------------------------------------------


def test_an_address_is_written_and_taken_from_whom_had_it(mariadb: MariaDb, database: Database) -> None:
    inventory, connection = VclInventory(database), mariadb.connect()
    rows = VclRows(connection)
    module = rows.esxprov_module()
    profile = rows.profile("addresses", "nfs1")
    vmhost = rows.hypervisor("addresses-esx1.vcl.test", 8192, 4, profile)
    mine, other, elsewhere = (
        rows.computer(f"address{n}.vcl.test", vmhost, module, f"00:50:56:0b:0{n}:01", f"00:50:56:0b:0{n}:02")
        for n in (1, 2, 3)
    )
    rows.execute("UPDATE computer SET privateIPaddress = '10.77.3.3' WHERE id IN (%s, %s)", other, elsewhere)
    rows.execute("UPDATE computer SET provisioningid = 1 WHERE id = %s", elsewhere)  # another engine

    def addresses() -> list[str | None]:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT privateIPaddress AS ip FROM computer WHERE id IN (%s, %s, %s) ORDER BY id",
                (mine, other, elsewhere),
            )
            return [row["ip"] for row in cursor.fetchall()]

    assert inventory.set_private_address(mine, "10.77.3.3") is True
    assert addresses() == ["10.77.3.3", None, "10.77.3.3"]
    assert inventory.set_private_address(mine, "10.77.3.3") is False
    assert inventory.set_private_address(10**6, "10.77.3.4") is False
    connection.close()
