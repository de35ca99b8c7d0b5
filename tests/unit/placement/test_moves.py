"""Moves that would let a request in: few, possible one after the other, and enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esxprov.annotation import Annotation
from esxprov.model import Claim, ClaimState, Datastore, Host, HostKey, PowerState, Vm
from esxprov.placement.choose import farm_of
from esxprov.placement.moves import Move, moves_for
from esxprov.placement.promises import cost
from esxprov.placement.request import PlacementRequest
from esxprov.placement.search import place, would_fit
from esxprov.placement.snapshot import Rules, Snapshot

SHARED = Datastore("nfs1", 500_000, 1_000_000, url="nfs://a")


def machine(name: str, ram_mb: int, endpoint: str = "vc", **changes: object) -> Host:
    made = Host(HostKey(endpoint, name), name, "connected", False, ram_mb, 0, 64, (SHARED,), ("Private",))
    return replace(made, **changes)  # type: ignore[arg-type]


def running(name: str, on: Host, ram_mb: int, cpus: int = 1, **changes: object) -> tuple[Claim, Vm]:
    text = str(Annotation("event", f"claim-{name}", 7, None, "linux"))
    path = f"[nfs1] inuse/{name}/x.vmx"
    vm = Vm(on.key.endpoint, f"moid-{name}", name, on.key.moid, path, PowerState.ON, ram_mb, cpus, text)
    vm = replace(vm, **changes)  # type: ignore[arg-type]
    claim = Claim(f"claim-{name}", on.key, 7, *cost(vm), "event", ClaimState.RUNNING)
    return claim, vm


def world(hosts: Sequence[Host], machines: Sequence[tuple[Claim, Vm]]) -> Snapshot:
    return Snapshot(tuple(hosts), tuple(claim for claim, _ in machines), tuple(vm for _, vm in machines))


def ask(ram_mb: int, count: int = 1, **changes: object) -> list[PlacementRequest]:
    one = PlacementRequest("", ram_mb, 1, datastore="nfs1", networks=("Private",), group="new")
    return [replace(one, id=f"r{number}", **changes) for number in range(count)]  # type: ignore[arg-type]


A, B = machine("a", 8000), machine("b", 8000)
ELSEWHERE = machine("b", 8000, "esx2")
HALF_FULL = [running("vm1", A, 4000), running("vm2", B, 3000)]


def test_one_move_makes_room() -> None:
    assert moves_for(world((A, B), HALF_FULL), ask(6000)) == (Move("vm2", "b", "a"),)
    assert str(Move("vm2", "b", "a")) == "move vm2 from b to a"


def test_where_there_is_room_nothing_moves() -> None:
    assert moves_for(world((A, B), HALF_FULL), ask(3000)) == ()


def test_a_class_may_take_several_moves() -> None:
    hosts = [machine(name, 8000) for name in "abcd"]
    there = [running(f"vm{host.name}", host, 3000) for host in hosts]
    assert len(moves_for(world(hosts, there), ask(6000, 2))) == 2
    assert moves_for(world(hosts, there), ask(6000, 2), most=1) == ()


def test_a_move_waits_for_the_room_that_another_one_makes() -> None:
    """a -> b has room only once b's VM has gone to c."""
    hosts = [machine("a", 10_000), machine("b", 5000), machine("c", 2600)]
    there = [running("large", hosts[0], 4000), running("small", hosts[1], 2000)]
    assert moves_for(world(hosts, there), ask(9000)) == (Move("small", "b", "c"), Move("large", "a", "b"))


