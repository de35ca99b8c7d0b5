"""VCL's computer rows as `esxprov slots` makes them, in a real MariaDB, in both SQL modes."""

from __future__ import annotations

import re
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from esxprov.errors import ConfigurationError, DependencyUnavailable, ProvisioningError
from esxprov.slots.plan import Kind
from esxprov.slots.sync import Slots
from tests.integration.slots_rig import RULES, SlotsRig, hosts
from tests.testbed.mariadb import MariaDb


@pytest.fixture(scope="module", params=["strict", "not strict"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDb]:
    with MariaDb(tmp_path_factory.mktemp("slots"), strict=request.param == "strict") as started:
        yield started


@pytest.fixture
def rig(server: MariaDb) -> Iterator[SlotsRig]:
    made = SlotsRig(server)
    yield made
    made.close()


def kinds(changes: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for change in changes:
        found[change.kind.value] = found.get(change.kind.value, 0) + 1
    return found


def changed(rig: SlotsRig) -> list[Any]:
    """What a plan would change now."""
    return [change for change in rig.plan().plan.changes if change.kind is not Kind.KEEP]


# --- making them -----------------------------------------------------------------------------------------------------


def test_350_slots_are_made_in_five_seconds_and_a_second_time_nothing_is_changed(rig: SlotsRig) -> None:
    rig.looks.hosts = hosts(8)
    rig.rules(most=350)
    begun = time.monotonic()
    rig.sync()
    took_s = time.monotonic() - begun
    print(f"350 slots: {took_s:.2f} s")
    assert took_s < 5
    assert len(rig.live_slots()) == 350
    before = rig.checksums()
    assert kinds(rig.sync().plan.changes) == {"keep": 350 + 8 + 1}
    assert {name: sum_ for name, sum_ in rig.checksums().items() if before[name] != sum_} == {}


def test_a_slot_has_every_column_that_the_front_end_asks_for(rig: SlotsRig) -> None:
    shape = rig.sync().plan.shape
    slot = rig.computer("vm001.vcl.test")
    assert slot["state"] == "available"
    assert (slot["home"], slot["type"], slot["deleted"]) == ("esxprov-main.vcl.test", "virtualmachine", 0)
    assert (slot["RAM"], slot["procnumber"]) == (shape.ram_mb, shape.cpus)
    assert (slot["procspeed"], slot["network"], slot["scheduleid"], slot["platformid"]) == (10000, 10000, 1, 1)
    assert (slot["eth0macaddress"], slot["eth1macaddress"]) == ("00:50:56:01:00:00", "00:50:56:01:00:01")
    assert (slot["provisioningid"], slot["predictivemoduleid"]) == (rig.provisioning, 31)
    assert (slot["currentimageid"], slot["nextimageid"], slot["imagerevisionid"]) == (1, 1, 1)
    assert str(slot["datedeleted"]) == "0000-00-00 00:00:00"
    groups = rig.all(
        "SELECT g.name FROM resource r JOIN resourcegroupmembers m ON m.resourceid = r.id JOIN resourcegroup g "
        "ON g.id = m.resourcegroupid WHERE r.resourcetypeid = 12 AND r.subid = %s ORDER BY g.name",
        slot["id"],
    )
    assert [row["name"] for row in groups] == ["All VM Computers", "newvmimages"]


def test_every_hypervisor_and_the_pool_are_vm_hosts_of_the_profile_the_pool_first(rig: SlotsRig) -> None:
    shape = rig.sync().plan.shape
    found = rig.all(
        "SELECT h.hostname, s.name AS state, h.RAM FROM vmhost v JOIN computer h ON h.id = v.computerid "
        "JOIN state s ON s.id = h.stateid WHERE v.vmprofileid = %s ORDER BY v.id",
        rig.profile,
    )
    names = ["esxprov-main.vcl.test", "esx1.vcl.test", "esx2.vcl.test"]
    assert [row["hostname"] for row in found] == names
    assert {row["state"] for row in found} == {"vmhostinuse"}
    # VCL wants what the images need to be less than the host's RAM.
    assert [row["RAM"] for row in found] == [shape.ram_mb + 1, 65536, 65536]


def test_there_are_as_many_as_the_hosts_take_of_the_smallest_image(rig: SlotsRig) -> None:
    rig.rows.image("vmwarewin10-office5-v0", os="vmwarewin10", ram_mb=8192)
    # 64512 MB may be promised on a host; a VM of 1024 MB needs 32 + 12 + 10 more.
    assert len(rig.sync().plan.slots) == 2 * (64512 // 1078)


def test_a_plan_changes_nothing(rig: SlotsRig) -> None:
    before = rig.checksums()
    assert kinds(rig.plan().plan.changes) == {"add": 1 + 2 + 2 * 59}
    assert rig.checksums() == before
    rig.rules(procspeed=2000)
    rig.sync()
    before = rig.checksums()
    rig.rules(procspeed=3000)
    assert kinds(rig.plan().plan.slots) == {"change": 2 * 59}
    assert rig.checksums() == before


def test_hypervisors_that_an_admin_entered_keep_their_rows(rig: SlotsRig) -> None:
    rig.rows.hypervisor("esx1.other.test", 1000, 4, rig.profile)
    row, vmhosts = rig.computer("esx1.other.test"), rig.all("SELECT * FROM vmhost")
    rig.sync()
    assert rig.computer("esx1.other.test") == row
    assert vmhosts[0] in rig.all("SELECT * FROM vmhost")
    assert rig.all("SELECT 1 FROM computer WHERE hostname = 'esx1.vcl.test'") == []
    assert changed(rig) == []


def test_a_hypervisor_known_with_another_profile_becomes_a_vm_host_of_this_one_too(rig: SlotsRig) -> None:
    other = rig.rows.profile("other", "nfs2")
    rig.rows.hypervisor("esx1.vcl.test", 1000, 4, other)
    rig.sync()
    found = rig.all(
        "SELECT v.vmprofileid FROM vmhost v JOIN computer c ON c.id = v.computerid WHERE c.hostname = 'esx1.vcl.test'"
    )
    assert {row["vmprofileid"] for row in found} == {other, rig.profile}


def test_more_hosts_make_more_slots_and_larger_ones(rig: SlotsRig) -> None:
    small = rig.sync().plan
    rig.looks.hosts = (*hosts(2), *(replace(one, name="big.vcl.test") for one in hosts(3, ram_mb=131072)[2:]))
    larger = rig.sync().plan
    assert len(larger.slots) > len(small.slots)
    assert larger.shape.ram_mb > small.shape.ram_mb
    assert rig.computer("vm001.vcl.test")["RAM"] == larger.shape.ram_mb
    assert rig.computer("esxprov-main.vcl.test")["RAM"] == larger.shape.ram_mb + 1


def test_a_silent_host_counts_as_it_was(rig: SlotsRig) -> None:
    count = len(rig.sync().plan.slots)
    rig.looks.silent = {"esx2"}
    outcome = rig.plan()
    assert (len(outcome.plan.slots), outcome.silent, outcome.plan.surplus) == (count, ("esx2",), ())
    assert changed(rig) == []


def test_without_any_host_nothing_is_planned(rig: SlotsRig) -> None:
    rig.looks.silent = {"esx1", "esx2"}
    with pytest.raises(ProvisioningError, match=r"pool main has no host .* esx1: it does not answer") as caught:
        rig.sync()
    assert caught.value.code == "host_unavailable"


def test_macs_are_left_to_the_hypervisor_where_the_profile_says_so(rig: SlotsRig) -> None:
    rig.rows.execute("UPDATE vmprofile SET eth1generated = 1 WHERE id = %s", rig.profile)
    rig.sync()
    slot = rig.computer("vm002.vcl.test")
    assert (slot["eth0macaddress"], slot["eth1macaddress"]) == ("00:50:56:01:00:02", None)


# --- what others have ------------------------------------------------------------------------------------------------


def test_slots_in_use_loaded_failed_or_in_an_admins_maintenance_stay_as_they_are(rig: SlotsRig) -> None:
    rig.sync()
    rig.reserve("vm001.vcl.test")
    rig.rows.execute("UPDATE computer SET currentimageid = %s WHERE hostname = 'vm002.vcl.test'", rig.image.image_id)
    rig.rows.execute("UPDATE computer SET stateid = 5 WHERE hostname = 'vm003.vcl.test'")
    rig.rows.execute("UPDATE computer SET stateid = 10, notes = 'admin 1@fan' WHERE hostname = 'vm004.vcl.test'")
    rig.rows.execute(
        "INSERT INTO semaphore (computerid, imageid, imagerevisionid, managementnodeid, expires, procid) "
        "SELECT id, 1, 1, %s, NOW() + INTERVAL 45 SECOND, 'web' FROM computer WHERE hostname = 'vm005.vcl.test'",
        rig.node,
    )
    rig.rows.execute(
        "INSERT INTO esxprov_claim (id, pool, endpoint, moid, computer_id, event_id, ram_mb, cpus, state, changed, "
        "claimed_at) SELECT 'c1', 'main', 'esx1', 'ha-host', id, '', 1, 1, 'running', 1, NOW() FROM computer "
        "WHERE hostname = 'vm006.vcl.test'"
    )
    names = [f"vm{number:03}.vcl.test" for number in range(1, 7)]
    before = [rig.computer(name) for name in names]
    rig.rules(procspeed=2000)
    plan = rig.sync().plan
    assert [rig.computer(name) for name in names] == before
    details = ["in use", "loaded", "failed", "in maintenance", "in use", "loaded"]
    assert [(change.kind, change.detail) for change in plan.slots[:6]] == [(Kind.KEEP, text) for text in details]
    assert rig.computer("vm007.vcl.test")["procspeed"] == 2000


def test_an_idle_slot_that_stayed_on_a_hypervisor_comes_home(rig: SlotsRig) -> None:
    rig.sync()
    rig.rows.execute(
        "UPDATE computer SET vmhostid = (SELECT vmhost_id FROM esxprov_slot_host WHERE name = 'esx1.vcl.test') "
        "WHERE hostname = 'vm001.vcl.test'"
    )
    assert rig.computer("vm001.vcl.test")["home"] == "esx1.vcl.test"
    rig.sync()
    assert rig.computer("vm001.vcl.test")["home"] == "esxprov-main.vcl.test"


def test_a_number_whose_name_or_mac_is_anothers_is_left_out(rig: SlotsRig) -> None:
    vmhost = rig.rows.hypervisor("lab.vcl.test", 1000, 4, rig.rows.profile("other", "nfs2"))
    rig.rows.computer("labvm001.vcl.test", vmhost, rig.provisioning, "00:50:56:02:00:00", "00:50:56:02:00:01")
    rig.rows.computer("x.vcl.test", vmhost, rig.provisioning, "00:50:56:02:00:02", "00:50:56:01:00:02")
    before = [rig.computer(name) for name in ("labvm001.vcl.test", "x.vcl.test")]
    plan = rig.sync().plan
    assert plan.slots[0].hostname == "vm003.vcl.test"
    assert any("2 of the pool's numbers are left out" in note and "labvm001" in note for note in plan.notes)
    assert [rig.computer(name) for name in ("labvm001.vcl.test", "x.vcl.test")] == before


def test_a_row_that_took_over_our_id_is_not_ours(rig: SlotsRig) -> None:
    rig.sync()
    rig.rows.execute("UPDATE computer SET hostname = 'renamed.vcl.test' WHERE hostname = 'vm001.vcl.test'")
    before = rig.computer("renamed.vcl.test")
    rig.rules(procspeed=2000)
    rig.sync()
    assert rig.computer("renamed.vcl.test") == before


# --- too many --------------------------------------------------------------------------------------------------------


def minutes_pass(rig: SlotsRig) -> None:
    rig.rows.execute("UPDATE esxprov_slot SET closed_at = closed_at - INTERVAL 61 SECOND")


def test_prune_closes_what_is_too_many_and_a_minute_later_removes_it_and_sync_reuses_it(rig: SlotsRig) -> None:
    rig.sync()
    ids = {row["hostname"]: row["id"] for row in rig.all("SELECT id, hostname FROM computer")}
    rig.looks.hosts = hosts(1)
    assert len(rig.plan().plan.surplus) == 59
    assert kinds(rig.prune(dry_run=True).changes) == {"close": 59}
    assert len(rig.live_slots()) == 118
    assert kinds(rig.prune().changes) == {"close": 59}
    assert rig.computer("vm118.vcl.test")["RAM"] == 0
    assert kinds(rig.prune().changes) == {"keep": 59}
    minutes_pass(rig)
    assert kinds(rig.prune().changes) == {"remove": 59}
    assert len(rig.live_slots()) == 59
    rig.looks.hosts = hosts(2)
    assert kinds(rig.sync().plan.slots) == {"keep": 59, "reuse": 59}
    assert {row["hostname"]: row["id"] for row in rig.all("SELECT id, hostname FROM computer")} == ids
    slot = rig.computer("vm118.vcl.test")
    assert (slot["state"], slot["home"], slot["eth0macaddress"]) == (
        "available", "esxprov-main.vcl.test", "00:50:56:01:00:ea"
    )  # fmt: skip
    assert changed(rig) == []


def test_prune_leaves_what_is_in_use(rig: SlotsRig) -> None:
    rig.sync()
    rig.looks.hosts = hosts(1)
    rig.reserve("vm118.vcl.test")
    before = rig.computer("vm118.vcl.test")
    rig.prune()
    minutes_pass(rig)
    assert kinds(rig.prune().changes) == {"keep": 1, "remove": 58}
    assert rig.computer("vm118.vcl.test") == before


def test_a_closed_slot_that_is_chosen_all_the_same_is_not_removed(rig: SlotsRig) -> None:
    rig.sync()
    rig.looks.hosts = hosts(1)
    rig.prune()
    rig.reserve("vm118.vcl.test")
    minutes_pass(rig)
    rig.prune()
    assert rig.computer("vm118.vcl.test")["deleted"] == 0


def test_a_host_that_is_gone_is_retired_unless_a_vm_refers_to_it(rig: SlotsRig) -> None:
    rig.sync()
    rig.rows.execute(
        "UPDATE computer SET vmhostid = (SELECT vmhost_id FROM esxprov_slot_host WHERE name = 'esx2.vcl.test'), "
        "currentimageid = %s WHERE hostname = 'vm001.vcl.test'",
        rig.image.image_id,
    )
    rig.looks.hosts = hosts(1)
    assert [host.name for host in rig.prune().hosts] == []
    rig.rows.execute("UPDATE computer SET vmhostid = NULL WHERE hostname = 'vm001.vcl.test'")
    assert [host.name for host in rig.prune().hosts] == ["esx2.vcl.test"]
    gone = rig.computer("esx2.vcl.test")
    assert (gone["deleted"], gone["state"]) == (1, "maintenance")
    rig.looks.hosts = hosts(2)
    rig.sync()
    assert rig.computer("esx2.vcl.test")["deleted"] == 0


def test_slots_of_a_pool_that_is_configured_no_more_are_all_too_many(rig: SlotsRig) -> None:
    rig.sync()
    rig.reserve("vm001.vcl.test")
    nobody = Slots(rig.database, rig.slots()._tools, [])
    assert nobody.to_prune(None) == ["main"]
    done = nobody.prune("main")
    assert kinds(done.changes) == {"keep": 1, "close": 117}
    assert sorted(host.name for host in done.hosts) == ["esx1.vcl.test", "esx2.vcl.test"]
    minutes_pass(rig)
    done = nobody.prune("main")
    assert (kinds(done.changes), done.hosts) == ({"keep": 1, "remove": 117}, ())
    assert rig.computer("vm001.vcl.test")["home"] == "esxprov-main.vcl.test"
    rig.rows.execute("UPDATE request SET stateid = 12")
    nobody.prune("main")
    minutes_pass(rig)
    assert [host.name for host in nobody.prune("main").hosts] == ["esxprov-main.vcl.test"]
    assert nobody.to_prune(None) == []


# --- taking over what is made by hand --------------------------------------------------------------------------------


@pytest.fixture
def by_hand(rig: SlotsRig) -> SlotsRig:
    """Six slots on a hypervisor, as an admin makes them, with an engine of VCL's."""
    vmhost = rig.rows.hypervisor("esx1.vcl.test", 65536, 32, rig.profile)
    for number in range(1, 7):
        mac = f"00:50:56:0{{}}:00:0{number}"
        rig.rows.computer(f"hand{number}.vcl.test", vmhost, 7, mac.format(2), mac.format(3))
    return rig


def hand(number: int) -> str:
    return f"hand{number}.vcl.test"


def members(rig: SlotsRig) -> list[tuple[int, int]]:
    found = rig.all("SELECT resourceid, resourcegroupid FROM resourcegroupmembers ORDER BY 1, 2")
    return [(row["resourceid"], row["resourcegroupid"]) for row in found]


def test_slots_made_by_hand_are_taken_over_and_given_back_as_they_were(by_hand: SlotsRig, tmp_path: Path) -> None:
    rig, undo = by_hand, tmp_path / "undo.json"
    rig.rows.execute("UPDATE computer SET currentimageid = %s WHERE hostname = %s", rig.image.image_id, hand(2))
    rig.rows.execute("UPDATE computer SET privateIPaddress = '10.0.0.1' WHERE hostname = %s", hand(3))
    before, groups = [rig.computer(hand(number)) for number in range(1, 7)], members(rig)
    adopted = rig.slots().adopt(rig.current, undo)
    assert [(one.hostname, one.why_not) for one in adopted] == [(hand(number), "") for number in range(1, 7)]
    for number in range(1, 7):
        slot = rig.computer(hand(number))
        assert (slot["home"], slot["provisioningid"], slot["currentimageid"], slot["privateIPaddress"]) == (
            "esxprov-main.vcl.test", rig.provisioning, 1, None
        )  # fmt: skip
    assert stat.S_IMODE(undo.stat().st_mode) == 0o600
    made = rig.sync().plan
    assert len(made.slots) == 118
    assert rig.computer(hand(1))["RAM"] == made.shape.ram_mb
    assert changed(rig) == []
    given = rig.slots().give_back(undo)
    assert [one.why_not for one in given] == [""] * 6
    assert [rig.computer(hand(number)) for number in range(1, 7)] == before
    known = {resource for resource, _ in groups}
    assert [member for member in members(rig) if member[0] in known] == groups


def test_a_slot_by_hand_that_somebody_has_or_whose_vm_is_there_is_left(by_hand: SlotsRig, tmp_path: Path) -> None:
    rig = by_hand
    rig.reserve(hand(1))
    rig.rows.execute("UPDATE computer SET stateid = 6 WHERE hostname = %s", hand(2))
    rig.old_vm("esx2", "old", "00:50:56:02:00:03".upper())
    rig.old_vm("esx1", "of ours", "00:50:56:02:00:04", "esxprov event=e claim=c computer=1 image=i")
    before = [rig.computer(hand(number)) for number in range(1, 4)]
    told = rig.slots().adopt(rig.current, tmp_path / "undo.json")
    assert [one.why_not for one in told] == [
        "in use", "in state reloading", "its VM old is still on esx2.vcl.test: remove it there first", "", "", ""
    ]  # fmt: skip
    assert [rig.computer(hand(number)) for number in range(1, 4)] == before
    assert rig.computer(hand(4))["home"] == "esxprov-main.vcl.test"


def test_a_dry_run_of_adopting_changes_nothing(by_hand: SlotsRig, tmp_path: Path) -> None:
    before = by_hand.checksums()
    told = by_hand.slots().adopt(by_hand.current, tmp_path / "undo.json", dry_run=True)
    assert [one.why_not for one in told] == [""] * 6
    assert by_hand.checksums() == before
    assert list(tmp_path.iterdir()) == []


def test_slots_on_a_host_that_does_not_answer_are_not_adopted(by_hand: SlotsRig, tmp_path: Path) -> None:
    by_hand.sync()
    by_hand.looks.silent = {"esx1"}
    told = by_hand.slots().adopt(by_hand.current, tmp_path / "undo.json")
    assert {one.why_not for one in told} == {
        "esx1.vcl.test does not answer, so nobody knows whether its VM is still there"
    }  # fmt: skip


def test_nothing_is_adopted_if_the_undo_file_cannot_be_written(by_hand: SlotsRig, tmp_path: Path) -> None:
    before = by_hand.checksums()
    with pytest.raises(ConfigurationError, match=r"cannot be written .*, so nothing is adopted"):
        by_hand.slots().adopt(by_hand.current, tmp_path / "nowhere" / "undo.json")
    there = tmp_path / "undo.json"
    there.write_text("mine")
    with pytest.raises(ConfigurationError, match="is there already"):
        by_hand.slots().adopt(by_hand.current, there)
    assert (by_hand.checksums(), there.read_text()) == (before, "mine")


def test_what_is_in_use_is_not_given_back_and_prune_never_removes_it(by_hand: SlotsRig, tmp_path: Path) -> None:
    rig, undo = by_hand, tmp_path / "undo.json"
    rig.slots().adopt(rig.current, undo)
    rig.reserve(hand(1))
    assert [bool(one.why_not) for one in rig.slots().give_back(undo)] == [True, False, False, False, False, False]
    rig.rows.execute("UPDATE request SET stateid = 12")
    assert kinds(Slots(rig.database, rig.slots()._tools, []).prune("main").changes) == {"keep": 1}
    again = rig.slots().give_back(undo)
    assert [one.why_not for one in again] == ["", *["it is not adopted any more"] * 5]


# --- what keeps slots from users -------------------------------------------------------------------------------------

BROKEN = {
    "images not mapped": ("DELETE FROM resourcemap WHERE resourcegroupid1 = 10", "no group of vmwarelinux-base9", True),
    "node not mapped": ("DELETE FROM resourcemap WHERE resourcetypeid1 = 16", "no management node is mapped to", True),
    "node is silent": ("UPDATE managementnode SET lastcheckin = NOW() - INTERVAL 301 SECOND", "start vcld", True),
    "node in maintenance": ("UPDATE managementnode SET stateid = 10", "no management node .* is at work", True),
    "group not available": ("DELETE FROM resourcepriv WHERE resourcegroupid = 5", "nobody may check out images", True),
    "no user": ("DELETE FROM userpriv", "nobody may check out images", True),
    "no cascade": (
        "DELETE p FROM userpriv p JOIN userprivtype t ON t.id = p.userprivtypeid WHERE t.name = 'cascade'",
        "nobody may check out images",
        True,
    ),
    "no install type": (
        "DELETE t FROM provisioningOSinstalltype t JOIN provisioning p ON p.id = t.provisioningid "
        "WHERE p.name = 'esxprov'",
        "no OS install type for esxprov",
        True,
    ),
    "no times": ("DELETE FROM scheduletimes", "does not cover the whole week", True),
    "a gap": ("UPDATE scheduletimes SET end = 5000", "does not cover the whole week", False),
    "platform": ("UPDATE image SET platformid = 3 WHERE id > 1", "base9-v3 are for another platform", False),
    "RAM": ("UPDATE image SET minram = 65000 WHERE id > 1", "need more than an idle slot shows", False),
    "vCPUs": ("UPDATE image SET minprocnumber = 33 WHERE id > 1", "need more than an idle slot shows", False),
    "CPU": ("UPDATE image SET minprocspeed = 10001 WHERE id > 1", "need a faster CPU", False),
    "network": ("UPDATE image SET minnetwork = 10001 WHERE id > 1", "need a faster network", False),
    "OS": ("UPDATE OS SET minram = 4096 WHERE name = 'vmwarelinux'", "get more RAM than VCL counts", False),
    "password": ("UPDATE vmprofile SET secretid = 1", "has a password of its own", False),
    "static": ("UPDATE managementnode SET publicIPconfiguration = 'static'", "static public addresses", False),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_hides_slots_is_said_and_nothing_else(rig: SlotsRig, name: str) -> None:
    statement, sentence, hides_all = BROKEN[name]
    assert rig.sync().warnings == ()
    rig.rows.execute(statement)
    (warning,) = rig.plan().warnings
    assert re.search(sentence, warning.text), warning.text
    assert warning.hides_all == hides_all


def test_hosts_for_some_images_only_are_said_as_vcl_does_not_know_of_them(rig: SlotsRig) -> None:
    rig.pool = replace(rig.pool, image_hosts=(("gpu-*", ("esx1",)),))
    assert [warning.text[:11] for warning in rig.plan().warnings] == ["image_hosts"]


def test_a_first_vm_host_without_vms_is_said_where_it_breaks_the_front_end(rig: SlotsRig) -> None:
    rig.rows.hypervisor("old.vcl.test", 1000, 4, rig.rows.profile("other", "nfs2"))
    warnings = [warning.text for warning in rig.sync().warnings]
    assert len(warnings) == ("STRICT" in rig.mariadb.sql_mode)
    assert all(text.startswith("old.vcl.test, VCL's first VM host, has no VM") for text in warnings)


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        ({"groups": ("No such",)}, r"VCL has no group of computers called 'No such': .*\[slots main\] groups"),
        ({"host_groups": ("No such",)}, r"VCL has no group .*\[slots main\] host_groups"),
        ({"schedule": "nights"}, r"VCL has no schedule 'nights': .*\[slots main\] schedule"),
        ({"owner": "nobody"}, r"VCL has no user 'nobody'"),
        ({"owner": "admin@Elsewhere"}, r"VCL has no user 'admin@Elsewhere'"),
        ({"pool_host": "mine.vcl.test"}, r"VCL has a computer mine\.vcl\.test .*not ours: give .* another pool_host"),
        ({"names": "min#.vcl.test", "most": 1}, r"no name that can be given: VCL cannot tell min1.vcl.test from"),
    ],
)
def test_bad_settings_are_a_sentence_and_change_nothing(rig: SlotsRig, rules: dict[str, Any], sentence: str) -> None:
    profile = rig.rows.profile("other", "nfs2")
    rig.rows.hypervisor("mine.vcl.test", 1000, 4, profile)
    rig.rows.hypervisor("admin1.vcl.test", 1000, 4, profile)
    before = rig.checksums()
    rig.rules(**rules)
    with pytest.raises(ConfigurationError, match=sentence):
        rig.sync()
    assert rig.checksums() == before


def test_a_profile_that_vcl_does_not_have_is_a_sentence(rig: SlotsRig) -> None:
    rig.pool = replace(rig.pool, profile="racks")
    with pytest.raises(ConfigurationError, match=r"VCL has no VM host profile 'racks', which \[pool main\] names"):
        rig.sync()


def test_an_engine_that_is_not_registered_is_a_sentence(rig: SlotsRig) -> None:
    rig.rows.execute("DELETE FROM provisioning WHERE name = 'esxprov'")
    with pytest.raises(ConfigurationError, match="no provisioning engine esxprov"):
        rig.sync()


def test_names_of_two_pools_must_not_clash(rig: SlotsRig) -> None:
    other = replace(rig.pool, name="two", profile="two", slots=replace(RULES, names="labvm###.vcl.test"))
    with pytest.raises(ConfigurationError, match=r"vm001\.vcl\.test, which VCL cannot tell from labvm001"):
        rig.slots(other).sync(rig.current)


@pytest.mark.parametrize(
    ("table", "right"),
    [("computer", "INSERT"), ("vmhost", "INSERT"), ("resource", "INSERT"), ("resourcegroupmembers", "INSERT")],
)
def test_without_a_right_on_a_table_nothing_is_changed(rig: SlotsRig, table: str, right: str) -> None:
    names = [row["Tables_in_vcl"] for row in rig.all("SHOW TABLES")]
    allowed = [f"GRANT SELECT ON vcl.`{name}` TO weak@'%'" for name in names]
    allowed += [f"GRANT INSERT, UPDATE, DELETE ON vcl.`{name}` TO weak@'%'" for name in names if name != table]
    user = f"CREATE USER weak@'%' IDENTIFIED BY '{rig.database.config.password}'"
    rig.mariadb.execute("; ".join([user, *allowed]))
    weak = rig.opened("weak")
    before = rig.checksums()
    try:
        with pytest.raises(
            DependencyUnavailable, match=f"refuses user 'weak': {right} command denied .*{table}.* see to"
        ):
            rig.slots(database=weak).sync(rig.current)
    finally:
        weak.close()
        rig.mariadb.execute("DROP USER weak@'%'")
    assert rig.checksums() == before


def test_a_second_one_at_the_same_time_is_told_to_wait(rig: SlotsRig) -> None:
    rig.sync()
    begun = time.monotonic()
    with (
        rig.held("SELECT * FROM esxprov_slot_turn WHERE pool = 'main' FOR UPDATE"),
        pytest.raises(ProvisioningError, match="another 'esxprov slots' is at work on pool main") as caught,
    ):
        rig.sync()
    assert caught.value.code == "conflict"
    assert time.monotonic() - begun < 10
    assert rig.sync().late == ()


def test_the_last_ids_of_computers_are_used_and_no_more(rig: SlotsRig) -> None:
    rig.rows.execute("ALTER TABLE computer AUTO_INCREMENT = 65526")
    outcome = rig.plan()
    assert [note for note in outcome.plan.notes if "computer.id ends at 65535" in note]
    rig.sync()
    assert rig.all("SELECT MAX(id) AS last FROM computer")[0]["last"] == 65535
    assert changed(rig) == []
