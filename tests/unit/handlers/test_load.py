from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import pytest

from bridge.envelope import Event
from esxprov import annotation
from esxprov.errors import Cancelled, ProvisioningError
from esxprov.handlers import load
from esxprov.handlers.sweep import sweep
from esxprov.job import cancelled
from esxprov.model import CatalogueImage, Claim, ClaimState, DiskMode, HostKey, PowerState, Promised
from esxprov.placement.promises import foreign_claim_id
from esxprov.ports import Look
from tests.unit.world import IMAGE, POOL, Died, FakeHypervisor, FakePools, Site, StoredSteps

DIRECTORY = "[nfs1] inuse/vclv1-27"
DISK = f"{DIRECTORY}/{IMAGE}.vmdk"


def calls_of_one_load() -> int:
    site = Site()
    site.run(site.event("load"))
    return site.world.calls_made


CALLS_OF_ONE_LOAD = calls_of_one_load()


def only_vm(site: Site) -> tuple[str, str]:
    """Endpoint and claim of the one VM there is."""
    (vm,) = site.world.vms
    assert vm.power is PowerState.ON
    owner = annotation.read(vm.annotation)
    assert owner is not None
    return vm.endpoint, owner.claim_id


def disks_of_the_vm(site: Site) -> list[str]:
    return [path for path in site.world.disks if path.startswith(DIRECTORY)]


def refusing(*endpoints: str) -> dict[str, ProvisioningError]:
    return {
        name: ProvisioningError("no_capacity", f"{name} is out of RAM", host=f"{name}/ha-host") for name in endpoints
    }


def test_a_load_ends_with_a_running_vm_its_address_and_a_claim() -> None:
    site = Site()
    result = site.run(site.event("load"))
    endpoint, claim_id = only_vm(site)
    assert (result["private_ip"], result["host"], result["mac"]) == ("10.77.1.1", endpoint, "00:50:56:00:01:1b")
    assert result["vmhost_id"] == {"esx1": 11, "esx2": 12, "esx3": 13}[endpoint]
    (claim,) = site.claims.held
    assert (claim.id, claim.state, claim.host.endpoint) == (claim_id, ClaimState.RUNNING, endpoint)


def test_the_vm_has_its_own_copy_of_the_disk_in_its_own_directory() -> None:
    site = Site()
    site.run(site.event("load"))
    assert disks_of_the_vm(site) == [DISK]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(1, CALLS_OF_ONE_LOAD + 1))
def test_killed_at_any_call_the_load_resumes_with_one_vm_and_one_claim(number: int, when: str) -> None:
    site = Site()
    site.world.die_at = (number, when)
    result = site.run_until_done(site.event("load"))
    endpoint, claim_id = only_vm(site)
    assert [claim.id for claim in site.claims.held] == [claim_id]
    assert result["host"] == endpoint
    assert result["private_ip"] in {lease.ip for _, lease in site.world.leases}
    assert disks_of_the_vm(site) == [DISK]


@pytest.mark.parametrize("number", range(1, CALLS_OF_ONE_LOAD + 1))
def test_failed_at_any_call_it_goes_another_way_or_leaves_nothing(number: int) -> None:
    site = Site()
    before = site.world.paths()
    job = site.job(site.event("load"))
    site.world.fail_at = number
    try:
        load.load(job, site.tools)
    except ProvisioningError:
        load.undo(job, site.tools)
        assert (site.world.vms, site.claims.held, site.world.paths()) == ([], [], before)
    else:
        assert only_vm(site)[1] == site.claims.held[0].id


def test_what_is_left_of_the_computer_s_earlier_life_is_removed_first() -> None:
    site = Site()
    site.run(site.event("load"))
    (old,) = site.world.vms
    site.run(site.event("load"))
    (new,) = site.world.vms
    assert new.moid != old.moid
    assert len(site.claims.held) == 1


def test_a_computer_whose_host_is_full_of_itself_can_be_loaded_again() -> None:
    site = Site(pool=replace(POOL, endpoints=("esx1",)))
    site.hypervisors["esx1"].ram_mb = 1024 + 2200
    site.run(site.event("load"))
    site.run(site.event("load"))
    assert len(site.world.vms) == len(site.claims.held) == 1


