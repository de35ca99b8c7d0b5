"""dhcpd itself as the oracle: what it makes of a lease file is what it writes when it starts on a copy of it.

dhcpd reads its leases and rewrites them before it opens a network interface, so it is given one that does not exist.
"""

from __future__ import annotations

import calendar
import json
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from benchmarks.leases.churn import Churn, mac_of
from esxprov.leases.follower import LeaseFile
from esxprov.leases.index import Index
from esxprov.leases.watcher import LeaseWatcher
from tests.testbed.lan import LAN
from tests.unit.leases.written import (
    DUID,
    FAILOVER_STATE,
    HEADER,
    NESTED_HOST,
    ON_BLOCK,
    A,
    B,
    C,
    at,
    fixed_host,
    host,
    record,
)

NOW = int(time.time())
HOUR_S = 3600
BOOT_S = 20.0

_CONF = """\
ddns-update-style none;
failover peer "fo" {
  secondary;
  address 127.0.0.1;
  port 6470;
  peer address 127.0.0.2;
  peer port 6470;
}
subnet 10.77.0.0 netmask 255.255.0.0 {
  pool {
    failover peer "fo";
    range 10.77.1.0 10.77.16.255;
  }
}
"""
_RECORD = re.compile(r"^lease (\S+) \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_ENDS = re.compile(r"^  ends (?:never|\d (\d+)/(\d+)/(\d+) (\d+):(\d+):(\d+));", re.MULTILINE)
_COMPLAINT = re.compile(r"^\S*dhcpd\.leases line \d+: |orrupt lease file", re.MULTILINE)
_MAC = re.compile(r"^  hardware ethernet (\S+);", re.MULTILINE)


class Dhcpd:
    """dhcpd, started on files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        (directory / "dhcpd.conf").write_text(_CONF)
        # Debian's AppArmor profile is for /usr/sbin/dhcpd, and lets that one write to the system's files only.
        self._program = shutil.copy(shutil.which("dhcpd", path="/usr/sbin:/usr/local/sbin") or "dhcpd", directory)

    def reading(self, leases: bytes) -> tuple[dict[str, str], bool]:
        """ip -> mac of what it takes for leased, and whether it complained about the file."""
        file = self._directory / "dhcpd.leases"
        file.write_bytes(leases)
        options = ["-4", "-f", "-d", "-cf", "dhcpd.conf", "-lf", str(file), "-pf", "dhcpd.pid", "no-interface"]
        done = subprocess.run(
            [self._program, *options], cwd=self._directory, capture_output=True, text=True, timeout=60, check=False
        )
        assert re.search(r"^Wrote \d+ leases to leases file", done.stderr, re.MULTILINE), done.stderr
        return active(file.read_text()), _COMPLAINT.search(done.stderr) is not None


def active(dump: str) -> dict[str, str]:
    """ip -> mac of a dump, in the one form that dhcpd writes; read by another way than the product's."""
    found = {}
    for ip, body in _RECORD.findall(dump):
        mac, ends = _MAC.search(body), _ENDS.search(body)
        assert ends is not None, body
        ends_at = calendar.timegm(tuple(map(int, ends.groups()))) if ends[1] else None
        if "\n  binding state active;" in body and mac is not None and (ends_at is None or ends_at > NOW):
            found[ip] = mac[1]
    return found


def ours(leases: bytes) -> dict[str, str]:
    index = Index()
    index.feed(leases)
    return {lease.ip: lease.mac for lease in index.leases(NOW)}


def lease(
    ip: str,
    mac: str | None,
    state: str = "active",
    *,
    ends: int | None = NOW + HOUR_S,
    before_mac: str = "",
    after_mac: str = "",
) -> bytes:
    return record(ip, mac, state, starts=NOW - 60, ends=ends, before_mac=before_mac, after_mac=after_mac)


@pytest.fixture
def dhcpd(tmp_path: Path) -> Dhcpd:
    return Dhcpd(tmp_path)


ONE = lease("10.77.1.1", A)
OLD = (
    f"lease 10.77.1.9 {{\n\tstarts {at(NOW - 60)};\n\tends {at(NOW + HOUR_S)};\n\thardware ethernet {A};\n}}\n"
).encode()
VCLS_HOST = NESTED_HOST.replace(b"hardware ethernet 00:00:00:00:00:01;", b'supersede server.filename = "pxelinux.0";')
CLTT = f"  cltt {at(NOW - 60)};\n".encode()
PEERS = b"".join(b"  %s %s;\n" % (stamp, at(NOW - 60).encode()) for stamp in (b"tstp", b"tsfp", b"atsfp"))
CASES = {
    "released": ONE + lease("10.77.1.1", A, "free"),
    "declined": ONE + lease("10.77.1.1", None, "abandoned"),
    "moved to another client": ONE + lease("10.77.1.1", B),
    "several of one client": ONE + lease("10.77.1.2", A) + lease("10.77.1.3", A) + lease("10.77.1.2", A),
    "expired but still active": lease("10.77.1.1", A, ends=NOW - 10) + lease("10.77.1.2", B),
    "never": lease("10.77.1.1", A, ends=None),
    "bootp": lease("10.77.1.1", A, ends=None, before_mac="dynamic-bootp;"),
    "beyond 2038": ONE.replace(at(NOW + HOUR_S).encode(), b"5 2039/01/01 00:00:00"),
    "epoch": ONE.replace(at(NOW + HOUR_S).encode() + b";", b"epoch %d; # Fri {" % (NOW + HOUR_S)),
    "offset": ONE.replace(at(NOW + HOUR_S).encode(), at(NOW + 2 * HOUR_S).encode() + b" -3600"),
    "strings": lease("10.77.1.1", A, after_mac=r'uid "\001}{;\"";' + "\n" + 'client-hostname "lease 10.77.1.3 {";')
    + lease("10.77.1.2", B, after_mac=r'set vendor-class-identifier = "a\"b\\c}{;#";'),
    "options with a MAC": lease("10.77.1.1", A, after_mac='option agent.remote-id "00:11:22:33:44:55";'),
    "on expiry": lease("10.77.1.1", A, after_mac=ON_BLOCK) + lease("10.77.1.2", B),
    "old daemon": OLD,
    "old daemon, abandoned": OLD.replace(b"\thardware", b"\tabandoned;\n\thardware"),
    "CRLF": (ONE + lease("10.77.1.2", B)).replace(b"\n", b"\r\n"),
    "no final newline": (ONE + lease("10.77.1.2", B)).rstrip(),
    "one line": (ONE + lease("10.77.1.2", B)).replace(b"\n", b" "),
    "upper case, short": lease("10.77.1.1", "0:50:56:0:1:A") + lease("10.77.1.2", "00:50:56:00:01:0B"),
    "reserved": lease("10.77.1.1", A, before_mac="reserved;"),
    "comments": ONE.replace(b"  binding", b"  # } {\n  binding").replace(b"}\n", b"} # x\n") + lease("10.77.1.2", B),
    "no hardware, then a host": lease("10.77.1.1", None, "abandoned") + fixed_host("h", A, "10.77.250.1"),
    "hosts between": HEADER + DUID + ONE + VCLS_HOST + host("vcl-9", "dynamic;", "deleted;") + lease("10.77.1.3", C),
    "failover": lease("10.77.1.1", A).replace(CLTT, PEERS)
    + FAILOVER_STATE
    + lease("10.77.1.2", B, "backup").replace(CLTT, PEERS)
    + lease("10.77.1.3", C).replace(CLTT, PEERS + CLTT)
    + FAILOVER_STATE,
}


@pytest.mark.parametrize("case", CASES)
def test_a_file_says_to_us_what_it_says_to_dhcpd(dhcpd: Dhcpd, case: str) -> None:
    theirs, complained = dhcpd.reading(CASES[case])
    assert not complained
    assert ours(CASES[case]) == theirs


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_an_hour_of_leases_says_to_us_what_it_says_to_dhcpd(dhcpd: Dhcpd, seed: int) -> None:
    churn = Churn(3000, seed, NOW)
    written = b"".join(churn)
    theirs, _ = dhcpd.reading(written)
    assert ours(written) == theirs == churn.owners


def test_of_a_torn_file_we_know_all_that_dhcpd_knows_and_every_record_that_is_complete(dhcpd: Dhcpd) -> None:
    """dhcpd drops what is glued to the torn record, and sometimes the next one."""
    before, after = lease("10.77.1.1", A) + lease("10.77.1.2", B), lease("10.77.1.4", C) + lease("10.77.1.5", C)
    for cut in range(len(b"lease 10.77.1.3 {\n"), len(ONE), 7):
        written = before + lease("10.77.1.3", C)[:cut] + after
        theirs, _ = dhcpd.reading(written)
        assert theirs.items() <= ours(written).items()
        assert ours(written) == {"10.77.1.1": A, "10.77.1.2": B, "10.77.1.4": C, "10.77.1.5": C}


def test_what_real_guests_leave_behind_says_to_us_what_it_says_to_dhcpd(dhcpd: Dhcpd, tmp_path: Path) -> None:
    directory = tmp_path / "lan"
    directory.mkdir()
    macs = [mac_of(number) for number in range(40)]
    with (
        LAN(directory) as lan,
        LeaseWatcher(LeaseFile(lan.leases)) as watcher,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as power,
    ):

        def order(event: str, mac: str) -> None:
            news = {"event": event, "vm": mac, "macs": [mac], "networks": ["Private"]}
            power.sendto(json.dumps(news).encode(), str(lan.power_socket))

        for chosen, event in ((macs, "on"), (macs[::3], "off"), (macs[::6], "on")):
            mark = watcher.mark()
            for mac in chosen:
                order(event, mac)
            if event == "on":
                assert all(watcher.wait(mac, mark, BOOT_S) for mac in chosen)
        written = lan.leases.read_bytes()
    theirs, _ = dhcpd.reading(written)
    assert ours(written) == theirs
    assert len(theirs) >= len(macs) - len(macs[::3])
