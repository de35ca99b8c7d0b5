"""Lost allocations: what a VM takes from those that are still to come."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from esxprov.placement.scores import Capacity, Cost, Numbers, explain, fullness, lost_allocations
from esxprov.placement.snapshot import Policy, Size

SIZE = Size(4192, 2)
ONE_SIZE = lost_allocations([SIZE])


def numbers(*values: int) -> Numbers:
    return np.array(values, np.int64)


def cost(score: Cost, free: tuple[int, int], need: tuple[int, int], whole: tuple[int, int] = (16384, 64)) -> int:
    here = Capacity(*(numbers(each)[:, None] for each in (*free, *whole)))
    return int(score(here, numbers(0, need[0]), numbers(0, need[1]))[0, 1])


def test_a_vm_of_the_only_size_costs_exactly_its_own_place() -> None:
    assert explain(Policy.PACK, cost(ONE_SIZE, (16384, 64), (4192, 2))) == "the fewest future VMs are lost here (1.00)"


def test_a_vm_that_takes_only_what_is_left_over_costs_less_than_one_that_breaks_a_place() -> None:
    assert cost(ONE_SIZE, (2 * 4192 + 1500, 64), (1024, 1)) < cost(ONE_SIZE, (2 * 4192, 64), (1024, 1))


def test_a_size_that_many_images_have_counts_more() -> None:
    """Room for one more of each: the small VM breaks the place of one size or of the other."""
    rare, common = lost_allocations([Size(1000, 8, 1), Size(8000, 1, 1)]), lost_allocations([Size(1000, 8, 9), SIZE])
    assert cost(common, (1000, 8), (500, 1)) > cost(rare, (1000, 8), (500, 1))


def test_a_fuller_host_is_fuller() -> None:
    assert cost(fullness, (16384, 64), (4192, 2)) < cost(fullness, (16384, 56), (4192, 2))


sizes = st.builds(Size, st.integers(1, 70_000), st.integers(1, 64), st.integers(1, 20))
rooms = st.tuples(st.integers(0, 600_000), st.integers(0, 400))


@given(st.lists(sizes, min_size=1, max_size=6), rooms, sizes)
def test_no_vm_gains_room_for_others(catalogue: list[Size], free: tuple[int, int], vm: Size) -> None:
    if vm.ram_mb <= free[0] and vm.cpus <= free[1]:
        assert cost(lost_allocations(catalogue), free, (vm.ram_mb, vm.cpus)) >= 0


@given(st.lists(sizes, min_size=1, max_size=6), st.lists(rooms, min_size=1, max_size=9), sizes)
def test_many_hosts_and_vms_cost_what_each_costs_by_itself(
    catalogue: list[Size], free: list[tuple[int, int]], vm: Size
) -> None:
    score = lost_allocations(catalogue)
    ram, cpus = np.array(free, np.int64).T[:, :, None]
    together = score(Capacity(ram, cpus, ram, cpus), numbers(0, vm.ram_mb, 1), numbers(0, vm.cpus, 1))
    assert list(together[:, 1]) == [cost(score, each, (vm.ram_mb, vm.cpus)) for each in free]