def test_a_linked_vm_writes_to_a_redo_disk_of_its_own_and_never_to_the_image() -> None:
    site = Site(pool=replace(POOL, disk=DiskMode.LINKED))
    site.run(site.event("load"))
    (vm,) = site.world.vms
    (disk,) = site.world.vm_disks[vm.moid]
    assert disk.startswith(DIRECTORY)
    assert site.world.disks[disk].parent == f"[nfs1] golden/{IMAGE}/{IMAGE}.vmdk"


def test_a_linked_vm_has_a_redo_disk_also_where_the_image_goes_by_another_name() -> None:
    site = Site(pool=replace(POOL, disk=DiskMode.LINKED))
    alias = f"[nfs1 (1)] golden/{IMAGE}/{IMAGE}.vmdk"
    site.world.golden(IMAGE, datastore="nfs1 (1)")

    def rename(method: str) -> None:
        if method == "disks" and not site.world.snapshots:
            site.world.vm_disks = {moid: [alias] for moid in site.world.vm_disks}

    site.world.on_call = rename
    site.run(site.event("load"))
    ((disk,),) = site.world.vm_disks.values()
    assert disk.startswith(DIRECTORY)


def written(site: Site) -> set[str]:
    """What disks the VMs write that are on."""
    return {disk for vm in site.world.vms if vm.power is PowerState.ON for disk in site.world.vm_disks[vm.moid]}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(1, CALLS_OF_ONE_LOAD + 1))
def test_killed_at_any_call_a_linked_vm_is_not_switched_on_with_the_image_s_own_disk(number: int, when: str) -> None:
    site = Site(pool=replace(POOL, disk=DiskMode.LINKED))
    seen: set[str] = set()
    site.world.on_call = lambda _: seen.update(written(site))
    site.world.die_at = (number, when)
    site.run_until_done(site.event("load"))
    assert seen | written(site) == {f"{DIRECTORY}/{IMAGE}-000001.vmdk"}


def test_a_linked_vm_whose_host_puts_its_redo_disk_elsewhere_is_never_switched_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = Site(pool=replace(POOL, disk=DiskMode.LINKED))
    monkeypatch.setattr(FakeHypervisor, "snapshot_before_first_power_on", lambda self, vm: None)
    job = site.job(site.event("load"))
    with pytest.raises(ProvisioningError, match=f"would write to .nfs1. golden/{IMAGE}/{IMAGE}.vmdk") as caught:
        load.load(job, site.tools)
    assert caught.value.code == "vsphere_fault"
    load.undo(job, site.tools)
    assert not any(line.startswith("power_on") for line in site.world.log)
    assert f"[nfs1] golden/{IMAGE}/{IMAGE}.vmdk" in site.world.disks


def test_a_server_has_a_disk_of_its_own_where_the_others_are_linked() -> None:
    site = Site(pool=replace(POOL, disk=DiskMode.LINKED))
    site.run(site.event("load", reservation={"server": True}))
    assert disks_of_the_vm(site) == [DISK]
    assert site.world.disks[DISK].parent is None


@pytest.mark.parametrize(("server", "share"), [(False, 4), (True, 1)])
def test_room_is_asked_for_what_the_vm_s_disk_may_become(server: bool, share: int) -> None:
    site = Site(pool=replace(POOL, disk=DiskMode.LINKED))
    site.run(site.event("load", reservation={"server": server}))
    assert [claim.disk_mb for claim in site.claims.held] == [2048 // share]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(1, CALLS_OF_ONE_LOAD + 1))
def test_a_pool_that_is_linked_no_more_does_not_have_begun_vms_switched_on_with_the_image_s_own_disk(
    number: int, when: str
) -> None:
    site = Site(pool=replace(POOL, disk=DiskMode.LINKED))
    seen: set[str] = set()
    site.world.on_call = lambda _: seen.update(written(site))
    site.world.die_at = (number, when)
    book = StoredSteps()
    event = site.event("load")
    with suppress(Died):
        load.load(site.job(event, book), site.tools)
    site.world.die_at = None
    site.tools = replace(site.tools, pools=FakePools(POOL))
    load.load(site.job(event, book), site.tools)
    assert all(disk.startswith(f"{DIRECTORY}/") for disk in seen | written(site))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(1, CALLS_OF_ONE_LOAD + 1))
def test_the_vmx_of_a_registered_vm_is_not_written_again_or_a_linked_vm_would_lose_its_redo_disk(
    number: int, when: str
) -> None:
    site = Site(pool=replace(POOL, disk=DiskMode.LINKED))
    site.world.die_at = (number, when)
    site.run_until_done(site.event("load"))
    done = [line.partition("(")[0] for line in site.world.log]
    assert "write_file" not in done[done.index("register") :]


