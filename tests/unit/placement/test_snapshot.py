"""The world as plain data: what is free, nothing counted twice, nothing forgotten."""

from __future__ import annotations

import json
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from esxprov.model import Claim, ClaimState, HostKey, Vm
from esxprov.placement.choose import farm_of
from esxprov.placement.host import HostState
from esxprov.placement.promises import Promises, foreign_claim_id
from esxprov.placement.request import overhead_mb
from esxprov.placement.snapshot import Snapshot
from tests.unit.placement.worlds import farm, host, machine, promises, snapshots, vm

COST_MB = 4096 + overhead_mb(4096, 2)


def claim(on: str = "esx1", state: ClaimState = ClaimState.RUNNING, ram_mb: int = COST_MB) -> Claim:
    return Claim("claim-1", HostKey(on, "ha-host"), 7, ram_mb, 2, "event-1", state)


def promised(vms: list[Vm], claims: list[Claim]) -> tuple[int, int]:
    """RAM promised on esx1 and on esx2."""
    first, second = Snapshot((machine("esx1"), machine("esx2")), tuple(claims), tuple(vms)).states()
    return first.promised_ram_mb, second.promised_ram_mb


@given(snapshots())
def test_a_snapshot_survives_json(snapshot: Snapshot) -> None:
    assert Snapshot.from_json(json.loads(json.dumps(snapshot.to_json()))) == snapshot


def test_a_claim_counts_while_there_is_no_vm_yet() -> None:
    assert promised([], [claim(state=ClaimState.CLAIMED)]) == (COST_MB, 0)


def test_a_vm_and_its_claim_count_once() -> None:
    assert promised([vm("esx1", "vm-1", "claim-1")], [claim()]) == (COST_MB, 0)


def test_a_vm_of_somebody_else_counts_although_nobody_claimed_for_it() -> None:
    assert promised([vm("esx1", "vm-1", None)], []) == (COST_MB, 0)


def test_a_vm_whose_claim_was_released_still_counts() -> None:
    assert promised([vm("esx1", "vm-1", "released")], []) == (COST_MB, 0)


def test_a_vm_that_was_moved_counts_where_it_is() -> None:
    assert promised([vm("esx2", "vm-1", "claim-1")], [claim("esx1")]) == (0, COST_MB)


def test_a_clone_with_our_annotation_counts_besides_the_vm_it_was_made_of() -> None:
    assert promised([vm("esx2", "clone", "claim-1"), vm("esx1", "vm-1", "claim-1")], [claim()]) == (COST_MB, COST_MB)


def test_a_vm_larger_than_its_claim_counts_as_large_as_it_is() -> None:
    assert promised([vm("esx1", "vm-1", "claim-1")], [claim(ram_mb=512)]) == (COST_MB, 0)


def foreign(on: str, vm_moid: str = "vm-1", ram_mb: int = COST_MB) -> Claim:
    key = HostKey(on, "ha-host")
    return Claim(foreign_claim_id("esx1", vm_moid), key, 0, ram_mb, 2, "", ClaimState.FOREIGN)


def test_a_foreign_vm_and_the_claim_made_for_it_count_once() -> None:
    assert promised([vm("esx1", "vm-1", None)], [foreign("esx1")]) == (COST_MB, 0)


def test_a_clone_and_the_claim_made_for_it_count_once() -> None:
    both = [vm("esx1", "vm-0", "claim-1"), vm("esx1", "vm-1", "claim-1")]
    assert promised(both, [claim(), foreign("esx1")]) == (2 * COST_MB, 0)


def test_a_foreign_claim_whose_vm_is_not_seen_still_counts() -> None:
    assert promised([], [foreign("esx2")]) == (0, COST_MB)


def test_without_a_ratio_live_figures_do_not_matter() -> None:
    assert host("esx1", ram_used_mb=16384).ram_free_mb == 16384 - 1024


def test_with_a_ratio_no_more_is_promised_than_is_free_now_and_not_on_its_way() -> None:
    state = host("esx1", ram_ratio=1.5, ram_used_mb=10_000, warming_ram_mb=3000)
    assert state.ram_free_mb == 16384 - 656 - 10_000 - 3000


def test_only_vms_on_their_way_are_missing_in_live_figures() -> None:
    def warming(state: ClaimState) -> int:
        return Snapshot((machine("esx1"),), (claim(state=state),)).states()[0].warming_ram_mb

    assert {state for state in ClaimState if warming(state)} == {ClaimState.CLAIMED}


def test_a_ratio_that_a_float_cannot_hold_takes_nothing_away() -> None:
    assert host("esx1", cpu_threads=100, cpu_ratio=0.29).cpus_capacity == 29


def test_hosts_with_one_name_get_labels_that_tell_them_apart() -> None:
    twins = farm(host("a", name="localhost"), host("b", name="localhost"), host("c", name="esx9"))
    assert twins.labels() == ["localhost (a/ha-host)", "localhost (b/ha-host)", "esx9"]


HOSTS = (machine("esx1"), machine("esx2"), machine("esx3"))
NAMES = ["esx1", "esx2", "esx3"]


@given(promises(NAMES), st.randoms(use_true_random=False))
def test_no_vm_and_no_claim_is_forgotten_and_their_order_does_not_matter(
    world: tuple[list[Claim], list[Vm]], random: Random
) -> None:
    claims, vms = world
    made = Snapshot(HOSTS, tuple(claims), tuple(vms)).states()
    random.shuffle(claims)
    random.shuffle(vms)
    assert Snapshot(HOSTS, tuple(claims), tuple(vms)).states() == made
    at_least = sum(vm.ram_mb + overhead_mb(vm.ram_mb, vm.cpus) for vm in vms)
    at_most = at_least + sum(claim.ram_mb for claim in claims)
    assert at_least <= sum(state.promised_ram_mb for state in made) <= at_most
    for state in made:
        assert_holds_its_vms(state, vms)


def assert_holds_its_vms(state: HostState, vms: list[Vm]) -> None:
    """What runs on a host is never more than what is promised there."""
    there = [vm for vm in vms if vm.endpoint == state.key.endpoint]
    assert state.promised_ram_mb >= sum(vm.ram_mb + overhead_mb(vm.ram_mb, vm.cpus) for vm in there)
    assert state.promised_cpus >= sum(vm.cpus for vm in there)


@given(promises(NAMES), promises(NAMES))
def test_promises_that_lived_through_changes_are_those_made_anew(
    before: tuple[list[Claim], list[Vm]], after: tuple[list[Claim], list[Vm]]
) -> None:
    lived, anew = Promises(*before), Promises(*after)
    for key in set(lived.vms) - set(anew.vms):
        lived.drop_vm(key)
    for claim_id in set(lived.claims) - set(anew.claims):
        lived.drop_claim(claim_id)
    for one in after[0]:
        lived.put_claim(one)
    for each in after[1]:
        lived.put_vm(each)
    for host_key in [HostKey(name, "ha-host") for name in NAMES]:
        assert lived.of(host_key) == anew.of(host_key)


@given(snapshots())
def test_a_farm_is_made_of_every_host_with_its_promises(world: Snapshot) -> None:
    made = farm_of(world)
    by_key = {state.key: state for state in world.states()}
    assert {state.key: made.raw(number) for number, state in enumerate(made.hosts)} == by_key
