"""dhcpd.leases bytes -> lease records and host declarations. Pure, incremental, never raises.

The file is a log: the last record of an address wins. Three things shape this parser (ISC dhcpd 4.4, server/db.c and
common/parse.c, and what a real dhcpd did to its file):

* A read may end anywhere, so what is not finished yet is carried to the next `feed`. Any split of the same bytes gives
  the same records.
* A full disk tears records for good and later ones are glued on (`  enlease 10.77.1.73 {`). A dhcpd string never
  holds a raw newline, so `lease <ip> {` at the end of a line starts a record wherever it stands, and what was open is
  dropped.
* Guests choose host names and vendor classes, so strings hold braces, semicolons and whole fake records.

Two readings of a record must agree: `_CANONICAL` takes what dhcpd's writer usually prints (fast), `_Scan` takes what
its reader accepts: any order, spacing and case, comments, nested blocks, the formats of older daemons.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache

from esxprov.model import Lease

LONGEST_DECLARATION = 256 * 1024
"""Bytes carried for an unfinished declaration. More is junk, of which only the last line may start a record."""

_PIECE = 128 << 10
"""Bytes of a whole file that are read at a time: they stay in the processor's cache, and in memory we have already."""

_LONGEST_STRETCH = 32 << 20
"""Bytes of a whole file after which the beginning of a record is looked for no more; twice as many are held at most."""

_LEASE_OPENS = rb"lease[ \t]++([0-9.]++)[ \t]*+\{[ \t\r]*+"
_RECORD_START = re.compile(_LEASE_OPENS + rb"\n")
_PERHAPS_START = re.compile(_LEASE_OPENS + rb"\Z")  # its newline, or something else, is still to come

_TIME = rb"([^;\"{}#\n\0]*+);(?: #[^\n\0{]*+)?\n"  # "2 2026/11/24 15:31:07;" or "epoch 1795326089; # Sun Nov 22 ..."
_REST = rb"[^;\"{}#\n\0]*+;\n"
_QUOTED = rb"\"[^\"\\\n\0]*+(?:\\[^\n\0][^\"\\\n\0]*+)*+\""
_OCTET = rb"(?:1\d\d|[1-9]?\d|2[0-4]\d|25[0-5])"
_CANONICAL = re.compile(
    rb"lease (" + rb"\.".join([_OCTET] * 4) + rb") \{\n"
    rb"(?:  starts " + _TIME + rb")?+(?:  ends " + _TIME + rb")?+"
    rb"(?:  tstp " + _REST + rb")?+((?:  (?:tsfp|atsfp) " + _REST + rb")*+)(?:  cltt " + _TIME + rb")?+"
    rb"  binding state ([a-z]++);\n"
    rb"(?:  (?:next|rewind) binding state [a-z]++;\n)*+"
    rb"(?:  hardware ethernet ([0-9a-f]{2}(?::[0-9a-f]{2}){5});\n)?+"
    rb"(?:  (?:uid|set [\w-]++ =|option [\w.-]++) (?:" + _QUOTED + rb"|[^;\"{}#\n\0]++);\n)*+"
    rb"(?:  client-hostname (" + _QUOTED + rb");\n)?+"
    rb"\}"
)

_TOKEN = re.compile(
    rb"(?P<word>[^\s{};\"#\0]+|" + _QUOTED + rb")"
    rb"|(?P<mark>[{};])"
    rb"|(?P<comment>\#[^\n]*\n)"
    rb"|(?P<torn>\"[^\n]*\n|\0+)"  # a string cut off by its line's end, or blocks a crash left unwritten
    rb"|(?P<unfinished>[\"\#][^\n]*\Z)"
)
_MAC = re.compile(r"[0-9a-f]{1,2}(?::[0-9a-f]{1,2}){5}\Z", re.IGNORECASE)
_IP = re.compile(r"(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)\Z")
_DATE = re.compile(
    rb"(?:\d+ )?(\d{4})/(\d{1,2})/(\d{1,2}) (\d{1,2}):(\d{1,2}):(\d{1,2})(?: ([+-]?\d{1,6}))?(?: UTC)?\Z"
)
_EPOCH = re.compile(rb"epoch (\d{1,15})\Z")
_DAY_0 = date(1970, 1, 1).toordinal()
_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|(.))", re.DOTALL)
_EVENTS = frozenset((b"expiry", b"release", b"commit", b"transmission", b"or"))
_NEVER = 1 << 62


