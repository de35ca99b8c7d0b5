"""Hosts that have booted and forgotten their VMs, in the world in memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from esxprov.errors import ProvisioningError
from esxprov.handlers.sweep import sweep
from esxprov.model import Claim, ClaimState, DiskMode, HostKey, PowerState, Recover, Vm
from esxprov.placement.recover import Outcome
from esxprov.recovery import ADDRESS_S, Recovered, Recovery
from tests.unit.world import POOL, Died, FakeHypervisor, FakePools, Site

BOOTED = datetime(2026, 11, 22, 5, 0, tzinfo=UTC)
ESX1 = HostKey("esx1", "ha-host")
COMING = frozenset({ESX1})


def site_of(*names: str, off: tuple[str, ...] = (), **pool: Any) -> Site:
    """VMs of these names on esx1; everything was seen once and is right."""
    pool = {"endpoints": ("esx1", "esx2")} | pool
    site = Site(pool=replace(POOL, **pool))
    for hypervisor in site.hypervisors.values():
        hypervisor.booted_at = BOOTED
    others = [one for name, one in site.hypervisors.items() if name != "esx1"]
    for other in others:
        other.maintenance = True
    for number, name in enumerate(names, 1):
        computer = {"id": number, "name": name, "private_mac": f"00:50:56:00:00:{number:02x}"}
        site.run(site.event("load", computer=computer))
        site.inventory.addresses[number] = site.world.leases[-1][1].ip
        if name in off:
            site.run(site.event("power_off", computer=computer))
    for other in others:
        other.maintenance = False
    assert run(site).coming == frozenset()
    assert all(host.is_recovered for host in site.machines.hosts())
    assert len(site.machines.hosts()) == len(site.hypervisors)
    return site


def boots(site: Site, name: str = "esx1", *, stateless: bool = True) -> None:
    """The host was without power for an hour."""
    world = site.world
    site.hypervisors[name].booted_at = BOOTED + timedelta(hours=1)
    world.now += timedelta(hours=1)
    if stateless:
        world.vms = [vm for vm in world.vms if vm.endpoint != name]
    else:
        world.vms = [replace(vm, power=PowerState.OFF) if vm.endpoint == name else vm for vm in world.vms]


def recovery(site: Site, busy: tuple[int, ...] = (), stopping: Callable[[], bool] = lambda: False) -> Recovery:
    return Recovery(site.tools, site.claims, lambda: busy, stopping, wait_s=5, wall=lambda: site.world.now.timestamp())


def run(site: Site, **options: Any) -> Recovered:
    return recovery(site).run(site.looks.at(site.pool.endpoints), **options)


def outcomes(recovered: Recovered) -> dict[str, Outcome]:
    return {case.machine.name: case.outcome for case in recovered.cases}


def power(site: Site) -> dict[str, tuple[str, PowerState]]:
    """Where the VMs are, and whether they are on. None is there twice."""
    found = {vm.name: (vm.endpoint, vm.power) for vm in site.world.vms}
    assert len(found) == len(site.world.vms)
    return found


ON, OFF = PowerState.ON, PowerState.OFF


# --- the ordinary way -----------------------------------------------------------------------------------------------


def test_the_vms_of_a_host_that_forgot_them_are_registered_again_and_those_that_were_on_are_switched_on() -> None:
    site = site_of("vm1", "vm2", off=("vm2",))
    claims = list(site.claims.held)
    boots(site)
    recovered = run(site)
    assert outcomes(recovered) == {"vm1": Outcome.RECOVERED, "vm2": Outcome.RECOVERED}
    assert power(site) == {"vm1": ("esx1", ON), "vm2": ("esx1", OFF)}
    assert (recovered.coming, site.claims.held) == (frozenset(), claims)
    assert site.world.moved == [vm.moid for vm in site.world.vms if vm.power is ON]  # its uuid and MACs are kept
    assert run(site).cases == ()


def test_vms_that_the_host_still_knows_are_switched_on_if_they_were_on() -> None:
    site = site_of("vm1", "vm2", off=("vm2",))
    boots(site, stateless=False)
    assert outcomes(run(site)) == {"vm1": Outcome.RECOVERED, "vm2": Outcome.THERE}
    assert power(site) == {"vm1": ("esx1", ON), "vm2": ("esx1", OFF)}


def test_vcl_is_told_the_address_with_which_a_vm_came_back() -> None:
    site = site_of("vm1")
    boots(site)
    run(site)
    assert site.inventory.addresses == {1: site.world.leases[-1][1].ip}
    assert [machine.armed_at for machine in site.machines.all()] == [None]


def test_an_address_that_comes_late_is_still_learned_and_one_that_never_comes_is_not_waited_for_for_ever() -> None:
    site = site_of("vm1", "vm2")
    before = dict(site.inventory.addresses)
    boots(site)
    site.world.silent_guests = True
    run(site)
    assert site.inventory.addresses == before
    (vm1,) = (vm for vm in site.world.vms if vm.name == "vm1")
    site.world.guest_addresses = {vm1.moid: [("00:50:56:00:00:01", "10.77.9.9")]}
    run(site)
    assert site.inventory.addresses == before | {1: "10.77.9.9"}
    assert [machine.armed_at is None for machine in site.machines.all()] == [True, False]
    site.world.now += timedelta(seconds=ADDRESS_S)
    run(site)
    assert [machine.armed_at for machine in site.machines.all()] == [None, None]
    assert site.inventory.addresses == before | {1: "10.77.9.9"}


def test_a_silent_host_does_not_stop_the_wait_for_the_address_of_its_vm() -> None:
    site = site_of("vm1")
    boots(site)
    site.world.silent_guests = True
    run(site)
    site.world.down = {"esx1"}
    run(site)
    assert [machine.armed_at is None for machine in site.machines.all()] == [False]


def test_whoever_is_switched_on_or_off_in_its_guest_is_remembered_so() -> None:
    site = site_of("vm1", "vm2", off=("vm2",))
    flipped = {"vm1": OFF, "vm2": ON}
    site.world.vms = [replace(vm, power=flipped[vm.name]) for vm in site.world.vms]
    run(site)
    boots(site)
    run(site)
    assert power(site) == {"vm1": ("esx1", OFF), "vm2": ("esx1", ON)}


def test_what_was_switched_off_by_the_boot_itself_is_not_remembered_as_off() -> None:
    site = site_of("vm1")
    boots(site, stateless=False)
    site.world.refuses = {"esx1": ProvisioningError("vsphere_fault", "not yet", retryable=True)}
    assert outcomes(run(site)) == {"vm1": Outcome.WAIT}
    site.world.refuses = {}
    assert outcomes(run(site)) == {"vm1": Outcome.RECOVERED}


def test_vms_that_an_older_version_loaded_are_remembered_when_they_are_seen() -> None:
    site = site_of("vm1")
    site.machines.known.clear()
    run(site)
    boots(site)
    assert outcomes(run(site)) == {"vm1": Outcome.RECOVERED}


def test_of_other_hosts_nothing_is_touched() -> None:
    site = site_of("vm1")
    boots(site, "esx2")
    assert run(site).cases == ()
    assert power(site) == {"vm1": ("esx1", ON)}


@pytest.mark.parametrize(
    ("mode", "outcome", "there"),
    [(Recover.REGISTER, {"vm1": Outcome.LEFT_OFF}, {"vm1": ("esx1", OFF)}), (Recover.NO, {}, {})],
)
def test_a_pool_may_want_its_vms_left_off_or_left_alone(
    mode: Recover, outcome: dict[str, Outcome], there: dict[str, Any]
) -> None:
    site = site_of("vm1")
    site.tools = replace(site.tools, pools=FakePools(replace(site.pool, recover=mode)))
    boots(site)
    assert outcomes(run(site)) == outcome
    assert power(site) == there


def test_a_dry_run_says_what_would_be_done_and_does_nothing() -> None:
    site = site_of("vm1")
    boots(site)
    hosts, calls = site.machines.hosts(), len(site.world.log)
    recovered = run(site, dry_run=True)
    assert (outcomes(recovered), recovered.coming) == ({"vm1": Outcome.RECOVER}, COMING)
    assert (site.world.vms, site.machines.hosts()) == ([], hosts)
    done = {line.partition("(")[0] for line in site.world.log[calls:]}
    assert done <= {"hosts", "vms", "read_file"}


def test_a_host_that_is_named_is_treated_as_if_it_had_just_booted() -> None:
    site = site_of("vm1")
    site.world.vms = []
    assert run(site).cases == ()
    assert outcomes(run(site, just_booted={"esx1"})) == {"vm1": Outcome.RECOVERED}


def test_a_host_that_was_added_anew_keeps_its_claims_and_its_vms() -> None:
    site = site_of("vm1")
    (claim,) = site.claims.held
    site.machines.known_hosts["uuid-of-esx1"] = replace(
        site.machines.known_hosts["uuid-of-esx1"], key=HostKey("esx1", "host-4")
    )
    site.claims.held = [replace(claim, host=HostKey("esx1", "host-4"))]
    site.world.vms = []
    assert outcomes(run(site)) == {"vm1": Outcome.RECOVERED}
    assert site.claims.held == [claim]
    assert power(site) == {"vm1": ("esx1", ON)}


def test_each_outcome_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "esxprov.recovery")
    site = site_of("vm1")
    boots(site)
    site.world.refuses = {"esx1": ProvisioningError("vsphere_fault", "not yet", retryable=True)}
    runs = recovery(site)
    for _ in range(3):
        runs.run(site.looks.at(site.pool.endpoints))
    site.world.refuses = {}
    runs.run(site.looks.at(site.pool.endpoints))
    assert [record.getMessage() for record in caplog.records if "vm1 on" in record.getMessage()] == [
        "vm1 on esx1/ha-host is waiting: not yet",
        "vm1 on esx1/ha-host is recovered: switched on again",
    ]


# --- never twice ----------------------------------------------------------------------------------------------------


def elsewhere(site: Site, endpoint: str = "esx2") -> Vm:
    """Somebody else has vm1 and runs it."""
    (vm,) = (vm for vm in site.world.vms if vm.name == "vm1")
    other = replace(vm, endpoint=endpoint, moid="vm-elsewhere")
    site.world.vms.append(other)
    for kept in (site.world.nics, site.world.vm_disks):
        kept[other.moid] = kept[vm.moid]  # type: ignore[assignment]  # each has its own kind
    return other


def test_a_vm_that_another_host_has_is_left_there() -> None:
    site = site_of("vm1")
    elsewhere(site)
    boots(site)
    assert outcomes(run(site)) == {"vm1": Outcome.MOVED}
    assert power(site) == {"vm1": ("esx2", ON)}


def test_a_vm_that_runs_on_a_silent_host_is_held_by_its_lock_and_waited_for() -> None:
    site = site_of("vm1")
    elsewhere(site)
    boots(site)
    site.world.down = {"esx2"}
    recovered = run(site)
    assert (outcomes(recovered), recovered.coming) == ({"vm1": Outcome.WAIT}, COMING)
    assert power(site) == {"vm1": ("esx2", ON)}
    site.world.down = set()
    assert outcomes(run(site)) == {"vm1": Outcome.MOVED}


def given_back_at(site: Site, method: str) -> Callable[[str], None]:
    """Somebody else releases all claims when this is called."""

    def release(called: str) -> None:
        if called == method:
            site.claims.held = []

    return release


def test_a_vm_whose_claim_is_given_back_while_it_is_brought_back_is_taken_back() -> None:
    for method in ("register", "nics", "power_on"):
        site = site_of("vm1")
        boots(site)
        site.world.on_call = given_back_at(site, method)
        assert outcomes(run(site)) == {"vm1": Outcome.LOST}, method
        assert site.world.vms == [], method


def test_a_vm_whose_files_go_with_its_claim_while_it_is_brought_back_is_taken_back() -> None:
    site = site_of("vm1")
    boots(site)
    site.world.on_call = given_back_at(site, "power_on")
    site.world.refuses = {"esx1": ProvisioningError("vsphere_fault", "a file is missing")}
    assert outcomes(run(site)) == {"vm1": Outcome.LOST}
    assert site.world.vms == []


def test_a_vm_whose_claim_another_thinks_to_be_elsewhere_is_left_alone() -> None:
    site = site_of("vm1")
    boots(site)

    def moves(called: str) -> None:
        if called == "power_on":
            site.claims.held = [replace(claim, host=HostKey("esx2", "ha-host")) for claim in site.claims.held]

    site.world.on_call = moves
    assert outcomes(run(site)) == {"vm1": Outcome.WAIT}
    assert power(site) == {"vm1": ("esx1", ON)}


def test_a_vm_that_would_write_into_its_image_is_not_switched_on() -> None:
    site = site_of("vm1", disk=DiskMode.LINKED)
    vmx = "[nfs1] inuse/vm1/vm1.vmx"
    assert b"/vmfs/volumes/nfs1/golden/" in site.world.files[vmx]  # as it was before the snapshot
    boots(site)
    assert outcomes(run(site)) == {"vm1": Outcome.LEFT_OFF}
    assert power(site) == {"vm1": ("esx1", OFF)}


def test_a_computer_that_an_event_works_on_is_left_to_it() -> None:
    site = site_of("vm1")
    boots(site)
    recovered = recovery(site, busy=(1,)).run(site.looks.at(site.pool.endpoints))
    assert (outcomes(recovered), recovered.coming) == ({"vm1": Outcome.WAIT}, COMING)
    assert site.world.vms == []


# --- what is in the way ---------------------------------------------------------------------------------------------


def test_a_host_without_room_leaves_the_vm_off_and_registered() -> None:
    site = site_of("vm1")
    boots(site)
    site.world.refuses = {"esx1": ProvisioningError("no_capacity", "no room")}
    recovered = run(site)
    assert (outcomes(recovered), recovered.coming) == ({"vm1": Outcome.LEFT_OFF}, frozenset())
    assert power(site) == {"vm1": ("esx1", OFF)}


def test_a_vm_whose_files_are_gone_or_anothers_by_now_is_lost() -> None:
    site = site_of("vm1", "vm2")
    del site.world.files["[nfs1] inuse/vm1/vm1.vmx"]
    other = "[nfs1] inuse/vm2/vm2.vmx"
    site.world.files[other] = site.world.files[other].replace(b"claim=", b"claim=another-")
    boots(site)
    recovered = run(site)
    assert outcomes(recovered) == {"vm1": Outcome.LOST, "vm2": Outcome.LOST}
    assert (recovered.coming, site.world.vms) == (frozenset(), [])


def test_a_datastore_that_is_not_mounted_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    site = site_of("vm1")
    boots(site)
    mounted = FakeHypervisor._datastore
    monkeypatch.setattr(FakeHypervisor, "_datastore", lambda self, name: replace(mounted(self, name), accessible=False))
    recovered = run(site)
    assert (outcomes(recovered), recovered.coming) == ({"vm1": Outcome.WAIT}, COMING)
    monkeypatch.undo()
    assert outcomes(run(site)) == {"vm1": Outcome.RECOVERED}


def test_a_service_that_ends_leaves_the_rest_to_the_next_one() -> None:
    site = site_of("vm1", "vm2")
    boots(site)
    stopping = recovery(site, stopping=lambda: len(site.world.vms) == 1)
    recovered = stopping.run(site.looks.at(site.pool.endpoints))
    assert (outcomes(recovered), recovered.coming) == ({"vm1": Outcome.RECOVERED, "vm2": Outcome.WAIT}, COMING)
    assert outcomes(run(site))["vm2"] is Outcome.RECOVERED


def test_two_hosts_with_one_uuid_are_told_of_once_and_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    site = site_of("vm1")
    boots(site)
    site.hypervisors["esx2"].uuid = "uuid-of-esx1"
    runs = recovery(site)
    for _ in range(2):
        assert runs.run(site.looks.at(site.pool.endpoints)).cases == ()
    assert caplog.text.count("several hosts have the hardware uuid uuid-of-esx1") == 1


def test_what_is_to_be_destroyed_is_not_brought_back_but_removed() -> None:
    before = Site().world.paths()
    site = site_of("vm1")
    site.world.down = {"esx1"}
    site.run(site.event("unload", computer={"id": 1, "name": "vm1"}))
    site.world.down = set()
    boots(site)
    assert run(site).cases == ()
    assert sweep(site.tools, site.pool) == 1
    assert (site.claims.held, site.world.vms, site.world.paths()) == ([], [], before)


def test_a_claim_on_its_way_is_left_to_its_own_event() -> None:
    site = site_of("vm1")
    site.claims.held = [replace(claim, state=ClaimState.CLAIMED) for claim in site.claims.held]
    boots(site)
    assert (run(site).cases, site.world.vms) == ((), [])


# --- killed anywhere ------------------------------------------------------------------------------------------------


def ready() -> Site:
    site = site_of("vm1", "vm2", "vm3", off=("vm2",))
    boots(site)
    return site


def calls_of_one_recovery() -> int:
    site = ready()
    before = site.world.calls_made
    run(site)
    return site.world.calls_made - before


def put_right(site: Site, claims: list[Claim]) -> None:
    assert power(site) == {"vm1": ("esx1", ON), "vm2": ("esx1", OFF), "vm3": ("esx1", ON)}
    assert site.claims.held == claims
    assert len(site.world.leases) == 5  # each was switched on once: three loads, two recoveries
    newest = {lease.mac: lease.ip for _, lease in site.world.leases}
    assert site.inventory.addresses == {number: newest[f"00:50:56:00:00:{number:02x}"] for number in (1, 2, 3)}
    assert [machine.armed_at for machine in site.machines.all()] == [None] * 3
    assert all(host.is_recovered for host in site.machines.hosts())


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(1, calls_of_one_recovery() + 1))
def test_killed_at_any_call_the_next_service_ends_the_recovery(number: int, when: str) -> None:
    site = ready()
    claims = list(site.claims.held)
    site.world.die_at = (site.world.calls_made + number, when)
    with pytest.raises(Died):
        run(site)
    site.world.die_at = None
    run(site)
    run(site)
    put_right(site, claims)


@pytest.mark.parametrize("number", range(1, calls_of_one_recovery() + 1))
def test_whatever_fails_is_tried_again(number: int) -> None:
    site = ready()
    claims = list(site.claims.held)
    site.world.fail_at = site.world.calls_made + number
    try:
        run(site)
    except ProvisioningError:
        pass  # the chore's next turn
    run(site)
    run(site)
    put_right(site, claims)
