"""What others do to the file while we hold it: dhcpd's renames, copies in place, removal, a late start."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from esxprov.leases.follower import Follower, LeaseFile, StaticHosts
from esxprov.leases.index import Index
from esxprov.leases.parser import Host, Record
from tests.unit.leases.written import NOW, A, B, C, fixed_host, record

ONE, TWO = record("10.77.1.1", A), record("10.77.1.2", B)
STAMP = count(NOW)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dhcpd.leases"


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def rewrite(path: Path, data: bytes) -> None:
    """As dhcpd does it: a new file, a link to the old one, a rename over it."""
    new, backup = path.with_name(f"{path.name}.{next(STAMP)}"), path.with_name(path.name + "~")
    new.write_bytes(data)
    backup.unlink(missing_ok=True)
    os.link(path, backup)
    new.rename(path)


def following(path: Path, data: bytes) -> LeaseFile:
    path.write_bytes(data)
    file = LeaseFile(path)
    file.poll()
    return file


def news(file: Follower) -> list[str | None]:
    return [item.mac for item in file.poll()]


def leases(file: Follower) -> dict[str, str]:
    return {lease.ip: lease.mac for lease in file.index.leases(NOW)}


def test_appended_records_are_read_once(path: Path) -> None:
    file = following(path, ONE)
    append(path, TWO)
    assert news(file) == [B]
    assert news(file) == []


def test_a_half_written_record_is_carried_to_the_next_look(path: Path) -> None:
    file = following(path, ONE)
    append(path, TWO[:70])
    assert news(file) == []
    append(path, TWO[70:])
    assert news(file) == [B]


def test_however_much_was_appended_is_read_at_one_look(path: Path) -> None:
    file = following(path, ONE)
    macs = [f"00:50:56:00:{n >> 8:02x}:{n & 255:02x}" for n in range(1000)]
    append(path, b"".join(record(f"10.78.{n >> 8}.{n & 255}", mac) for n, mac in enumerate(macs)))
    assert news(file) == macs


def test_the_old_file_is_read_to_its_end_before_the_new_one(path: Path) -> None:
    file = following(path, ONE)
    append(path, TWO)
    rewrite(path, TWO + ONE)
    append(path, record("10.77.1.3", C))
    assert news(file) == [B, C]
    assert leases(file) == {"10.77.1.1": A, "10.77.1.2": B, "10.77.1.3": C}


def test_a_half_record_of_the_old_file_is_not_glued_to_the_new_one(path: Path) -> None:
    file = following(path, ONE + TWO[:70])
    rewrite(path, record("10.77.1.3", C))
    assert news(file) == [C]
    assert leases(file) == {"10.77.1.3": C}


def test_two_rewrites_between_two_looks_lose_no_lease_that_stands(path: Path) -> None:
    file = following(path, ONE)
    rewrite(path, ONE)
    append(path, TWO)
    rewrite(path, TWO + ONE)
    assert news(file) == [B]
    assert [found.in_order for found in file.index.records(B)] == [False]


def test_every_record_of_many_rewrites_is_news_once(path: Path) -> None:
    file = following(path, b"")
    seen = []
    written = b""
    for n in range(60):
        append(path, new := record(f"10.77.1.{n}", f"00:50:56:00:02:{n:02x}"))
        written = new + written
        if n % 3 == 0:
            rewrite(path, written)
        seen += news(file)
    assert seen == [f"00:50:56:00:02:{n:02x}" for n in range(60)]


@pytest.mark.parametrize("again", [b"", TWO, TWO * 9])
def test_a_file_rewritten_in_place_is_read_again(path: Path, again: bytes) -> None:
    """Shorter, as long or longer than before: the size alone would not tell."""
    file = following(path, ONE)
    path.write_bytes(again)
    file.poll()
    assert leases(file) == ({"10.77.1.2": B} if again else {})


def test_a_file_rewritten_in_place_while_it_is_read_whole_is_read_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed_whole = Index.feed_whole

    def rewritten_first(index: Index, size: int, read: Callable[[int, int], bytes]) -> list[Record | Host]:
        monkeypatch.undo()
        path.write_bytes(TWO)
        return feed_whole(index, size, read)

    monkeypatch.setattr(Index, "feed_whole", rewritten_first)
    file = following(path, ONE * 9)
    assert leases(file) == {"10.77.1.2": B}


def test_of_a_whole_file_only_the_last_record_of_an_address_is_told(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esxprov.leases.parser._PIECE", 64)
    path.write_bytes(record("10.77.1.1", C) + TWO + ONE + record("10.77.1.3", C))
    assert news(LeaseFile(path)) == [B, A, C]


def test_old_leases_that_come_back_after_a_truncation_are_no_news(path: Path) -> None:
    file = following(path, ONE + TWO)
    before = file.index.records(A)[0].sequence
    path.write_bytes(b"")
    assert news(file) == []
    append(path, ONE)
    assert news(file) == []
    assert file.index.records(A)[0].sequence == before


def test_a_file_that_does_not_exist_yet_is_read_when_it_does(path: Path) -> None:
    file = LeaseFile(path)
    assert news(file) == []
    assert isinstance(file.problem, FileNotFoundError)
    path.write_bytes(ONE)
    assert news(file) == [A]
    assert file.problem is None


def test_a_removed_file_leaves_its_leases_and_its_successor_is_compared_with_them(path: Path) -> None:
    file = following(path, ONE)
    path.unlink()
    assert news(file) == []
    assert leases(file) == {"10.77.1.1": A}
    path.write_bytes(ONE + TWO)
    assert news(file) == [B]


def test_a_replaced_directory_is_followed(path: Path) -> None:
    file = following(path, ONE)
    path.parent.rename(path.parent.with_name("moved"))
    path.parent.mkdir()
    path.write_bytes(ONE + TWO)
    assert news(file) == [B]


def test_a_path_that_cannot_be_read_is_a_problem_and_no_exception(path: Path) -> None:
    path.mkdir()
    file = LeaseFile(path)
    assert news(file) == []
    assert isinstance(file.problem, IsADirectoryError)


def test_hosts_are_read_from_dhcpd_conf_and_its_includes_and_again_when_one_changes(tmp_path: Path) -> None:
    conf, included = tmp_path / "dhcpd.conf", tmp_path / "vcl.conf"
    conf.write_bytes(fixed_host("a", A, "10.77.2.1") + b'include "vcl.conf";\ninclude "dhcpd.conf";\n')
    hosts = StaticHosts(conf)
    assert [host.mac for host in hosts.poll()] == [A]
    assert isinstance(hosts.problem, FileNotFoundError)
    included.write_bytes(fixed_host("b", B, "10.77.2.2"))
    assert [host.mac for host in hosts.poll()] == [A, B]
    assert hosts.poll() == []
    assert hosts.problem is None
    included.unlink()
    hosts.poll()
    assert hosts.index.fixed(B) is None


def test_without_a_dhcpd_conf_there_are_no_static_hosts() -> None:
    assert StaticHosts(None).poll() == []
