"""The thread that reads and the many that wait. With a tick of an hour, what is seen was seen by an event."""

from __future__ import annotations

import logging
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, SimpleQueue

import pytest
from inotify_simple import flags

from esxprov.errors import ProvisioningError
from esxprov.leases.follower import LeaseFile, StaticHosts
from esxprov.leases.parser import Host
from esxprov.leases.wait import FreshLeases
from esxprov.leases.watcher import LeaseWatcher, Mark
from esxprov.model import Lease
from esxprov.ports import LeaseSource
from tests.unit.leases.test_follower import append, rewrite
from tests.unit.leases.test_parser import failover
from tests.unit.leases.written import NOW, A, B, C, fixed_host, record

HOUR_S = 3600.0
SOON_S = 5.0
NOT_LONG_S = 0.05


class Bench:
    """A lease file, its watcher with a clock that stands still, and what the watcher announced."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "dhcp" / "dhcpd.leases"
        self.conf = directory / "dhcpd.conf"
        self.announced: SimpleQueue[Lease] = SimpleQueue()
        self.now = float(NOW)
        self.watcher = self.another()

    def another(self, tick_s: float = HOUR_S) -> LeaseWatcher:
        return LeaseWatcher(LeaseFile(self.path), self.conf, self.announced.put, tick_s=tick_s, clock=lambda: self.now)

    def append(self, data: bytes) -> None:
        append(self.path, data)

    def ip(self, mac: str, mark: Mark, timeout_s: float = SOON_S) -> str | None:
        lease = self.watcher.wait(mac, mark, timeout_s)
        return lease.ip if lease else None

    def announced_ip(self) -> str | None:
        try:
            return self.announced.get(timeout=SOON_S).ip
        except Empty:
            return None


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    bench.path.parent.mkdir()
    bench.path.write_bytes(record("10.77.1.9", A))
    bench.watcher.start()
    yield bench
    bench.watcher.stop()


def test_a_lease_written_after_the_mark_wakes_its_waiter(bench: Bench) -> None:
    mark = bench.watcher.mark()
    writing = threading.Timer(NOT_LONG_S, bench.append, [record("10.77.1.10", A)])
    writing.start()
    assert bench.ip(A, mark) == "10.77.1.10"
    writing.join()


def test_a_lease_written_after_the_mark_but_before_the_wait_is_answered_at_once(bench: Bench) -> None:
    mark = bench.watcher.mark()
    bench.append(record("10.77.1.10", A))
    assert bench.announced_ip() == "10.77.1.10"
    assert bench.ip(A, mark, 0) == "10.77.1.10"


def test_a_renewal_of_the_same_address_is_fresh(bench: Bench) -> None:
    mark = bench.watcher.mark()
    bench.append(record("10.77.1.9", A, starts=NOW, ends=NOW + 7200))
    assert bench.ip(A, mark) == "10.77.1.9"


def test_a_lease_from_before_the_mark_is_never_returned(bench: Bench) -> None:
    assert bench.ip(A, bench.watcher.mark(), NOT_LONG_S) is None


def test_the_mark_counts_what_was_written_but_not_yet_read(bench: Bench) -> None:
    bench.watcher.stop()
    bench.append(record("10.77.1.10", A))
    mark = bench.watcher.mark()
    assert bench.ip(A, mark, 0) is None


def test_each_waiter_gets_its_own_lease(bench: Bench) -> None:
    macs = [f"00:50:56:00:02:{n:02x}" for n in range(100)]
    mark = bench.watcher.mark()
    answers: dict[str, str | None] = {}
    waiters = [threading.Thread(target=lambda mac=mac: answers.update({mac: bench.ip(mac, mark)})) for mac in macs]
    for waiter in waiters:
        waiter.start()
    for n, mac in enumerate(macs):
        bench.append(record(f"10.77.3.{n}", mac))
    for waiter in waiters:
        waiter.join()
    assert answers == {mac: f"10.77.3.{n}" for n, mac in enumerate(macs)}


def test_a_declined_address_is_not_answered(bench: Bench) -> None:
    mark = bench.watcher.mark()
    bench.append(record("10.77.1.10", B))
    bench.watcher.mark()
    bench.append(record("10.77.1.10", None, "abandoned"))
    bench.watcher.mark()
    assert bench.ip(B, mark, 0) is None
    assert "got 10.77.1.10 and declined it" in bench.watcher.what_was_seen(B)


def test_a_lease_that_has_ended_is_not_answered(bench: Bench) -> None:
    mark = bench.watcher.mark()
    bench.append(record("10.77.1.10", B, ends=NOW + 60) + record("10.77.1.11", C))
    assert bench.ip(C, mark) == "10.77.1.11"
    bench.now += 61
    assert bench.ip(B, mark, 0) is None


def test_the_newest_of_several_fresh_leases_is_answered(bench: Bench) -> None:
    """A PXE ROM and the system it starts ask with different client ids and get two addresses."""
    mark = bench.watcher.mark()
    bench.append(record("10.77.1.12", B) + record("10.77.1.11", B))
    assert bench.ip(B, mark) == "10.77.1.11"


def test_a_rewrite_between_mark_and_lease_is_survived(bench: Bench) -> None:
    mark = bench.watcher.mark()
    rewrite(bench.path, record("10.77.1.8", B) + record("10.77.1.9", A))
    bench.append(record("10.77.1.10", A, starts=NOW))
    assert bench.ip(A, mark) == "10.77.1.10"


def test_a_rewrite_alone_makes_no_old_lease_fresh(bench: Bench) -> None:
    mark = bench.watcher.mark()
    dumped = record("10.77.1.9", A, starts=NOW + 1, ends=NOW + 7140)
    rewrite(bench.path, dumped + record("10.77.1.11", B, starts=NOW + 1))
    assert bench.ip(B, mark) == "10.77.1.11"
    assert bench.ip(A, mark, 0) is None


def test_a_lease_acknowledged_long_before_the_mark_but_first_seen_in_a_rewrite_is_not_fresh(bench: Bench) -> None:
    """A full disk swallowed its record, dhcpd's memory did not."""
    mark = bench.watcher.mark()
    rewrite(bench.path, record("10.77.1.10", B, starts=NOW - 600) + record("10.77.1.11", C, starts=NOW - 1))
    assert bench.ip(C, mark) == "10.77.1.11"
    assert bench.ip(B, mark, 0) is None


