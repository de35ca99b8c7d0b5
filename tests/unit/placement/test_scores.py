"""Lost places: what a VM takes from those that are still to come."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from esxprov.placement.departures import MOMENTS
from esxprov.placement.scores import (
    ANY_SIZES,
    Fullness,
    Hosts,
    LostPlaces,
    LostScarcePlaces,
    Numbers,
    explain,
    score_of,
)
from esxprov.placement.snapshot import Policy, Size

SIZE = Size(4192, 2)
WHOLE = np.array([[16384], [64]], np.int64)

Room = tuple[int, int]


def hosts(*free: Room) -> Hosts:
    """Nothing is going to end on them."""
    room = np.array(free, np.int64).T[:, :, None].repeat(MOMENTS, axis=2)
    return Hosts(room, np.broadcast_to(WHOLE, room.shape[:2]))


def needs(*vms: Room) -> Numbers:
    return np.array([(0, 0), *vms], np.int64).T


def cost(score: LostPlaces | Fullness, free: Room, need: Room) -> int:
    return int(score.parts(hosts(free), needs(need))[0, 1, 0])


def scarce_cost(catalogue: list[Size], here: Hosts, need: Room, elsewhere: Numbers | int = 0, moments: int = 4) -> int:
    """On a host, with so many places on other hosts."""
    score = LostScarcePlaces(catalogue, WHOLE)
    weights = score.weights(score.places(here.free)[0] + elsewhere)
    return int(score.costs(score.parts(here, needs(need))[:, 1], weights, moments)[0])


def test_a_vm_of_the_only_size_costs_exactly_its_own_place() -> None:
    said = "the fewest places for other VMs are lost here (1.00, the scarce ones counted most)"
    assert explain(Policy.PACK, cost(LostPlaces([SIZE], WHOLE), (2 * 4192, 64), (4192, 2))) == said
    assert explain(Policy.PACK, scarce_cost([SIZE], hosts((2 * 4192, 64)), (4192, 2))) == said


def test_a_vm_that_takes_only_what_is_left_over_costs_less_than_one_that_breaks_a_place() -> None:
    one_size = LostPlaces([SIZE], WHOLE)
    assert cost(one_size, (2 * 4192 + 1500, 64), (1024, 1)) < cost(one_size, (2 * 4192, 64), (1024, 1))


def test_a_size_that_many_images_have_counts_more() -> None:
    """Room for one more of each: the small VM breaks the place of one size or of the other."""
    rare, common = (LostPlaces([Size(1000, 8, images), Size(8000, 1, 10 - images)], WHOLE) for images in (1, 9))
    assert cost(common, (1000, 8), (500, 1)) > cost(rare, (1000, 8), (500, 1))


def test_a_place_costs_more_where_there_are_few_of_its_size_elsewhere() -> None:
    """The VM breaks a place for a broad VM on one host, one for a tall VM on the other."""
    catalogue = [Size(500, 4), Size(2000, 1)]
    broad_first = bool(LostScarcePlaces(catalogue, WHOLE).places(hosts((500, 4)).free)[0, 0])
    for few_broad in (True, False):
        elsewhere = np.tile([1, 50] if broad_first == few_broad else [50, 1], MOMENTS)
        breaks_broad, breaks_tall = (
            scarce_cost(catalogue, hosts(free), (200, 1), elsewhere) for free in ((500, 4), (2000, 1))
        )
        assert (breaks_broad > breaks_tall) == few_broad


def test_a_vm_that_is_gone_soon_costs_less_than_one_that_stays() -> None:
    costs = [scarce_cost([SIZE], hosts((4192, 2)), (4192, 2), moments=moments) for moments in range(1, MOMENTS + 1)]
    assert costs == sorted(set(costs))


def test_a_fuller_host_is_fuller() -> None:
    assert cost(Fullness(), (16384, 64), (4192, 2)) < cost(Fullness(), (16384, 56), (4192, 2))


def test_without_a_catalogue_any_size_may_come() -> None:
    for count in (1, 1000):
        whole = WHOLE.repeat(count, axis=1)
        said, unsaid = (score_of(Policy.PACK, sizes, whole) for sizes in (ANY_SIZES, ()))
        here, vms = hosts((9000, 9)), needs((4192, 2))
        assert np.array_equal(said.parts(here, vms), unsaid.parts(here, vms))


sizes = st.builds(Size, st.integers(1, 70_000), st.integers(1, 64), st.integers(1, 20))
catalogues = st.lists(sizes, min_size=1, max_size=6)
rooms = st.tuples(st.integers(0, 600_000), st.integers(0, 400))


@given(catalogues, rooms, sizes, st.integers(0, 9), st.integers(1, MOMENTS))
def test_no_vm_gains_room_for_others(catalogue: list[Size], free: Room, vm: Size, elsewhere: int, moments: int) -> None:
    if vm.ram_mb <= free[0] and vm.cpus <= free[1]:
        assert cost(LostPlaces(catalogue, WHOLE), free, (vm.ram_mb, vm.cpus)) >= 0
        assert scarce_cost(catalogue, hosts(free), (vm.ram_mb, vm.cpus), elsewhere, moments) >= 0


@given(catalogues, st.lists(rooms, min_size=1, max_size=9), sizes)
def test_many_hosts_and_vms_cost_what_each_costs_by_itself(catalogue: list[Size], free: list[Room], vm: Size) -> None:
    for score in (LostPlaces(catalogue, WHOLE), LostScarcePlaces(catalogue, WHOLE), Fullness()):
        vms = needs((1, 1), (vm.ram_mb, vm.cpus))
        together = score.parts(hosts(*free), vms)
        alone = [score.parts(hosts(each), vms[:, [0, 2]])[0, 1] for each in free]
        assert np.array_equal(together[:, 2], alone)
