"""The decision: feasible, explained, the same for the same world, and never one VM too many."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esxprov.model import Claim, Pool, Vm
from esxprov.placement.choose import Decision, choose, decide_again, record
from esxprov.placement.filters import PlacementRequest, Policy
from esxprov.placement.snapshot import HostState, Snapshot, build
from tests.unit.placement.worlds import REQUEST, host, machine, pools, promises, requests, snapshots


def chosen(decision: Decision) -> str:
    assert decision.placement is not None
    return decision.placement.host_name


def takes(request: PlacementRequest, state: HostState) -> bool:
    """The rules once more, as one condition."""
    hardware = max(0, state.ram_mb - state.reserved_ram_mb)
    free = hardware * state.ram_ratio - state.promised_ram_mb
    if state.ram_ratio > 1:
        free = min(free, state.ram_mb * 0.96 - state.ram_used_mb - state.warming_ram_mb)
    store = state.datastores[0]
    return (
        (state.state, state.maintenance, state.excluded) == ("connected", False, None)
        and set(request.networks) <= set(state.networks)
        and store.accessible
        and store.free_mb >= request.disk_mb
        and request.cpus <= min(state.cpu_threads, state.cpu_threads * state.cpu_ratio - state.promised_cpus + 1e-6)
        and request.ram_needed_mb <= min(hardware, free)
    )


@given(requests(), snapshots())
def test_a_vm_is_placed_exactly_if_some_host_takes_it(request: PlacementRequest, world: Snapshot) -> None:
    takers = {state.key for state in world.hosts if takes(request, state)}
    decision = choose(request, world)
    assert (decision.placement.host in takers) if decision.placement else not takers


@given(requests(), snapshots())
def test_every_host_is_a_taker_or_has_a_reason(request: PlacementRequest, world: Snapshot) -> None:
    decision = choose(request, world)
    labels = world.labels()
    refusing = {labels[state.key] for state in world.hosts if not takes(request, state)}
    assert set(decision.refused) == refusing
    assert all(decision.refused.values())


@given(requests(), snapshots(), st.randoms(use_true_random=False))
def test_the_order_of_hosts_does_not_matter(request: PlacementRequest, world: Snapshot, random: Random) -> None:
    hosts = list(world.hosts)
    random.shuffle(hosts)
    assert choose(request, replace(world, hosts=tuple(hosts))) == choose(request, world)


@given(requests(), snapshots())
def test_a_recorded_decision_survives_json_and_is_made_again(request: PlacementRequest, world: Snapshot) -> None:
    decision = choose(request, world)
    recorded = json.loads(json.dumps(record(request, world, decision)))
    assert Decision.from_json(recorded["decision"]) == decision
    assert PlacementRequest.from_json(recorded["request"]) == request
    then, now = decide_again(recorded)
    assert then == now
    assert then == (world.labels()[decision.placement.host] if decision.placement else None)


HOSTS = [machine("esx1", 8192, 4), machine("esx2", 16384, 16), machine("esx3", 32768, 8)]


@given(pools, promises(["esx1", "esx2", "esx3"]), st.lists(requests(), max_size=25))
def test_no_row_of_decisions_promises_more_than_there_is(
    pool: Pool, world: tuple[list[Claim], list[Vm]], asked: list[PlacementRequest]
) -> None:
    claims, vms = world
    before = {state.key: state for state in build(pool, HOSTS, vms, claims, [], {}).hosts}
    for number, request in enumerate(asked):
        placement = choose(request, build(pool, HOSTS, vms, claims, [(4096, 2)], {})).placement
        if placement is not None:
            new = Claim(f"new-{number}", placement.host, 100 + number, request.ram_needed_mb, request.cpus, "event")
            claims = [*claims, new]
    for state in build(pool, HOSTS, vms, claims, [], {}).hosts:
        assert state.promised_ram_mb <= max(state.ram_capacity_mb, before[state.key].promised_ram_mb)
        assert state.promised_cpus <= max(state.cpus_capacity, before[state.key].promised_cpus)
        if pool.ram_ratio > 1:
            assert state.warming_ram_mb <= max(state.ram_mb, before[state.key].warming_ram_mb)


def test_packing_leaves_the_empty_host_to_the_large_image() -> None:
    world = Snapshot(
        (host("empty"), host("begun", promised_ram_mb=8000, promised_cpus=4)), ((1024, 1, 1), (12288, 4, 1))
    )
    assert chosen(choose(REQUEST, world)) == "begun"


def test_packing_minds_the_scarcer_resource() -> None:
    """The host with little RAM left would lose its last place for a large image; the one short of vCPUs has none."""
    short_of_ram = host("short-of-ram", promised_ram_mb=16384 - 1024 - 8500)
    short_of_cpus = host("short-of-cpus", promised_cpus=61)
    assert chosen(choose(REQUEST, Snapshot((short_of_ram, short_of_cpus), ((8192, 4, 1),)))) == "short-of-cpus"


def test_spreading_takes_the_emptiest_host() -> None:
    world = Snapshot((host("empty"), host("begun", promised_ram_mb=8000, promised_cpus=4)), ((1024, 1, 1),))
    decision = choose(replace(REQUEST, policy=Policy.SPREAD), world)
    assert decision.placement is not None
    assert decision.placement.host_name == "empty"
    assert decision.placement.reason == (
        "of 2 hosts that take it, this one keeps the most headroom (15% promised with it)"
    )


def test_equal_hosts_take_turns() -> None:
    world = Snapshot(tuple(host(f"esx{number}") for number in range(4)))
    count = Counter(chosen(choose(replace(REQUEST, id=f"event-{number}"), world)) for number in range(200))
    assert min(count[state.name] for state in world.hosts) > 25


def test_the_tie_of_equal_hosts_is_the_same_in_every_process() -> None:
    world = Snapshot(tuple(host(f"esx{number}") for number in range(4)))
    turns = [chosen(choose(replace(REQUEST, id=str(number)), world)) for number in range(6)]
    assert turns == ["esx3", "esx2", "esx3", "esx2", "esx2", "esx0"]


@pytest.mark.parametrize(
    ("hosts", "nearest"),
    [
        (
            (host("esx1", promised_ram_mb=15000), host("esx2", promised_ram_mb=13000)),
            "it would fit if 1832 MB more RAM were free on esx2",
        ),
        (
            (host("esx1", promised_ram_mb=15000, promised_cpus=64), host("esx2", ram_mb=4096)),
            "it would fit if 2 more vCPUs were free on esx1 and 3832 MB more RAM were free on esx1",
        ),
        (
            (host("esx1", maintenance=True), host("esx2", promised_ram_mb=15000)),
            "it would fit if 3832 MB more RAM were free on esx2",
        ),
        ((host("esx1", maintenance=True),), "it would fit if esx1 were not in maintenance mode"),
        ((host("esx1", ram_mb=4096),), "it would fit if esx1 had 1120 MB more RAM"),
        (
            (host("esx1", ram_mb=2048), host("esx2", ram_mb=4096)),
            "it would fit if esx2 had 1120 MB more RAM",
        ),
        ((host("esx1", cpu_threads=1), host("esx2", state="disconnected")), None),
        ((), None),
    ],
)
def test_the_nearest_miss_is_named_if_anything_helps(hosts: tuple[HostState, ...], nearest: str | None) -> None:
    decision = choose(REQUEST, Snapshot(hosts))
    assert (decision.placement, decision.nearest) == (None, nearest)


def test_two_hosts_with_one_name_are_both_explained() -> None:
    world = Snapshot((host("a", name="localhost", maintenance=True), host("b", name="localhost", cpu_threads=1)))
    assert choose(REQUEST, world).refused == {
        "localhost (a/ha-host)": "the host is in maintenance mode",
        "localhost (b/ha-host)": "2 vCPUs asked, the host has 1 threads",
    }
