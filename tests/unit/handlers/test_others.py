"""unload, power, node_status, place, sweep."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from esxprov.errors import Cancelled, HandedOver, ProvisioningError
from esxprov.handlers import CALLS
from esxprov.handlers.sweep import sweep
from esxprov.model import ClaimState, DiskMode, HostKey, Machine, PowerState, Vm
from esxprov.ports import Look
from tests.unit.world import IMAGE, POOL, FakeHypervisor, FakePools, Site, loaded

# --- unload ----------------------------------------------------------------------------------------------------------


def test_unload_removes_the_vm_its_directory_and_its_claim_and_nothing_else() -> None:
    before = Site().world.paths()
    site = loaded()
    assert site.run(site.event("unload")) == {"removed": True, "unreachable": []}
    assert (site.world.vms, site.claims.held, site.world.paths()) == ([], [], before)


def test_unload_of_a_computer_without_a_vm_is_done() -> None:
    site = Site()
    assert site.run(site.event("unload"))["removed"] is True


def test_unload_with_its_host_silent_is_recorded_and_keeps_the_capacity() -> None:
    site = loaded()
    (claim,) = site.claims.held
    site.world.down = {claim.host.endpoint}
    assert site.run(site.event("unload")) == {"removed": False, "unreachable": [claim.host.endpoint]}
    assert [c.state for c in site.claims.held] == [ClaimState.TO_BE_DESTROYED]
    assert f"[nfs1] inuse/vclv1-27/{IMAGE}.vmdk" in site.world.disks


def test_unload_with_another_host_silent_is_not_held_up_by_it() -> None:
    site = loaded()
    (claim,) = site.claims.held
    site.world.down = set(POOL.endpoints) - {claim.host.endpoint}
    assert site.run(site.event("unload"))["removed"] is True
    assert site.claims.held == []


def test_the_directory_of_a_vm_that_has_no_claim_and_cannot_be_removed_stays() -> None:
    site = loaded()
    site.claims.held = []

    def refuse(method: str) -> None:
        if method == "power_off":
            raise ProvisioningError("vsphere_auth", "our user lacks the privilege for it")

    site.world.on_call = refuse
    with pytest.raises(ProvisioningError, match="lacks the privilege"):
        site.run(site.event("unload"))
    assert f"[nfs1] inuse/vclv1-27/{IMAGE}.vmdk" in site.world.disks


def test_a_vm_that_could_not_be_removed_is_removed_when_its_host_is_back() -> None:
    before = Site().world.paths()
    site = loaded()
    (claim,) = site.claims.held
    site.world.down = {claim.host.endpoint}
    site.run(site.event("unload"))
    assert sweep(site.tools, POOL) == 0
    site.world.down = set()
    assert sweep(site.tools, POOL) == 1
    assert (site.world.vms, site.claims.held, site.world.paths()) == ([], [], before)


def test_the_sweep_does_not_delete_what_a_load_has_built_meanwhile() -> None:
    site = loaded()
    (claim,) = site.claims.held
    site.world.down = {claim.host.endpoint}
    site.run(site.event("unload"))
    site.world.down = set()

    def load_first(method: str) -> None:
        if method == "unregister":
            site.world.on_call = lambda method: None
            site.run(site.event("load"))

    site.world.on_call = load_first
    sweep(site.tools, POOL)
    assert f"[nfs1] inuse/vclv1-27/{IMAGE}.vmdk" in site.world.disks
    assert len(site.world.vms) == len(site.claims.held) == 1


def test_the_sweep_asks_a_silent_endpoint_once_however_much_is_to_be_destroyed_on_it() -> None:
    site = Site(pool=replace(POOL, endpoints=("esx1",)))
    for number in (1, 2, 3):
        computer = {"id": number, "name": f"vm{number}"}
        site.run(site.event("load", computer=computer))
        site.world.down = {"esx1"}
        site.run(site.event("unload", computer=computer))
        site.world.down = set()
    site.world.down = {"esx1"}
    site.world.log.clear()
    assert sweep(site.tools, site.pool) == 0
    assert site.world.log == ["vms()"]
    site.world.down = set()
    assert sweep(site.tools, site.pool) == 3


def test_a_claim_is_not_given_up_while_its_vm_may_be_one_that_cannot_be_read() -> None:
    site = loaded()
    (claim,) = site.claims.held
    site.world.down = {claim.host.endpoint}
    site.run(site.event("unload"))
    site.world.down = set()
    readable = site.world.vms
    site.world.vms = [replace(vm, vmx_path="", annotation="", ram_mb=0) for vm in readable]
    assert sweep(site.tools, POOL) == 0
    assert len(site.claims.held) == 1
    site.world.vms = readable
    assert sweep(site.tools, POOL) == 1
    assert (site.world.vms, site.claims.held) == ([], [])


def test_the_sweep_leaves_running_vms_alone() -> None:
    site = loaded()
    assert sweep(site.tools, POOL) == 0
    assert len(site.world.vms) == 1


def forgotten(site: Site) -> str:
    """The VM is to be destroyed, and its host is back without it; returns the VM's directory."""
    (vm,), (claim,) = site.world.vms, site.claims.held
    site.world.down = {claim.host.endpoint}
    site.run(site.event("unload"))
    site.world.down, site.world.vms = set(), []
    return vm.vmx_path.rpartition("/")[0]


