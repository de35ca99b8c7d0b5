"""Lost allocations: what a VM takes from those that are still to come."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from esxprov.placement.filters import PlacementRequest, refusal
from esxprov.placement.scores import SCORES, expected, fullness, lost_allocations
from esxprov.placement.snapshot import Snapshot
from tests.unit.placement.worlds import REQUEST, host, requests, snapshots

ONE_SIZE = expected([(REQUEST.ram_mb, REQUEST.cpus, 1)])


def test_a_vm_of_the_only_size_costs_exactly_its_own_place() -> None:
    assert lost_allocations(REQUEST, host("esx1"), ONE_SIZE) == pytest.approx(1.0)


def test_a_vm_that_takes_only_what_is_left_over_costs_less_than_one_that_breaks_a_place() -> None:
    whole = host("whole", promised_ram_mb=16384 - 1024 - 2 * REQUEST.ram_needed_mb)
    left_over = host("left-over", promised_ram_mb=whole.promised_ram_mb - 1500)
    small = replace(REQUEST, ram_mb=1024, cpus=1)
    assert lost_allocations(small, left_over, ONE_SIZE) < lost_allocations(small, whole, ONE_SIZE)


def test_expected_weights_add_up_and_large_or_common_sizes_weigh_more() -> None:
    small, common, large = expected([(1024, 1, 1), (1025, 1, 5), (8192, 4, 1)])
    assert small.weight + common.weight + large.weight == pytest.approx(1)
    assert small.weight < large.weight
    assert small.weight < common.weight


def test_without_a_catalogue_nothing_is_expected() -> None:
    assert expected([]) == ()


def test_a_fuller_host_is_fuller() -> None:
    assert fullness(REQUEST, host("esx1"), ()) < fullness(REQUEST, host("esx1", promised_cpus=8), ())


@given(requests(), snapshots())
def test_a_host_that_takes_the_vm_has_a_score_and_never_wins_by_losing_capacity(
    request: PlacementRequest, world: Snapshot
) -> None:
    score, _ = SCORES[request.policy]
    for state in world.hosts:
        if refusal(request, state) is None:
            assert score(request, state, expected(world.catalogue)) >= 0