def test_a_failover_peers_repetition_of_an_old_lease_is_not_fresh(bench: Bench) -> None:
    mark = bench.watcher.mark()
    bench.append(
        failover(record("10.77.1.9", A)) + failover(record("10.77.1.11", B, starts=NOW + 5), without_cltt=False)
    )
    assert bench.ip(B, mark) == "10.77.1.11"
    assert bench.ip(A, mark, 0) is None


def test_the_mark_of_an_earlier_process_is_judged_by_times(bench: Bench) -> None:
    mark = bench.watcher.rearm(None, NOW - 61)
    assert bench.ip(A, mark, 0) == "10.77.1.9"
    assert bench.ip(A, bench.watcher.rearm(None, NOW - 30), 0) is None


def test_a_restarted_watcher_misses_nothing_written_meanwhile(bench: Bench) -> None:
    mark = bench.watcher.mark()
    bench.watcher.stop()
    rewrite(bench.path, record("10.77.1.9", A))
    bench.append(record("10.77.1.10", B, starts=NOW))
    bench.watcher.start()
    assert bench.ip(B, mark, 0) == "10.77.1.10"


def test_a_fixed_address_of_dhcpd_conf_is_answered_at_once(bench: Bench) -> None:
    mark = bench.watcher.mark()
    bench.conf.write_bytes(fixed_host("vcl-1", B, "10.77.2.1"))
    lease = bench.watcher.wait(B.upper(), mark, SOON_S)
    assert lease is not None
    assert (lease.ip, lease.fixed, lease.evidence) == ("10.77.2.1", True, "host-declaration")


def test_a_host_declared_at_run_time_comes_before_dhcpd_conf(bench: Bench) -> None:
    bench.conf.write_bytes(fixed_host("vcl-1", B, "10.77.2.1"))
    bench.append(fixed_host("by-omapi", B, "10.77.2.2"))
    assert bench.ip(B, bench.watcher.mark(), 0) == "10.77.2.2"


