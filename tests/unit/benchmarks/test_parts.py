"""The parts that make up their own worlds: these are what they say they are."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.placement import workload
from benchmarks.placement.clusters import Truth, case
from benchmarks.placement.speed import Scan
from benchmarks.placement.stale import Site, by_claims, by_statistics, on_too_full
from esxprov.placement.search import place


@pytest.mark.parametrize("seed", range(6))
def test_a_farm_near_capacity_is_that_and_nowhere_over(seed: int) -> None:
    found = case(seed, 20)
    capacity = np.array([(host.cpus, host.ram_mb) for host in found.hosts])
    assert (found.room >= 0).all()
    assert 0.9 <= (1 - found.room / capacity).max(axis=1).mean() <= 1
    assert 2 <= len(found.cluster) <= 30


@pytest.mark.parametrize("seed", range(6))
def test_ours_sees_the_room_that_the_exact_model_sees(seed: int) -> None:
    found = case(seed, 20)
    farm = found.farm()
    assert np.array_equal(np.stack([farm.cpus_free, farm.ram_free], axis=1), found.room)
    assert found.truth() in (Truth.FITS, Truth.DOES_NOT)
    if place(farm, found.requests()).hosts is not None:
        assert found.truth() is Truth.FITS


def test_the_scan_is_best_fit() -> None:
    scan = Scan(np.array([9, 5, 4, 3]), np.array([9, 1, 9, 9]))
    assert scan.best(4, 2) == 2
    assert scan.best(5, 2) == 0


def test_old_statistics_mislead_who_believes_them_and_not_who_claims() -> None:
    blades = workload.farm(1, blades=2, vcpu_ratio=8)
    arrivals = workload.requests(1, blades, 1.2, weeks=1)[:300]
    assert on_too_full(Site(1, blades, 1.0), arrivals, by_statistics)[0] > 0
    assert on_too_full(Site(1, blades, 1.0), arrivals, by_claims)[0] == 0
