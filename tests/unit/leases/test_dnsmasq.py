"""dnsmasq's lease file: its lines, and how it is written anew under a reader's hands."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esxprov.leases.dnsmasq import QUIET_S, DnsmasqFile, Table
from esxprov.leases.parser import Host, Record
from esxprov.leases.watcher import LeaseWatcher
from tests.unit.leases.test_follower import leases, news
from tests.unit.leases.written import NOW, A, B, C

HOUR_S = 3600.0
QUIET, BUSY = -HOUR_S, HOUR_S
"""Seconds from now to the file's time: nobody wrote for an hour; or somebody did until long after the test."""


def line(ip: str, mac: str, expiry: int = NOW + 7140, name: str = "*") -> bytes:
    return f"{expiry} {mac} {ip} {name} 01:{mac}\n".encode()


ONE, TWO, THREE = line("10.77.1.1", A), line("10.77.1.2", B), line("10.77.1.3", C)


def the_only(data: bytes) -> Record:
    (record,) = Table().feed(data)
    return record


# --- lines ------------------------------------------------------------------------------------------------------------


def test_a_line_is_a_lease() -> None:
    lease = the_only(line("10.77.1.1", A, NOW + 60, "vm1")).lease()
    assert (lease.ip, lease.mac, lease.state, lease.ends, lease.hostname) == ("10.77.1.1", A, "active", NOW + 60, "vm1")
    assert (lease.starts, lease.cltt) == (None, None)


def test_no_name_is_a_star_and_no_client_id_too() -> None:
    assert the_only(b"%d %b 10.77.1.1 * *\n" % (NOW, A.encode())).lease().hostname is None


def test_expiry_0_is_never() -> None:
    record = the_only(line("10.77.1.1", A, 0))
    assert (record.ends, record.is_lease_at(NOW)) == (None, True)


@pytest.mark.parametrize(
    ("written", "mac"),
    [("01-" + A, A), ("06-" + A, A), ("20-" + A, None), (A.upper(), A), ("00-", None), ("", None), (A + ":00", None)],
)
def test_other_hardware_has_no_mac_that_a_vm_could_have(written: str, mac: str | None) -> None:
    assert the_only(line("10.77.1.1", written)).mac == mac


@pytest.mark.parametrize(
    "other",
    [
        b"duid 00:01:00:01:2c:9e:6f:2c:00:50:56:00:00:01\n",
        b"1795507140 17236993 2001:db8::5 vm6 00:01:00:01:2c:9e\n",
        b"vendorclass 10.77.1.9 4d:53\n",
        b"1795507140 00:50:56:00:01:0a 10.77.1.999 * *\n",
        b"soon 00:50:56:00:01:0a 10.77.1.9 * *\n",
        b"\0\n\r\n\n",
        THREE[:-1],
    ],
)
def test_what_is_no_lease_of_ipv4_is_left_out(other: bytes) -> None:
    assert [record.mac for record in Table().feed(ONE + other)] == [A]


def test_the_first_reading_says_nothing_about_order_and_later_ones_do() -> None:
    table = Table()
    first = table.feed(ONE)
    later = table.feed(TWO + ONE)
    assert [(record.mac, record.in_order) for record in first + later] == [(A, False), (B, True)]
    assert first[0].sequence < later[0].sequence


def test_of_two_new_leases_the_first_line_is_the_newer() -> None:
    table = Table()
    table.feed(b"")
    records = table.feed(line("10.77.1.2", A) + line("10.77.1.1", A))
    assert [record.ip for record in sorted(records, key=lambda record: record.sequence)] == ["10.77.1.1", "10.77.1.2"]


def test_a_renewal_is_new_and_a_name_alone_is_not() -> None:
    table = Table()
    table.feed(ONE + TWO)
    assert [record.mac for record in table.feed(line("10.77.1.1", A, NOW + 7200) + TWO)] == [A]
    assert table.feed(line("10.77.1.1", A, NOW + 7200, "vm1") + TWO) == []


def test_leases_that_vanished_are_told_once_as_free() -> None:
    table = Table()
    table.feed(ONE + TWO)
    table.feed(ONE)
    assert [(record.mac, record.state) for record in table.vanished()] == [(B, "free")]
    assert table.vanished() == []