def test_a_host_that_refuses_the_vm_is_left_for_another_one() -> None:
    event = Site().event("load")
    favourite = Site().run(event)["host"]
    site = Site()
    site.world.refuses = refusing(favourite)
    result = site.run(event)
    assert result["host"] != favourite
    assert only_vm(site)[0] == result["host"]
    assert len(site.claims.held) == 1


def test_a_host_that_refused_a_vm_is_chosen_by_nobody_until_it_has_switched_one_on() -> None:
    event = Site().event("load")
    favourite = Site().run(event)["host"]
    site = Site()
    site.world.refuses = refusing(favourite)
    site.run(event)
    site.world.refuses = {}
    assert list(site.quarantine.hosts.values()) == [f"{favourite} refused vclv1-27: {favourite} is out of RAM"]
    assert site.run(site.event("load", computer={"id": 28, "name": "vclv1-28"}))["host"] != favourite
    site.quarantine.clear(HostKey(favourite, "ha-host"), "")
    assert site.run(site.event("load", computer={"id": 29, "name": "vclv1-29"}))["host"] == favourite


def test_a_host_that_switches_a_vm_on_leaves_the_quarantine() -> None:
    site = Site()
    hosts = {HostKey(name, "ha-host") for name in site.pool.endpoints}

    def refused_others(method: str) -> None:
        if method == "register":
            site.quarantine.hosts = dict.fromkeys(hosts, "it refused another one, after this one was placed")

    site.world.on_call = refused_others
    chosen = HostKey(site.run(site.event("load"))["host"], "ha-host")
    assert set(site.quarantine.hosts) == hosts - {chosen}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(1, 2 * CALLS_OF_ONE_LOAD))
def test_killed_at_any_call_while_it_leaves_a_host_the_load_holds_a_claim_where_its_vm_is(
    number: int, when: str
) -> None:
    event = Site().event("load")
    favourite = Site().run(event)["host"]
    site = Site()
    site.world.refuses = refusing(favourite)

    def relents(method: str) -> None:
        if method == "unregister":
            site.world.refuses = {}

    site.world.on_call = relents
    site.world.die_at = (number, when)
    result = site.run_until_done(event)
    endpoint, claim_id = only_vm(site)
    assert [(claim.id, claim.host.endpoint) for claim in site.claims.held] == [(claim_id, endpoint)]
    assert result["host"] == endpoint


def test_after_three_hosts_that_refused_it_the_load_fails_with_the_last_reason() -> None:
    site = Site(pool=replace(POOL, endpoints=("esx1", "esx2", "esx3", "esx4")))
    site.world.refuses = refusing(*site.pool.endpoints)
    with pytest.raises(ProvisioningError, match="is out of RAM") as caught:
        site.run(site.event("load"))
    assert caught.value.code == "no_capacity"
    assert sum("power_on" in line for line in site.world.log) == 3


def test_an_endpoint_that_does_not_answer_is_left_out() -> None:
    site = Site()
    site.world.down = {"esx1", "esx2"}
    assert site.run(site.event("load"))["host"] == "esx3"


def test_what_was_so_just_before_refuses_nothing() -> None:
    site = Site()
    site.looks.remembered = [Look(name) for name in site.pool.endpoints]
    assert site.run(site.event("load"))["private_ip"] == "10.77.1.1"


def test_without_any_endpoint_the_load_fails_as_unavailable() -> None:
    site = Site()
    site.world.down = set(POOL.endpoints)
    with pytest.raises(ProvisioningError) as caught:
        site.run(site.event("load"))
    assert caught.value.code == "host_unavailable"
    assert caught.value.retryable


