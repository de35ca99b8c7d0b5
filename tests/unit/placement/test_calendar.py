"""The days to come: what ends makes room, what is booked takes it, and the earliest time is the earliest."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esxprov.model import Claim, ClaimState, HostKey
from esxprov.placement.booking import Booking
from esxprov.placement.calendar import Calendar, Opening, calendar_at, timeline, when
from esxprov.placement.choose import choose, choose_together, farm_of
from esxprov.placement.request import PlacementRequest
from esxprov.placement.search import would_fit
from esxprov.placement.snapshot import Rules, Snapshot
from tests.unit.placement.worlds import REQUEST, clusters, machine, rules, sizes, snapshots, vm

NOW = 1_700_000_000
assert NOW % 60 == 20
MINUTE = NOW - 20 + 60


def claim(name: str, on: str, ram_mb: int, cpus: int = 2, **changes: object) -> Claim:
    return replace(
        Claim(name, HostKey(on, "ha-host"), 7, ram_mb, cpus, "event", ClaimState.RUNNING),
        **changes,  # type: ignore[arg-type]
    )


def world(*claims: Claim, bookings: tuple[Booking, ...] = (), hosts: int = 1) -> Snapshot:
    machines = tuple(machine(f"esx{number}") for number in range(1, hosts + 1))
    return Snapshot(machines, claims, rules=Rules(cpu_ratio=4, reserved_ram_mb=1024), at=NOW, bookings=bookings)


def booking(number: int, starts: int, ends: int | None, ram_mb: int, **changes: object) -> Booking:
    ends_at = None if ends is None else NOW + ends
    return replace(Booking(number, NOW + starts, ends_at, ram_mb, 1), **changes)  # type: ignore[arg-type]


bookings = st.builds(
    lambda number, start, stays, size, group, slot: booking(
        number,
        start * 60,
        (start + stays) * 60 if stays else None,
        size[0],
        cpus=size[1],
        group=group,
        computer_id=slot,
    ),
    st.integers(0, 900),
    st.integers(-3, 20),
    st.integers(0, 20),
    sizes,
    st.sampled_from(["", "class"]),
    st.integers(0, 4),
)


@st.composite
def futures(draw: st.DrawFn) -> Snapshot:
    """Snapshots in which some claims have an end, and something is booked."""
    made = draw(snapshots(rules))
    claims = tuple(
        replace(one, ends_at=draw(st.sampled_from([None, NOW - 60, NOW + 7, *range(NOW + 60, NOW + 1200, 180)])))
        for one in made.claims
    )
    return replace(made, claims=claims, bookings=tuple(draw(st.lists(bookings, max_size=4))))


# --- the farm at a time ----------------------------------------------------------------------------------------------


def test_a_claim_is_gone_with_its_vm_when_its_end_has_passed() -> None:
    made = replace(
        world(claim("c", "esx1", 8000, ends_at=NOW + 60)), vms=(vm("esx1", "vm-1", "c"), vm("esx1", "vm-2", None))
    )
    assert {one.moid for one in calendar_at(made, NOW + 59).snapshot().vms} == {"vm-1", "vm-2"}
    after = calendar_at(made, NOW + 60).snapshot()
    assert (after.claims, [one.moid for one in after.vms], after.at) == ((), ["vm-2"], NOW + 60)


def test_the_clone_of_a_vm_whose_claim_ends_stays() -> None:
    made = replace(
        world(claim("c", "esx1", 8000, ends_at=NOW + 60), hosts=2),
        vms=(vm("esx1", "vm-1", "c"), vm("esx2", "vm-1", "c")),
    )
    assert [one.endpoint for one in calendar_at(made, NOW + 60).snapshot().vms] == ["esx2"]


def test_a_booking_takes_its_room_from_its_start_until_its_end() -> None:
    made = world(bookings=(booking(812, 60, 120, 10_000),))
    steps = [(at - NOW, ram_mb) for at, ram_mb, _ in timeline(made)["esx1"]]
    assert steps == [(0, 15360), (60, 5360), (120, 15360)]


def test_what_ends_makes_room_for_what_starts_at_the_same_time() -> None:
    made = world(claim("c", "esx1", 10_000, ends_at=NOW + 60), bookings=(booking(1, 60, None, 10_000),))
    assert not calendar_at(made, NOW + 60).overbooked


def test_of_bookings_that_start_together_the_large_ones_come_first() -> None:
    large, small = booking(1, 60, None, 12_000), booking(2, 60, None, 8000)
    assert calendar_at(world(bookings=(small, large)), NOW + 60).overbooked == [small]


def test_a_booking_replaces_what_its_slot_runs() -> None:
    made = world(claim("idle", "esx1", 10_000), bookings=(booking(1, 60, None, 12_000, computer_id=7),))
    later = calendar_at(made, NOW + 60)
    assert (later.overbooked, [one.reservation_id for one in later.snapshot().claims]) == ([], [1])


def test_seats_of_a_block_that_are_alike_each_take_their_room() -> None:
    seat = booking(0, 60, None, 4000, group="block-3")
    assert int(calendar_at(world(bookings=(seat,) * 3), NOW + 60).farm.ram_free[0]) == 15360 - 12_000


def test_a_disk_that_was_booked_and_is_gone_again_leaves_its_space() -> None:
    made = world(bookings=(booking(1, 60, 120, 1000, disk_mb=60_000, datastore="nfs1"),))
    large = replace(REQUEST, disk_mb=50_000)
    fits = [would_fit(calendar_at(made, NOW + at).farm, (large,)).hosts is not None for at in (0, 60, 120)]
    assert fits == [True, False, True]


@given(futures(), st.integers(0, 1500))
def test_the_farm_carried_forward_is_that_of_the_world_of_then(made: Snapshot, after: int) -> None:
    calendar = calendar_at(made, NOW + after)
    other = farm_of(calendar.snapshot())
    assert [calendar.farm.state(number) for number in range(len(other))] == [
        other.state(number) for number in range(len(other))
    ]


@given(futures())
def test_no_booking_over_commits_a_host(made: Snapshot) -> None:
    before = {state.key: state for state in made.states()}
    calendar = Calendar(made)
    for moment in calendar.moments():
        calendar.advance(moment)
        for state in calendar.snapshot().states():
            assert state.ram_free_mb >= min(0, before[state.key].ram_free_mb)
            assert state.cpus_free >= min(0, before[state.key].cpus_free)


@given(futures())
def test_every_booking_that_stays_has_its_claim_or_is_overbooked(made: Snapshot) -> None:
    alone = tuple(replace(one, computer_id=0, ends_at=None) for one in made.bookings)
    calendar = calendar_at(replace(made, bookings=alone), NOW + 10_000)
    placed = [one for one in calendar.snapshot().claims if one.id.startswith("booking/")]
    assert len(placed) + len(calendar.overbooked) == len(alone)


@given(futures())
def test_a_snapshot_with_bookings_survives_json(made: Snapshot) -> None:
    assert Snapshot.from_json(json.loads(json.dumps(made.to_json()))) == made


# --- when ------------------------------------------------------------------------------------------------------------


def test_a_refusal_names_the_time_and_the_reservation_that_ends_then() -> None:
    made = world(
        claim("a", "esx1", 6000, ends_at=NOW + 3600, reservation_id=812),
        claim("b", "esx1", 6000, ends_at=NOW + 7200, reservation_id=813),
    )
    assert choose(REQUEST, made).help[-1] == "at 2023-11-14T23:14Z when reservation 812 ends"


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        ((812,), "at 2023-11-14T22:14Z when reservation 812 ends"),
        ((813, 812), "at 2023-11-14T22:14Z when reservations 812, 813 end"),
        ((0,), "at 2023-11-14T22:14Z when 1 reservation(s) end"),
        (tuple(range(1, 31)), "at 2023-11-14T22:14Z when 30 reservation(s) end"),
    ],
)
def test_an_opening_is_said_in_a_few_words(ids: tuple[int, ...], text: str) -> None:
    assert str(Opening(MINUTE, ids)) == text


def test_room_that_is_booked_the_moment_it_is_free_is_no_opening() -> None:
    ending = claim("a", "esx1", 12_000, ends_at=NOW + 40, reservation_id=812)
    assert when(world(ending), (REQUEST,)) == Opening(MINUTE, (812,))
    assert when(world(ending, bookings=(booking(9, 40, None, 12_000),)), (REQUEST,)) is None
    assert when(world(ending, bookings=(booking(9, 40, 600, 12_000),)), (REQUEST,)) == Opening(MINUTE + 600, (9,))


def test_who_never_ends_makes_no_room() -> None:
    assert when(world(claim("a", "esx1", 12_000)), (REQUEST,)) is None


@given(futures(), clusters(3))
def test_the_time_said_fits_and_no_earlier_one_does(made: Snapshot, asked: tuple[PlacementRequest, ...]) -> None:
    if would_fit(farm_of(made), asked, 1).hosts is not None:
        return
    opening = when(made, asked, 1)
    times = [time for one in made.bookings for time in (one.starts_at, one.ends_at)] + [c.ends_at for c in made.claims]
    minutes = {-(-max(time, NOW) // 60) * 60 for time in times if time is not None}
    fitting = {at for at in minutes if would_fit(calendar_at(made, at).farm, asked, 1).hosts is not None}
    if opening is None:
        assert not fitting
    else:
        assert opening.at == min(fitting)


@given(futures(), clusters(3))
def test_whether_a_refusal_speaks_of_a_time_is_what_when_says(
    made: Snapshot, asked: tuple[PlacementRequest, ...]
) -> None:
    decision = choose_together(asked, made)
    later = [text for text in decision.help if text.startswith("at ")]
    opening = None if decision.placements else when(made, asked)
    assert later == ([str(opening)] if opening else [])
