"""A disk that is really full: dhcpd's lease file on a file system of 64 KB, torn by the kernel's short write."""

from __future__ import annotations

import base64
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from esxprov.leases.follower import LeaseFile
from esxprov.leases.omapi import Omapi
from esxprov.leases.omapi_key import OmapiKey
from esxprov.leases.wait import FreshLeases
from esxprov.leases.watcher import LeaseWatcher
from esxprov.leases.witnesses import DhcpdItself
from esxprov.model import Lease
from tests.integration.test_leases_dhcpd import BOOT_S, HOUR_S, Rack, mac_of
from tests.integration.test_omapi_dhcpd import cannot_tell
from tests.testbed.lan import LAN

DISK_KB = 64
PORT = 7911
KEY = OmapiKey("omapi_key", b"sixteen bytes...")
OMAPI = f"""\
omapi-port {PORT};
omapi-key {KEY.name};
key {KEY.name} {{ algorithm hmac-md5; secret {base64.b64encode(KEY.secret).decode()}; }};
"""
BEFORE, WHILE_FULL, AFTER = range(1, 4), range(10, 40), range(50, 56)


class Disk:
    """The file system that a file is on."""

    def __init__(self, file: Path) -> None:
        self._filler = file.with_name("filler")

    def fill(self) -> None:
        with self._filler.open("wb", buffering=0) as filler, suppress(OSError):
            while True:
                filler.write(b"." * 4096)
        assert shutil.disk_usage(self._filler.parent).free == 0

    def make_room(self) -> None:
        self._filler.unlink()


@pytest.fixture
def rack(tmp_path: Path) -> Iterator[Rack]:
    with LAN(tmp_path, disk_kb=DISK_KB, extra=OMAPI) as lan:
        assert lan.mode == "dhcpd", lan.reason
        yield Rack(lan)


def bound(rack: Rack) -> dict[str, str]:
    """MAC -> address by the guests' own account."""
    notes = map(json.loads, rack.lan.guests_log.read_text().splitlines())
    return {note["mac"]: note["ip"] for note in notes if note["did"] == "bound"}


def boot(rack: Rack, numbers: range) -> None:
    rack.power("on", *numbers)
    for number in numbers:
        rack.wait_until_bound(number)


def boot_while_full(rack: Rack) -> None:
    """dhcpd acknowledges what it cannot write."""
    Disk(rack.lan.leases).fill()
    boot(rack, WHILE_FULL)
    assert not rack.lan.leases.read_bytes().endswith(b"}\n"), "no record was torn"


def test_a_full_disk_pairs_no_address_with_a_wrong_mac_and_hides_no_later_lease(
    rack: Rack, caplog: pytest.LogCaptureFixture
) -> None:
    announced: list[Lease] = []
    with LeaseWatcher(LeaseFile(rack.lan.leases), on_change=announced.append, tick_s=HOUR_S) as watcher:
        boot(rack, BEFORE)
        boot_while_full(rack)
        Disk(rack.lan.leases).make_room()
        mark = watcher.mark()
        rack.power("on", *AFTER)
        later = {mac_of(number): watcher.wait(mac_of(number), mark, BOOT_S) for number in AFTER}
        for number in AFTER:
            rack.wait_until_bound(number)
        told = [entry.getMessage() for entry in caplog.records if "torn by a full disk" in entry.getMessage()]
        assert len(told) == 1
        held = {lease.mac: lease.ip for lease in watcher.active()}
        rack.lan.restart_dhcpd()  # it reads what it has left behind, and writes the rest
        watcher.mark()
        held_after_restart = {lease.mac: lease.ip for lease in watcher.active()}
    truth = bound(rack)
    written = {mac_of(number) for number in (*BEFORE, *AFTER)}
    assert {(lease.mac, lease.ip) for lease in announced} <= truth.items()
    assert {mac: lease and lease.ip for mac, lease in later.items()}.items() <= truth.items()
    assert held.items() <= truth.items()
    assert held.keys() >= written
    assert held_after_restart.items() <= truth.items()


def test_a_lease_that_a_full_disk_kept_out_of_the_file_is_known_to_dhcpd(rack: Rack) -> None:
    omapi = Omapi("dhcpd", PORT, KEY, 10, connect=lambda: rack.lan.connect(PORT))
    with LeaseWatcher(LeaseFile(rack.lan.leases), tick_s=HOUR_S) as watcher:
        source = FreshLeases([watcher], [partial(DhcpdItself, omapi, time.time, cannot_tell)], ask_s=0.05)
        mark = source.arm(None)
        boot_while_full(rack)
        last = mac_of(WHILE_FULL[-1])
        assert watcher.active_of(last) == []
        lease = source.wait(last, mark, BOOT_S, lambda: False)
    omapi.close()
    assert (lease.ip, lease.evidence) == (bound(rack)[last], "omapi-cltt")
