"""The decision: explained, the same for the same world, and whatever is said to help has been tried."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esxprov.model import Host
from esxprov.placement.choose import Decision, choose, choose_together, farm_of, record, recorded
from esxprov.placement.explain import help_for, refused
from esxprov.placement.host import HostState
from esxprov.placement.request import PlacementRequest, overhead_mb
from esxprov.placement.snapshot import Policy, Rules, Size, Snapshot
from tests.unit.placement.worlds import REQUEST, clusters, farm, host, machine, requests, snapshots


@given(snapshots(), requests())
def test_every_host_of_a_refusal_has_its_reason(world: Snapshot, request: PlacementRequest) -> None:
    decision = choose(request, world)
    if decision.placements:
        assert not decision.refused
        return
    assert sorted(decision.refused) == sorted(farm_of(world).labels())
    assert all(why.rule and why.reason for why in decision.refused.values())


@given(snapshots(), clusters())
def test_a_cluster_that_is_refused_has_a_reason_for_every_host(
    world: Snapshot, asked: tuple[PlacementRequest, ...]
) -> None:
    decision = choose_together(asked, world)
    assert len(decision.placements) in (0, len(asked))
    assert len(decision.refused) == (0 if decision.placements else len(world.hosts))


@given(snapshots(), clusters(), st.randoms(use_true_random=False))
def test_the_order_of_hosts_does_not_matter(
    world: Snapshot, asked: tuple[PlacementRequest, ...], random: Random
) -> None:
    hosts = list(world.hosts)
    random.shuffle(hosts)
    first, second = choose_together(asked, world), choose_together(asked, replace(world, hosts=tuple(hosts)))
    assert [place.host for place in first.placements] == [place.host for place in second.placements]


@given(snapshots(), clusters())
def test_a_recorded_decision_survives_json_and_is_made_again(
    world: Snapshot, asked: tuple[PlacementRequest, ...]
) -> None:
    decision = choose_together(asked, world)
    written = json.loads(json.dumps(record(asked, world, decision)))
    requests_then, snapshot_then, decision_then = recorded(written)
    assert (requests_then, snapshot_then, decision_then) == (asked, world, decision)
    assert choose_together(requests_then, snapshot_then) == decision


def refuse(*states: HostState, request: PlacementRequest = REQUEST) -> tuple[str, ...]:
    return help_for(farm(*states), (request,), 1)


@pytest.mark.parametrize(
    ("hosts", "nearest"),
    [
        (
            (host("esx1", promised_ram_mb=15000), host("esx2", promised_ram_mb=13000)),
            ("if 1832 MB more RAM were free on esx2",),
        ),
        (
            (host("esx1", promised_ram_mb=15000, promised_cpus=64), host("esx2", ram_mb=4096)),
            ("if 2 more vCPUs were free on esx1 and 3832 MB more RAM were free on esx1",),
        ),
        (
            (host("esx1", maintenance=True), host("esx2", promised_ram_mb=15000)),
            ("if 3832 MB more RAM were free on esx2",),
        ),
        ((host("esx1", maintenance=True),), ("if esx1 were not in maintenance mode",)),
        ((host("esx1", ram_mb=4096),), ("if esx1 had 1120 MB more RAM",)),
        ((host("esx1", ram_mb=2048), host("esx2", ram_mb=4096)), ("if esx2 had 1120 MB more RAM",)),
        ((host("esx1", cpu_threads=1), host("esx2", state="disconnected")), ()),
        ((), ()),
    ],
)
def test_the_nearest_miss_is_named_if_anything_helps(hosts: tuple[HostState, ...], nearest: tuple[str, ...]) -> None:
    assert refuse(*hosts) == nearest


def cluster(count: int, most: int | None = None) -> Sequence[PlacementRequest]:
    return [
        PlacementRequest(f"vm-{number}", 4096, 2, overhead_mb(4096, 2), group="web", max_per_host=most)
        for number in range(count)
    ]


def test_a_cluster_learns_how_many_per_host_would_do() -> None:
    made = farm(host("esx1"), host("esx2"))
    assert help_for(made, cluster(5, most=2), 1) == ("with 3 per host", "if only 4 of the 5 were asked for")


def test_a_cluster_learns_what_room_is_missing() -> None:
    made = farm(host("esx1"), host("esx2", promised_ram_mb=10_000))
    assert help_for(made, cluster(5), 1)[0] == "if 1408 MB more RAM were free on esx1"


def test_a_cluster_learns_that_n_plus_one_is_in_the_way() -> None:
    made = farm(host("esx1"), host("esx2"), rules=Rules(n_plus_one=True))
    assert "if no host had to be replaceable (n_plus_one)" in help_for(made, cluster(4), 1)
    assert made.rules.n_plus_one


@given(snapshots(), clusters(4))
def test_looking_for_help_leaves_the_farm_as_it_was(world: Snapshot, asked: tuple[PlacementRequest, ...]) -> None:
    made = farm_of(world)
    before = [made.raw(number) for number in range(len(made))], made.costs(asked[0]).copy()
    help_for(made, asked, 1)
    refused(made, asked)
    assert [made.raw(number) for number in range(len(made))] == before[0]
    assert (made.costs(asked[0]) == before[1]).all()


def world_of(*hosts: Host, **changes: object) -> Snapshot:
    return replace(Snapshot(hosts, rules=Rules(cpu_ratio=4.0, reserved_ram_mb=1024)), **changes)  # type: ignore[arg-type]


def test_two_hosts_with_one_name_are_both_explained() -> None:
    drained, narrow = replace(machine("a"), maintenance=True), machine("b", threads=1)
    twins = (replace(drained, name="localhost"), replace(narrow, name="localhost"))
    assert {label: why.reason for label, why in choose(REQUEST, world_of(*twins)).refused.items()} == {
        "localhost (a/ha-host)": "the host is in maintenance mode",
        "localhost (b/ha-host)": "2 vCPUs asked, the host has 1 threads",
    }


def test_a_choice_says_why_it_was_the_best() -> None:
    spread = Rules(Policy.SPREAD, 4.0, 1.0, 1024)
    decision = choose(REQUEST, world_of(machine("esx1"), machine("esx2", ram_mb=8192), rules=spread))
    (chosen,) = decision.placements
    assert chosen.host_name == "esx1"
    assert decision.reason == "of 2 hosts that take it, this one keeps the most headroom (15% promised with it)"


def test_the_tie_of_equal_hosts_is_the_same_in_every_process() -> None:
    world = world_of(*(machine(f"esx{number}") for number in range(4)), catalogue=(Size(1024, 1),))
    turns = [choose(replace(REQUEST, id=str(number)), world).placements[0].host_name for number in range(6)]
    assert turns == ["esx1", "esx3", "esx1", "esx3", "esx0", "esx2"]


def test_an_empty_pool_says_that_it_is_empty() -> None:
    assert choose(REQUEST, Snapshot(())) == Decision((), "the pool has no host")
