"""Half-written and torn files: any split reads the same, a torn record lies to nobody, nothing raises."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from esxprov.leases.index import Index
from tests.unit.leases.written import (
    DUID,
    FAILOVER_STATE,
    HEADER,
    NESTED_HOST,
    NOW,
    ON_BLOCK,
    A,
    B,
    C,
    fixed_host,
    host,
    record,
)

Seen = tuple[dict[str, tuple[str | None, str, int | None]], dict[str, str]]

HOSTILE = r'uid "\001}{;\"";' + "\n" + r'client-hostname "lease 10.77.1.3 {";'
PARTS = [
    record("10.77.1.1", A),
    record("10.77.1.1", B, after_mac=HOSTILE),
    record("10.77.1.1", None, "abandoned"),
    record("10.77.1.2", A, "free"),
    record("10.77.1.2", C, after_mac=ON_BLOCK),
    record("10.77.1.3", B, ends=None, before_mac='billing subclass "x" 00:50:56:00:ff:01;').replace(b"  ", b"\t"),
    record("10.77.1.3", A).replace(b"starts ", b"starts epoch 1795497600; # Tue { Nov\n  tstp "),
    record("10.77.1.4", C).replace(b"\n", b"\r\n"),
    record("10.77.1.4", B).replace(b"\n", b" "),
    fixed_host("vcl-1", A, "10.77.2.1"),
    host("vcl-1", "dynamic;", "deleted;"),
    NESTED_HOST,
    FAILOVER_STATE,
    HEADER,
    DUID,
]
IP = re.compile(rb"lease (10\.77\.1\.\d+) \{")


def state_of(index: Index) -> Seen:
    records = {found.ip: (found.mac, found.state, found.ends) for found in index._by_ip.values()}
    return records, {lease.mac: lease.ip for lease in index.all_fixed()}


def read(*pieces: bytes) -> Seen:
    index = Index()
    for piece in pieces:
        index.feed(piece)
    return state_of(index)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def mutated(data: bytes, changes: list[tuple[int, bytes]]) -> bytes:
    for where, what in changes:
        data = data[: where % (len(data) + 1)] + what + data[where % (len(data) + 1) + len(what) :]
    return data


files = st.lists(st.sampled_from(PARTS), max_size=12).map(b"".join)
noise = st.sampled_from([b"{", b"}", b";", b'"', b"\\", b"#", b"\n", b"\0", b"", b"lease 10.77.1.9 {\n", b"host h {"])
changed_files = st.builds(
    mutated, files, st.lists(st.tuples(st.integers(0, 4000), noise | st.binary(max_size=4)), max_size=6)
)


@pytest.mark.parametrize("part", range(len(PARTS)))
def test_a_half_record_at_every_byte_reads_as_if_it_came_at_once(part: int) -> None:
    data = record("10.77.1.7", C) + PARTS[part] + record("10.77.1.8", A)
    whole = read(data)
    first = len(record("10.77.1.7", C))
    for cut in range(first, first + len(PARTS[part])):
        assert read(data[:cut], data[cut:]) == whole, data[:cut][-30:]


def test_single_bytes_read_as_if_they_came_at_once() -> None:
    data = b"".join(PARTS)
    assert read(*(data[i : i + 1] for i in range(len(data)))) == read(data)


@given(changed_files, st.lists(st.integers(0, 4000), max_size=8))
@settings(max_examples=250)
@example(b"# torn lease 10.77.1.1 {\n  binding state active;\n  ends never;\n}\n", [20])
@example(b"lease 10.77.1.1 {\n  hardlease 10.77.1.2 {\n}\n", [41])
@example(b'lease 10.77.1.1 {\n  ends never;\n  uid "x\\', [30])
@example(b"lease 10.77.1.1 {\n} lease 10.77.1.1 {\n  on", [18])
def test_any_split_equals_whole(data: bytes, cuts: list[int]) -> None:
    assert read(*split(data, cuts)) == read(data)


@given(changed_files, st.integers(1, 400), st.integers(1, 400))
@settings(max_examples=250)
def test_a_whole_file_read_from_its_end_says_what_it_says_from_its_beginning(
    data: bytes, piece: int, stretch: int
) -> None:
    forwards, backwards = Index(), Index()
    forwards.feed(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("esxprov.leases.parser._PIECE", piece)
        patch.setattr("esxprov.leases.parser._LONGEST_STRETCH", stretch)
        backwards.feed_whole(len(data), lambda begin, end: data[begin:end])
    assert state_of(backwards) == state_of(forwards)
    for index in (forwards, backwards):
        index.feed(b"}\n" + record("10.77.1.9", A))
    assert state_of(backwards) == state_of(forwards)
    assert [found.sequence for found in backwards.records(A)] == [found.sequence for found in forwards.records(A)]


@given(changed_files)
@settings(max_examples=150)
def test_the_fast_and_the_strict_reading_agree(data: bytes) -> None:
    fast = read(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("esxprov.leases.parser._CANONICAL", re.compile(rb"(?!)"))
        assert read(data) == fast


@given(st.lists(st.binary(max_size=200) | noise, max_size=8))
@settings(max_examples=150)
def test_arbitrary_bytes_never_raise_and_keep_no_order_of_pieces(pieces: list[bytes]) -> None:
    assert read(*pieces) == read(b"".join(pieces))


def torn(parts: list[bytes], which: int, cut: int) -> tuple[bytes, dict[str, tuple[str | None, str, int | None]]]:
    """The file with one part cut short, and what it says without that part (with it, if only white space is lost)."""
    kept = parts[which][:cut]
    whole = parts if not parts[which][cut:].strip() else [*parts[:which], *parts[which + 1 :]]
    return b"".join([*parts[:which], kept, *parts[which + 1 :]]), read(*whole)[0]


@pytest.mark.parametrize("part", range(9))
def test_a_record_torn_at_every_byte_changes_nothing_and_hides_nothing(part: int) -> None:
    """As ENOSPC leaves it: `  enlease 10.77.1.73 {`, and the older lease of the torn record's address still counts."""
    parts = [record("10.77.1.1", C), PARTS[part], record("10.77.1.73", B), fixed_host("vcl-1", A, "10.77.2.1")]
    for cut in range(len(PARTS[part]) + 1):
        data, expected = torn(parts, 1, cut)
        assert read(data) == (expected, {A: "10.77.2.1"}), data[:cut][-30:]


