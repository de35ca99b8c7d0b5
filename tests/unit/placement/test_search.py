"""Where VMs go: feasible, all or nothing, exact where greed fails, and never one VM too many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esxprov.model import HostKey
from esxprov.placement.choose import farm_of
from esxprov.placement.failover import homeless, weakest
from esxprov.placement.farm import Farm
from esxprov.placement.filters import refusal
from esxprov.placement.request import Affinity, PlacementRequest
from esxprov.placement.search import pick, place
from esxprov.placement.snapshot import Policy, Rules, Size, Snapshot
from tests.unit.placement.worlds import REQUEST, clusters, farm, host, requests, rules, snapshots


def small(number: int, ram_mb: int = 1000, cpus: int = 1, most: int | None = None) -> PlacementRequest:
    return PlacementRequest(f"vm-{number}", ram_mb, cpus, group="new", max_per_host=most)


def bare(*rooms: tuple[int, int], rules: Rules | None = None, catalogue: Sequence[Size] = ()) -> Farm:
    """Hosts h0, h1, ... with so much RAM and so many vCPUs."""
    states = [
        replace(
            host(f"h{number}", ram_mb=ram_mb, cpu_threads=cpus),
            key=HostKey("e", f"h{number}"),
            cpu_ratio=1.0,
            reserved_ram_mb=0,
        )
        for number, (ram_mb, cpus) in enumerate(rooms)
    ]
    return farm(*states, rules=rules, catalogue=catalogue)


def content(made: Farm) -> list[object]:
    return [made.raw(number) for number in range(len(made))]


@given(snapshots(), requests())
def test_a_vm_is_placed_exactly_if_some_host_takes_it(world: Snapshot, request: PlacementRequest) -> None:
    made = farm_of(world)
    takers = {number for number, code in enumerate(made.refusals(request)) if not code}
    chosen = pick(made, request)
    assert chosen in takers if takers else chosen is None


@given(snapshots(), clusters())
def test_all_are_placed_or_nothing_has_changed(world: Snapshot, asked: tuple[PlacementRequest, ...]) -> None:
    made = farm_of(world)
    before = content(made)
    found = place(made, asked)
    if found.hosts is None:
        assert content(made) == before
        return
    for number, request in reversed(list(zip(found.hosts, asked, strict=True))):
        made.vacate(number, request)
        assert refusal(request, made.state(number), made.rules) is None
    assert content(made) == before


@given(snapshots(), st.lists(clusters(), max_size=6))
def test_no_row_of_placements_promises_more_than_there_is(
    world: Snapshot, asked: list[tuple[PlacementRequest, ...]]
) -> None:
    made = farm_of(world)
    before = [made.state(number) for number in range(len(made))]
    for cluster in asked:
        place(made, cluster)
    for number, old in enumerate(before):
        now = made.state(number)
        assert now.ram_free_mb >= min(0, old.ram_free_mb)
        assert now.cpus_free >= min(0, old.cpus_free)
        for store, was in zip(now.datastores, old.datastores, strict=True):
            assert store.free_mb >= min(0, was.free_mb)


def fits_somehow(made: Farm, asked: Sequence[PlacementRequest]) -> bool:
    """All arrangements, one by one."""
    for hosts in product(range(len(made)), repeat=len(asked)):
        done: list[tuple[int, PlacementRequest]] = []
        for number, request in zip(hosts, asked, strict=True):
            if made.refusals(request)[number]:
                break
            made.occupy(number, request)
            done.append((number, request))
        for number, request in done:
            made.vacate(number, request)
        if len(done) == len(asked):
            return True
    return False


@given(
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 5)), min_size=1, max_size=3),
    st.lists(st.tuples(st.sampled_from([700, 1000, 1700, 2300]), st.integers(1, 3)), min_size=1, max_size=5),
    st.sampled_from([None, 1, 2]),
)
def test_a_cluster_is_refused_exactly_if_no_arrangement_fits(
    rooms: list[tuple[int, int]], sizes: list[tuple[int, int]], most: int | None
) -> None:
    asked = [small(number, *size, most) for number, size in enumerate(sizes)]
    found = place(bare(*rooms), asked, budget_s=10)
    assert (found.hosts is not None) == fits_somehow(bare(*rooms), asked)
    assert found.proved


def test_a_shared_datastore_that_is_short_is_part_of_the_exact_answer() -> None:
    asked = [replace(REQUEST, id=str(number), disk_mb=40_000, group="new") for number in range(3)]
    found = place(farm(host("esx1"), host("esx2")), asked, budget_s=10)
    assert found.hosts is not None
    assert Counter(Counter(found.hosts).values()) == {2: 1, 1: 1}


def test_greed_that_fails_is_made_good() -> None:
    """The large one must not go where only the two small ones, which may not be together, can be apart."""
    made = bare((3000, 8), (2000, 8), catalogue=[Size(1000, 1)])
    asked = [small(0, 2000, 1, 2), small(1, 1500, 1, 2), small(2, 1500, 1, 2)]
    found = place(made, asked)
    assert found.hosts is not None
    assert found.hosts[0] == 1
    assert found.hosts[1:] == (0, 0)


def test_within_no_time_a_no_is_no_proof() -> None:
    made = bare(*((4000, 4) for _ in range(12)))
    asked = [small(number, 2100, 1, 2) for number in range(13)] + [small(99, 1500, 1, 2)]
    assert place(made, asked, budget_s=10).proved
    uneven = bare((3000, 9), (2000, 9), (2500, 9))
    hard = [small(number, ram_mb, 1) for number, ram_mb in enumerate((1500, 1500, 1000, 1000, 1250, 1250))]
    found = place(uneven, hard, budget_s=0)
    assert found.hosts is not None or not found.proved


def test_vms_that_must_be_together_take_the_host_that_has_room_for_all() -> None:
    wish = (Affinity("new", together=True, hard=True),)
    asked = [replace(small(number), affinities=wish) for number in range(3)]
    found = place(bare((2000, 8), (3000, 8), catalogue=[Size(1000, 1)]), asked)
    assert found.hosts == (1, 1, 1)


def test_vms_that_should_be_apart_are_apart_while_they_can() -> None:
    wish = (Affinity("new", together=False, hard=False),)
    asked = [replace(small(number), affinities=wish) for number in range(3)]
    found = place(bare((3000, 8), (3000, 8)), asked)
    assert found.hosts is not None
    assert sorted(Counter(found.hosts).values()) == [1, 2]


def test_with_n_plus_one_the_last_host_worth_of_room_stays_free() -> None:
    two = [(2000, 8), (2000, 8)]
    asked = [small(number) for number in range(4)]
    assert [pick_and_take(bare(*two, rules=Rules(n_plus_one=True)), asked), pick_and_take(bare(*two), asked)] == [2, 4]


def pick_and_take(made: Farm, asked: Sequence[PlacementRequest]) -> int:
    """How many of them find a host one after the other."""
    return sum(place(made, (request,)).hosts is not None for request in asked)


@given(snapshots(rules.map(lambda some: replace(some, n_plus_one=True))), st.lists(requests(), max_size=6))
def test_with_n_plus_one_a_safe_farm_stays_safe(world: Snapshot, asked: list[PlacementRequest]) -> None:
    made = farm_of(world)
    if weakest(made) is not None:
        return
    for request in asked:
        place(made, (request,))
        assert weakest(made) is None


def test_vms_of_a_failed_host_go_to_hosts_that_work() -> None:
    made = bare((4000, 8), (4000, 8), (4000, 8))
    made.put(replace(made.raw(2), maintenance=True))
    for number in range(3):
        made.occupy(0, small(number, 1500))
    assert homeless(made, 0) == (1500, 1)
    made.vacate(0, small(2, 1500))
    assert homeless(made, 0) is None


def chosen(made: Farm) -> str:
    number = pick(made, REQUEST)
    assert number is not None
    return made.hosts[number].name


def test_packing_leaves_the_empty_host_to_the_large_image() -> None:
    made = farm(
        host("empty"),
        host("begun", promised_ram_mb=8000, promised_cpus=4),
        catalogue=[Size(1024, 1), Size(12288, 4)],
    )
    assert chosen(made) == "begun"


def test_packing_minds_the_scarcer_resource() -> None:
    """The host with little RAM left would lose its last place for a large image; the one short of vCPUs has none."""
    short_of_ram = host("short-of-ram", promised_ram_mb=16384 - 1024 - 8500)
    short_of_cpus = host("short-of-cpus", promised_cpus=61)
    assert chosen(farm(short_of_ram, short_of_cpus, catalogue=[Size(8192, 4)])) == "short-of-cpus"


def test_spreading_takes_the_emptiest_host() -> None:
    made = farm(
        host("empty"),
        host("begun", promised_ram_mb=8000, promised_cpus=4),
        rules=Rules(Policy.SPREAD),
        catalogue=[Size(1024, 1)],
    )
    assert chosen(made) == "empty"


def test_equal_hosts_take_turns() -> None:
    made = farm(*(host(f"esx{number}") for number in range(4)))
    count = Counter(pick(made, replace(REQUEST, id=f"event-{number}")) for number in range(200))
    assert min(count[number] for number in range(4)) > 25


@given(snapshots(), requests(), st.randoms(use_true_random=False))
def test_the_order_of_hosts_does_not_matter(world: Snapshot, request: PlacementRequest, random: Random) -> None:
    hosts = list(world.hosts)
    random.shuffle(hosts)
    one, other = farm_of(world), farm_of(replace(world, hosts=tuple(hosts)))
    first, second = pick(one, request), pick(other, request)
    assert (one.hosts[first].key if first is not None else None) == (
        other.hosts[second].key if second is not None else None
    )


@pytest.mark.parametrize("hosts", [0, 1])
def test_an_empty_farm_takes_nothing(hosts: int) -> None:
    found = place(bare(*[(500, 1)] * hosts), [small(0), small(1)])
    assert (found.hosts, found.proved) == (None, True)