def test_a_lease_that_comes_back_unchanged_is_as_old_as_it_was() -> None:
    """A full disk: dnsmasq tries again after a minute."""
    table = Table()
    (before,) = table.feed(ONE)
    table.feed(b"")
    table.vanished()
    (back,) = table.feed(ONE)
    assert (back.state, back.sequence, back.in_order) == ("active", before.sequence, False)


lines = st.builds(
    line,
    st.sampled_from(["10.77.1.1", "10.77.1.2", "10.77.1.400", "2001:db8::1"]),
    st.sampled_from([A, B, "06-" + C, ""]),
    st.sampled_from([0, NOW, NOW + 60]),
    st.sampled_from(["*", "vm", "x y"]),
)
contents = st.lists(st.one_of(lines, st.binary(max_size=40))).map(b"".join)


@given(st.lists(contents, max_size=6))
def test_any_sequence_of_contents_ends_with_what_the_last_one_says_and_garbage_never_raises(files: list[bytes]) -> None:
    """What was seen half, or empty, before it was whole leaves nothing behind."""
    table, state = Table(), dict[str, tuple[str | None, int | None]]()
    for data in [*files, b"".join(files[-1:])]:
        changes = table.feed(data)
        assert all(0 < record.sequence <= table.position for record in changes)
        state |= {record.ip: (record.mac, record.ends) for record in changes}
        for record in table.vanished():
            del state[record.ip]
    expected = {record.ip: (record.mac, record.ends) for record in Table().feed(b"".join(files[-1:]))}
    assert state == expected


@given(contents, st.integers(0, 400))
def test_half_a_file_between_two_whole_ones_makes_no_old_lease_new(data: bytes, cut: int) -> None:
    table = Table()
    table.feed(data)
    table.feed(data[:cut])
    assert [record for record in table.feed(data) if record.in_order] == []


# --- the file, as dnsmasq writes it -----------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dnsmasq.leases"


def write(path: Path, data: bytes, age: float = BUSY) -> None:
    """In place."""
    path.write_bytes(data)
    now = path.stat().st_mtime
    os.utime(path, (now, now + age))


def following(path: Path, data: bytes) -> DnsmasqFile:
    write(path, data, QUIET)
    file = DnsmasqFile(path)
    file.poll()
    return file


def test_a_new_lease_is_read_at_once_and_once(path: Path) -> None:
    file = following(path, ONE)
    write(path, TWO + ONE)
    assert news(file) == [B]
    assert news(file) == []


@pytest.mark.parametrize("half", [b"", TWO, TWO[:20], TWO + ONE[:20]])
def test_half_a_file_takes_no_lease_away(path: Path, half: bytes) -> None:
    file = following(path, TWO + ONE)
    write(path, half)
    assert news(file) == []
    assert leases(file) == {"10.77.1.1": A, "10.77.1.2": B}


def test_a_lease_that_is_missing_when_the_writer_is_done_is_gone(path: Path) -> None:
    file = following(path, TWO + ONE)
    write(path, ONE)
    file.poll()
    write(path, ONE, QUIET)
    assert news(file) == [B]
    assert leases(file) == {"10.77.1.1": A}
    assert [record.state for record in file.index.records(B)] == ["free"]


def test_a_file_that_ends_within_a_line_is_never_complete(path: Path) -> None:
    file = following(path, TWO + ONE)
    write(path, TWO[:20], QUIET)
    assert news(file) == []
    assert leases(file) == {"10.77.1.1": A, "10.77.1.2": B}


