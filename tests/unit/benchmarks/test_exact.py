"""The exact answers that ours is held against, against trying out everything on tiny farms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import compress, product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.placement.bound import FreeRepacking
from benchmarks.placement.fluid import most_ram_mb
from benchmarks.placement.packing import packing
from benchmarks.placement.replay import replay
from benchmarks.placement.rows import Host, Request, Vm

SIZES = st.tuples(st.integers(1, 4), st.integers(1, 4))
ROOMS = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=3)


def fits_somehow(sizes: Sequence[tuple[int, int]], rooms: Sequence[tuple[int, int]], per_host: int | None) -> bool:
    """By trying every host for every VM."""
    for hosts in product(range(len(rooms)), repeat=len(sizes)):
        there = [[size for size, host in zip(sizes, hosts, strict=True) if host == number] for number in range(3)]
        if all(
            sum(size[0] for size in mine) <= room[0]
            and sum(size[1] for size in mine) <= room[1]
            and (per_host is None or len(mine) <= per_host)
            for mine, room in zip(there, rooms, strict=False)
        ):
            return True
    return False


@given(st.lists(SIZES, min_size=1, max_size=5), ROOMS, st.sampled_from([None, 1, 2]))
def test_a_packing_is_found_exactly_if_there_is_one(
    vms: list[tuple[int, int]], rooms: list[tuple[int, int]], per_host: int | None
) -> None:
    wanted = Counter(vms)
    sizes, needed = np.array(list(wanted)), np.array(list(wanted.values()))
    found, proved = packing(sizes, needed, np.array(rooms), 60.0, per_host)
    assert proved
    assert (found is not None) == fits_somehow(vms, rooms, per_host)
    if found is not None:
        assert (found.sum(axis=1) == needed).all()
        assert (found.T @ sizes <= np.array(rooms)).all()
        assert per_host is None or (found.sum(axis=0) <= per_host).all()


@given(
    st.lists(st.tuples(SIZES, st.integers(0, 2), st.one_of(st.none(), st.integers(1, 6))), max_size=7),
    st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=3),
)
def test_the_bound_refuses_exactly_what_no_repacking_lets_in(
    arrivals: list[tuple[tuple[int, int], int, int | None]], rooms: list[tuple[int, int]]
) -> None:
    requests, now = [], 0
    for number, (size, pause, stay) in enumerate(arrivals):
        now += pause
        requests.append(Request(f"r{number}", now, (Vm(f"vm{number}", *size, stay),)))
    running: list[tuple[float, tuple[int, int]]] = []
    refused = 0
    for request in requests:
        running = [vm for vm in running if vm[0] > request.time_s]
        [vm] = request.vms
        if fits_somehow([size for _, size in running] + [(vm.cpus, vm.ram_mb)], rooms, None):
            ends = float("inf") if vm.duration_s is None else request.time_s + vm.duration_s
            running.append((ends, (vm.cpus, vm.ram_mb)))
        else:
            refused += 1
    hosts = [Host(f"h{number}", *room) for number, room in enumerate(rooms)]
    assert replay(hosts, requests, FreeRepacking(hosts)).refused == refused


@given(st.lists(SIZES, max_size=5), ROOMS)
def test_the_linear_bound_is_never_below_what_can_be_placed(
    vms: list[tuple[int, int]], rooms: list[tuple[int, int]]
) -> None:
    best = max(
        sum(ram_mb for _, ram_mb in compress(vms, some))
        for some in product((False, True), repeat=len(vms))
        if fits_somehow(list(compress(vms, some)), rooms, None)
    )
    hosts = [Host(f"h{number}", *room) for number, room in enumerate(rooms)]
    bound = most_ram_mb(hosts, [Vm(f"vm{number}", *vm, None) for number, vm in enumerate(vms)])
    assert bound >= best - 1e-6
    assert bound <= sum(ram_mb for _, ram_mb in vms) + 1e-6


def test_the_linear_bound_cuts_no_vm_into_hosts_that_are_too_small_for_it() -> None:
    hosts = [Host("a", 4, 8), Host("b", 4, 8)]
    assert most_ram_mb(hosts, [Vm("large", 1, 16, None)]) == 0
    assert most_ram_mb(hosts, [Vm("one", 4, 6, None), Vm("two", 4, 6, None), Vm("more", 4, 6, None)]) == 12