def test_of_a_vm_that_its_host_has_forgotten_the_directory_is_removed_too() -> None:
    before = Site().world.paths()
    site = loaded()
    forgotten(site)
    assert sweep(site.tools, POOL) == 1
    assert (site.claims.held, site.world.paths()) == ([], before)


def test_the_directory_of_a_forgotten_vm_stays_if_another_vm_was_made_there() -> None:
    site = loaded()
    directory = forgotten(site)
    vmx = f"{directory}/vclv1-27.vmx"
    site.world.files[vmx] = site.world.files[vmx].replace(b"claim=", b"claim=another-")
    assert sweep(site.tools, POOL) == 1
    assert vmx in site.world.files


def test_the_directory_of_a_forgotten_vm_stays_if_somebody_has_registered_it_for_himself() -> None:
    site = loaded()
    (vm,) = site.world.vms
    forgotten(site)
    site.world.vms = [replace(vm, annotation="mine now")]
    assert sweep(site.tools, POOL) == 1
    assert vm.vmx_path in site.world.files


def test_a_forgotten_vm_whose_datastore_is_away_stays_to_be_destroyed() -> None:
    site = loaded()
    forgotten(site)

    def is_away(method: str) -> None:
        if method == "read_file":
            raise ProvisioningError("vsphere_fault", "esx1 has no datastore 'nfs1'")

    site.world.on_call = is_away
    assert sweep(site.tools, POOL) == 0
    assert [claim.state for claim in site.claims.held] == [ClaimState.TO_BE_DESTROYED]


def test_a_load_that_failed_before_its_vm_was_registered_leaves_nothing_on_a_host_that_went_silent() -> None:
    before = Site().world.paths()
    site = Site(pool=replace(POOL, endpoints=("esx1",)))
    job = site.job(site.event("load"))

    def goes_silent(method: str) -> None:
        if method == "register":
            site.world.down = {"esx1"}

    site.world.on_call = goes_silent
    with pytest.raises(ProvisioningError):
        CALLS["load"].run(job, site.tools)
    undo = CALLS["load"].undo
    assert undo is not None
    undo(job, site.tools)
    site.world.on_call, site.world.down = (lambda method: None), set()
    assert sweep(site.tools, site.pool) == 1
    assert (site.claims.held, site.world.paths()) == ([], before)


def test_a_host_that_its_vcenter_has_lost_does_not_hold_up_the_sweep_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = Site(pool=replace(POOL, endpoints=("esx1",)))
    for number in (1, 2, 3):
        site.run(site.event("load", computer={"id": number, "name": f"vm{number}"}))
    hosts = {1: "host-1", 2: "host-1", 3: "host-2"}
    site.claims.held = [
        replace(claim, host=HostKey("esx1", hosts[claim.computer_id]), state=ClaimState.TO_BE_DESTROYED)
        for claim in site.claims.held
    ]
    site.world.vms = [replace(vm, host_moid=hosts[int(vm.name[2:])]) for vm in site.world.vms]
    tried = []

    def power_off(self: FakeHypervisor, vm: Vm) -> None:
        tried.append(vm.name)
        if vm.host_moid == "host-1":
            raise ProvisioningError("host_unavailable", "vCenter has lost its host", host=f"esx1/{vm.host_moid}")

    monkeypatch.setattr(FakeHypervisor, "power_off", power_off)
    assert sweep(site.tools, site.pool) == 1
    assert (tried, sorted(vm.name for vm in site.world.vms)) == (["vm1", "vm3"], ["vm1", "vm2"])


