"""VCL's slots do what VCL does, no worse: it would be easy to win against a straw man."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.placement import cut, workload
from benchmarks.placement.replay import replay
from benchmarks.placement.rows import Host, Request, Vm
from benchmarks.placement.slots import Slot, SlotSize, VclSlots

SMALL, WIDE, LARGE = SlotSize(2, 1), SlotSize(2, 4), SlotSize(8, 4)
ROOMY = [Host("a", 100, 100), Host("b", 100, 100)]


def one(name: str, cpus: int, ram_mb: int) -> Request:
    return Request(name, 0, (Vm(name, cpus, ram_mb, None),))


def test_the_smallest_slot_that_is_large_enough_is_taken() -> None:
    placer = VclSlots(ROOMY, [Slot(0, LARGE), Slot(1, SMALL)])
    assert placer.place(one("vm", 1, 2), 0) == {"vm": "b"}


def test_a_slot_with_too_few_vcpus_is_not_adequate() -> None:
    placer = VclSlots(ROOMY, [Slot(0, SMALL), Slot(1, WIDE)])
    assert placer.place(one("vm", 2, 1), 0) == {"vm": "b"}


def test_a_larger_slot_serves_when_the_adequate_ones_are_taken() -> None:
    placer = VclSlots(ROOMY, [Slot(0, LARGE), Slot(1, SMALL)])
    assert [placer.place(one(name, 1, 1), 0) for name in "xyz"] == [{"x": "b"}, {"y": "a"}, None]


def test_no_host_gets_more_image_ram_than_it_has() -> None:
    placer = VclSlots([Host("a", 4, 9)], [Slot(0, LARGE), Slot(0, LARGE)])
    assert placer.place(one("x", 1, 4), 0)
    assert placer.place(one("full", 1, 5), 0) is None  # VMhostCheck wants less than the host's RAM, not as much
    assert placer.place(one("y", 1, 4), 0)


def test_an_idle_slot_keeps_its_image_in_the_host_s_account() -> None:
    placer = VclSlots([Host("a", 4, 9)], [Slot(0, SlotSize(4, 1)), Slot(0, LARGE)])
    assert placer.place(one("ghost", 1, 4), 0)
    placer.remove("ghost")
    assert placer.place(one("large", 4, 8), 0) is None


def test_a_slot_that_has_the_image_loaded_comes_first() -> None:
    placer = VclSlots(ROOMY, [Slot(0, SlotSize(4, 1)), Slot(1, LARGE)])
    assert placer.place(one("x", 1, 2), 0) == {"x": "a"}
    assert placer.place(one("y", 1, 3), 0) == {"y": "b"}
    placer.remove("x")
    placer.remove("y")
    assert placer.place(one("z", 1, 3), 0) == {"z": "b"}


def test_a_cluster_that_does_not_fit_leaves_everything_as_it_was() -> None:
    hosts = [Host("a", 4, 9)]
    placer = VclSlots(hosts, [Slot(0, LARGE), Slot(0, LARGE)])
    assert placer.place(Request("r", 0, (Vm("v1", 1, 6, None), Vm("v2", 1, 6, None))), 0) is None
    assert placer.place(one("x", 4, 8), 0)


@pytest.mark.parametrize("booked", [1.0, 2.0])
def test_a_cut_gives_every_image_a_slot_and_no_host_more_than_was_booked(booked: float) -> None:
    sizes = cut.slot_sizes((2, 4, 16))
    hosts = workload.farm(3)
    slots = cut.Cut(dict.fromkeys(sizes, 1 / 3), booked).slots(hosts)
    used: Counter[int] = Counter()
    for slot in slots:
        used[slot.host] += slot.size.ram_mb
    for number, host in enumerate(hosts):
        assert host.ram_mb * booked - 2 * 1024 < used[number] <= host.ram_mb * booked
    for image in workload.CATALOGUE:
        assert any(slot.size.takes(Vm("", image.cpus, image.ram_mb, None)) for slot in slots)


def test_the_shares_of_a_cut_are_what_is_used_in_the_mean_and_at_the_peak() -> None:
    small, large = SlotSize(2, 4), SlotSize(8, 4)
    requests = [
        Request("r1", 0, (Vm("r1", 1, 2, 30),)),
        Request("r2", 30, (Vm("r2", 1, 1, 10),)),
        Request("r3", 50, (Vm("r3", 1, 5, 10),)),
    ]
    mean, peak = cut.use([small, large], [requests])
    assert mean == {small: 0.5, large: 0.5}
    assert peak == {small: 0.2, large: 0.8}


def test_fixed_slots_refuse_more_than_a_host_would() -> None:
    hosts = workload.farm(1, blades=4)
    requests = workload.requests(1, hosts, 0.8, weeks=1)
    assert replay(hosts, requests, VclSlots(hosts, cut.ONE_SIZE.slots(hosts))).refused > 0