def test_an_earlier_vm_on_a_silent_host_is_not_doubled() -> None:
    site = Site()
    host = site.run(site.event("load"))["host"]
    site.world.down = {host}
    job = site.job(site.event("load"))
    with pytest.raises(ProvisioningError, match=f"may still run on {host}"):
        load.load(job, site.tools)
    load.undo(job, site.tools)
    assert [(c.host.endpoint, c.state) for c in site.claims.held] == [(host, ClaimState.TO_BE_DESTROYED)]
    assert DISK in site.world.disks


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"image": {"name": "no-such-image"}}, "image_not_found", "image no-such-image has no disk"),
        ({"image": {"name": "../../etc"}}, "invalid_event", "cannot be used in a datastore path"),
        ({"computer": {"name": "a/b"}}, "invalid_event", "cannot be used in a datastore path"),
        ({"profile": {"datastore_path": ""}}, "invalid_event", "names no datastore"),
        ({"profile": {"networks": []}}, "invalid_event", "names no private network"),
        ({"profile": {"networks": ["", "Public"]}}, "invalid_event", "names no private network"),
        ({"profile": {"networks": ["Private", "Nowhere"]}}, "no_capacity", "the host has no network Nowhere"),
        ({"profile": {"vm_path": "elsewhere"}}, "no_capacity", "the host has no datastore elsewhere"),
        ({"image": {"min_ram_mb": 20000}}, "no_capacity", "would fit if"),
        ({"image": {"min_cpus": 17}}, "no_capacity", "the host has 16 threads"),
    ],
)
def test_a_request_that_cannot_be_met_says_why_and_changes_nothing(
    changes: dict[str, dict[str, object]], code: str, said: str
) -> None:
    site = Site()
    before = site.world.paths()
    with pytest.raises(ProvisioningError, match=said) as caught:
        site.run(site.event("load", **changes))
    assert caught.value.code == code
    assert (site.world.paths(), site.world.vms, site.claims.held) == (before, [], [])


def test_a_guest_that_never_gets_an_address_is_an_error_and_its_vm_is_removed() -> None:
    site = Site()
    site.world.silent_guests = True
    before = site.world.paths()
    job = site.job(site.event("load"))
    with pytest.raises(ProvisioningError) as caught:
        load.load(job, site.tools)
    assert caught.value.code == "ip_not_seen"
    load.undo(job, site.tools)
    assert (site.world.vms, site.claims.held, site.world.paths()) == ([], [], before)


@pytest.mark.parametrize("number", range(1, 10))
def test_a_clean_up_that_fails_at_any_call_leaves_nothing_that_the_sweep_does_not_find(number: int) -> None:
    site = Site()
    site.world.silent_guests = True
    job = site.job(site.event("load"))
    with pytest.raises(ProvisioningError):
        load.load(job, site.tools)
    site.world.fail_at = site.world.calls_made + number
    with suppress(ProvisioningError):
        load.undo(job, site.tools)
    site.world.fail_at = None
    sweep(site.tools, POOL)
    assert (site.world.vms, site.claims.held) == ([], [])


def test_a_cancel_in_the_middle_of_the_copy_leaves_nothing() -> None:
    site = Site()
    before = site.world.paths()
    job = site.job(site.event("load"))
    site.world.on_call = lambda method: job.interrupt(cancelled("deleted")) if method == "copy_disk" else None
    with pytest.raises(Cancelled):
        load.load(job, site.tools)
    load.undo(job, site.tools)
    assert (site.world.vms, site.claims.held, site.world.paths()) == ([], [], before)


def moved_to_another_pool() -> Site:
    """A computer was loaded on esx1, and then given to a VM host of a pool that has only esx2."""
    site = Site()
    site.tools = replace(site.tools, pools=FakePools(replace(POOL, endpoints=("esx1",))))
    site.run(site.event("load"))
    site.tools = replace(site.tools, pools=FakePools(replace(POOL, name="other", endpoints=("esx2",))))
    return site


def test_an_earlier_vm_in_another_pool_is_removed_first() -> None:
    site = moved_to_another_pool()
    site.run(site.event("load"))
    assert only_vm(site)[0] == "esx2"
    assert [claim.host.endpoint for claim in site.claims.held] == ["esx2"]


def test_an_earlier_vm_on_a_silent_host_of_another_pool_is_not_doubled() -> None:
    site = moved_to_another_pool()
    site.world.down = {"esx1"}
    with pytest.raises(ProvisioningError, match="may still run on esx1"):
        site.run(site.event("load"))
    assert ("esx1", ClaimState.TO_BE_DESTROYED) in [(claim.host.endpoint, claim.state) for claim in site.claims.held]


def test_a_claim_on_a_host_that_was_taken_out_of_the_configuration_holds_nobody_up() -> None:
    site = moved_to_another_pool()
    del site.hypervisors["esx1"]
    site.run(site.event("load"))
    assert [claim.host.endpoint for claim in site.claims.held] == ["esx2"]


