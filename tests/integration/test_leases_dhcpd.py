"""Leases as the real dhcpd writes them, to VMs that the test bed's LAN boots when told of a power-on."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from inotify_simple import INotify, flags

from esxprov.leases.follower import LeaseFile
from esxprov.leases.watcher import LeaseWatcher
from esxprov.model import Lease
from tests.testbed.lan import LAN

HOUR_S = 3600.0
"""The watcher's safety tick: what is seen earlier was seen by an event."""

BOOT_S = 20.0
SOON_S = 3.0
"""Much less than the watcher's own safety tick."""


class Rack:
    """VMs on the LAN; powering one on makes it ask dhcpd for an address."""

    def __init__(self, lan: LAN) -> None:
        self.lan = lan

    def power(self, event: str, *numbers: int) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            for number in numbers:
                message = {"event": event, "vm": f"vm{number}", "macs": [mac_of(number)], "networks": ["Private"]}
                sender.sendto(json.dumps(message).encode(), str(self.lan.power_socket))

    def boots(self, number: int) -> list[str]:
        """The address that the VM got at each of its boots, by its own account."""
        notes = map(json.loads, self.lan.guests_log.read_text().splitlines())
        return [note["ip"] for note in notes if note["did"] == "bound" and note["mac"] == mac_of(number)]

    def wait_until_bound(self, number: int, boots: int = 1) -> str:
        """Until the VM has its address, after so many boots; that address."""
        deadline = time.monotonic() + BOOT_S
        while len(self.boots(number)) < boots:
            assert time.monotonic() < deadline, f"vm{number} got no address"
            time.sleep(0.005)
        return self.boots(number)[-1]

    def address_in_file(self, number: int) -> str:
        """The address of the last record that names the MAC, found by another way than the product's."""
        blocks: list[tuple[str, str]] = re.findall(
            r"^lease (\S+) \{\n(.*?)^\}", self.lan.leases.read_text(), re.MULTILINE | re.DOTALL
        )
        return [ip for ip, body in blocks if f"hardware ethernet {mac_of(number)};" in body][-1]


def mac_of(number: int) -> str:
    return f"00:50:56:00:01:{number:02x}"


@pytest.fixture(params=["dhcpd", "replay"])
def rack(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rack]:
    """With the real dhcpd; and as on a machine where no network namespace can be made."""
    if request.param == "replay":
        monkeypatch.setattr("tests.testbed.lan._why_no_namespaces", lambda: "unshare: Operation not permitted")
    with LAN(tmp_path) as lan:
        assert lan.mode == request.param, lan.reason
        yield Rack(lan)


@pytest.fixture
def watcher(rack: Rack) -> Iterator[LeaseWatcher]:
    with LeaseWatcher(LeaseFile(rack.lan.leases), tick_s=HOUR_S) as watcher:
        yield watcher


def test_a_vm_that_boots_is_answered_with_the_address_dhcpd_gave_it(rack: Rack, watcher: LeaseWatcher) -> None:
    mark = watcher.mark()
    rack.power("on", 1)
    lease = watcher.wait(mac_of(1), mark, BOOT_S)
    assert lease is not None
    assert (lease.ip, lease.state, lease.fixed) == (rack.address_in_file(1), "active", False)


def test_several_vms_that_boot_at_once_get_each_its_own_address(rack: Rack, watcher: LeaseWatcher) -> None:
    numbers = range(1, 9)
    mark = watcher.mark()
    rack.power("on", *numbers)
    leases = {number: watcher.wait(mac_of(number), mark, BOOT_S) for number in numbers}
    assert {number: lease and lease.ip for number, lease in leases.items()} == {
        number: rack.address_in_file(number) for number in numbers
    }


def test_a_restart_of_dhcpd_between_mark_and_lease_is_survived(rack: Rack, watcher: LeaseWatcher) -> None:
    """dhcpd writes its file anew at each start: another inode, another order."""
    mark = watcher.mark()
    rack.power("on", 1, 2)
    assert all(watcher.wait(mac_of(number), mark, BOOT_S) for number in (1, 2))
    before = rack.lan.leases.stat().st_ino
    mark = watcher.mark()
    rack.lan.restart_dhcpd()
    assert rack.lan.leases.stat().st_ino != before
    rack.power("on", 3)
    lease = watcher.wait(mac_of(3), mark, BOOT_S)
    assert lease is not None
    assert lease.ip == rack.address_in_file(3)


def test_the_rewrite_of_a_restart_makes_no_old_lease_fresh(rack: Rack, watcher: LeaseWatcher) -> None:
    mark = watcher.mark()
    rack.power("on", 1)
    old = watcher.wait(mac_of(1), mark, BOOT_S)
    assert old is not None
    mark = watcher.mark()
    rack.lan.restart_dhcpd()
    rack.power("on", 2)
    assert watcher.wait(mac_of(2), mark, BOOT_S) is not None
    assert watcher.wait(mac_of(1), mark, 0) is None
    assert f"an active lease {old.ip} from before power-on" in watcher.what_was_seen(mac_of(1))


def overflow(directory: Path) -> bool:
    """Make more events in a directory than the kernel keeps; whether it says so to somebody who reads none of them."""
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    one, other = directory / "one", directory / "other"
    with INotify() as queue, one.open("wb", buffering=0) as first, other.open("wb", buffering=0) as second:
        queue.add_watch(directory, flags.MODIFY)
        for _ in range(most // 2 + 1):  # in turns: the kernel keeps one event only of two that are the same
            first.write(b".")
            second.write(b".")
        return any(event.mask & flags.Q_OVERFLOW for event in queue.read(timeout=0))


def test_a_lease_whose_event_was_lost_in_an_overflow_is_found_when_its_reader_wakes(rack: Rack) -> None:
    """The watcher's thread is held by its own listener meanwhile, as by a machine that is too busy."""
    held, let_go = threading.Event(), threading.Event()

    def listener(lease: Lease) -> None:
        if lease.mac == mac_of(1):
            held.set()
            assert let_go.wait(BOOT_S)

    with LeaseWatcher(LeaseFile(rack.lan.leases), on_change=listener, tick_s=HOUR_S) as watcher:
        mark = watcher.mark()
        rack.power("on", 1)
        assert held.wait(BOOT_S)
        assert overflow(rack.lan.leases.parent)
        rack.power("on", 2)
        rack.wait_until_bound(2)
        let_go.set()
        lease = watcher.wait(mac_of(2), mark, SOON_S)
    assert lease is not None
    assert lease.ip == rack.address_in_file(2)