@pytest.mark.parametrize(
    ("hosts", "there"),
    [
        ((A, ELSEWHERE), [HALF_FULL[0], running("vm2", ELSEWHERE, 3000)]),
        ((replace(A, maintenance=True), B), HALF_FULL),
        ((replace(A, networks=()), B), HALF_FULL),
        ((replace(A, datastores=(replace(SHARED, url="ds://local"),)), B), HALF_FULL),
        ((A, B), [running("vm1", A, 4000), running("vm2", B, 3000, power=PowerState.OFF)]),
        ((A, B), [running("vm1", A, 4000), running("vm2", B, 3000, annotation="somebody's")]),
        ((A, B), [HALF_FULL[0], (replace(HALF_FULL[1][0], state=ClaimState.CLAIMED), HALF_FULL[1][1])]),
        ((A, B), [HALF_FULL[0], (replace(HALF_FULL[1][0], group="new"), HALF_FULL[1][1])]),
    ],
    ids=["other vCenter", "maintenance", "network", "other datastore", "off", "foreign", "on its way", "same group"],
)
def test_only_what_can_move_moves(hosts: Sequence[Host], there: Sequence[tuple[Claim, Vm]]) -> None:
    assert not [move for move in moves_for(world(hosts, there), ask(6000)) if move.vm == "vm2"]


def test_with_ram_promised_twice_nobody_knows_what_a_move_frees() -> None:
    made = replace(world((A, B), HALF_FULL), rules=Rules(ram_ratio=1.5))
    assert moves_for(made, ask(10_000)) == ()


@st.composite
def crowded(draw: st.DrawFn) -> Snapshot:
    hosts = [machine(name, draw(st.sampled_from([6000, 8000, 10_000]))) for name in "abc"[: draw(st.integers(1, 3))]]
    there = []
    left = {host: host.ram_mb for host in hosts}
    for number in range(draw(st.integers(0, 6))):
        host = draw(st.sampled_from(hosts))
        one = running(f"vm{number}", host, draw(st.sampled_from([1000, 2000, 3000])))
        if one[0].ram_mb <= left[host]:
            left[host] -= one[0].ram_mb
            there.append(one)
    return replace(world(hosts, there), rules=Rules(n_plus_one=draw(st.sampled_from([False, False, True]))))


asked = st.builds(
    ask, st.sampled_from([2500, 4000, 6000, 7500]), st.integers(1, 2), max_per_host=st.sampled_from([None, 1])
)


def carried_out(made: Snapshot, moves: Sequence[Move]) -> Snapshot:
    """The world after the moves; every target has room when it is its turn."""
    for move in moves:
        (vm,) = [one for one in made.vms if one.name == move.vm]
        (target,) = [host.key for host in made.hosts if host.name == move.target]
        assert vm.host_moid == move.source
        (state,) = [one for one in made.states() if one.key == target]
        assert cost(vm)[0] <= state.ram_free_mb
        made = replace(made, vms=tuple(replace(one, host_moid=target.moid) if one is vm else one for one in made.vms))
    return made


@given(crowded(), asked)
@settings(deadline=None)
def test_after_the_moves_the_request_fits(made: Snapshot, requests: list[PlacementRequest]) -> None:
    moves = moves_for(made, requests, budget_s=5)
    assert len(moves) <= 3
    if moves:
        assert place(farm_of(carried_out(made, moves)), requests, 5).hosts is not None


def one_move_helps(made: Snapshot, requests: Sequence[PlacementRequest]) -> bool:
    for vm, host in product(made.vms, made.hosts):
        (state,) = [one for one in made.states() if one.key == host.key]
        if vm.host_moid != host.key.moid and cost(vm)[0] <= state.ram_free_mb:
            after = carried_out(made, [Move(vm.name, vm.host_moid, host.name)])
            if would_fit(farm_of(after), requests, 5).hosts is not None:
                return True
    return False


@given(crowded().filter(lambda made: not made.rules.n_plus_one), asked)
@settings(deadline=None)
def test_if_one_move_helps_it_is_found_and_no_more_are_made(made: Snapshot, requests: list[PlacementRequest]) -> None:
    if would_fit(farm_of(made), requests, 5).hosts is None:
        assert (len(moves_for(made, requests, budget_s=5)) == 1) == one_move_helps(made, requests)