@pytest.mark.parametrize("changes", [{"image": {"name": "no-such-image"}}, {"image": {"min_ram_mb": 20000}}])
def test_a_load_that_failed_leaves_no_earlier_vm_because_vcl_does_not_know_it_any_more(
    changes: dict[str, dict[str, object]],
) -> None:
    site = Site()
    before = site.world.paths()
    site.run(site.event("load"))
    job = site.job(site.event("load", **changes))
    with pytest.raises(ProvisioningError):
        load.load(job, site.tools)
    load.undo(job, site.tools)
    assert (site.world.vms, site.claims.held, site.world.paths()) == ([], [], before)


def test_a_load_that_never_had_its_turn_leaves_the_earlier_vm_alone() -> None:
    site = Site()
    site.run(site.event("load"))
    load.undo(site.job(site.event("load")), site.tools)
    assert len(site.world.vms) == len(site.claims.held) == 1


def test_an_address_that_only_vmware_tools_know_is_taken_from_them() -> None:
    site = Site()
    site.world.silent_guests = True
    mac = site.event("load").data["computer"]["private_mac"]

    def boot(method: str) -> None:
        site.world.guest_addresses = {vm.moid: [(mac, "10.77.9.9")] for vm in site.world.vms}

    site.world.on_call = boot
    assert site.run(site.event("load"))["private_ip"] == "10.77.9.9"


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(1, CALLS_OF_ONE_LOAD + 1))
def test_old_leases_are_ended_while_the_vm_is_off_and_never_after(number: int, when: str) -> None:
    site = Site()
    site.world.die_at = (number, when)
    site.run_until_done(site.event("load"))
    done = [line.partition("(")[0] for line in site.world.log]
    assert "end_old" in done
    assert "end_old" not in done[done.index("power_on") :]


def test_a_lease_from_before_this_power_on_is_not_taken_for_the_new_one() -> None:
    site = Site()
    first = site.run(site.event("load"))["private_ip"]
    assert site.run(site.event("load"))["private_ip"] != first


@pytest.mark.parametrize("call", ["mark", "look_again"])
def test_an_address_that_its_guest_declines_before_the_reply_is_not_replied(call: str) -> None:
    """A guest looks whether its address is in use after it was given, while the load does what is left to do."""
    site = Site()

    def decline(method: str) -> None:
        if method == call and site.world.leases and not site.world.declined:
            at, lease = site.world.leases[-1]
            site.world.declined.add(lease.ip)
            site.world.leases.append((at, replace(lease, ip="10.77.1.99")))

    site.world.on_call = decline
    assert site.run(site.event("load"))["private_ip"] == "10.77.1.99"
    assert site.world.declined


def test_a_vm_that_goes_for_the_load_takes_no_room_from_it_though_it_was_counted_as_nobodys() -> None:
    site = Site(pool=replace(POOL, endpoints=("esx1",)))
    site.run(site.event("load"))
    (old,) = site.world.vms
    key = HostKey(old.endpoint, old.host_moid)
    site.world.vms = [replace(old, ram_mb=14_000)]
    site.claims.held = [
        Claim(foreign_claim_id(old.endpoint, old.moid), key, 0, 14_200, 1, "", ClaimState.FOREIGN),
    ]
    assert site.run(site.event("load", image={"min_ram_mb": 4096}))["host"] == "esx1"


def test_a_datastore_that_is_full_in_mid_copy_says_how_much_was_missing_and_keeps_nothing_of_the_copy() -> None:
    site = Site()

    def fill(method: str) -> None:
        if method == "copy_disk":
            site.world.free_mb = 1500
            path = f"{DIRECTORY}/{IMAGE}.unfinished.vmdk"
            site.world.files[path] = b"half"
            raise ProvisioningError("datastore_full", "the datastore is full")

    site.world.on_call = fill
    with pytest.raises(ProvisioningError) as caught:
        site.run(site.event("load"))
    assert "vclv1-27 needs up to 2048 MB on [nfs1], where 1500 MB are free: 548 MB are missing" in caught.value.message
    assert not [path for path in site.world.files if "unfinished" in path]


# --- what the vm is made of ------------------------------------------------------------------------------------------


def vmx_of(site: Site, **changes: dict[str, object]) -> str:
    """The VMX that a load writes."""
    site.run(site.event("load", **changes))
    return site.world.files[f"{DIRECTORY}/vclv1-27.vmx"].decode()


