"""The rules as arrays are the rules; and a farm that lived through changes is the farm as it would be made anew."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from esxprov.model import Datastore
from esxprov.placement.choose import farm_of
from esxprov.placement.farm import FULL, RULES, Farm
from esxprov.placement.filters import refusal
from esxprov.placement.request import Affinity, PlacementRequest
from esxprov.placement.snapshot import Size, Snapshot
from tests.unit.placement.worlds import REQUEST, farm, host, requests, snapshots


def rules_by_host(made: Farm, request: PlacementRequest) -> list[str]:
    """The first rule that refuses the VM on each host, asked one host at a time."""
    wishes = tuple(wish for wish in request.affinities if not wish.together or made.groups.get(wish.group))
    asked = replace(request, affinities=wishes)
    answers = [refusal(asked, made.state(number), made.rules) for number in range(len(made))]
    return [answer.rule if answer else "" for answer in answers]


@given(snapshots(), requests())
def test_arrays_refuse_by_the_same_rule_as_the_rules(world: Snapshot, request: PlacementRequest) -> None:
    made = farm_of(world)
    assert [RULES[code] for code in made.refusals(request)] == rules_by_host(made, request)


@given(snapshots(), requests())
def test_a_host_has_a_cost_exactly_if_no_rule_refuses_it(world: Snapshot, request: PlacementRequest) -> None:
    made = farm_of(world)
    assert [cost == FULL for cost in made.costs(request)] == [code != 0 for code in made.refusals(request)]


@given(
    snapshots(),
    st.lists(st.tuples(requests(), st.integers(0, 5)), max_size=8),
    st.lists(st.integers(-20_000, 400_000), min_size=8, max_size=8),
    st.data(),
)
def test_costs_after_changes_are_those_of_a_farm_made_anew(
    world: Snapshot, moves: list[tuple[PlacementRequest, int]], later: list[int], data: st.DataObject
) -> None:
    if not world.hosts:
        return
    world = replace(world, catalogue=(Size(1024, 1), Size(8192, 4, 3)))
    lived, placed, now = farm_of(world), [], world.at
    for (request, number), seconds in zip(moves, later, strict=False):
        lived.costs(request)
        lived.occupy(number % len(lived), request)
        placed.append((number % len(lived), request))
        now = world.at + seconds
        lived.advance(now)
    for number, request in data.draw(st.lists(st.sampled_from(placed), unique_by=id)) if placed else []:
        lived.vacate(number, request)
        placed.remove((number, request))
    anew = farm_of(replace(world, at=now))
    for number, request in placed:
        anew.occupy(number, request)
    for request, _ in moves:
        assert np.array_equal(lived.costs(request), anew.costs(request))
        assert np.array_equal(lived.refusals(request), anew.refusals(request))
    assert [lived.state(number) for number in range(len(lived))] == [anew.state(number) for number in range(len(anew))]


@given(snapshots(), requests(), st.integers(0, 5), st.integers(0, 30_000))
def test_a_host_that_is_put_as_it_is_costs_the_same(
    world: Snapshot, request: PlacementRequest, number: int, seconds: int
) -> None:
    if not world.hosts:
        return
    made = farm_of(world)
    made.occupy(number % len(made), replace(request, disk_mb=0))
    made.advance(world.at + seconds)
    before = made.costs(request).copy()
    made.put(made.raw(number % len(made)))
    assert np.array_equal(made.costs(request), before)


@given(snapshots(), requests(), st.integers(0, 5))
def test_a_host_that_is_put_back_is_the_host_that_was_taken(
    world: Snapshot, request: PlacementRequest, number: int
) -> None:
    if not world.hosts:
        return
    made, asked = farm_of(world), replace(request, disk_mb=0)
    number %= len(made)
    before, costs = made.raw(number), made.costs(asked).copy()
    made.occupy(number, asked)
    made.put(replace(before, state="disconnected"))
    made.put(before)
    assert np.array_equal(made.costs(asked), costs)
    assert made.raw(number) == before


def test_disks_still_to_be_written_count_on_every_host_that_shares_the_datastore() -> None:
    shared = (Datastore("nfs1", 50_000, 100_000, url="nfs://a"),)
    made = farm(host("esx1", datastores=shared), host("esx2", datastores=shared))
    made.occupy(0, replace(REQUEST, disk_mb=40_000))
    assert [RULES[code] for code in made.refusals(replace(REQUEST, disk_mb=20_000))] == ["disk", "disk"]


def test_datastores_of_one_name_on_two_hosts_are_two() -> None:
    made = farm(host("esx1"), host("esx2"))
    made.occupy(0, replace(REQUEST, disk_mb=90_000))
    assert [RULES[code] for code in made.refusals(replace(REQUEST, disk_mb=20_000))] == ["disk", ""]


def test_equal_hosts_cost_the_same_however_many_there_are() -> None:
    made = farm(*(host(f"esx{number}") for number in range(50)), catalogue=[Size(1000, 1), Size(3000, 2)])
    assert set(made.costs(REQUEST)) == {made.costs(REQUEST)[0]}
    made.occupy(7, REQUEST)
    made.vacate(7, REQUEST)
    assert set(made.costs(REQUEST)) == {made.costs(REQUEST)[0]}


def test_who_must_be_with_those_who_are_nowhere_goes_anywhere() -> None:
    first = replace(REQUEST, group="web", affinities=(Affinity("web", together=True, hard=True),))
    made = farm(host("esx1"), host("esx2"))
    assert not made.refusals(first).any()
    made.occupy(1, first)
    assert [RULES[code] for code in made.refusals(first)] == ["together", ""]


def test_more_kinds_of_vms_than_a_farm_remembers_are_no_problem() -> None:
    made = farm(host("esx1", ram_mb=10**6), host("esx2", maintenance=True), catalogue=[Size(1000, 1)])
    for ram_mb in range(4, 400, 4):
        assert [cost == FULL for cost in made.costs(replace(REQUEST, ram_mb=ram_mb))] == [False, True]


def test_a_place_that_is_there_again_soon_is_given_away_first() -> None:
    """On both hosts the VM breaks the last place; on one of them there will be two, with room for it besides."""
    full = host("esx1", promised_ram_mb=10_360)
    soon = replace(full, ends={3600: (9500, 4)})
    made = farm(soon, host("esx2", promised_ram_mb=10_360), catalogue=[Size(5000, 1)])
    costs = made.costs(REQUEST)
    assert costs[0] < costs[1]
    made.put(full)
    costs = made.costs(REQUEST)
    assert costs[0] == costs[1]
