"""Kea's memfile: its rows, and what Kea and kea-lfc do to its files."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esxprov.leases.kea import LONGEST_LINE, KeaFile, KeaParser
from esxprov.leases.parser import Record
from esxprov.leases.watcher import LeaseWatcher
from tests.unit.leases.test_follower import append, leases, news
from tests.unit.leases.written import NOW, A, B, C

HEADER = (
    b"address,hwaddr,client_id,valid_lifetime,expire,subnet_id,fqdn_fwd,fqdn_rev,hostname,state,user_context,pool_id\n"
)
OLD_HEADER = b"address,hwaddr,client_id,valid_lifetime,expire,subnet_id,fqdn_fwd,fqdn_rev,hostname\n"


def row(
    ip: str, mac: str, *, cltt: int = NOW - 60, lifetime: int = 7200, state: int = 0, name: str = "", context: str = ""
) -> bytes:
    return f"{ip},{mac},01:{mac},{lifetime},{cltt + lifetime},1,0,0,{name},{state},{context},0\n".encode()


def parsed(*parts: bytes) -> list[Record]:
    parser = KeaParser()
    return [record for part in parts for record in parser.feed(part)]


def the_only(*parts: bytes) -> Record:
    (record,) = parsed(*parts)
    return record


# --- rows -------------------------------------------------------------------------------------------------------------


def test_a_row_is_a_lease() -> None:
    lease = the_only(HEADER, row("10.77.1.1", A, name="vm1")).lease()
    assert (lease.ip, lease.mac, lease.state, lease.hostname) == ("10.77.1.1", A, "active", "vm1")
    assert (lease.starts, lease.cltt, lease.ends) == (NOW - 60, NOW - 60, NOW + 7140)


def test_columns_are_found_by_their_names() -> None:
    record = the_only(
        b"expire,more,state,hwaddr,valid_lifetime,address\n", b"%d,x,0,%b,60,10.77.1.1\n" % (NOW, b"0:1:2:3:4:A")
    )
    assert (record.ip, record.mac, record.ends, record.cltt) == ("10.77.1.1", "00:01:02:03:04:0a", NOW, NOW - 60)


def test_files_of_kea_before_1_0_have_no_state() -> None:
    assert the_only(OLD_HEADER, b"10.77.1.1,%b,,60,%d,1,0,0,vm1\n" % (A.encode(), NOW)).state == "active"


def test_another_header_names_other_columns_from_there_on() -> None:
    old = OLD_HEADER + b"10.77.1.1,%b,,60,%d,1,0,0,\n" % (A.encode(), NOW)
    assert [record.mac for record in parsed(old + HEADER + row("10.77.1.2", B))] == [A, B]


def test_the_last_row_of_an_address_wins() -> None:
    record = the_only(HEADER + row("10.77.1.1", A) + row("10.77.1.1", B))
    assert record.mac == B


def test_escaped_commas_of_names_and_contexts_are_read() -> None:
    written = row("10.77.1.1", A, name="a&#x2cb&#x5c&#x22", context='{ "x": 1&#x2c "y": "&#x26#x2c" }')
    assert the_only(HEADER, written).lease().hostname == 'a,b\\"'


@pytest.mark.parametrize(
    ("given_row", "state"),
    [
        (row("10.77.1.1", A, lifetime=0), "released"),
        (row("10.77.1.1", A, state=2), "expired"),
        (row("10.77.1.1", A, state=3), "released"),
        (row("10.77.1.1", A, state=9), "unknown"),
    ],
)
def test_rows_of_leases_that_are_over(given_row: bytes, state: str) -> None:
    record = the_only(HEADER, given_row)
    assert (record.state, record.is_lease_at(NOW)) == (state, False)


def test_a_lease_for_ever_has_no_end() -> None:
    record = the_only(HEADER, row("10.77.1.1", A, lifetime=0xFFFFFFFF))
    assert (record.ends, record.cltt, record.is_lease_at(NOW)) == (None, NOW - 60, True)


@pytest.mark.parametrize(
    "junk",
    [
        b"10.77.1.1,%b,,60\n" % A.encode(),  # cut off by a full disk
        row("10.77.1.1", A)[:30] + row("10.77.1.2", B),  # and another glued on
        row("10.77.1.999", A),
        row("2001:db8::1", A),
        row("10.77.1.1", A).replace(b"7200", b"soon"),
        row("10.77.1.1", A, context="x" * LONGEST_LINE),
        b"\n\r\n\0\n",
    ],
)
def test_what_is_no_row_is_left_out_and_harms_no_other(junk: bytes) -> None:
    assert [record.mac for record in parsed(HEADER + junk + row("10.77.1.3", C))] == [C]


def test_rows_without_a_header_mean_nothing() -> None:
    assert parsed(row("10.77.1.1", A)) == []


rows = st.builds(
    row,
    st.sampled_from(["10.77.1.1", "10.77.1.2", "10.77.1.3", "10.77.1.400"]),
    st.sampled_from([A, B, C, "", "00:11"]),
    cltt=st.integers(0, NOW),
    lifetime=st.sampled_from([0, 60, 0xFFFFFFFF]),
    state=st.integers(0, 4),
    name=st.sampled_from(["", "vm", "a&#x2cb", "&#x"]),
    context=st.sampled_from(["", "x" * LONGEST_LINE]),
)
files = st.lists(st.one_of(rows, st.just(HEADER), st.just(OLD_HEADER), st.binary(max_size=40))).map(b"".join)


@given(st.one_of(files, st.just(HEADER)), st.lists(st.integers(0, 2000), max_size=20))
def test_any_split_gives_what_the_whole_gives(data: bytes, cuts: list[int]) -> None:
    data = HEADER + data
    ends = [*sorted(cut for cut in cuts if cut < len(data)), len(data)]
    pieces = [data[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    whole = parsed(data)
    split = {record.ip: record for record in parsed(*pieces)}
    assert split == {record.ip: record for record in whole}


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_garbage_never_raises_and_carries_no_more_than_a_line(pieces: list[bytes]) -> None:
    parser = KeaParser()
    for piece in [HEADER, *pieces, b"," * 2 * LONGEST_LINE]:
        for record in parser.feed(piece):
            assert record.mac is None or record.lease().ends != 0
    assert len(parser._carry) <= LONGEST_LINE + 1
    assert parser.position == len(HEADER) + sum(map(len, pieces)) + 2 * LONGEST_LINE


# --- the file, as Kea writes it ---------------------------------------------------------------------------------------


class Kea:
    """Does to its files what Kea and kea-lfc do, step by step."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "kea-leases4.csv"
        self.path.write_bytes(HEADER)

    def at(self, end: str) -> Path:
        return self.path.with_name(self.path.name + end)

    def give(self, *rows: bytes) -> None:
        append(self.path, b"".join(rows))

    def begin_cleanup(self) -> None:
        self.path.rename(self.at(".1"))
        self.path.touch()
        append(self.path, HEADER)

    def complete(self) -> None:
        """kea-lfc: the last row of each address, by address, without those given back."""
        previous = self.at(".2").read_bytes() if self.at(".2").exists() else b""
        newest: dict[bytes, bytes] = {}
        for line in (previous + self.at(".1").read_bytes()).splitlines(keepends=True):
            newest[line.split(b",")[0]] = line
        kept = [line for line in newest.values() if line != HEADER and line.split(b",")[3] != b"0"]
        self.at(".output").write_bytes(HEADER + b"".join(sorted(kept)))
        self.at(".output").rename(self.at(".completed"))

    def end_cleanup(self) -> None:
        self.at(".2").unlink(missing_ok=True)
        self.at(".1").unlink()
        self.at(".completed").rename(self.at(".2"))

    def clean_up(self) -> None:
        self.begin_cleanup()
        self.complete()
        self.end_cleanup()