@pytest.mark.parametrize("name", [f"{IMAGE}.vmx", f"{IMAGE}.vmx.reference"])
def test_a_vm_gets_the_hardware_that_its_image_was_made_on(name: str) -> None:
    site = Site()
    site.world.files[f"[nfs1] golden/{IMAGE}/{name}"] = b'guestOS = "rhel7-64"\nfirmware = "efi"\n'
    written = vmx_of(site)
    assert 'guestOS = "rhel7-64"' in written
    assert 'firmware = "efi"' in written


def test_our_own_reference_is_believed_before_an_older_one() -> None:
    site = Site()
    site.world.files[f"[nfs1] golden/{IMAGE}/{IMAGE}.vmx"] = b'guestOS = "rhel7-64"\n'
    site.world.files[f"[nfs1] golden/{IMAGE}/{IMAGE}.vmx.reference"] = b'guestOS = "rhel5"\n'
    assert 'guestOS = "rhel7-64"' in vmx_of(site)


@pytest.mark.parametrize("nested", [True, False])
def test_a_vm_can_run_vms_itself_if_its_host_lets_it(nested: bool) -> None:
    site = Site()
    for hypervisor in site.hypervisors.values():
        hypervisor.nested = nested
    assert ('vhv.enable = "TRUE"' in vmx_of(site)) is nested


def test_the_third_and_the_fourth_network_of_a_profile_get_cards_with_generated_macs() -> None:
    site = Site()
    for hypervisor in site.hypervisors.values():
        hypervisor.networks = ("Private", "Public", "Storage", "Lab")
    written = vmx_of(site, profile={"networks": ["Private", "Public", "Storage", "Lab"]})
    assert 'ethernet2.networkName = "Storage"' in written
    assert 'ethernet3.networkName = "Lab"\nethernet3.startConnected = "TRUE"\nethernet3.addressType' in written
    assert 'ethernet3.addressType = "generated"' in written


def test_an_image_of_a_project_is_connected_to_the_project_s_networks_too() -> None:
    site = Site()
    for hypervisor in site.hypervisors.values():
        hypervisor.networks = ("Private", "Public", "HPC-cluster", "Storage")
    written = vmx_of(site, image={"project": "hpc"})
    assert 'ethernet2.networkName = "HPC-cluster"' in written
    assert "ethernet3." not in written


def test_a_network_of_the_profile_is_not_given_twice_because_the_project_has_its_name() -> None:
    assert "ethernet2." not in vmx_of(Site(), image={"project": "public"})


def test_a_vm_has_no_more_cards_than_vsphere_allows() -> None:
    site = Site()
    for hypervisor in site.hypervisors.values():
        hypervisor.networks = ("Private", "Public", *(f"lab-{number}" for number in range(20)))
    written = vmx_of(site, image={"project": "lab"})
    assert "ethernet9." in written
    assert "ethernet10." not in written


@pytest.mark.parametrize(
    ("project", "networks"),
    [("vcl", []), ("VCL", []), ("", []), ("hpc", ["HPC 1"]), ("hpc 1 and 2", ["HPC 1"]), ("chemistry", [])],
)
def test_a_project_s_networks_contain_its_name_or_are_a_part_of_it(project: str, networks: list[str]) -> None:
    assert load.project_networks(project, ["Private", "HPC 1", ""]) == networks


def test_a_host_that_vanishes_before_its_vm_is_configured_may_be_back_for_another_try() -> None:
    site = Site()
    at = site.looks.at

    def vanished(endpoints: Sequence[str], *, recent: bool = False, within_s: float | None = None) -> list[Look]:
        if len(endpoints) == 1:  # placement asks all of them
            return [Look(endpoints[0], problem="it does not answer")]
        return at(endpoints, recent=recent, within_s=within_s)

    site.looks.at = vanished  # type: ignore[method-assign]
    with pytest.raises(ProvisioningError, match="cannot be seen any more: it does not answer") as caught:
        site.run(site.event("load"))
    assert (caught.value.code, caught.value.retryable) == ("host_unavailable", True)


def test_a_host_that_its_endpoint_does_not_name_any_more_is_left_for_another_one() -> None:
    event = Site().event("load")
    favourite = Site().run(event)["host"]
    site = Site()
    at = site.looks.at

    def removed(endpoints: Sequence[str], *, recent: bool = False, within_s: float | None = None) -> list[Look]:
        if list(endpoints) == [favourite]:  # placement asks all of them
            return [Look(favourite)]
        return at(endpoints, recent=recent, within_s=within_s)

    site.looks.at = removed  # type: ignore[method-assign]
    assert site.run(event)["host"] != favourite
    assert len(site.claims.held) == 1