@dataclass(slots=True)
class Record:
    """One `lease` record, its times still as text: most records are superseded before anybody asks.

    `mac` is None without an Ethernet address (an `abandoned` record has none). `sequence` grows in the order of
    reading: one more than the number of bytes read before the record. `in_order` says that this order is the order of
    writing; not so for a record found in a whole file (a rewrite sorts by pool and expiry) nor for one a failover peer
    has a part in (each is written several times), whose own times have to do.
    """

    ip: str
    mac: str | None
    state: str
    starts_text: bytes | None
    ends_text: bytes | None
    cltt_text: bytes | None
    hostname_text: bytes | None
    in_order: bool
    sequence: int

    @classmethod
    def of_seconds(
        cls,
        ip: str,
        mac: str | None,
        state: str,
        *,
        heard: int | None,
        ends: int | None,
        hostname: bytes,
        in_order: bool = True,
        sequence: int,
    ) -> Record:
        """A record from a file that holds epoch seconds: `heard` is when the client was last heard, None if unknown;
        `ends` is None for never.
        """
        heard_text = None if heard is None else b"epoch %d" % heard
        ends_text = b"never" if ends is None else b"epoch %d" % ends
        quoted = b'"' + re.sub(rb'([\\"])', rb"\\\1", hostname) + b'"' if hostname else None
        return cls(ip, mac, state, heard_text, ends_text, heard_text, quoted, in_order, sequence)

    @property
    def starts(self) -> int | None:
        return _known(_epoch_seconds(self.starts_text))

    @property
    def ends(self) -> int | None:
        """Epoch seconds, None for never. A record without a readable end has ended: that is how dhcpd reads it."""
        seconds = _epoch_seconds(self.ends_text)
        return 0 if seconds is None else _known(seconds)

    @property
    def cltt(self) -> int | None:
        return _known(_epoch_seconds(self.cltt_text))

    @property
    def last_seen(self) -> int:
        """When the client was last heard; a failover peer's copy has no cltt, then the lease's start. 0 if neither."""
        return self.cltt or self.starts or 0

    def is_lease_at(self, now: float) -> bool:
        """Whether the address is the client's at `now`. `active` alone proves nothing: dhcpd writes expiry lazily."""
        return self.state == "active" and ((ends := self.ends) is None or ends > now)

    def is_same_lease(self, other: Record) -> bool:
        """Whether both tell of one grant. A rewrite dumps newer `starts` and `cltt` after a DISCOVER that nobody
        acknowledged; only an acknowledgement moves the end.
        """
        if (self.mac, self.state) != (other.mac, other.state):
            return False
        return self.ends_text == other.ends_text or self.ends == other.ends

    def lease(self) -> Lease:
        """The record as the rest of the product knows it. Only for records with a MAC."""
        assert self.mac is not None
        hostname = _unquoted(self.hostname_text) if self.hostname_text else None
        return Lease(self.ip, self.mac, self.state, self.starts, self.ends, self.cltt, hostname, sequence=self.sequence)


@dataclass(frozen=True, slots=True)
class Host:
    """One `host` declaration. `ip` is the first address of its `fixed-address`, None if it has none or was deleted."""

    name: str
    mac: str | None
    ip: str | None