# --- power and status ------------------------------------------------------------------------------------------------


def test_power_status_tells_on_and_off() -> None:
    site = loaded()
    assert site.run(site.event("power_status")) == {"state": "on"}
    site.run(site.event("power_off"))
    assert site.run(site.event("power_status")) == {"state": "off"}


def test_power_on_tells_the_address_the_guest_came_back_with() -> None:
    site = loaded()
    site.run(site.event("power_off"))
    assert site.run(site.event("power_on")) == {"state": "on", "private_ip": "10.77.1.2"}


def test_power_on_of_a_running_vm_changes_nothing() -> None:
    site = loaded()
    assert site.run(site.event("power_on")) == {"state": "on"}


def test_power_reset_tells_the_new_address() -> None:
    site = loaded()
    assert site.run(site.event("power_reset"))["private_ip"] == "10.77.1.2"


def test_after_a_reset_vmware_tools_are_not_believed_as_they_may_tell_of_before() -> None:
    site = loaded()
    (vm,) = site.world.vms
    site.world.silent_guests = True
    site.world.guest_addresses = {vm.moid: [(site.world.nics[vm.moid][0].mac, "10.77.9.9")]}
    assert site.run(site.event("power_reset")) == {"state": "on"}
    site.run(site.event("power_off"))
    assert site.run(site.event("power_on"))["private_ip"] == "10.77.9.9"


def test_power_on_of_a_guest_that_says_nothing_to_dhcpd_is_a_success_all_the_same() -> None:
    site = loaded()
    site.run(site.event("power_off"))
    site.world.silent_guests = True
    assert site.run(site.event("power_on")) == {"state": "on"}


def after_a_death_in(site: Site, call: str, method: str, when: str = "after") -> dict[str, Any]:
    """The result of a call whose first service is killed at (the first) `method`."""
    seen = 0

    def note(called: str) -> None:
        nonlocal seen
        if called == method and not seen:
            seen = site.world.calls_made
            site.world.die_at = (seen, when)

    site.world.on_call = note
    result = site.run_until_done(site.event(call))
    assert seen, f"{call} does not call {method}"
    return result


@pytest.mark.parametrize("method", ["power_on", "nics", "wait"])
def test_a_power_on_that_was_killed_after_its_effect_still_tells_the_new_address(method: str) -> None:
    site = loaded()
    site.run(site.event("power_off"))
    site.world.now += timedelta(minutes=1)
    assert after_a_death_in(site, "power_on", method) == {"state": "on", "private_ip": "10.77.1.2"}


def test_a_reset_that_was_killed_while_it_waited_is_not_made_again_and_tells_the_address() -> None:
    site = loaded()
    site.world.now += timedelta(minutes=1)
    assert after_a_death_in(site, "power_reset", "wait", "before")["private_ip"] == "10.77.1.2"
    assert sum(line.startswith("reset(") for line in site.world.log) == 1


def powered_off(site: Site, **data: Any) -> tuple[dict[str, Any], int]:
    """The result of power_off, and how many seconds of the world's time it took."""
    job = site.job(site.event("power_off", **data))
    begun = site.world.now

    def pause(seconds: float) -> None:
        site.world.now += timedelta(seconds=seconds)

    job.pause = pause  # type: ignore[method-assign]  # the world's time, not ours
    result = CALLS["power_off"].run(job, site.tools)
    return result, round((site.world.now - begun).total_seconds())


def test_the_plug_is_pulled_at_once_unless_patience_was_asked_for() -> None:
    site = loaded()
    assert powered_off(site) == ({"state": "off", "how": "hard"}, 0)
    assert not any(line.startswith("shutdown_guest(") for line in site.world.log)


def test_a_guest_that_shuts_down_in_time_needs_no_hard_power_off() -> None:
    site = loaded()
    assert powered_off(site, shutdown_s=60)[0] == {"state": "off", "how": "guest"}
    assert not any(line.startswith("power_off(") for line in site.world.log)