def test_a_file_that_is_being_written_at_the_first_look_is_waited_for(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the leases that it lacks would be new ones at the second look."""
    write(path, TWO, BUSY)
    monkeypatch.setattr("esxprov.leases.dnsmasq.time.sleep", lambda _: write(path, TWO + ONE, QUIET))
    file = DnsmasqFile(path)
    assert news(file) == [A, B]
    assert [record.in_order for record in file.index.records(A)] == [False]


def test_a_dnsmasq_that_writes_all_the_time_is_not_waited_for_for_ever(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(path, ONE, BUSY)
    naps: list[float] = []
    monkeypatch.setattr("esxprov.leases.dnsmasq.time.sleep", naps.append)
    monkeypatch.setattr("esxprov.leases.dnsmasq.time.monotonic", lambda: 0.1 * len(naps))
    assert news(DnsmasqFile(path)) == [A]
    assert len(naps) * 0.1 >= QUIET_S


def reads(path: Path, *contents: bytes) -> Callable[[Path], bytes]:
    """What the next readings of the file find, the last one from then on."""
    left = list(contents)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def test_two_readings_must_agree(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that begins in the old file and ends in the new one pairs an address with a wrong MAC."""
    file = following(path, ONE)
    write(path, TWO + ONE)
    mixed = line("10.77.1.2", A)
    monkeypatch.setattr(Path, "read_bytes", reads(path, mixed, TWO, TWO + ONE))
    assert news(file) == [B]


def test_a_file_that_is_truncated_after_its_status_was_read_has_lost_no_lease(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = following(path, ONE)
    write(path, TWO + ONE)
    os.utime(path, (0, 0))
    read = Path.read_bytes

    def truncated_first(self: Path) -> bytes:
        os.truncate(path, 0)
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", truncated_first)
    assert news(file) == []
    assert A in leases(file).values()


def test_a_file_that_never_holds_still_is_left_for_the_next_event(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = following(path, ONE)
    write(path, TWO + ONE)
    monkeypatch.setattr(Path, "read_bytes", reads(path, *([ONE, TWO] * 5)))
    assert news(file) == []
    monkeypatch.undo()
    assert news(file) == [B]


def test_a_reader_beside_a_writer_sees_every_new_lease_once_and_no_pair_that_was_never_given(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As dnsmasq writes: truncated, then in blocks of 4096 bytes, for each lease anew."""
    old = [f"10.77.1.{n}" for n in range(200)]
    new = [f"10.77.2.{n}" for n in range(200)]
    macs = {ip: f"00:50:56:00:{ip.split('.')[2]:>02}:{int(ip.split('.')[3]):02x}" for ip in old + new}
    held = [line(ip, macs[ip]) for ip in old]
    file = following(path, b"".join(held))
    monkeypatch.setattr("esxprov.leases.dnsmasq.QUIET_S", HOUR_S)  # however slow the writer is

    def write_all() -> None:
        with path.open("r+b", buffering=4096) as out:
            for ip in new:
                held.insert(0, line(ip, macs[ip]))
                out.seek(0)
                out.truncate()
                for each in held:
                    out.write(each)
                out.flush()

    writer = threading.Thread(target=write_all)
    writer.start()
    seen: list[Record | Host] = []
    while writer.is_alive():
        seen += file.poll()
    seen += file.poll()
    assert sorted((record.ip, record.mac) for record in seen) == sorted((ip, macs[ip]) for ip in new)
    assert leases(file) == macs


def test_a_complete_file_is_not_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = following(path, ONE)
    monkeypatch.setattr(Path, "read_bytes", reads(path, TWO))
    assert news(file) == []


def test_a_file_that_does_not_exist_yet_is_read_when_it_does(path: Path) -> None:
    file = DnsmasqFile(path)
    assert news(file) == []
    assert isinstance(file.problem, FileNotFoundError)
    write(path, ONE, QUIET)
    assert news(file) == [A]
    assert file.problem is None


def test_a_renewal_after_the_mark_is_fresh_and_what_was_there_before_is_not(path: Path) -> None:
    write(path, TWO + ONE, QUIET)
    with LeaseWatcher(DnsmasqFile(path), clock=lambda: NOW) as watcher:
        mark = watcher.mark()
        write(path, TWO + line("10.77.1.1", A, NOW + 7200))
        watcher.mark()
        found = {mac: watcher.wait(mac, mark, 0) for mac in (A, B)}
    assert {mac: lease and lease.ip for mac, lease in found.items()} == {A: "10.77.1.1", B: None}


def test_after_a_restart_of_ours_no_lease_of_unknown_age_is_fresh(path: Path) -> None:
    write(path, ONE, QUIET)
    with LeaseWatcher(DnsmasqFile(path), clock=lambda: NOW) as watcher:
        assert watcher.wait(A, watcher.rearm(None, NOW - 60), 0) is None
        assert watcher.active_of(A) != []
