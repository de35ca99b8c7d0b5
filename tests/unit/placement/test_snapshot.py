"""The world as plain data: what is free, nothing counted twice, nothing forgotten."""

from __future__ import annotations

import json
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from esxprov.model import Claim, ClaimState, Host, HostKey, Pool, Vm
from esxprov.placement.snapshot import HostState, Snapshot, build, overhead_mb
from tests.unit.placement.worlds import host, machine, promises, snapshots, vm

POOL = Pool("main", ("esx1", "esx2"), "profile")
COST_MB = 4096 + overhead_mb(4096, 2)


def claim(on: str = "esx1", state: ClaimState = ClaimState.RUNNING, ram_mb: int = COST_MB) -> Claim:
    return Claim("claim-1", HostKey(on, "ha-host"), 7, ram_mb, 2, "event-1", state)


def promised(vms: list[Vm], claims: list[Claim]) -> tuple[int, int]:
    """RAM promised on esx1 and on esx2."""
    made = build(POOL, [machine("esx1"), machine("esx2")], vms, claims, [], {})
    first, second = made.hosts
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


def test_the_catalogue_counts_images_of_one_size() -> None:
    made = build(POOL, [], [], [], [(4096, 2), (1024, 1), (4096, 2)], {})
    assert made.catalogue == ((1024, 1, 1), (4096, 2, 2))


def test_without_a_ratio_live_figures_do_not_matter() -> None:
    assert host("esx1", ram_used_mb=16384).ram_free_mb == 16384 - 1024


def test_with_a_ratio_no_more_is_promised_than_is_free_now_and_not_on_its_way() -> None:
    state = host("esx1", ram_ratio=1.5, ram_used_mb=10_000, warming_ram_mb=3000)
    assert state.ram_free_mb == 16384 - 656 - 10_000 - 3000


def test_only_vms_on_their_way_are_missing_in_live_figures() -> None:
    def warming(state: ClaimState) -> int:
        return build(POOL, [machine("esx1")], [], [claim(state=state)], [], {}).hosts[0].warming_ram_mb

    assert {state for state in ClaimState if warming(state)} == {ClaimState.CLAIMED}


def test_a_ratio_that_a_float_cannot_hold_takes_nothing_away() -> None:
    assert host("esx1", cpu_threads=100, cpu_ratio=0.29).cpus_capacity == 29


def test_hosts_with_one_name_get_labels_that_tell_them_apart() -> None:
    twins = Snapshot((host("a", name="localhost"), host("b", name="localhost"), host("c", name="esx9")))
    assert sorted(twins.labels().values()) == ["esx9", "localhost (a/ha-host)", "localhost (b/ha-host)"]


HOSTS: list[Host] = [machine("esx1"), machine("esx2"), machine("esx3")]


@given(promises(["esx1", "esx2", "esx3"]), st.randoms(use_true_random=False))
def test_no_vm_and_no_claim_is_forgotten_and_their_order_does_not_matter(
    world: tuple[list[Claim], list[Vm]], random: Random
) -> None:
    claims, vms = world
    made = build(POOL, HOSTS, vms, claims, [], {})
    shuffled_claims, shuffled_vms = claims[:], vms[:]
    random.shuffle(shuffled_claims)
    random.shuffle(shuffled_vms)
    assert build(POOL, HOSTS, shuffled_vms, shuffled_claims, [], {}) == made
    at_least = sum(vm.ram_mb + overhead_mb(vm.ram_mb, vm.cpus) for vm in vms)
    at_most = at_least + sum(claim.ram_mb for claim in claims)
    assert at_least <= sum(state.promised_ram_mb for state in made.hosts) <= at_most
    for state in made.hosts:
        assert_holds_its_vms(state, vms)


def assert_holds_its_vms(state: HostState, vms: list[Vm]) -> None:
    """What runs on a host is never more than what is promised there."""
    there = [vm for vm in vms if vm.endpoint == state.key.endpoint]
    assert state.promised_ram_mb >= sum(vm.ram_mb + overhead_mb(vm.ram_mb, vm.cpus) for vm in there)
    assert state.promised_cpus >= sum(vm.cpus for vm in there)
