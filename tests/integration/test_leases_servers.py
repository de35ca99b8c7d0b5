"""Leases as the real Kea and the real dnsmasq write them, to VMs that the test bed's LAN boots."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from esxprov.leases.followers import follower_for
from esxprov.leases.wait import FreshLeases
from esxprov.leases.watcher import LeaseWatcher
from tests.integration.test_leases_dhcpd import BOOT_S, HOUR_S, Rack, mac_of
from tests.testbed.lan import LAN

SOON_S = 20.0


@pytest.fixture(params=["kea", "dnsmasq"])
def rack(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Rack]:
    with LAN(tmp_path, server=request.param) as lan:
        assert lan.mode == request.param, lan.reason
        yield Rack(lan)


@pytest.fixture
def kea(tmp_path: Path) -> Iterator[Rack]:
    """Kea, which the test bed has clean its files up every second."""
    with LAN(tmp_path, server="kea") as lan:
        assert lan.mode == "kea", lan.reason
        yield Rack(lan)


def watching(rack: Rack) -> LeaseWatcher:
    return LeaseWatcher(follower_for(rack.lan.mode, rack.lan.leases), tick_s=HOUR_S)


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + SOON_S
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def did(rack: Rack, what: str) -> dict[str, str]:
    """MAC -> address of those guests that did it, by their own account."""
    notes = [json.loads(line) for line in rack.lan.guests_log.read_text().splitlines()]
    return {note["mac"]: note["ip"] for note in notes if note["did"] == what}


def addresses(watcher: LeaseWatcher) -> dict[str, str]:
    """MAC -> address of the active leases, after a look at the file."""
    watcher.mark()
    return {lease.mac: lease.ip for lease in watcher.active()}


def inode(path: Path) -> int:
    return path.stat().st_ino if path.exists() else 0


def clean_up(rack: Rack) -> None:
    """Until Kea has begun another file and kea-lfc is done with the old one."""
    leases = rack.lan.leases
    previous, copy = leases.with_name(leases.name + ".2"), leases.with_name(leases.name + ".1")
    before = [inode(path) for path in (leases, previous)]
    until(lambda: all(now not in (0, old) for now, old in zip(map(inode, (leases, previous)), before, strict=True)))
    until(lambda: not copy.exists())


def test_vms_that_boot_at_once_are_answered_each_with_its_own_address(rack: Rack) -> None:
    numbers = range(1, 9)
    macs = {mac_of(number) for number in numbers}
    with watching(rack) as watcher:
        mark = watcher.mark()
        rack.power("on", *numbers)
        leases = {mac: watcher.wait(mac, mark, BOOT_S) for mac in macs}
        until(lambda: did(rack, "bound").keys() == macs)
    assert {mac: lease and (lease.ip, lease.state) for mac, lease in leases.items()} == {
        mac: (ip, "active") for mac, ip in did(rack, "bound").items()
    }


def test_a_restart_of_the_server_loses_no_lease_and_makes_none_fresh(rack: Rack) -> None:
    with watching(rack) as watcher:
        mark = watcher.mark()
        rack.power("on", 1, 2)
        assert all(watcher.wait(mac_of(number), mark, BOOT_S) for number in (1, 2))
        until(lambda: len(did(rack, "bound")) == 2)
        mark = watcher.mark()
        rack.lan.restart_dhcpd()
        rack.power("on", 3)
        assert watcher.wait(mac_of(3), mark, BOOT_S) is not None
        assert [watcher.wait(mac_of(number), mark, 0) for number in (1, 2)] == [None, None]
        until(lambda: len(did(rack, "bound")) == 3)
        assert addresses(watcher) == did(rack, "bound")


def test_an_address_that_was_given_back_is_no_lease(rack: Rack) -> None:
    with watching(rack) as watcher:
        mark = watcher.mark()
        rack.power("on", 1, 2)
        assert all(watcher.wait(mac_of(number), mark, BOOT_S) for number in (1, 2))
        until(lambda: len(did(rack, "bound")) == 2)
        rack.power("off", 1)
        until(lambda: did(rack, "released"))
        until(lambda: addresses(watcher) == {mac_of(2): did(rack, "bound")[mac_of(2)]})


@pytest.mark.parametrize("rack", ["dhcpd", "kea", "dnsmasq"], indirect=True)
def test_an_address_that_its_vm_declines_is_taken_from_it_and_the_next_one_answered(rack: Rack) -> None:
    with watching(rack) as watcher:
        mark = watcher.mark()
        rack.power("on", 1)
        lease = watcher.wait(mac_of(1), mark, BOOT_S)
        assert lease is not None
        until(lambda: did(rack, "bound"))
        rack.power("decline", 1)
        until(lambda: addresses(watcher) == {})
        assert watcher.wait(mac_of(1), mark, 0) is None
        is_named = rack.lan.mode != "dnsmasq"  # whose file lacks the address then, and does not say why
        told = f"the VM got {lease.ip} and declined it" if is_named else f"of this MAC, {lease.ip}, is free"
        assert told in watcher.what_was_seen(mac_of(1))
        rack.power("on", 1)
        following = watcher.wait(mac_of(1), mark, BOOT_S)
        assert following is not None
        assert following.ip != lease.ip
        until(lambda: did(rack, "bound")[mac_of(1)] == following.ip)


@pytest.mark.parametrize("rack", ["dhcpd", "kea", "dnsmasq"], indirect=True)
def test_an_address_that_is_declined_after_it_was_answered_is_not_found_when_looked_at_again(rack: Rack) -> None:
    with watching(rack) as watcher:
        source = FreshLeases([watcher])
        armed = source.arm(mac_of(1))
        rack.power("on", 1)
        lease = source.wait(mac_of(1), armed, BOOT_S, lambda: False)
        assert source.look_again(lease, armed) == lease
        until(lambda: did(rack, "bound"))
        rack.power("decline", 1)
        until(lambda: source.look_again(lease, armed) is None)
        rack.power("on", 1)
        following = source.wait(mac_of(1), armed, BOOT_S, lambda: False)
        assert following.ip != lease.ip
        assert source.look_again(lease, armed) == following


def test_a_vm_that_is_booted_again_has_a_fresh_lease(rack: Rack) -> None:
    with watching(rack) as watcher:
        mark = watcher.mark()
        rack.power("on", 1)
        first = watcher.wait(mac_of(1), mark, BOOT_S)
        until(lambda: did(rack, "bound"))
        rack.power("off", 1)
        until(lambda: did(rack, "released"))
        booted_s = time.time()
        until(lambda: time.time() > booted_s + 1)  # the files tell whole seconds, and no VM boots twice in one
        mark = watcher.mark()
        rack.power("on", 1)
        again = watcher.wait(mac_of(1), mark, BOOT_S)
    assert first is not None
    assert again is not None
    assert again.sequence > first.sequence


def test_the_rewrites_of_a_long_file_make_no_old_lease_fresh(rack: Rack) -> None:
    """dnsmasq writes a file of more than 4 KB in pieces, and anew for each of the leases."""
    old, new = range(1, 120), range(120, 240)
    with watching(rack) as watcher:
        mark = watcher.mark()
        rack.power("on", *old)
        assert all(watcher.wait(mac_of(number), mark, BOOT_S) for number in old)
        until(lambda: len(did(rack, "bound")) == len(old))
        mark = watcher.mark()
        rack.power("on", *new)
        leases = {mac_of(number): watcher.wait(mac_of(number), mark, BOOT_S) for number in new}
        assert [number for number in old if watcher.wait(mac_of(number), mark, 0)] == []
        until(lambda: len(did(rack, "bound")) == len(old) + len(new))
        assert addresses(watcher) == did(rack, "bound")
    assert did(rack, "bound").items() >= {mac: lease.ip for mac, lease in leases.items() if lease}.items()
    assert all(leases.values())


def test_cleanups_of_kea_lose_no_lease_and_make_none_fresh(kea: Rack) -> None:
    with watching(kea) as watcher:
        mark = watcher.mark()
        for number in (1, 2, 3):
            kea.power("on", number)
            assert watcher.wait(mac_of(number), mark, BOOT_S) is not None
            mark = watcher.mark()
            clean_up(kea)
            assert watcher.wait(mac_of(number), mark, 0) is None
        until(lambda: len(did(kea, "bound")) == 3)
        assert addresses(watcher) == did(kea, "bound")


def test_who_starts_after_cleanups_of_kea_knows_every_lease(kea: Rack) -> None:
    with watching(kea) as watcher:
        mark = watcher.mark()
        kea.power("on", 1)
        assert watcher.wait(mac_of(1), mark, BOOT_S) is not None
    clean_up(kea)
    with watching(kea) as watcher:
        kea.power("on", 2)
        assert watcher.wait(mac_of(2), watcher.rearm(None, 0), BOOT_S) is not None
        until(lambda: len(did(kea, "bound")) == 2)
        assert addresses(watcher) == did(kea, "bound")