def test_a_guest_that_does_not_shut_down_in_time_is_switched_off_hard(monkeypatch: pytest.MonkeyPatch) -> None:
    site = loaded()
    monkeypatch.setattr(FakeHypervisor, "shutdown_guest", lambda self, vm: True)
    assert powered_off(site, shutdown_s=60) == ({"state": "off", "how": "hard"}, 60)


def test_a_guest_without_vmware_tools_is_switched_off_hard_at_once() -> None:
    site = loaded()
    site.world.deaf_guests = {vm.moid for vm in site.world.vms}
    assert powered_off(site, shutdown_s=60) == ({"state": "off", "how": "hard"}, 0)


def test_the_deadline_leaves_time_to_pull_the_plug_of_a_guest_that_does_not_shut_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = loaded()
    monkeypatch.setattr(FakeHypervisor, "shutdown_guest", lambda self, vm: True)
    site.world.now -= timedelta(seconds=1)
    job = site.job(site.event("power_off", shutdown_s=240))
    site.world.now += timedelta(seconds=200)

    def pause(seconds: float) -> None:
        site.world.now += timedelta(seconds=seconds)
        job.check()

    job.pause = pause  # type: ignore[method-assign]  # the world's time, not ours
    assert CALLS["power_off"].run(job, site.tools)["how"] == "hard"


def test_power_off_of_a_vm_that_is_off_says_so() -> None:
    site = loaded()
    powered_off(site)
    assert powered_off(site, shutdown_s=60) == ({"state": "off", "how": "already"}, 0)


@pytest.mark.parametrize(("patience", "method", "how"), [(0, "power_off", "hard"), (60, "shutdown_guest", "guest")])
def test_a_power_off_that_was_killed_after_its_effect_still_tells_how(patience: int, method: str, how: str) -> None:
    site = loaded()
    site.world.on_call = lambda called: (
        setattr(site.world, "die_at", (site.world.calls_made, "after")) if called == method else None
    )
    assert site.run_until_done(site.event("power_off", shutdown_s=patience)) == {"state": "off", "how": how}


@pytest.mark.parametrize("patience", [-1, 241, 1.5, "60", True, None])
def test_a_patience_that_is_none_is_refused(patience: object) -> None:
    site = loaded()
    with pytest.raises(ProvisioningError, match="expected a whole number of seconds from 0 to 240"):
        site.run(site.event("power_off", shutdown_s=patience))
    assert site.run(site.event("power_status")) == {"state": "on"}


@pytest.mark.parametrize("call", ["power_on", "power_reset"])
def test_a_service_that_ends_while_it_waits_for_an_address_leaves_the_call_to_the_next_one(call: str) -> None:
    site = loaded()
    site.run(site.event("power_off"))
    job = site.job(site.event(call))

    def end(method: str) -> None:
        if method == "wait":
            job.interrupt(HandedOver())
            raise Cancelled("what the lease watcher says of any interrupted wait")

    site.world.on_call = end
    with pytest.raises(HandedOver):
        CALLS[call].run(job, site.tools)


@pytest.mark.parametrize("call", ["power_status", "power_on", "power_off", "power_reset"])
def test_a_computer_without_a_vm_has_no_power(call: str) -> None:
    site = Site()
    with pytest.raises(ProvisioningError, match="reload the computer") as caught:
        site.run(site.event(call))
    assert caught.value.code == "vm_not_found"


def test_no_vm_and_cannot_tell_are_kept_apart() -> None:
    site = Site()
    site.world.down = {"esx2"}
    with pytest.raises(ProvisioningError) as caught:
        site.run(site.event("power_status"))
    assert caught.value.code == "host_unavailable"


def test_node_status_of_a_fresh_vm_is_good_on_every_count() -> None:
    site = loaded()
    assert set(site.run(site.event("node_status")).values()) == {True}


@pytest.mark.parametrize(("server", "right"), [(False, True), (True, False)])
def test_node_status_sees_that_a_server_would_be_linked_to_its_image(server: bool, right: bool) -> None:
    site = loaded(disk=DiskMode.LINKED)
    assert site.run(site.event("node_status", reservation={"server": server}))["disk_right"] is right


def test_node_status_of_a_server_with_a_disk_of_its_own_is_good() -> None:
    site = loaded()
    assert site.run(site.event("node_status", reservation={"server": True}))["disk_right"] is True


def test_node_status_sees_that_the_vm_is_too_small_for_the_image() -> None:
    site = loaded()
    assert site.run(site.event("node_status", image={"min_ram_mb": 4096}))["sized_right"] is False