class _NewestFirst:
    """What is found reading backwards. `seen` are the addresses of records, as they are written."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self._items: list[Record | Host] = []

    def add(self, items: list[Record | Host]) -> None:
        """What stands before everything found so far, in file order."""
        for item in reversed(items):
            if self.is_wanted(item):
                self._items.append(item)
                if isinstance(item, Record):
                    self.seen.add(item.ip.encode())

    def is_wanted(self, item: Record | Host) -> bool:
        """Whether no later record of its address was found."""
        return isinstance(item, Host) or item.ip.encode() not in self.seen

    def in_file_order(self) -> list[Record | Host]:
        """All of it."""
        return self._items[::-1]


class Parser:
    """Feed it the bytes of dhcpd.leases (or dhcpd.conf) in any pieces.

    `position` is the number of bytes fed, counted from `first_position`; `torn` the number of torn records met;
    `includes` the files named by `include` statements.
    """

    def __init__(self, first_position: int = 0) -> None:
        self.position = first_position
        self.torn = 0
        self.includes: list[str] = []
        self._carry = b""

    def feed(self, data: bytes) -> list[Record | Host]:
        """What these bytes complete, in file order; of several records of one address only the last."""
        text = self._carry + data if self._carry else data
        offset = self.position - len(self._carry)
        self.position += len(data)
        one = _CANONICAL.match(text)
        if one is not None and text[one.end() :] == b"\n":  # as dhcpd appends it
            self._carry = b""
            return [_canonical_record(one, offset + 1)]
        found = _NewestFirst()
        self._carry_on(text[self._read_backwards(text, 0, offset, found) :])
        return found.in_file_order()

    def feed_whole(self, size: int, read: Callable[[int, int], bytes]) -> list[Record | Host]:
        """The same as `feed(read(0, size))`, for the first bytes of a parser: `read(begin, end)` gives part of them.

        It is read in pieces from the end, so that however large the file is, no superseded record is decoded or kept.
        """
        offset = self.position
        found = _NewestFirst()
        carry = None
        begin, text = size, b""
        while begin > 0 and len(text) <= _LONGEST_STRETCH:
            end, begin = begin, max(0, begin - max(_PIECE, len(text)))  # twice as much of what has no record
            text = read(begin, end) + text
            # What stands before the first record of this piece belongs to an earlier one.
            start = _RECORD_START.search(text) if begin > 0 else None
            cut = start.start() if start else len(text) if begin > 0 else 0
            if cut < len(text):
                resume = self._read_backwards(text, cut, offset + begin, found, closed=carry is not None)
                carry = text[resume:] if carry is None else carry
            text = text[:cut]
        older: list[Record | Host] = []
        for low in range(0, begin + len(text), _PIECE):  # no record for very long, but maybe hosts
            older += self.feed(read(low, min(low + _PIECE, begin + len(text))))
        self.position = offset + size
        if carry is not None:
            self._carry_on(carry)
        return [*(item for item in older if found.is_wanted(item)), *found.in_file_order()]

    def _carry_on(self, rest: bytes) -> None:
        """Keep what is not finished yet."""
        if len(rest) > LONGEST_DECLARATION:
            rest = rest[max(rest.rfind(b"\n") + 1, len(rest) - LONGEST_DECLARATION) :]
        self._carry = rest

    def _read_backwards(
        self, text: bytes, begin: int, offset: int, found: _NewestFirst, *, closed: bool = False
    ) -> int:
        """Find the declarations of text[begin:], of which the first byte stands at `offset`; where to go on.

        From the end, because a superseded record need not even be decoded: most of an hour's file. But other blocks
        may stand behind it, so another brace is looked for. `closed`: another record starts at the end.
        """
        starts = list(_RECORD_START.finditer(text, begin))
        perhaps = None if closed else _PERHAPS_START.search(text, max(begin, text.rfind(b"\n") + 1))
        end = perhaps.start() if perhaps else len(text)
        resume = end if closed else None
        for start in reversed(starts):
            record, inside = start.span()
            if start[1] not in found.seen or text.find(b"{", inside, end) >= 0:
                items, done = self._read(text, record, end, offset, closed=resume is not None)
                resume = done if resume is None else resume
                found.add(items)
            end = record
        items, done = self._read(text, begin, end, offset, closed=resume is not None)
        found.add(items)
        return done if resume is None else resume

    def _read(
        self, text: bytes, begin: int, end: int, offset: int, *, closed: bool = False
    ) -> tuple[list[Record | Host], int]:
        """The declarations of text[begin:end], in which at most the first byte starts a record, and where to go on.

        `closed`: another record starts at `end`, so whatever is open there is torn.
        """
        found: list[Record | Host] = []
        if begin == end:
            return found, end
        canonical = _CANONICAL.match(text, begin, end)
        if canonical is not None:
            found.append(_canonical_record(canonical, offset + begin + 1))
            begin = canonical.end()
        if not text[begin:end].strip():
            return found, end
        scan = _Scan(text, begin, end)
        for declaration in scan.complete:
            item = declaration.host() if declaration.is_host else declaration.record(offset + declaration.begin + 1)
            if item is not None:
                found.append(item)
        self.torn += scan.torn + (closed and scan.open is not None)
        self.includes += scan.includes
        return found, scan.resume


@dataclass(slots=True)
class _Declaration:
    """A `lease` or `host` block with its plain statements; what nested blocks hold is left out."""

    is_host: bool
    name: bytes
    begin: int
    depth: int = 1
    statements: list[list[bytes]] = field(default_factory=list)

    def record(self, sequence: int) -> Record | None:
        """The lease record, None if its address is none."""
        ip = self.name.decode("ascii", "replace")
        if not is_address(ip):
            return None
        record = Record(ip, None, "", None, None, None, None, in_order=True, sequence=sequence)
        for keyword, *words in self.statements:
            match keyword.lower():
                case b"starts":
                    record.starts_text = b" ".join(words)
                case b"ends":
                    record.ends_text = b" ".join(words)
                case b"cltt":
                    record.cltt_text = b" ".join(words)
                case b"tsfp" | b"atsfp":
                    record.in_order = False
                case b"binding" if len(words) == 2:
                    record.state = words[1].decode("ascii", "replace").lower()
                case b"abandoned":
                    record.state = "abandoned"
                case b"hardware":
                    record.mac = _ethernet(words)
                case b"client-hostname" if words:
                    record.hostname_text = words[0]
        # Daemons before dhcpd 3 (OpenBSD's, VMware's) write no state: theirs is a lease until its end. `reserved` and
        # `bootp` are what dhcpd's reader takes for active.
        if record.state in ("", "reserved", "bootp"):
            record.state = "active"
        return record

    def host(self) -> Host:
        """The host declaration."""
        mac = ip = None
        deleted = False
        for keyword, *words in self.statements:
            match keyword.lower():
                case b"hardware":
                    mac = _ethernet(words)
                case b"fixed-address":
                    first = b" ".join(words).split(b",")[0].strip().decode("ascii", "replace")
                    ip = first if is_address(first) else None
                case b"deleted":
                    deleted = True
        return Host(self.name.decode("utf-8", "replace").strip('"'), mac, None if deleted else ip)


class _Scan:
    """Reader's grammar: the declarations in text[begin:end], found by tokens.

    Outside of `lease` and `host` blocks braces mean nothing, so groups, subnets, failover states and DHCPv6's `ia-na`
    are walked through. `resume` is where to go on once more text is there; `open` the block that has no end yet.
    """

    def __init__(self, text: bytes, begin: int, end: int) -> None:
        self.complete: list[_Declaration] = []
        self.includes: list[str] = []
        self.open: _Declaration | None = None
        self.torn = 0
        self.resume = begin
        words: list[bytes] = []
        statement = begin
        for token in _TOKEN.finditer(text, begin, end):
            kind = token.lastgroup
            if kind == "word":
                if not words:
                    statement = token.start()
                words.append(token[0])
                continue
            if kind == "unfinished":
                self.resume = token.start()
                break
            if kind == "mark":
                self._mark(token[0], words, statement)
                words = []
            elif kind == "torn":
                self._tear()
                words = []
            self.resume = token.end()
        else:
            self.resume = end
        if words:
            self.resume = statement
        if self.open is not None:
            self.resume = self.open.begin

    def _mark(self, mark: bytes, words: list[bytes], statement: int) -> None:
        if mark == b"{":
            self._enter(words, statement)
        elif self.open is None:
            if mark == b";" and len(words) == 2 and words[0].lower() == b"include":
                self.includes.append(_unquoted(words[1]))
        elif mark == b";":
            if words and self.open.depth == 1:
                self.open.statements.append(words)
        else:
            self.open.depth -= 1
            if self.open.depth == 0:
                self.complete.append(self.open)
                self.open = None

    def _enter(self, words: list[bytes], statement: int) -> None:
        keyword, name = (words[-2].lower(), words[-1]) if len(words) > 1 else (b"", b"")
        # A host block never stands within another one, so what was open is torn; its last word may be glued on.
        is_host = keyword.endswith(b"host")
        if is_host or (keyword == b"lease" and len(words) == 2):
            self._tear()
            self.open = _Declaration(is_host, name, statement)
        elif self.open is not None:
            # A lease has no blocks but `on expiry or release {`: another one means that the lease was torn before it.
            if self.open.is_host or self.open.depth > 1 or (words[:1] == [b"on"] and _EVENTS.issuperset(words[1:])):
                self.open.depth += 1
            else:
                self._tear()

    def _tear(self) -> None:
        self.torn += self.open is not None
        self.open = None


def normal_mac(text: str) -> str | None:
    """A MAC as the index keys it (lower case, two digits, colons), None if it is none. `0:50:56:0:0:AA` is one."""
    if not _MAC.match(text):
        return None
    return ":".join(f"{int(part, 16):02x}" for part in text.split(":"))


def is_address(text: str) -> bool:
    """Whether it is an IPv4 address with all its dots."""
    return _IP.match(text) is not None


def _ethernet(words: list[bytes]) -> str | None:
    """The MAC of a `hardware` statement; other media (token-ring, infiniband) have none that a VM could have."""
    if words[:1] and words[0].lower() == b"ethernet":
        return normal_mac(b"".join(words[1:]).decode("ascii", "replace"))
    return None


def _canonical_record(found: re.Match[bytes], sequence: int) -> Record:
    ip, starts, ends, failover, cltt, state, mac, hostname = found.groups()
    word = state.decode()
    if word in ("reserved", "bootp"):
        word = "active"
    address = mac.decode() if mac else None
    return Record(ip.decode(), address, word, starts, ends, cltt, hostname, not failover, sequence)


@lru_cache(maxsize=256)  # of one record the same times are asked for again and again
def _epoch_seconds(text: bytes | None) -> int | None:
    """A dhcpd time as epoch seconds, `_NEVER`, or None if it is no time. The weekday says nothing and is not read."""
    if text is None:
        return None
    found = _DATE.match(text)  # as dhcpd's writer prints it
    if found is None:
        words = b" ".join(text.split())
        if words == b"never":
            return _NEVER
        if epoch := _EPOCH.match(words):
            return int(epoch[1])
        found = _DATE.match(words)
    if found is None:
        return None
    year, month, day, hour, minute, second, offset = map(int, found.groups(b"0"))
    if year >= 2038:  # dhcpd's reader: beyond its clock
        return _NEVER
    try:
        days = date(year, month, 1).toordinal() - _DAY_0 + day - 1
    except ValueError:
        return None
    return ((days * 24 + hour) * 60 + minute) * 60 + second + offset


def _known(seconds: int | None) -> int | None:
    return None if seconds == _NEVER else seconds


def _unquoted(word: bytes) -> str:
    """The text of a dhcpd string: octal escapes are bytes, any other escaped character is itself."""

    def plain(escape: re.Match[bytes]) -> bytes:
        octal, character = escape.groups()
        return bytes([int(octal, 8) & 0xFF]) if octal else character

    text = word[1:-1] if word.startswith(b'"') else word
    if b"\\" in text:
        text = _ESCAPE.sub(plain, text)
    return text.decode("utf-8", "replace")
