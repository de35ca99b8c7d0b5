"""Guests that boot when the simulator tells of a power-on: each asks for an address with the MAC of its private card.

They own no socket and no clock: frames go to a function, times are arguments. `ReplayedGuests` is for machines where
no network namespace can be made.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tests.testbed import dhcp

_FIRST_RETRY_S = 0.5
_LAST_RETRY_S = 8.0
_LEASE_S = 7200


@dataclass(frozen=True, slots=True)
class Habits:
    """How guests behave: the name of their private network, the time from power-on to their first packet, and
    whether they give their address back when they go.
    """

    private: str = "Private"
    boot_s: float = 0.0
    release: bool = True


class Journal:
    """One JSON line for whatever a guest did."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)

    def write(self, did: str, vm: str, mac: str, ip: str = "") -> None:
        self._file.write(json.dumps({"time": round(time.time(), 3), "did": did, "vm": vm, "mac": mac, "ip": ip}) + "\n")


class Population(Protocol):
    """What the LAN's loop needs of its guests; `now` is monotonic seconds."""

    def power(self, news: dict[str, Any], now: float) -> None:
        """A VM went on or off, or (event "decline") found its address in use, or (event "discover") asks what it could
        get and takes nothing.
        """

    def hear(self, frame: bytes, now: float) -> None:
        """A frame came."""

    def tick(self, now: float) -> float | None:
        """Do what is due; when the next thing is."""


@dataclass(slots=True)
class _Guest:
    vm: str
    mac: str
    due: float | None
    xid: int
    state: str = "booting"  # then discovering, requesting, bound
    ip: str = ""
    server: bytes = b""
    retry_s: float = _FIRST_RETRY_S

    @property
    def octets(self) -> bytes:
        return bytes.fromhex(self.mac.replace(":", ""))


class Guests:
    """Real handshakes with a real server."""

    def __init__(self, send: Callable[[bytes], object], habits: Habits, journal: Journal) -> None:
        self._send = send
        self._habits = habits
        self._journal = journal
        self._guests: dict[str, _Guest] = {}

    def power(self, news: dict[str, Any], now: float) -> None:
        mac = private_mac(news, self._habits.private)
        if mac is None:
            return
        if news["event"] == "discover":
            self._send(dhcp.message(dhcp.DISCOVER, bytes.fromhex(mac.replace(":", "")), random.getrandbits(32)))
            return
        guest = self._guests.pop(mac, None)
        if news["event"] == "decline" and guest is not None:
            self._decline(guest)
            return
        self._leave(guest)
        if news["event"] == "on":
            guest = _Guest(news["vm"], mac, now + self._habits.boot_s, random.getrandbits(32))
            self._guests[mac] = guest
            self._journal.write("on", guest.vm, mac)

    def hear(self, frame: bytes, now: float) -> None:
        answer = dhcp.read(frame)
        guest = self._guests.get(answer.mac.hex(":")) if answer else None
        if answer is None or guest is None or guest.xid != answer.xid:
            return
        match guest.state, answer.kind:
            case "discovering", dhcp.OFFER:
                guest.state, guest.ip, guest.server = "requesting", answer.ip, answer.server
                guest.due, guest.retry_s = now, _FIRST_RETRY_S
            case "requesting", dhcp.ACK:
                guest.state, guest.ip, guest.due = "bound", answer.ip, None
                self._journal.write("bound", guest.vm, guest.mac, guest.ip)
            case "requesting", dhcp.NAK:
                guest.state, guest.due = "booting", now
                self._journal.write("refused", guest.vm, guest.mac, guest.ip)

    def tick(self, now: float) -> float | None:
        for guest in self._guests.values():
            if guest.due is not None and guest.due <= now:
                self._speak(guest, now)
        return min((guest.due for guest in self._guests.values() if guest.due is not None), default=None)

    def _speak(self, guest: _Guest, now: float) -> None:
        if guest.state == "requesting":
            ip, server = guest.ip, guest.server
            self._send(dhcp.message(dhcp.REQUEST, guest.octets, guest.xid, requested_ip=ip, server=server))
        else:
            guest.state = "discovering"
            self._send(dhcp.message(dhcp.DISCOVER, guest.octets, guest.xid))
        guest.due = now + guest.retry_s
        guest.retry_s = min(2 * guest.retry_s, _LAST_RETRY_S)

    def _decline(self, guest: _Guest) -> None:
        ip, server = guest.ip, guest.server
        self._send(dhcp.message(dhcp.DECLINE, guest.octets, guest.xid, requested_ip=ip, server=server))
        self._journal.write("declined", guest.vm, guest.mac, ip)

    def _leave(self, guest: _Guest | None) -> None:
        if guest is None:
            return
        if guest.state == "bound" and self._habits.release:
            self._send(dhcp.message(dhcp.RELEASE, guest.octets, guest.xid, server=guest.server, own_ip=guest.ip))
            self._journal.write("released", guest.vm, guest.mac, guest.ip)
        else:
            self._journal.write("vanished", guest.vm, guest.mac, guest.ip)


class ReplayedGuests:
    """The records that dhcpd would write for such guests, appended as it appends them."""

    def __init__(self, leases: Path, habits: Habits, journal: Journal) -> None:
        self._leases = leases
        self._habits = habits
        self._journal = journal
        self._booting: dict[str, tuple[float, str]] = {}
        self._bound: dict[str, str] = {}
        self._addresses: dict[str, str] = {}

    def power(self, news: dict[str, Any], now: float) -> None:
        mac = private_mac(news, self._habits.private)
        if mac is None:
            return
        self._booting.pop(mac, None)
        vm = self._bound.pop(mac, None)
        if vm is not None and self._habits.release:
            self._record(mac, "free")
            self._journal.write("released", vm, mac, self._addresses[mac])
        if news["event"] == "on":
            self._booting[mac] = (now + self._habits.boot_s, news["vm"])

    def hear(self, frame: bytes, now: float) -> None:
        """There is nobody to hear."""

    def tick(self, now: float) -> float | None:
        for mac, (due, vm) in list(self._booting.items()):
            if due <= now:
                del self._booting[mac]
                self._bound[mac] = vm
                self._record(mac, "active")
                self._journal.write("bound", vm, mac, self._addresses[mac])
        return min((due for due, _ in self._booting.values()), default=None)

    def rewrite(self) -> None:
        """What a restart of dhcpd does to its file: another inode."""
        fresh = self._leases.with_name(f"{self._leases.name}.{int(time.time())}")
        fresh.write_bytes(self._leases.read_bytes())
        fresh.replace(self._leases)

    def _record(self, mac: str, state: str) -> None:
        number = len(self._addresses)
        ip = self._addresses.setdefault(mac, f"10.77.{1 + number // 256}.{number % 256}")
        now = time.time()
        ends = now + _LEASE_S if state == "active" else now
        starts, ends_at = (time.strftime("%w %Y/%m/%d %H:%M:%S", time.gmtime(at)) for at in (now, ends))
        record = (
            f"lease {ip} {{\n  starts {starts};\n  ends {ends_at};\n  cltt {starts};\n  binding state {state};\n"
            f"  next binding state free;\n  rewind binding state free;\n  hardware ethernet {mac};\n}}\n"
        )
        with self._leases.open("ab", buffering=0) as file:
            file.write(record.encode())


def private_mac(news: dict[str, Any], private: str) -> str | None:
    """The MAC of the first card on the private network, None if there is none."""
    cards = zip(news["macs"], news["networks"], strict=True)
    return next((str(mac).lower() for mac, network in cards if network == private), None)
