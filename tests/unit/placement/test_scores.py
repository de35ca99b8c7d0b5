"""Lost places: what a VM takes from those that are still to come."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from esxprov.placement.departures import MOMENTS
from esxprov.placement.scores import ANY_SIZES, FULL, Fullness, LostPlaces, LostScarcePlaces, Numbers, Score, score_of
from esxprov.placement.snapshot import Policy, Size

SIZE = Size(4192, 2)
WHOLE = np.array([[16384], [64]], np.int64)

Room = tuple[int, int]


def free(*rooms: Room) -> Numbers:
    """Hosts with so much room, on which nothing is going to end."""
    return np.array(rooms, np.int64).T[:, :, None].repeat(MOMENTS, axis=2)


def needs(*vms: Room) -> Numbers:
    return np.array([(0, 0), *vms], np.int64).T


def parts(score: Score, rooms: Sequence[Room], *vms: Room) -> Numbers:
    """By VM, host and part."""
    return score.parts(free(*rooms), WHOLE.repeat(len(rooms), axis=1), needs(*vms))[1:]


def places(score: LostScarcePlaces, room: Room) -> Numbers:
    """By part."""
    found: Numbers = score.parts(free(room), WHOLE, needs())[0, 0]
    return found


def cost(score: LostPlaces | Fullness, room: Room, need: Room) -> int:
    return int(parts(score, [room], need)[0, 0, 0])


def scarce_cost(
    score: LostScarcePlaces, room: Room, need: Room, elsewhere: Numbers | int = 0, moments: int = MOMENTS
) -> int:
    """On a host, with so many places on other hosts."""
    weights = score.weights(places(score, room) + elsewhere)
    return int(score.costs(parts(score, [room], need)[0], weights, moments)[0])


def test_a_vm_of_the_only_size_costs_exactly_its_own_place() -> None:
    plain, scarce = LostPlaces([SIZE], WHOLE), LostScarcePlaces([SIZE], WHOLE)
    room, need = (2 * 4192, 64), (4192, 2)
    said = "the fewest places for other VMs are lost here (1.00"
    assert plain.explain(cost(plain, room, need)) == f"{said})"
    assert scarce.explain(scarce_cost(scarce, room, need)) == f"{said}, the scarce ones counted most)"


def test_a_vm_that_takes_only_what_is_left_over_costs_less_than_one_that_breaks_a_place() -> None:
    one_size = LostScarcePlaces([SIZE], WHOLE)
    assert scarce_cost(one_size, (2 * 4192 + 1500, 64), (1024, 1)) < scarce_cost(one_size, (2 * 4192, 64), (1024, 1))


def test_a_size_that_many_images_have_counts_more() -> None:
    """Room for one more of each: the small VM breaks the place of one size or of the other."""
    rare, common = (LostPlaces([Size(1000, 8, images), Size(8000, 1, 10 - images)], WHOLE) for images in (1, 9))
    assert cost(common, (1000, 8), (500, 1)) > cost(rare, (1000, 8), (500, 1))


def test_a_place_costs_more_where_there_are_few_of_its_size_elsewhere() -> None:
    """The VM breaks a place for a broad VM on one host, one for a tall VM on the other."""
    score = LostScarcePlaces([Size(500, 4), Size(2000, 1)], WHOLE)
    broad_first = bool(places(score, (500, 4))[0])
    for few_broad in (True, False):
        elsewhere = np.tile([1, 50] if broad_first == few_broad else [50, 1], MOMENTS)
        breaks_broad, breaks_tall = (scarce_cost(score, room, (200, 1), elsewhere) for room in ((500, 4), (2000, 1)))
        assert (breaks_broad > breaks_tall) == few_broad


def test_a_vm_that_is_gone_soon_costs_less_than_one_that_stays() -> None:
    score = LostScarcePlaces([SIZE], WHOLE)
    costs = [scarce_cost(score, (4192, 2), (4192, 2), moments=moments) for moments in range(1, MOMENTS + 1)]
    assert costs == sorted(set(costs))


def test_a_fuller_host_is_fuller() -> None:
    assert cost(Fullness(), (16384, 64), (4192, 2)) < cost(Fullness(), (16384, 56), (4192, 2))


def test_without_a_catalogue_any_size_may_come() -> None:
    for count in (1, 1000):
        said, unsaid = (score_of(Policy.PACK, sizes, WHOLE.repeat(count, axis=1)) for sizes in (ANY_SIZES, ()))
        assert np.array_equal(parts(said, [(9000, 9)], (4192, 2)), parts(unsaid, [(9000, 9)], (4192, 2)))


sizes = st.builds(Size, st.integers(1, 70_000), st.integers(1, 64), st.integers(1, 20))
catalogues = st.lists(sizes, min_size=1, max_size=6)
rooms = st.tuples(st.integers(0, 600_000), st.integers(0, 400))
needed = st.tuples(st.integers(1, 70_000), st.integers(1, 64))


@given(catalogues, rooms, needed, st.integers(0, 9), st.integers(1, MOMENTS))
def test_no_vm_gains_room_for_others(
    catalogue: list[Size], room: Room, need: Room, elsewhere: int, moments: int
) -> None:
    assert cost(LostPlaces(catalogue, WHOLE), room, need) >= 0
    assert scarce_cost(LostScarcePlaces(catalogue, WHOLE), room, need, elsewhere, moments) >= 0


@given(catalogues, rooms, needed)
def test_a_cost_is_full_exactly_where_the_vm_does_not_fit(catalogue: list[Size], room: Room, need: Room) -> None:
    is_full = need[0] > room[0] or need[1] > room[1]
    assert (cost(Fullness(), room, need) == FULL) == is_full
    assert (cost(LostPlaces(catalogue, WHOLE), room, need) == FULL) == is_full
    assert (scarce_cost(LostScarcePlaces(catalogue, WHOLE), room, need) == FULL) == is_full


@given(catalogues, st.lists(rooms, min_size=1, max_size=9), needed)
def test_many_hosts_and_vms_cost_what_each_costs_by_itself(
    catalogue: list[Size], several: list[Room], need: Room
) -> None:
    for score in (LostPlaces(catalogue, WHOLE), LostScarcePlaces(catalogue, WHOLE), Fullness()):
        together = parts(score, several, (1, 1), need)[1]
        alone = [parts(score, [room], need)[0, 0] for room in several]
        assert np.array_equal(together, alone)
