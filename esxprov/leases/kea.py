"""Kea's memfile: kea-leases4.csv as it grows, and the files that its cleanup (LFC) makes of the older rows."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, NamedTuple

from esxprov.leases.follower import LeaseFile
from esxprov.leases.index import Reader
from esxprov.leases.parser import Record, is_address, normal_mac

LONGEST_LINE = 64 * 1024
"""Bytes of a row; Kea lets a `user_context` hold a relay's options. More is junk."""

_PIECE = 32 << 20
"""Bytes of a whole file that are read at a time."""

_FOREVER = 0xFFFFFFFF
_STATES = {b"0": "active", b"1": "abandoned", b"2": "expired", b"3": "released"}
"""Kea's words are default, declined, expired-reclaimed and (since 2.7) released."""

_NUMBER = re.compile(rb"\d{1,15}\Z")
_ESCAPE = re.compile(rb"&#x([0-9a-fA-F]{2})")


class _Columns(NamedTuple):
    """Where a row has what; other columns come and go with Kea's versions."""

    width: int
    address: int
    hwaddr: int
    valid_lifetime: int
    expire: int
    hostname: int | None
    state: int | None


class KeaParser:
    """Feed it the bytes of a memfile in any pieces; the header line, and each further one, names the columns.

    `position` is the number of bytes fed, counted from `first_position`; `torn` the number of rows that a full disk or
    a crash cut off.
    """

    def __init__(self, first_position: int = 0) -> None:
        self.position = first_position
        self.torn = 0
        self._columns: _Columns | None = None
        self._carry = b""
        self._carried_from = first_position

    def feed(self, data: bytes) -> list[Record]:
        """What these bytes complete, in file order; of several rows of one address only the last."""
        *lines, rest = (self._carry + data).split(b"\n")
        newest: dict[bytes, tuple[int, list[bytes], _Columns]] = {}
        line_end = self.position - len(self._carry)
        begin = self._carried_from
        for line in lines:
            line_end += len(line) + 1
            if len(line) <= LONGEST_LINE:
                self._take(line.rstrip(b"\r"), begin, newest)
            begin = line_end
        self.position += len(data)
        self._carried_from = begin
        self._carry = rest[: LONGEST_LINE + 1]  # enough to know that it is too long
        records = (_record(fields, columns, begin + 1) for begin, fields, columns in newest.values())
        return [record for record in records if record is not None]

    def feed_whole(self, size: int, read: Callable[[int, int], bytes]) -> list[Record]:
        """The same as `feed(read(0, size))`; of a file as large as Kea leaves none, an older row may come, too."""
        pieces = (read(begin, min(begin + _PIECE, size)) for begin in range(0, size, _PIECE))
        return [record for piece in pieces for record in self.feed(piece)]

    def _take(self, line: bytes, begin: int, newest: dict[bytes, tuple[int, list[bytes], _Columns]]) -> None:
        if not line:
            return
        fields = line.split(b",")
        header = _header(fields)
        if header is not None:
            self._columns = header
        elif self._columns is None or len(fields) != self._columns.width:
            self.torn += 1
        else:
            address = fields[self._columns.address]
            newest.pop(address, None)
            newest[address] = (begin, fields, self._columns)


def _header(fields: list[bytes]) -> _Columns | None:
    if b"hwaddr" not in fields:
        return None
    place = {name.decode("ascii", "replace"): number for number, name in enumerate(fields)}
    if not place.keys() >= {"address", "valid_lifetime", "expire"}:
        return None
    return _Columns(
        len(fields),
        place["address"],
        place["hwaddr"],
        place["valid_lifetime"],
        place["expire"],
        place.get("hostname"),
        place.get("state"),
    )


def _record(fields: list[bytes], columns: _Columns, sequence: int) -> Record | None:
    """The row as a record; None if it is no row of Kea's, or one of DHCPv6."""
    ip = fields[columns.address].decode("ascii", "replace")
    lifetime_text, expire_text = fields[columns.valid_lifetime], fields[columns.expire]
    if not is_address(ip) or not _NUMBER.match(lifetime_text) or not _NUMBER.match(expire_text):
        return None
    lifetime, expire = int(lifetime_text), int(expire_text)
    state = "active" if columns.state is None else _STATES.get(fields[columns.state], "unknown")
    # Kea gives an address back by a row that lives for no time, and leaves the state as it was.
    if lifetime == 0 and state == "active":
        state = "released"
    return Record.of_seconds(
        ip,
        normal_mac(fields[columns.hwaddr].decode("ascii", "replace")),
        state,
        heard=max(expire - lifetime, 0),
        ends=None if lifetime == _FOREVER else expire,
        hostname=b"" if columns.hostname is None else _unescaped(fields[columns.hostname]),
        sequence=sequence,
    )


def _unescaped(field: bytes) -> bytes:
    return _ESCAPE.sub(lambda escape: bytes([int(escape[1], 16)]), field)


class KeaFile(LeaseFile):
    """Kea's memfile, followed.

    Kea only appends. Now and then its LFC renames the file away and begins an empty one; the program kea-lfc then
    condenses what was before. So whenever the name is another file, the older rows are read first.
    """

    server: ClassVar[str] = "Kea"
    advice: ClassVar[str] = "set '\"cache-threshold\": 0.0' on the private subnet in Kea's configuration"

    def _reader(self, position: int) -> Reader:
        return KeaParser(position)

    def _read_history(self) -> bytes:
        """The older rows, from the files that Kea itself would load: `.completed` holds all that `.2` and `.1` hold,
        and it is there while kea-lfc removes these; else `.2` is the last result and `.1` what is not yet in it.
        """
        completed, previous, copy = (self.path.with_name(self.path.name + end) for end in (".completed", ".2", ".1"))
        while True:
            seen = [_identity(path) for path in (completed, previous, copy)]
            chosen = [completed] if seen[0] else [previous, copy]
            rows = b"".join(_rows(path) for path in chosen)
            # kea-lfc renames and removes: what was read belongs together if all is as it was before.
            if seen == [_identity(path) for path in (completed, previous, copy)]:
                return rows


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _rows(path: Path) -> bytes:
    try:
        return path.read_bytes() + b"\n"
    except FileNotFoundError:
        return b""