# --- several machines of one request ---------------------------------------------------------------------------------


def cluster(site: Site, count: int = 3) -> list[Event]:
    """The loads of a request with some machines, as VCL's tables have it."""
    events = []
    for number in range(count):
        reservation, computer = 5678 + number, 27 + number
        events.append(
            site.event(
                "load",
                reservation={"reservation_id": reservation},
                computer={
                    "id": computer,
                    "name": f"vclv1-{computer}",
                    "private_mac": f"00:50:56:00:01:{computer:02x}",
                    "public_mac": f"00:50:56:00:02:{computer:02x}",
                },
            )
        )
        image = CatalogueImage(IMAGE, "Base", 1024, 1, 2048)
        site.inventory.promises.append(Promised(reservation, "request-1234", computer, image, 0, None))
    return events


def test_the_first_load_of_a_request_claims_for_all_its_machines_and_the_others_find_their_places() -> None:
    site = Site()
    events = cluster(site)
    site.run(events[1])
    assert {(claim.computer_id, claim.event_id) for claim in site.claims.held} == {
        (27, ""),
        (28, events[1].id),
        (29, ""),
    }
    planned = {claim.computer_id: claim.host.endpoint for claim in site.claims.held}
    assert {event.data["computer"]["id"]: site.run(event)["host"] for event in (events[0], events[2])} == {
        computer: planned[computer] for computer in (27, 29)
    }
    assert len(site.claims.held) == len(site.world.vms) == 3


def test_a_request_of_which_one_machine_fits_nowhere_has_no_place_at_all() -> None:
    site = Site(pool=replace(POOL, endpoints=("esx1",)))
    site.hypervisors["esx1"].ram_mb = 1024 + 2500
    for event in cluster(site):
        with pytest.raises(ProvisioningError, match="do not take all 3 VMs of the request together") as caught:
            site.run(event)
        assert "it would fit if" in caught.value.message
        assert (caught.value.code, site.claims.held) == ("no_capacity", [])


def test_the_machines_of_a_request_are_spread_as_the_pool_wants() -> None:
    site = Site(pool=replace(POOL, cluster_max_per_host=1))
    assert len({site.run(event)["host"] for event in cluster(site)}) == 3


def test_a_machine_whose_host_refuses_it_goes_elsewhere_and_the_others_stay() -> None:
    site = Site(pool=replace(POOL, cluster_max_per_host=1, endpoints=("esx1", "esx2", "esx3", "esx4")))
    first, second, third = cluster(site)
    site.run(first)
    planned = {claim.computer_id: claim.host.endpoint for claim in site.claims.held}
    site.world.refuses = refusing(planned[28])
    assert site.run(second)["host"] not in planned.values()
    site.world.refuses = {}
    assert site.run(third)["host"] == planned[29]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(1, CALLS_OF_ONE_LOAD + 1))
def test_killed_at_any_call_every_machine_of_a_request_has_one_claim(number: int, when: str) -> None:
    site = Site()
    events = cluster(site)
    site.world.die_at = (number, when)
    site.run_until_done(events[0])
    for event in events[1:]:
        site.run(event)
    assert sorted(claim.computer_id for claim in site.claims.held) == [27, 28, 29]
    assert len(site.world.vms) == 3


def test_what_is_said_of_later_does_not_count_the_machines_that_are_to_be_placed() -> None:
    site = Site(pool=replace(POOL, endpoints=("esx1",)))
    site.hypervisors["esx1"].ram_mb = 1024 + 2200
    (event,) = cluster(site, 1)
    site.run(event)
    at = int(site.world.now.timestamp())
    site.inventory.promises = [replace(one, ends_at=at + 3600) for one in site.inventory.promises]
    other = site.event("load", reservation={"reservation_id": 6000}, computer={"id": 40, "name": "vclv1-40"})
    site.inventory.promises.append(
        Promised(6000, "request-2000", 40, CatalogueImage(IMAGE, "Base", 1024, 1, 2048), at, at + 7200)
    )
    book = StoredSteps()
    job = site.job(other, book)
    with pytest.raises(ProvisioningError):
        load.load(job, site.tools)
    job.write_down("undo")
    assert any("when reservation 5678 ends" in help for help in book.decision["decision"]["help"])