@pytest.fixture
def kea(tmp_path: Path) -> Kea:
    return Kea(tmp_path)


def following(kea: Kea) -> KeaFile:
    file = KeaFile(kea.path)
    file.poll()
    return file


def test_appended_rows_are_read_once(kea: Kea) -> None:
    file = following(kea)
    kea.give(row("10.77.1.1", A))
    assert news(file) == [A]
    assert news(file) == []


def test_a_half_row_is_carried_to_the_next_look(kea: Kea) -> None:
    file = following(kea)
    written = row("10.77.1.1", A)
    kea.give(written[:20])
    assert news(file) == []
    kea.give(written[20:])
    assert news(file) == [A]


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_a_start_at_each_step_of_a_cleanup_knows_every_lease(kea: Kea, steps: int) -> None:
    kea.give(row("10.77.1.1", A), row("10.77.1.9", A))
    kea.clean_up()
    kea.give(row("10.77.1.2", B), row("10.77.1.9", A, lifetime=0))
    for step in (kea.begin_cleanup, kea.complete, kea.end_cleanup)[:steps]:
        step()
    kea.give(row("10.77.1.3", C))
    assert leases(following(kea)) == {"10.77.1.1": A, "10.77.1.2": B, "10.77.1.3": C}


def test_kea_lfc_that_has_not_removed_its_sources_yet_brings_nothing_twice(kea: Kea) -> None:
    kea.give(row("10.77.1.1", A))
    kea.begin_cleanup()
    kea.complete()
    append(kea.at(".1"), row("10.77.1.1", B))  # would win, were it read
    assert leases(following(kea)) == {"10.77.1.1": A}


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_cleanup_is_followed_and_old_leases_are_no_news(kea: Kea, steps: int) -> None:
    file = following(kea)
    kea.give(row("10.77.1.1", A))
    assert news(file) == [A]
    kea.give(row("10.77.1.2", B))
    for step in (kea.begin_cleanup, kea.complete, kea.end_cleanup)[:steps]:
        step()
    assert news(file) == [B]
    kea.give(row("10.77.1.3", C))
    assert news(file) == [C]
    assert leases(file) == {"10.77.1.1": A, "10.77.1.2": B, "10.77.1.3": C}
    assert [record.in_order for record in file.index.records(C)] == [True]


