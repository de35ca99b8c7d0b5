"""What stays true over a rewrite, whose order and whose dump say less than they seem to."""

from __future__ import annotations

from esxprov.leases.index import Index
from esxprov.leases.parser import Record
from tests.unit.leases.written import NOW, A, B, at, fixed_host, record

ONE, TWO, THREE = (record(f"10.77.1.{n}", A) for n in (1, 2, 3))


def live(*pieces: bytes) -> Index:
    index = Index()
    index.settle()
    for piece in pieces:
        index.feed(piece)
    return index


def rewritten(before: Index, data: bytes) -> Index:
    index = Index(before=before)
    index.feed(data)
    index.settle()
    return index


def ips(index: Index, mac: str = A) -> list[str]:
    return [found.ip for found in index.records(mac)]


def test_the_last_written_of_three_active_leases_is_the_newest() -> None:
    assert ips(live(TWO, ONE, THREE)) == ["10.77.1.2", "10.77.1.1", "10.77.1.3"]


def test_a_lease_that_is_only_written_again_is_no_news() -> None:
    """dhcpd does so when its failover peer or DNS has been told of it, which may be long after."""
    index = live(ONE)
    before = index.records(A)[0].sequence
    assert index.feed(ONE.replace(b"  cltt", f"  tstp {at(NOW + 9000)};\n  cltt".encode())) == []
    assert [found.sequence for found in index.records(A)] == [before]


def test_a_lease_without_an_end_that_is_given_again_is_news() -> None:
    index = live(record("10.77.1.1", A, starts=NOW, ends=None))
    before = index.records(A)[0].sequence
    (changed,) = index.feed(record("10.77.1.1", A, starts=NOW + 60, ends=None))
    assert isinstance(changed, Record)
    assert changed.sequence > before


def test_a_rewrite_in_another_order_changes_nothing() -> None:
    before = live(TWO, ONE, THREE)
    after = rewritten(before, THREE + TWO + ONE)
    assert ips(after) == ips(before)
    assert [found.sequence for found in after.records(A)] == [found.sequence for found in before.records(A)]


def test_what_was_read_before_is_no_news_in_a_rewrite() -> None:
    before = live(ONE, TWO)
    assert Index(before=before).feed(TWO + ONE) == []


def test_a_lease_whose_end_moved_while_nobody_looked_is_news_of_a_rewrite() -> None:
    before = live(ONE)
    (changed,) = Index(before=before).feed(record("10.77.1.1", A, starts=NOW, ends=NOW + 7200))
    assert changed.mac == A
    assert isinstance(changed, type(before.records(A)[0]))
    assert (changed.sequence > before.position, changed.in_order) == (True, False)


def test_a_dump_of_a_discover_nobody_acknowledged_is_no_news() -> None:
    """Newer starts and cltt, but the end did not move: dhcpd dumps what it has in memory."""
    before = live(ONE)
    after = Index(before=before)
    assert after.feed(record("10.77.1.1", A, starts=NOW + 100, ends=NOW + 7140)) == []
    assert after.records(A)[0].sequence == before.records(A)[0].sequence


def test_a_rewrite_in_another_time_format_is_no_news() -> None:
    local = record("10.77.1.1", A)
    for keyword, seconds in ((b"starts", NOW - 60), (b"ends", NOW + 7140), (b"cltt", NOW - 60)):
        lines = [
            b"  %s epoch %d; # local" % (keyword, seconds) if line.startswith(b"  " + keyword) else line
            for line in local.splitlines()
        ]
        local = b"\n".join(lines) + b"\n"
    assert Index(before=live(ONE)).feed(local) == []


def test_a_restarted_reader_orders_by_time_what_it_finds() -> None:
    index = rewritten(Index(), record("10.77.1.3", A, starts=NOW - 10) + record("10.77.1.1", A, starts=NOW - 99))
    assert ips(index) == ["10.77.1.1", "10.77.1.3"]


def test_what_comes_after_a_rewrite_is_newer_than_all_of_it() -> None:
    index = rewritten(live(ONE, TWO), TWO + ONE)
    index.feed(record("10.77.1.1", A, starts=NOW - 9999))
    assert ips(index) == ["10.77.1.2", "10.77.1.1"]


def test_a_decline_is_remembered_over_a_rewrite_until_the_mac_gets_another_address() -> None:
    declined = record("10.77.1.1", None, "abandoned")
    index = rewritten(live(ONE, declined), declined)
    assert index.declined == {A: "10.77.1.1"}
    index.feed(TWO)
    assert index.declined == {}


def test_a_host_that_moved_to_another_mac_gives_the_first_nothing() -> None:
    index = live(fixed_host("vcl-1", A, "10.77.2.1"), fixed_host("vcl-1", B, "10.77.2.1"))
    assert index.fixed(A) is None
    assert [lease.mac for lease in index.all_fixed()] == [B]
