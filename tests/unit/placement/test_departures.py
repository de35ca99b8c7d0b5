"""What ends comes into sight when it is near, wherever the clock comes from."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from esxprov.placement.departures import MOMENTS, Departures

HOUR = 3600

times = st.integers(0, 500_000)
amounts = st.tuples(st.integers(0, 2), times, st.integers(1, 9000), st.integers(1, 8))


def test_what_ends_is_seen_from_the_moments_after_it() -> None:
    departures = Departures(1, 0)
    departures.add(0, 2 * HOUR, 4096, 2)
    assert departures.leaving[:, 0].tolist() == [[0, 0, 0, 4096], [0, 0, 0, 2]]
    assert list(departures.advance(HOUR)) == [0]
    assert departures.leaving[:, 0].tolist() == [[0, 0, 4096, 4096], [0, 0, 2, 2]]


def test_a_vm_stays_for_the_moments_before_its_end() -> None:
    departures = Departures(1, 0)
    assert [departures.stays_for(at) for at in (0, HOUR, 2 * HOUR, 5 * HOUR, None)] == [1, 2, 3, MOMENTS, MOMENTS]


def test_nothing_is_looked_at_while_nothing_comes_into_sight() -> None:
    departures = Departures(2, 0)
    departures.add(1, 9 * HOUR, 4096, 2)
    assert list(departures.advance(4 * HOUR)) == []
    assert list(departures.advance(5 * HOUR)) == [1]


@given(st.lists(st.one_of(times, amounts)), times)
def test_what_leaves_is_the_same_however_the_time_came(
    changes: list[int | tuple[int, int, int, int]], last: int
) -> None:
    lived, there = Departures(3, 0), list[tuple[int, int, int, int]]()
    for change in changes:
        if isinstance(change, int):
            lived.advance(change)
        elif change in there:
            there.remove(change)
            host, ends_at, ram_mb, cpus = change
            lived.add(host, ends_at, -ram_mb, -cpus)
        else:
            there.append(change)
            lived.add(*change)
    lived.advance(last)
    sums: defaultdict[int, dict[int, tuple[int, int]]] = defaultdict(dict)
    for host, ends_at, ram_mb, cpus in there:
        before = sums[host].get(ends_at, (0, 0))
        sums[host][ends_at] = before[0] + ram_mb, before[1] + cpus
    anew = Departures(3, last)
    for host, ends in sums.items():
        anew.put(host, ends)
    assert lived.leaving.tolist() == anew.leaving.tolist()