def test_node_status_sees_that_the_vm_is_off_or_gone() -> None:
    site = loaded()
    site.run(site.event("power_off"))
    assert site.run(site.event("node_status"))["present"] is False
    site.run(site.event("unload"))
    assert site.run(site.event("node_status"))["on_known_host"] is False


@pytest.mark.parametrize(
    ("pool", "host"),
    [({"cluster": "A"}, {"cluster": "B"}), ({}, {"state": "notResponding"}), ({}, {"key": HostKey("esx1", "other")})],
)
def test_node_status_sees_that_the_vm_is_on_a_host_that_is_none_of_the_pools_or_does_not_answer(
    pool: dict[str, Any], host: dict[str, Any]
) -> None:
    site = loaded()
    (vm,) = site.world.vms
    site.looks.remembered = [
        replace(look, hosts=tuple(replace(one, **host) for one in look.hosts)) for look in site.looks.at([vm.endpoint])
    ]
    site.tools = replace(site.tools, pools=FakePools(replace(POOL, **pool)))
    told = site.run(site.event("node_status"))
    assert {fact for fact, is_so in told.items() if not is_so} == {"on_known_host"}


def test_node_status_asks_again_of_a_host_that_was_thought_to_be_silent() -> None:
    site = loaded()
    (vm,) = site.world.vms
    site.looks.remembered = [Look(vm.endpoint, problem="it has been silent for 20 s")]
    assert site.run(site.event("node_status"))["on_known_host"] is True


def test_what_is_switched_is_written_down_for_the_day_on_which_its_host_forgets_it() -> None:
    site = loaded()
    (claim,), (vm,) = site.claims.held, site.world.vms
    assert site.machines.of(claim.id) == Machine(claim.id, claim.computer_id, vm.vmx_path, is_on=True)
    powered_off(site)
    assert site.machines.of(claim.id) == Machine(claim.id, claim.computer_id, vm.vmx_path, is_on=False)
    site.run(site.event("power_on"))
    assert site.machines.of(claim.id) == Machine(claim.id, claim.computer_id, vm.vmx_path, is_on=True)


# --- place and capacity ----------------------------------------------------------------------------------------------


def test_place_answers_for_several_vms_at_once_and_claims_nothing() -> None:
    site = Site()
    answer = site.run(site.event("place", image={"min_ram_mb": 8192, "size_mb": 0}, count=3))
    assert sorted(placement["host"] for placement in answer["placements"]) == ["esx1", "esx2", "esx3"]
    assert site.claims.held == []


def test_place_is_all_or_nothing() -> None:
    site = Site()
    answer = site.run(site.event("place", image={"min_ram_mb": 8192, "size_mb": 0}, count=4))
    assert answer["placements"] == []
    assert set(answer["refused"]) == {"esx1", "esx2", "esx3"}


@pytest.mark.parametrize("count", [0, -1, "two", True, 10**6])
def test_place_refuses_a_count_that_is_none(count: object) -> None:
    site = Site()
    with pytest.raises(ProvisioningError, match="expected a whole number from 1 to 1000"):
        site.run(site.event("place", count=count))


def host_rows(site: Site) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = site.run(site.event("capacity"))["hosts"]
    return rows


def test_capacity_shows_what_is_promised_and_who_is_silent() -> None:
    site = loaded()
    (claim,) = site.claims.held
    silent = next(name for name in POOL.endpoints if name != claim.host.endpoint)
    site.world.down = {silent}
    rows = {row["host"]: row for row in host_rows(site)}
    assert rows[claim.host.endpoint]["ram_free_mb"] == 16384 - 1024 - claim.ram_mb
    assert rows[claim.host.endpoint]["vms"] == 1
    assert rows[silent]["state"] == "silent"


def test_a_vm_that_somebody_else_made_counts() -> None:
    site = loaded()
    (vm,) = site.world.vms
    site.world.vms.append(
        replace(vm, moid="foreign", vmx_path="[nfs1] foreign/x.vmx", annotation="", power=PowerState.OFF)
    )
    (claim,) = site.claims.held
    rows = {row["host"]: row for row in host_rows(site)}
    assert rows[vm.endpoint]["ram_free_mb"] == 16384 - 1024 - 2 * claim.ram_mb