def test_what_was_written_between_two_cleanups_nobody_saw_is_judged_by_its_times(kea: Kea) -> None:
    file = following(kea)
    kea.give(row("10.77.1.1", A))
    file.poll()
    kea.clean_up()
    kea.give(row("10.77.1.2", B))
    kea.clean_up()
    assert news(file) == [B]
    assert [(record.in_order, record.last_seen) for record in file.index.records(B)] == [(False, NOW - 60)]


def test_a_row_that_was_superseded_before_the_cleanup_is_no_news(kea: Kea) -> None:
    file = following(kea)
    kea.give(row("10.77.1.1", A))
    file.poll()
    kea.clean_up()
    kea.give(row("10.77.1.1", A, cltt=NOW))
    assert news(file) == [A]
    kea.begin_cleanup()
    assert news(file) == []


def test_a_reader_beside_kea_and_its_cleanups_sees_every_lease_once(kea: Kea) -> None:
    file = following(kea)
    macs = {f"10.77.1.{n}": f"00:50:56:00:02:{n:02x}" for n in range(200)}

    def write_all() -> None:
        for n, (ip, mac) in enumerate(macs.items()):
            kea.give(row(ip, mac))
            if n % 5 == 4:
                kea.clean_up()

    writer = threading.Thread(target=write_all)
    writer.start()
    seen = []
    while writer.is_alive():
        seen += news(file)
    seen += news(file)
    assert sorted(map(str, seen)) == sorted(macs.values())
    assert leases(file) == macs


def test_files_that_move_while_they_are_read_are_read_again(kea: Kea, monkeypatch: pytest.MonkeyPatch) -> None:
    kea.give(row("10.77.1.1", A))
    kea.clean_up()
    kea.give(row("10.77.1.2", B))
    kea.begin_cleanup()
    kea.complete()
    kea.at(".completed").rename(kea.at(".late"))
    steps = iter([lambda: kea.at(".late").rename(kea.at(".completed")), kea.end_cleanup])
    read = Path.read_bytes

    def read_late(path: Path) -> bytes:
        next(steps, lambda: None)()
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", read_late)
    assert leases(following(kea)) == {"10.77.1.1": A, "10.77.1.2": B}


def test_older_rows_that_cannot_be_read_are_a_problem_until_they_can(kea: Kea) -> None:
    kea.give(row("10.77.1.2", B))
    kea.at(".2").mkdir()
    file = following(kea)
    assert isinstance(file.problem, IsADirectoryError)
    kea.at(".2").rmdir()
    kea.at(".2").write_bytes(HEADER + row("10.77.1.1", A))
    assert news(file) == [A, B]
    assert file.problem is None


def test_a_decline_takes_the_address_from_its_vm(kea: Kea) -> None:
    """Kea empties the row: neither MAC nor client id."""
    file = following(kea)
    kea.give(row("10.77.1.1", A))
    file.poll()
    kea.give(b"10.77.1.1,,,86400,%d,1,0,0,,1,,0\n" % (NOW + 86400))
    file.poll()
    assert leases(file) == {}
    assert file.index.declined == {A: "10.77.1.1"}


def test_after_a_restart_of_ours_kea_s_times_tell_what_is_fresh(kea: Kea) -> None:
    kea.give(row("10.77.1.1", A, cltt=NOW - 600))
    kea.clean_up()
    kea.give(row("10.77.1.2", B, cltt=NOW))
    with LeaseWatcher(KeaFile(kea.path), clock=lambda: NOW) as watcher:
        mark = watcher.rearm(None, NOW - 60)
        found = {mac: watcher.wait(mac, mark, 0) for mac in (A, B)}
    assert {mac: lease and lease.ip for mac, lease in found.items()} == {A: None, B: "10.77.1.2"}


def test_why_there_is_no_fresh_lease_is_said_with_what_to_set_in_kea(kea: Kea) -> None:
    with LeaseWatcher(KeaFile(kea.at(".none")), clock=lambda: NOW) as watcher:
        assert "does not exist: start Kea" in watcher.what_was_seen(A)
    kea.give(row("10.77.1.1", A))
    with LeaseWatcher(KeaFile(kea.path), clock=lambda: NOW) as watcher:
        assert """set '"cache-threshold": 0.0'""" in watcher.what_was_seen(A)
