"""Two real dhcpds that share a range, primary and secondary. Both hear every VM, one of them answers it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from esxprov.leases.follower import LeaseFile
from esxprov.leases.omapi import Omapi
from esxprov.leases.wait import FreshLeases
from esxprov.leases.watcher import LeaseWatcher
from esxprov.leases.witnesses import DhcpdItself
from tests.integration.test_leases_dhcpd import BOOT_S, HOUR_S, Rack, mac_of
from tests.integration.test_omapi_dhcpd import cannot_tell
from tests.testbed.lan import LAN

VMS = range(1, 9)
"""As many as it takes for each peer to answer some; their MACs decide."""

LATER_S = 60


class Peer:
    """One of the two, as the service of a node would see it that knows only this one."""

    def __init__(self, rack: Rack, files: Path, omapi_port: int) -> None:
        self.leases = files
        self._log = files.with_suffix(".log")
        self.omapi = Omapi("dhcpd", omapi_port, None, 10, connect=lambda: rack.lan.connect(omapi_port))
        self.ahead_s = 0.0
        """The clock of the service against that of the two."""

    def watcher(self) -> LeaseWatcher:
        return LeaseWatcher(LeaseFile(self.leases), tick_s=HOUR_S, clock=lambda: time.time() + self.ahead_s)

    def served(self) -> set[str]:
        """The MACs that it acknowledged an address to."""
        return set(re.findall(r"^DHCPACK on \S+ to (\S+)", self._log.read_text(), re.MULTILINE))


@pytest.fixture
def rack(tmp_path: Path) -> Iterator[Rack]:
    with LAN(tmp_path, server="failover", extra="dhcp-cache-threshold 25;", release=False) as lan:
        assert lan.mode == "failover", lan.reason
        yield Rack(lan)


@pytest.fixture
def peers(rack: Rack) -> Iterator[list[Peer]]:
    """The primary, then the secondary."""
    assert rack.lan.partner is not None
    pair = [Peer(rack, rack.lan.leases, 7911), Peer(rack, rack.lan.partner.lease_file, 7912)]
    yield pair
    for peer in pair:
        peer.omapi.close()


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + BOOT_S
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)


@pytest.mark.parametrize("which", [0, 1], ids=["primary", "secondary"])
def test_either_file_tells_the_address_of_every_vm_whichever_of_the_two_gave_it(
    rack: Rack, peers: list[Peer], which: int
) -> None:
    with peers[which].watcher() as watcher:
        mark = watcher.mark()
        rack.power("on", *VMS)
        leases = {number: watcher.wait(mac_of(number), mark, BOOT_S) for number in VMS}
        told = {number: lease and lease.ip for number, lease in leases.items()}
    assert told == {number: rack.wait_until_bound(number) for number in VMS}
    for peer in peers:
        assert peer.served() & {mac_of(number) for number in VMS}, "only one of them answered"


def test_a_lease_of_before_that_a_peer_hears_of_only_now_is_not_fresh(rack: Rack, peers: list[Peer]) -> None:
    """It was given while the peers were apart. The one writes it for the first time, the other again and again."""
    primary, secondary = peers
    rack.lan.stop_partner()
    rack.power("on", 1)
    ip = rack.wait_until_bound(1)
    with primary.watcher() as of_primary, secondary.watcher() as of_secondary:
        until(lambda: of_primary.mark() and of_primary.active_of(mac_of(1)))
        assert of_secondary.active_of(mac_of(1)) == []
        primary.ahead_s = secondary.ahead_s = LATER_S / 2
        marks = of_primary.mark(), of_secondary.mark()
        written = primary.leases.stat().st_size
        rack.lan.restart_partner()
        until(lambda: of_secondary.mark() and of_secondary.active_of(mac_of(1)))
        until(lambda: primary.leases.stat().st_size > written and of_primary.mark())
        assert [lease.ip for lease in of_secondary.active_of(mac_of(1))] == [ip]
        assert [of_primary.wait(mac_of(1), marks[0], 0), of_secondary.wait(mac_of(1), marks[1], 0)] == [None, None]


@pytest.mark.parametrize("which", [0, 1], ids=["primary", "secondary"])
def test_an_address_that_is_taken_again_is_known_to_either_peer_by_omapi(
    rack: Rack, peers: list[Peer], which: int
) -> None:
    """Neither file says anything; whichever peer is asked has heard the VM, also if the other one answered it."""
    asked = peers[which]
    rack.power("on", *VMS)
    for number in VMS:
        rack.wait_until_bound(number)
    with asked.watcher() as watcher:
        until(lambda: watcher.mark() and len(watcher.active()) == len(VMS))
        source = FreshLeases([watcher], [partial(DhcpdItself, asked.omapi, time.time, cannot_tell)], ask_s=0.05)
        mark = source.rearm(None, time.time())
        rack.power("on", *VMS)
        for number in VMS:
            lease = source.wait(mac_of(number), mark, BOOT_S, lambda: False)
            assert lease.ip == rack.wait_until_bound(number, boots=2)


@pytest.mark.parametrize("which", [0, 1], ids=["primary", "secondary"])
def test_a_lease_that_two_peers_share_is_not_ended_at_one_of_them(rack: Rack, peers: list[Peer], which: int) -> None:
    """The other one would go on to give the address, of which the first then knows nothing."""
    asked = peers[which]
    rack.power("on", *VMS)
    for number in VMS:
        rack.wait_until_bound(number)
    with asked.watcher() as watcher:
        until(lambda: watcher.mark() and len(watcher.active()) == len(VMS))
        itself = partial(DhcpdItself, asked.omapi, time.time, cannot_tell)
        source = FreshLeases([watcher], [itself], omapi=asked.omapi, ask_s=0.05)
        mark = source.arm(None)
        for number in VMS:
            rack.power("off", number)
            source.end_old(mac_of(number))
        rack.power("on", *VMS)
        for number in VMS:
            lease = source.wait(mac_of(number), mark, BOOT_S, lambda: False)
            assert lease.ip == rack.wait_until_bound(number, boots=2)
            states = [known and known.state for known in (peer.omapi.lease(lease.ip) for peer in peers)]
            assert states == ["active", "active"]
