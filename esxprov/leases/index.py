"""What the records and declarations read so far amount to: one record per address, all addresses per MAC. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from esxprov.leases.parser import Host, Parser, Record
from esxprov.model import Lease


class Reader(Protocol):
    """What makes records of a lease file's bytes; the parser of dhcpd's files is one.

    `position` is greater than the sequence of every record so far, `torn` the number of torn records met.
    """

    position: int
    torn: int

    def feed(self, data: bytes) -> Sequence[Record | Host]:
        """What these bytes complete; never raises."""

    def feed_whole(self, size: int, read: Callable[[int, int], bytes]) -> Sequence[Record | Host]:
        """The same as `feed(read(0, size))`, as the first bytes: `read(begin, end)` gives any part of them."""


class Index:
    """The state of one lease file, whose bytes `reader` understands.

    dhcpd rewrites its file every hour and at each start, sorted by pool and expiry: last in the file is then not last
    written, and the dump holds what nobody acknowledged. So the index of a rewritten file is made with the index
    `before`, and a lease that was known keeps its sequence; what is new in it is not `in_order`.
    One that is only written again, with the times that it had, keeps its sequence in any file.
    """

    def __init__(self, before: Index | None = None, reader: Reader | None = None) -> None:
        self._reader = reader or Parser(before.position if before else 0)
        self._before: dict[str, Record] = before._by_ip if before else {}
        self._reading_whole = True
        self._by_ip: dict[str, Record] = {}
        self._by_mac: dict[str, dict[str, Record]] = {}
        self._fixed: dict[str, dict[str, str]] = {}
        self._hosts: dict[str, Host] = {}
        self.declined: dict[str, str] = dict(before.declined) if before else {}
        """MAC -> the address taken from it by an `abandoned` record, which does not name the MAC itself."""

    @property
    def position(self) -> int:
        """Everything read later has a greater sequence."""
        return self._reader.position

    @property
    def torn(self) -> int:
        """Torn records met: a full disk did that."""
        return self._reader.torn

    def feed(self, data: bytes) -> list[Record | Host]:
        """Take the next bytes of the file; what they changed."""
        return [item for item in self._reader.feed(data) if self.add(item)]

    def feed_whole(self, size: int, read: Callable[[int, int], bytes]) -> list[Record | Host]:
        """Take the first bytes of the file, `size` of them, of which `read(begin, end)` gives any part."""
        return [item for item in self._reader.feed_whole(size, read) if self.add(item)]

    def settle(self) -> None:
        """The file was read whole: from here on its order is the order of writing."""
        self._reading_whole = False
        self._before = {}

    def add(self, item: Record | Host) -> bool:
        """Take one record or declaration; whether it says anything new."""
        if isinstance(item, Host):
            return self._add_host(item)
        known = (self._before if self._reading_whole else self._by_ip).get(item.ip)
        is_new = known is None or not item.is_same_lease(known)
        if known is not None and not self._reading_whole and not is_new:
            # dhcpd writes a lease again, with the times that it had, when a failover peer or DNS has been told of it.
            is_new = (item.starts_text, item.cltt_text) != (known.starts_text, known.cltt_text)
        if not is_new:
            assert known is not None
            item.sequence, item.in_order = known.sequence, known.in_order
        elif self._reading_whole:
            item.in_order = False
        self._replace(item)
        return is_new

    def _replace(self, record: Record) -> None:
        old = self._by_ip.get(record.ip)
        if old is not None and old.mac is not None and old.mac != record.mac:
            del self._by_mac[old.mac][record.ip]
            if record.state == "abandoned":
                self.declined[old.mac] = record.ip
        self._by_ip[record.ip] = record
        if record.mac is not None:
            self._by_mac.setdefault(record.mac, {})[record.ip] = record
            if record.state == "active":
                self.declined.pop(record.mac, None)

    def _add_host(self, host: Host) -> bool:
        old = self._hosts.pop(host.name, None)
        if old is not None and old.mac is not None:
            self._fixed.get(old.mac, {}).pop(host.name, None)
        self._hosts[host.name] = host
        if host.mac is not None and host.ip is not None:
            self._fixed.setdefault(host.mac, {})[host.name] = host.ip
        return host != old

    def records(self, mac: str) -> list[Record]:
        """The records of a MAC, in whatever state, the newest last."""
        return sorted(self._by_mac.get(mac, {}).values(), key=_age)

    def leases(self, now: float) -> Iterator[Lease]:
        """Every lease that is one at `now`."""
        return (item.lease() for item in self._by_ip.values() if item.mac is not None and item.is_lease_at(now))

    def fixed(self, mac: str) -> Lease | None:
        """The address a `host` declaration gives this MAC; of several the one declared last."""
        declared = self._fixed.get(mac)
        return _fixed_lease(mac, *list(declared.items())[-1]) if declared else None

    def all_fixed(self) -> Iterator[Lease]:
        """Every address given by a `host` declaration."""
        return (_fixed_lease(mac, *item) for mac, declared in self._fixed.items() for item in declared.items())


def _age(record: Record) -> tuple[bool, int, int]:
    """Sorts a MAC's records by when they were written: by arrival where that is known, else by the record's times."""
    return record.in_order, 0 if record.in_order else record.last_seen, record.sequence


def _fixed_lease(mac: str, name: str, ip: str) -> Lease:
    """dhcpd never writes a lease for a fixed address, so there is nothing to wait for and no end."""
    return Lease(ip, mac, "static", None, None, hostname=name, fixed=True, evidence="host-declaration")