def test_a_file_absent_at_the_start_is_waited_for(bench: Bench) -> None:
    bench.watcher.stop()
    bench.path.unlink()
    bench.watcher = bench.another()
    bench.watcher.start()
    mark = bench.watcher.mark()
    assert "does not exist: start dhcpd" in bench.watcher.what_was_seen(A)
    # In one piece: of a file that is there empty first, what comes then is news.
    whole = bench.path.with_name("new")
    whole.write_bytes(record("10.77.1.9", A, starts=NOW - 600) + record("10.77.1.10", B, starts=NOW))
    whole.rename(bench.path)
    assert bench.ip(B, mark) == "10.77.1.10"
    assert bench.ip(A, mark, 0) is None


def test_a_directory_absent_at_the_start_is_waited_for(bench: Bench, tmp_path: Path) -> None:
    bench.watcher.stop()
    bench.path = tmp_path / "var" / "lib" / "dhcpd.leases"
    bench.watcher = bench.another()
    bench.watcher.start()
    mark = bench.watcher.mark()
    bench.path.parent.mkdir(parents=True)
    bench.append(record("10.77.1.10", B, starts=NOW))
    assert bench.ip(B, mark) == "10.77.1.10"
    bench.append(record("10.77.1.11", C))
    assert bench.ip(C, mark) == "10.77.1.11"


def test_a_replaced_directory_is_followed(bench: Bench) -> None:
    mark = bench.watcher.mark()
    bench.path.parent.rename(bench.path.parent.with_name("moved"))
    bench.path.parent.mkdir()
    bench.path.write_bytes(record("10.77.1.9", A))
    bench.append(record("10.77.1.10", B, starts=NOW))
    assert bench.ip(B, mark) == "10.77.1.10"
    bench.append(record("10.77.1.11", C))
    assert bench.ip(C, mark) == "10.77.1.11"


