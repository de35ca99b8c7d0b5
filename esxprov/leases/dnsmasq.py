"""dnsmasq's lease file: `expiry mac ip name client-id` per line, truncated and written anew at each change."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from esxprov.leases.index import Index
from esxprov.leases.parser import Host, Record, is_address, normal_mac

QUIET_S = 1.0
"""A file that nobody wrote to for so long is complete: dnsmasq writes it in one go."""

_RETRY_S = 0.02
_READS = 5
"""How often a file that changes under our hands is read at one look. Its writer's next event brings the next look."""

_LINE = re.compile(rb"(\d{1,15}) (?:([0-9a-fA-F]{2})-)?([0-9a-fA-F:]*) (\d[\d.]*) (\S+)(?: \S*)?\Z")
_ETHERNET = (None, b"01", b"06")
"""Hardware types whose addresses are a network card's: 6 is any network of IEEE 802."""


class Table:
    """The lines of the file as changes: feed it whole files, one after the other. Half a last line is not read.

    A lease is its address, MAC and expiry. The file says neither when it was given nor when its client was last heard,
    and how long leases last is not known here. So what the first reading finds could be of any age, and later the order
    of reading tells what is new. A lease that never ends looks the same however often it is renewed.
    """

    def __init__(self) -> None:
        self.position = 0
        self.torn = 0
        self._known: dict[str, Record] = {}
        self._listed: set[str] = set()
        self._gone: set[str] = set()
        self._is_first = True

    def feed(self, data: bytes) -> list[Record]:
        """What is new in the whole file `data`, the newest last."""
        # dnsmasq puts a new lease first, and after a restart has turned the others round.
        lines = reversed(data[: data.rfind(b"\n") + 1].split(b"\n"))
        listed = {record.ip: record for line in lines if (record := _record(line))}
        changed = [found for record in listed.values() if (found := self._new(record))]
        self._listed = set(listed)
        self._is_first = False
        return changed

    def feed_whole(self, size: int, read: Callable[[int, int], bytes]) -> list[Record]:
        """The same as `feed(read(0, size))`."""
        return self.feed(read(0, size))

    def _new(self, record: Record) -> Record | None:
        known = self._known.get(record.ip)
        if known is not None and record.is_same_lease(known):
            if record.ip not in self._gone:
                return None
            record = known  # a full disk had cut the file off: what comes back is as old as it was
        else:
            self.position += 1
            record.sequence, record.in_order = self.position, not self._is_first
        self._known[record.ip] = record
        self._gone.discard(record.ip)
        return record

    def vanished(self) -> list[Record]:
        """The leases that the file fed last does not hold any more, as free ones. Ask it of complete files only."""
        gone = [record for ip, record in self._known.items() if ip not in self._listed and ip not in self._gone]
        self._gone.update(record.ip for record in gone)
        return [replace(record, state="free") for record in gone]


def _record(line: bytes) -> Record | None:
    """The lease of a line; None for the server's `duid`, for DHCPv6 and for what is no line of dnsmasq's."""
    found = _LINE.match(line)
    if found is None:
        return None
    expiry, hardware, address, ip_text, name = found.groups()
    ip = ip_text.decode()
    if not is_address(ip):
        return None
    return Record.of_seconds(
        ip,
        normal_mac(address.decode()) if hardware in _ETHERNET else None,
        "active",
        heard=None,
        ends=int(expiry) or None,
        hostname=b"" if name == b"*" else name,
        sequence=0,
    )


class DnsmasqFile:
    """dnsmasq's lease file, followed.

    It may be seen empty, cut off, or half old and half new. So only what two readings agree on counts, and what is
    missing is believed to be gone only once nobody has written for a while. New leases need not wait for that.
    """

    server: ClassVar[str] = "dnsmasq"
    advice: ClassVar[str] = "give dhcp-range a lease time, as 'infinite' leases are not written again"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem: OSError | None = None
        self._table = Table()
        self.index = Index(reader=self._table)
        self.index.settle()
        self._was_read = False
        self._complete: os.stat_result | None = None

    def poll(self) -> Sequence[Record | Host]:
        """Read what there is to read; what it changed."""
        try:
            status = self.path.stat()
            if self._complete is not None and _is_same(status, self._complete):
                return []
            if not self._was_read:
                # Old leases that half a file lacks would be news at the next reading.
                status = self._wait_until_quiet(status)
            data = self._read()
            is_untouched = _is_same(status, self.path.stat())
        except OSError as error:
            self.problem = error
            self._complete = None
            return []
        self.problem = None
        if data is None:
            return []
        self._was_read = True
        changed = self.index.feed(data)
        # Of a file that was truncated after we looked at its status, that status says nothing.
        is_complete = is_untouched and _is_quiet(status) and data[-1:] in (b"", b"\n")
        self._complete = status if is_complete else None
        return changed + [item for item in self._table.vanished() if self.index.add(item)] if is_complete else changed

    def close(self) -> None:
        """The file is not held between two looks."""

    def _wait_until_quiet(self, status: os.stat_result) -> os.stat_result:
        """A busy dnsmasq is not waited for any longer than a quiet one takes."""
        deadline = time.monotonic() + QUIET_S
        while not _is_quiet(status) and time.monotonic() < deadline:
            time.sleep(_RETRY_S)
            status = self.path.stat()
        return status

    def _read(self) -> bytes | None:
        """The file as two readings found it; None if it changes all the time."""
        data = self.path.read_bytes()
        for _ in range(_READS):
            again = self.path.read_bytes()
            if again == data:
                return data
            data = again
        return None


def _is_quiet(status: os.stat_result) -> bool:
    return time.time() - status.st_mtime >= QUIET_S


def _is_same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns) == (
        other.st_dev,
        other.st_ino,
        other.st_size,
        other.st_mtime_ns,
    )
