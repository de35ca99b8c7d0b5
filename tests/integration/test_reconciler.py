"""The reconciler on a real MariaDB, told what the hypervisors have."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import pytest

from esxprov import schema
from esxprov.annotation import Annotation
from esxprov.database import Cursor, Database, DatabaseConfig
from esxprov.errors import ProvisioningError
from esxprov.model import Claim, ClaimState, Host, HostKey, Machine, Pool, PowerState, Vm
from esxprov.placement.claims import Claims
from esxprov.placement.promises import cost, foreign_claim_id
from esxprov.placement.quarantine import Quarantine
from esxprov.placement.recover import Case, Outcome
from esxprov.placement.wants import Proposal, Room, Want
from esxprov.ports import Hypervisor, Look
from esxprov.reconciler import Reconciler
from esxprov.recovery import Recovered
from tests.testbed.mariadb import PASSWORD, MariaDb

T = TypeVar("T")
POOL = Pool("blades", ("esx1", "vc1"), "profile", cluster="A")
ESX1 = Host(HostKey("esx1", "ha-host"), "esx1", "connected", False, 65536, 0, 32, cluster="A")
BLADE = Host(HostKey("vc1", "host-9"), "blade", "connected", False, 65536, 0, 32, cluster="A")
ELSEWHERE = Host(HostKey("vc1", "host-10"), "elsewhere", "connected", False, 65536, 0, 32, cluster="B")


@dataclass
class World:
    """What the endpoints say (ports.Looks)."""

    vms: list[Vm] = field(default_factory=list)
    silent: set[str] = field(default_factory=set)
    meanwhile: Callable[[], object] = lambda: None
    """What happens between the look and the reading of the claims."""

    def at(self, endpoints: Sequence[str], *, recent: bool = False, within_s: float | None = None) -> list[Look]:
        looks = [
            Look(name, problem="it does not answer")
            if name in self.silent
            else Look(
                name,
                tuple(host for host in (ESX1, BLADE, ELSEWHERE) if host.key.endpoint == name),
                tuple(vm for vm in self.vms if vm.endpoint == name),
            )
            for name in endpoints
        ]
        self.meanwhile()
        return looks

    def ask(
        self, endpoints: Sequence[str], question: Callable[[Hypervisor], T]
    ) -> list[tuple[str, T | ProvisioningError]]:
        raise NotImplementedError


def vm(host: Host, moid: str, claim: Claim | None, ram_mb: int = 4096) -> Vm:
    text = str(Annotation(claim.event_id, claim.id, claim.computer_id, None, "image")) if claim else ""
    path = f"[nfs1] {moid}/x.vmx"
    return Vm(host.key.endpoint, moid, moid, host.key.moid, path, PowerState.ON, ram_mb, 2, text)


SIZE = cost(vm(ESX1, "vm-1", None))[0]


@pytest.fixture
def database(mariadb: MariaDb) -> Iterator[Database]:
    made = Database(DatabaseConfig(unix_socket=str(mariadb.socket), user="esxprov", password=PASSWORD))
    schema.upgrade(made)
    for table in ("esxprov_claim", "esxprov_host", "esxprov_domain", "esxprov_event", "esxprov_quarantine"):
        mariadb.execute(f"DELETE FROM {table}")
    yield made
    made.close()


@pytest.fixture
def claims(database: Database) -> Claims:
    return Claims(database)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def reconciler(claims: Claims, world: World) -> Reconciler:
    return Reconciler(claims, world, [POOL])


def take(claims: Claims, number: int, host: Host = ESX1, state: ClaimState = ClaimState.RUNNING) -> Claim:
    """A claim of the size of `vm`, of the event event-N for computer N."""
    proposed = Claim("", host.key, number, SIZE, 2, "")
    taken = claims.take(Want(f"event-{number}", number, 0, lambda *_: Proposal("", (Room(proposed, 10**6, 10**6),))))
    assert taken.claim is not None
    if state is not ClaimState.CLAIMED:
        claims.mark(taken.claim.id, state)
    return replace(taken.claim, state=state)


def used(database: Database) -> dict[HostKey, int]:
    """RAM in MB promised on each host, as its row says."""

    def ask(cursor: Cursor) -> dict[HostKey, int]:
        cursor.execute("SELECT endpoint, moid, used_ram_mb FROM esxprov_host WHERE used_ram_mb <> 0")
        return {HostKey(row["endpoint"], row["moid"]): row["used_ram_mb"] for row in cursor.fetchall()}

    return database.run(ask)


def abandon(mariadb: MariaDb) -> None:
    """The leases are over; the journal does not know the events."""
    mariadb.execute("UPDATE esxprov_claim SET leased_until = UTC_TIMESTAMP() - INTERVAL 1 SECOND")


def test_claims_that_are_right_are_left_alone(reconciler: Reconciler, claims: Claims, world: World) -> None:
    world.vms = [vm(ESX1, "vm-1", take(claims, 1))]
    report = reconciler.run()
    assert (report.plan.corrections, report.done, report.plan.repairs) == ((), (), ())


def test_all_kinds_of_corrections_are_done_and_counted(
    reconciler: Reconciler, claims: Claims, world: World, database: Database, mariadb: MariaDb
) -> None:
    gone = take(claims, 1, state=ClaimState.CLAIMED)
    moved, grown = take(claims, 2), take(claims, 3)
    abandon(mariadb)
    world.vms = [vm(BLADE, "vm-2", moved), vm(ESX1, "vm-3", grown, 8192), vm(ESX1, "vm-4", None)]
    reconciler.run()
    larger = cost(world.vms[1])[0]
    foreign = Claim(foreign_claim_id("esx1", "vm-4"), ESX1.key, 0, SIZE, 2, "", ClaimState.FOREIGN)
    expected = {replace(moved, host=BLADE.key), replace(grown, ram_mb=larger), foreign}
    assert gone not in claims.all()
    assert set(claims.all()) == claims.read(lambda ledger: set(ledger)) == expected
    assert used(database) == {ESX1.key: larger + SIZE, BLADE.key: SIZE}


def test_a_dry_run_changes_nothing(reconciler: Reconciler, claims: Claims, world: World, mariadb: MariaDb) -> None:
    claim = take(claims, 1, state=ClaimState.CLAIMED)
    abandon(mariadb)
    mariadb.execute("UPDATE esxprov_host SET used_ram_mb = 7")
    report = reconciler.run(dry_run=True)
    assert [one.id for one in report.plan.corrections] == [claim.id]
    assert [repair.booked for repair in report.plan.repairs] == [(7, 2)]
    assert (report.done, claims.all()) == ((), [claim])


def test_a_vm_is_lost_after_two_looks_and_found_again(reconciler: Reconciler, claims: Claims, world: World) -> None:
    claim = take(claims, 1)
    reconciler.run(dry_run=True)
    reconciler.run()
    assert claims.all() == [claim]
    reconciler.run()
    assert claims.all() == [replace(claim, state=ClaimState.LOST)]
    world.vms = [vm(ESX1, "vm-1", claim)]
    reconciler.run()
    assert claims.all() == [claim]


def test_a_lost_vm_is_given_up_after_a_while(
    reconciler: Reconciler, claims: Claims, database: Database, mariadb: MariaDb
) -> None:
    take(claims, 1, state=ClaimState.LOST)
    reconciler.run()
    assert len(claims.all()) == 1
    mariadb.execute("UPDATE esxprov_claim SET changed_at = UTC_TIMESTAMP() - INTERVAL 11 MINUTE")
    reconciler.run()
    assert (claims.all(), used(database)) == ([], {})


def test_a_claim_that_was_changed_after_it_was_read_is_not_touched(
    reconciler: Reconciler, claims: Claims, world: World, mariadb: MariaDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = take(claims, 1, state=ClaimState.CLAIMED)
    abandon(mariadb)
    read = claims.books

    def then_it_lives() -> object:
        books = read()
        claims.renew([claim.event_id])
        return books

    monkeypatch.setattr(claims, "books", then_it_lives)
    report = reconciler.run()
    assert (len(report.plan.corrections), report.done, claims.all()) == (1, (), [claim])


def test_a_vm_that_is_removed_while_it_is_looked_at_leaves_no_foreign_claim(
    reconciler: Reconciler, claims: Claims, world: World
) -> None:
    claim = take(claims, 1)
    world.vms = [vm(ESX1, "vm-1", claim)]
    world.meanwhile = lambda: claims.release(claim.id)
    reconciler.run()
    assert claims.all() == []


def test_vms_on_hosts_of_no_pool_are_not_counted(reconciler: Reconciler, claims: Claims, world: World) -> None:
    world.vms = [vm(ELSEWHERE, "vm-1", None)]
    reconciler.run()
    assert claims.all() == []


def test_sums_changed_by_hand_are_repaired_and_told(
    reconciler: Reconciler,
    claims: Claims,
    world: World,
    database: Database,
    mariadb: MariaDb,
    caplog: pytest.LogCaptureFixture,
) -> None:
    world.vms = [vm(ESX1, "vm-1", take(claims, 1))]
    mariadb.execute("UPDATE esxprov_host SET used_ram_mb = 7")
    reconciler.run()
    assert used(database) == {ESX1.key: SIZE}
    assert f"esx1/ha-host had 7 MB and 2 vCPUs booked, its claims are {SIZE} MB and 2" in caplog.text


def test_an_empty_inventory_frees_nothing_and_is_told_once_until_it_is_over(
    reconciler: Reconciler, claims: Claims, world: World, mariadb: MariaDb, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    held = [take(claims, number, state=ClaimState.LOST) for number in range(1, 6)]
    mariadb.execute("UPDATE esxprov_claim SET changed_at = UTC_TIMESTAMP() - INTERVAL 1 DAY")
    for _ in range(3):
        assert reconciler.run().plan.alarm is not None
    assert caplog.text.count("5 of 5 claims would be freed at once (100%, at most 5% are), on esx1: none is") == 1
    assert len(claims.all()) == 5
    world.vms = [vm(ESX1, f"vm-{claim.computer_id}", claim) for claim in held]
    assert reconciler.run().plan.alarm is None
    assert "no more claims than usual are to be freed any more" in caplog.text
    assert {claim.state for claim in claims.all()} == {ClaimState.RUNNING}


def test_force_frees_what_is_really_gone(
    reconciler: Reconciler, claims: Claims, database: Database, mariadb: MariaDb
) -> None:
    for number in range(1, 6):
        take(claims, number, state=ClaimState.LOST)
    mariadb.execute("UPDATE esxprov_claim SET changed_at = UTC_TIMESTAMP() - INTERVAL 1 DAY")
    assert len(reconciler.run(force=True).done) == 5
    assert (claims.all(), used(database)) == ([], {})


def test_a_silent_endpoint_keeps_its_claims(
    reconciler: Reconciler, claims: Claims, world: World, mariadb: MariaDb
) -> None:
    kept, gone = (take(claims, number, host, ClaimState.CLAIMED) for number, host in ((1, ESX1), (2, BLADE)))
    abandon(mariadb)
    world.silent = {"esx1"}
    report = reconciler.run()
    assert (report.silent, [one.id for one in report.done]) == (("esx1",), [gone.id])
    assert claims.all() == [kept]


def test_what_is_missing_on_a_host_that_comes_back_is_kept_until_it_is_done(claims: Claims, world: World) -> None:
    coming = {ESX1.key}
    reconciler = Reconciler(claims, world, [POOL], lambda looks: Recovered((), frozenset(coming)))
    kept, lost = take(claims, 1), take(claims, 2, BLADE)
    for _ in range(3):
        reconciler.run()
    assert set(claims.all()) == {kept, replace(lost, state=ClaimState.LOST)}
    coming.clear()
    for _ in range(2):
        reconciler.run()
    assert {claim.state for claim in claims.all()} == {ClaimState.LOST}


def test_after_vms_were_brought_back_it_is_looked_again(claims: Claims, world: World) -> None:
    lost = take(claims, 1, state=ClaimState.LOST)
    case = Case(lost, Machine(lost.id, 1, "[nfs1] x/x.vmx", is_on=True), Outcome.RECOVERED)

    def bring_back(looks: Sequence[Look]) -> Recovered:
        world.vms = [vm(ESX1, "vm-1", lost)]
        return Recovered((case,))

    Reconciler(claims, world, [POOL], bring_back).run()
    assert claims.all() == [replace(lost, state=ClaimState.RUNNING)]


# --- quarantine -------------------------------------------------------------------------------------------------------


@pytest.fixture
def quarantine(database: Database) -> Quarantine:
    return Quarantine(database)


def minutes(database: Database) -> int:
    """For how long the only host in quarantine stays there."""

    def ask(cursor: Cursor) -> int:
        cursor.execute("SELECT TIMESTAMPDIFF(SECOND, UTC_TIMESTAMP(6), until) AS left_s FROM esxprov_quarantine")
        (row,) = cursor.fetchall()
        return round(int(row["left_s"]) / 60)

    return database.run(ask)


def test_a_host_that_failed_is_in_quarantine_for_every_image(quarantine: Quarantine) -> None:
    quarantine.put(ESX1.key, "it refused vm1")
    assert quarantine.of("base") == quarantine.of("other") == {ESX1.key: "it refused vm1"}


def test_a_host_that_failed_with_one_image_is_in_quarantine_for_that_one(quarantine: Quarantine) -> None:
    quarantine.put(ESX1.key, "it refused vm1", "base")
    assert (quarantine.of("base"), quarantine.of("other")) == ({ESX1.key: "it refused vm1"}, {})


def test_a_host_that_fails_again_stays_longer_up_to_a_limit(quarantine: Quarantine, database: Database) -> None:
    stays = []
    for _ in range(7):
        quarantine.put(ESX1.key, "it refused vm1")
        stays.append(minutes(database))
    assert stays == [5, 10, 20, 40, 80, 80, 80]


def test_a_failure_long_ago_does_not_count(quarantine: Quarantine, database: Database, mariadb: MariaDb) -> None:
    for _ in range(4):
        quarantine.put(ESX1.key, "it refused vm1")
    mariadb.execute("UPDATE esxprov_quarantine SET until = UTC_TIMESTAMP() - INTERVAL 25 HOUR")
    assert quarantine.of("base") == {}
    quarantine.put(ESX1.key, "it refused vm2")
    assert minutes(database) == 5


def test_a_success_ends_the_quarantine_of_its_host_and_image(quarantine: Quarantine) -> None:
    quarantine.put(ESX1.key, "it refused vm1")
    quarantine.put(ESX1.key, "it refused vm1", "other")
    quarantine.put(BLADE.key, "it refused vm1")
    quarantine.clear(ESX1.key, "base")
    assert quarantine.of("base") == {BLADE.key: "it refused vm1"}
    assert set(quarantine.of("other")) == {ESX1.key, BLADE.key}