def test_the_safety_tick_sees_what_no_event_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS and overlays send none."""
    bench.watcher.stop()
    monkeypatch.setattr("esxprov.leases.watcher._WATCHED", flags.DELETE_SELF)
    bench.watcher = bench.another(tick_s=0.02)
    bench.watcher.start()
    mark = bench.watcher.mark()
    bench.append(record("10.77.1.10", B))
    assert bench.ip(B, mark) == "10.77.1.10"


def test_an_overflow_of_the_event_queue_loses_no_lease(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.watcher.stop()
    bench.watcher = bench.another()
    overflow = struct.pack("iIII", -1, flags.Q_OVERFLOW, 0, 0)

    def overflowed(file: int, length: int) -> bytes:
        read(file, length)
        return overflow

    read = os.read
    monkeypatch.setattr("esxprov.leases.watcher.os.read", overflowed)
    bench.watcher.start()
    mark = bench.watcher.mark()
    bench.append(record("10.77.1.10", B))
    assert bench.ip(B, mark) == "10.77.1.10"


def test_events_of_other_files_in_the_directory_are_not_looked_into(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.path.with_name("dhcpd6.leases").write_bytes(b"x")
    looked: SimpleQueue[bool] = SimpleQueue()
    look = bench.watcher._look

    def counted(**how: bool) -> None:
        looked.put(True)
        look(**how)

    monkeypatch.setattr(bench.watcher, "_look", counted)
    bench.path.with_name("dhclient.leases").write_bytes(b"x")
    with pytest.raises(Empty):
        looked.get(timeout=NOT_LONG_S)
    bench.append(record("10.77.1.10", B))
    assert looked.get(timeout=SOON_S)


def test_a_lease_that_is_written_costs_no_look_at_dhcpd_conf(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: SimpleQueue[bool] = SimpleQueue()

    def counted(hosts: StaticHosts) -> list[Host]:
        looked.put(True)
        return []

    monkeypatch.setattr(StaticHosts, "poll", counted)
    bench.append(record("10.77.1.10", B))
    assert bench.announced_ip() == "10.77.1.10"
    assert looked.empty()
    bench.conf.write_bytes(fixed_host("vcl-1", C, "10.77.2.1"))
    assert looked.get(timeout=SOON_S)


def test_the_safety_tick_sees_a_change_of_an_included_file(bench: Bench) -> None:
    included = bench.conf.with_name("conf.d") / "vcl.conf"
    included.parent.mkdir()
    included.write_bytes(b"")
    bench.conf.write_bytes(b'include "%s";' % str(included).encode())
    bench.watcher.stop()
    bench.watcher = bench.another(tick_s=0.02)
    bench.watcher.start()
    mark = bench.watcher.mark()
    included.write_bytes(fixed_host("vcl-1", C, "10.77.2.1"))
    assert bench.ip(C, mark) == "10.77.2.1"


def test_a_listener_that_fails_does_not_end_the_reading(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def fail(lease: Lease) -> None:
        raise LookupError(lease.ip)

    with LeaseWatcher(LeaseFile(bench.path), None, fail, tick_s=HOUR_S, clock=lambda: bench.now) as watcher:
        mark = watcher.mark()
        for n, mac in ((10, B), (11, C)):
            bench.append(record(f"10.77.1.{n}", mac))
            assert watcher.wait(mac, mark, SOON_S) is not None
    assert "the listener for leases failed" in caplog.text


def test_torn_records_and_an_unreadable_file_are_told_to_the_admin_once(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        bench.append(record("10.77.1.10", B)[:60] + record("10.77.1.11", C))
        bench.watcher.mark()
        bench.path.unlink()
        bench.watcher.mark()
        bench.watcher.mark()
    told = [entry.getMessage() for entry in caplog.records]
    assert len([line for line in told if "torn by a full disk" in line]) == 1
    assert len([line for line in told if "No such file" in line and "dhcpd.leases" in line]) == 1


def test_waiters_are_let_go_when_the_watcher_stops(bench: Bench) -> None:
    mark = bench.watcher.mark()
    answers: SimpleQueue[str | None] = SimpleQueue()
    waiter = threading.Thread(target=lambda: answers.put(bench.ip(B, mark, HOUR_S)))
    waiter.start()
    bench.watcher.stop()
    assert answers.get(timeout=SOON_S) is None
    waiter.join()


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        (b"", "no lease of this MAC at all: is the VM's first NIC on the private network"),
        (
            record("10.77.1.10", B),
            "an active lease 10.77.1.10 from before power-on exists but no fresh one was written: "
            "set 'dhcp-cache-threshold 0;'",
        ),
        (record("10.77.1.10", B, ends=NOW), "the last lease of this MAC, 10.77.1.10, is expired and no new one"),
        (record("10.77.1.10", B, "free"), "the last lease of this MAC, 10.77.1.10, is free and no new one"),
    ],
)
def test_no_fresh_lease_is_an_error_that_says_what_was_seen(bench: Bench, written: bytes, sentence: str) -> None:
    bench.append(written)
    source: LeaseSource = FreshLeases([bench.watcher])
    with pytest.raises(ProvisioningError, match="waited 0 s for a DHCP lease") as caught:
        source.wait(B, source.arm(B), 0, lambda: False)
    assert caught.value.code == "ip_not_seen"
    assert sentence in caught.value.message


def test_a_wait_that_nobody_wants_any_more_is_cancelled(bench: Bench) -> None:
    source = FreshLeases([bench.watcher])
    with pytest.raises(ProvisioningError) as caught:
        source.wait(B, source.rearm(B, NOW), HOUR_S, lambda: True)
    assert caught.value.code == "cancelled"


def test_a_fresh_lease_is_handed_on(bench: Bench) -> None:
    source = FreshLeases([bench.watcher])
    mark = source.arm(B)
    bench.append(record("10.77.1.10", B))
    assert source.wait(B, mark, SOON_S, lambda: False).ip == "10.77.1.10"


def test_active_leases_and_fixed_addresses_are_known(bench: Bench) -> None:
    bench.append(record("10.77.1.10", A) + record("10.77.1.11", B, "free"))
    bench.conf.write_bytes(fixed_host("vcl-1", C, "10.77.2.1"))
    bench.watcher.mark()
    assert sorted(lease.ip for lease in bench.watcher.active()) == ["10.77.1.10", "10.77.1.9", "10.77.2.1"]
    of_mac = {mac: [lease.ip for lease in bench.watcher.active_of(mac)] for mac in (A, B, C)}
    assert of_mac == {A: ["10.77.1.10", "10.77.1.9"], B: [], C: []}
