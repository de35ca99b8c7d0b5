"""OMAPI with the real dhcpd: what its lease file does not say, and what is done about it."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from esxprov.leases.check import of_omapi
from esxprov.leases.follower import LeaseFile
from esxprov.leases.omapi import Omapi, OmapiError
from esxprov.leases.omapi_key import OmapiKey
from esxprov.leases.wait import FreshLeases
from esxprov.leases.watcher import LeaseWatcher
from esxprov.leases.witnesses import DhcpdItself
from tests.integration.test_leases_dhcpd import BOOT_S, HOUR_S, Rack, mac_of
from tests.testbed.lan import LAN

PORT = 7911
SECRET = b"sixteen bytes..."
KEY = OmapiKey("omapi_key", SECRET)
NOBODYS = "10.77.9.9"
SEVERAL = ["10.77.2.1", "10.77.2.2", "10.77.2.3"]
RECORD = """\
lease {ip} {{
  starts 4 2026/01/01 00:00:00;
  ends never;
  cltt 4 2026/01/01 00:00:00;
  binding state active;
  next binding state free;
  hardware ethernet {mac};
  uid "client {ip}";
}}
"""


def cannot_tell(ip: str, mac: str, timeout_s: float, since: float) -> None:
    """The LAN is on no network of ours: what probe.answers says then."""


def lan_with(directory: Path, algorithm: str = "hmac-md5") -> LAN:
    """A dhcpd that is asked by OMAPI, and writes nothing for a lease that is taken again early."""
    secret = base64.b64encode(SECRET).decode()
    return LAN(
        directory,
        extra=f"dhcp-cache-threshold 25;\nomapi-port {PORT};\nomapi-key omapi_key;\n"
        f"key omapi_key {{ algorithm {algorithm}; secret {secret}; }};",
        release=False,
    )


@pytest.fixture
def rack(tmp_path: Path) -> Iterator[Rack]:
    lan = lan_with(tmp_path)
    lan.leases.write_text("".join(RECORD.format(ip=ip, mac=mac_of(9)) for ip in SEVERAL))
    with lan:
        assert lan.mode == "dhcpd", lan.reason
        yield Rack(lan)


@pytest.fixture
def watcher(rack: Rack) -> Iterator[LeaseWatcher]:
    with LeaseWatcher(LeaseFile(rack.lan.leases), tick_s=HOUR_S) as watcher:
        yield watcher


@pytest.fixture
def omapi(rack: Rack) -> Iterator[Omapi]:
    with_key = client(rack.lan, KEY)
    yield with_key
    with_key.close()


def client(lan: LAN, key: OmapiKey | None) -> Omapi:
    return Omapi("dhcpd", PORT, key, 10, connect=lambda: lan.connect(PORT))


def boot(rack: Rack, watcher: LeaseWatcher, number: int) -> str:
    """Power a VM on; the address that dhcpd writes for it."""
    mark = watcher.mark()
    rack.power("on", number)
    lease = watcher.wait(mac_of(number), mark, BOOT_S)
    assert lease is not None
    return lease.ip


def boot_again(rack: Rack, number: int) -> None:
    """Power a VM off and on; returns when it has an address, whatever dhcpd writes."""
    before = boots(rack, number)
    rack.power("off", number)
    rack.power("on", number)
    until(lambda: boots(rack, number) > before)


def boots(rack: Rack, number: int) -> int:
    told = [json.loads(line) for line in rack.lan.guests_log.read_text().splitlines()]
    return sum(line["did"] == "bound" and line["mac"] == mac_of(number) for line in told)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + BOOT_S
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)


def test_a_lease_that_is_taken_again_is_not_written_but_its_client_was_heard(
    rack: Rack, watcher: LeaseWatcher, omapi: Omapi
) -> None:
    ip = boot(rack, watcher, 1)
    before = omapi.lease(ip)
    assert before is not None
    assert (before.ip, before.mac, before.state) == (ip, mac_of(1), "active")
    written = rack.lan.leases.read_bytes()

    def was_heard_since() -> bool:
        boot_again(rack, 1)
        again = omapi.lease(ip)
        return again is not None and again.mac == mac_of(1) and again.cltt > before.cltt

    until(was_heard_since)
    assert rack.lan.leases.read_bytes() == written


def test_a_vm_whose_lease_is_not_written_is_found_by_asking_dhcpd(
    rack: Rack, watcher: LeaseWatcher, omapi: Omapi
) -> None:
    ip = boot(rack, watcher, 1)
    before = omapi.lease(ip)
    assert before is not None
    source = FreshLeases([watcher], [partial(DhcpdItself, omapi, time.time, cannot_tell)], ask_s=0.05)
    with ThreadPoolExecutor(1) as thread:
        # A mark of later than the first boot, by more than dhcpd's clock may differ.
        waiting = thread.submit(source.wait, mac_of(1), source.rearm(mac_of(1), before.cltt + 3), BOOT_S, lambda: False)

        def was_found() -> bool:
            boot_again(rack, 1)
            return waiting.done()

        until(was_found)
    lease = waiting.result()
    assert (lease.ip, lease.evidence) == (ip, "omapi-cltt")


def test_a_vm_that_only_asks_what_it_could_get_is_heard_but_not_believed_where_nobody_answers(
    rack: Rack, watcher: LeaseWatcher, omapi: Omapi
) -> None:
    """It has another address, of another server. The LAN cannot be probed from here; test_probe.py does that."""
    ip = boot(rack, watcher, 1)
    before = omapi.lease(ip)
    assert before is not None
    rack.power("off", 1)

    def was_heard_since() -> bool:
        rack.power("discover", 1)
        again = omapi.lease(ip)
        return again is not None and again.cltt > before.cltt

    until(was_heard_since)
    candidates = watcher.active_of(mac_of(1))
    since = before.cltt + 3  # it was heard a second later, and dhcpd's clock may differ by two

    def believed(answered: bool | None) -> bool:
        return DhcpdItself(omapi, time.time, lambda *_: answered).lease(mac_of(1), candidates, since) is not None

    assert believed(None)
    assert not believed(False)


def test_with_its_old_lease_ended_a_vm_is_seen_in_the_file(rack: Rack, watcher: LeaseWatcher, omapi: Omapi) -> None:
    ip = boot(rack, watcher, 1)
    rack.power("off", 1)
    source = FreshLeases([watcher], omapi=omapi)
    mark = source.arm(mac_of(1))
    source.end_old(mac_of(1))
    rack.power("on", 1)
    lease = source.wait(mac_of(1), mark, BOOT_S, lambda: False)
    assert (lease.ip, lease.evidence) == (ip, "lease-file")


def test_omapi_is_checked_by_asking(rack: Rack, omapi: Omapi) -> None:
    assert not of_omapi(omapi).is_serious
    assert of_omapi(client(rack.lan, OmapiKey("omapi_key", b"another secret"))).is_serious


def test_after_the_old_lease_was_ended_the_next_one_is_written_with_the_same_address(
    rack: Rack, watcher: LeaseWatcher, omapi: Omapi
) -> None:
    ip = boot(rack, watcher, 1)
    rack.power("off", 1)
    assert omapi.expire(ip, mac_of(1), time.time())
    ended = omapi.lease(ip)
    assert ended is not None
    assert ended.state != "active"
    assert boot(rack, watcher, 1) == ip


def test_a_lease_is_ended_even_if_our_clock_is_ahead_of_that_of_dhcpd(
    rack: Rack, watcher: LeaseWatcher, omapi: Omapi
) -> None:
    ip = boot(rack, watcher, 1)
    assert omapi.expire(ip, mac_of(1), time.time() + 60)
    ended = omapi.lease(ip)
    assert ended is not None
    assert ended.state != "active"


def test_a_lease_that_has_ended_can_be_ended_again(rack: Rack, watcher: LeaseWatcher, omapi: Omapi) -> None:
    ip = boot(rack, watcher, 1)
    assert omapi.expire(ip, mac_of(1), time.time())
    written = rack.lan.leases.read_bytes()
    assert omapi.expire(ip, mac_of(1), time.time())
    assert rack.lan.leases.read_bytes() == written


def test_a_lease_without_an_end_is_ended(omapi: Omapi) -> None:
    before = omapi.lease(SEVERAL[0])
    assert before is not None
    assert (before.state, before.ends) == ("active", None)
    assert omapi.expire(SEVERAL[0], mac_of(9), time.time())
    after = omapi.lease(SEVERAL[0])
    assert after is not None
    assert after.state != "active"


def test_the_lease_of_another_mac_is_not_ended(rack: Rack, watcher: LeaseWatcher, omapi: Omapi) -> None:
    ip = boot(rack, watcher, 1)
    written = rack.lan.leases.read_bytes()
    assert not omapi.expire(ip, mac_of(2), time.time())
    assert not omapi.expire(NOBODYS, mac_of(2), time.time())
    assert rack.lan.leases.read_bytes() == written


def test_an_address_that_nobody_had_has_no_mac_and_one_of_no_range_no_lease(omapi: Omapi) -> None:
    free = omapi.lease(NOBODYS)
    assert free is not None
    assert (free.mac, free.state) == (None, "free")
    assert omapi.lease("192.0.2.1") is None


def test_the_one_lease_of_a_mac_is_found_without_candidates(rack: Rack, watcher: LeaseWatcher, omapi: Omapi) -> None:
    ip = boot(rack, watcher, 1)
    assert [lease.ip for lease in omapi.leases(mac_of(1), [])] == [ip]
    assert omapi.leases(mac_of(2), [ip]) == []


def test_of_a_mac_with_several_leases_the_candidates_that_are_its_own_are_found(
    rack: Rack, watcher: LeaseWatcher, omapi: Omapi
) -> None:
    others = boot(rack, watcher, 1)
    assert omapi.leases(mac_of(9), []) == []
    assert [lease.ip for lease in omapi.leases(mac_of(9), [SEVERAL[2], others, NOBODYS, SEVERAL[0]])] == [
        SEVERAL[2],
        SEVERAL[0],
    ]


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        (None, "set [leases] omapi_key_file"),
        (OmapiKey("omapi_key", b"another secret"), "does not accept the key omapi_key"),
        (OmapiKey("another", SECRET), "does not accept the key another"),
        (OmapiKey("omapi_key", SECRET, "sha256"), "does not accept the key omapi_key"),
    ],
    ids=["none", "secret", "name", "algorithm"],
)
def test_a_key_that_is_not_the_one_of_dhcpd_is_an_error_that_says_so(
    rack: Rack, key: OmapiKey | None, advice: str
) -> None:
    with pytest.raises(OmapiError) as caught:
        client(rack.lan, key).lease(SEVERAL[0])
    assert advice in str(caught.value)


def test_every_algorithm_of_the_key_file_is_one_of_dhcpd(tmp_path: Path) -> None:
    for digest in ("md5", "sha1", "sha224", "sha256", "sha384", "sha512"):
        with lan_with(tmp_path / digest, f"hmac-{digest}") as lan:
            assert client(lan, OmapiKey("omapi_key", SECRET, digest)).lease(NOBODYS) is not None


def test_a_restart_of_dhcpd_is_not_noticed(rack: Rack, omapi: Omapi) -> None:
    before = omapi.lease(SEVERAL[0])
    rack.lan.restart_dhcpd()
    assert omapi.lease(SEVERAL[0]) == before


def test_threads_get_each_the_answer_to_their_own_question(omapi: Omapi) -> None:
    asked = [*SEVERAL, NOBODYS] * 25
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(omapi.lease, asked))
    assert [lease and lease.ip for lease in answers] == asked
