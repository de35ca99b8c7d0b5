"""A lease file as dhcpd leaves it an hour after a rewrite: the dump of all addresses, then what was appended since."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

HEADER = (
    b"# The format of this file is documented in the dhcpd.leases(5) manual page.\n"
    b"# This lease file was written by isc-dhcp-4.4.3-P1\n\n"
    b"# authoring-byte-order entry is generated, DO NOT DELETE\n"
    b"authoring-byte-order little-endian;\n\n"
)
LEASE_S = 7200
_HOUR_S = 3600
_RENEWED, _RELEASED, _DECLINED = 0.80, 0.90, 0.905  # the rest goes to a client that had no address
_FIRST_IP = (10 << 24) + (77 << 16) + (1 << 8)
_VENDORS = (b"MSFT 5.0", b"anaconda-Linux 4.18.0 x86_64", b"PXEClient:Arch:00000:UNDI:002001", b"udhcp 1.36.1")


class Churn:
    """`records` records of a tenth as many addresses, the same for the same seed and `now` (epoch seconds).

    `owners` is ip -> mac of what is leased after the records that were taken from the iterator.
    """

    def __init__(self, records: int, seed: int, now: int) -> None:
        self.owners: dict[str, str] = {}
        self._records = records
        self._addresses = max(1, records // 10)
        self._now = now
        self._random = random.Random(seed)
        self._clients: dict[int, int] = {}
        self._idle = list(range(self._addresses, self._addresses + self._addresses // 4 + 1))

    def __iter__(self) -> Iterator[bytes]:
        dumped = list(range(self._addresses))
        self._random.shuffle(dumped)
        for address in dumped:
            yield self._leased(address, address, self._now - _HOUR_S - self._random.randrange(LEASE_S // 4))
        for number in range(self._addresses, self._records):
            yield self._event(self._now - _HOUR_S + _HOUR_S * number // self._records)

    def _event(self, at: int) -> bytes:
        address, chance = self._random.randrange(self._addresses), self._random.random()
        client = self._clients.get(address)
        if client is not None and chance < _RENEWED:
            return self._leased(address, client, at)
        if client is not None and chance < _DECLINED:
            self._idle.append(self._clients.pop(address))
            del self.owners[ip_of(address)]
            if chance < _RELEASED:
                return record(ip_of(address), "free", at, at, mac_of(client), _identity(client))
            return record(ip_of(address), "abandoned", at, at + LEASE_S)
        if client is not None:
            self._idle.append(client)
        chosen = self._random.randrange(len(self._idle))
        self._idle[chosen], self._idle[-1] = self._idle[-1], self._idle[chosen]
        return self._leased(address, self._idle.pop(), at)

    def _leased(self, address: int, client: int, at: int) -> bytes:
        self._clients[address] = client
        self.owners[ip_of(address)] = mac_of(client)
        told = b'  set vendor-class-identifier = "%s";\n' % _VENDORS[client % 4]
        if client % 5:
            told += b'  client-hostname "vcl-vm-%d";\n' % client
        return record(ip_of(address), "active", at, at + LEASE_S, mac_of(client), _identity(client) + told)


def write(path: Path, records: int, seed: int, now: int) -> dict[str, str]:
    """Write such a file; what is leased at its end, ip -> mac."""
    churn = Churn(records, seed, now)
    with path.open("wb", buffering=1 << 20) as file:
        file.write(HEADER)
        file.writelines(churn)
    return churn.owners


def record(ip: str, state: str, starts: int, ends: int, mac: str = "", after_mac: bytes = b"") -> bytes:
    """One record in dhcpd's own order; without hardware if there is no MAC."""
    lines = f"lease {ip} {{\n  starts {_at(starts)};\n  ends {_at(ends)};\n"
    if state != "active":
        lines += f"  tstp {_at(ends)};\n"
    lines += f"  cltt {_at(starts)};\n  binding state {state};\n"
    if state != "free":
        lines += "  next binding state free;\n  rewind binding state free;\n"
    if mac:
        lines += f"  hardware ethernet {mac};\n"
    return lines.encode() + after_mac + b"}\n"


def ip_of(address: int) -> str:
    """The nth address of the range."""
    number = _FIRST_IP + address
    return ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))


def mac_of(client: int) -> str:
    """The nth client's MAC."""
    return f"00:50:56:{client >> 16:02x}:{client >> 8 & 255:02x}:{client & 255:02x}"


def _identity(client: int) -> bytes:
    """The client's id: its MAC as Windows sends it, a DUID as Linux does, or none."""
    mac = bytes.fromhex(mac_of(client).replace(":", ""))
    if client % 5 == 4:
        return b""
    sent = b"\1" + mac if client % 5 < 3 else b"\xff" + mac[2:] + b"\0\1\0\1" + (client * 2654435761).to_bytes(8) + mac
    return b'  uid "%s";\n' % b"".join(_quoted(octet) for octet in sent)


def _quoted(octet: int) -> bytes:
    if octet in b'"\\':
        return b"\\%c" % octet
    return b"%c" % octet if 32 <= octet < 127 else b"\\%03o" % octet


def _at(seconds: int) -> str:
    return time.strftime("%w %Y/%m/%d %H:%M:%S", time.gmtime(seconds))