@pytest.mark.parametrize("part", range(5))
def test_a_record_torn_before_a_host_never_takes_the_hosts_mac(part: int) -> None:
    parts = [PARTS[part], fixed_host("vcl-1", "00:50:56:00:ff:ff", "10.77.2.1"), record("10.77.1.73", B)]
    for cut in range(len(PARTS[part]) + 1):
        data, expected = torn(parts, 0, cut)
        assert read(data)[0] == expected, data[:cut][-30:]


@given(st.lists(st.sampled_from(PARTS[:9]), min_size=2, max_size=8), st.data())
@settings(max_examples=150)
def test_one_torn_record_never_pairs_an_address_with_a_mac_it_was_not_written_with(
    parts: list[bytes], data: st.DataObject
) -> None:
    which = data.draw(st.integers(0, len(parts) - 2))
    # What follows is as dhcpd writes it; a record in another form is glued on by nobody.
    parts[which + 1] = record("10.77.1.73", B)
    text, expected = torn(parts, which, data.draw(st.integers(0, len(parts[which]))))
    assert read(text)[0] == expected


@pytest.mark.parametrize(
    "head",
    [
        b"lelease",
        b"  enlease",
        b"# The forlease",
        b'  uid "\\001lease',
        b"  starts epoch 1; # Sun lease",
        b"lease 10.lease",
    ],
)
def test_a_record_starts_at_its_first_words_wherever_they_stand(head: bytes) -> None:
    written = head + record("10.77.1.73", B).removeprefix(b"lease")
    assert read(written)[0] == {"10.77.1.73": (B, "active", NOW + 7140)}


def test_a_record_without_hardware_does_not_take_the_mac_of_the_host_behind_it() -> None:
    written = record("10.77.1.9", None, "abandoned") + fixed_host("vcl-1", A, "10.77.2.1")
    assert read(written) == ({"10.77.1.9": (None, "abandoned", NOW + 7140)}, {A: "10.77.2.1"})


def test_torn_records_are_counted() -> None:
    index = Index()
    index.feed(record("10.77.1.69", A)[:60] + record("10.77.1.73", B))
    assert index.torn == 1
