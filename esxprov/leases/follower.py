"""Keep an index in step with files that others write: dhcpd.leases as it grows and is replaced, and dhcpd.conf."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Protocol

from esxprov.leases.index import Index, Reader
from esxprov.leases.parser import Host, Parser, Record

_APPENDED = 64 << 10
"""Bytes read at each look: what is appended between two is less as a rule, and it needs no asking for the size."""

_CHUNK = 32 << 20
"""Bytes read at a time where it is more."""

_FINGERPRINT = 128
"""Bytes before the offset that are compared at each read: somebody may rewrite the file in place."""


class Follower(Protocol):
    """A DHCP server's lease file, followed. Not thread-safe.

    Events of the name `path` say when to look. `server` is what writes it, `advice` what to set so that it writes every
    lease, also one that was given again early; both for messages. `problem` is why the file cannot be read at the
    moment; `index` what was read, which keeps its sequences for as long as the follower lives.
    """

    server: ClassVar[str]
    advice: ClassVar[str]

    @property
    def path(self) -> Path: ...

    @property
    def problem(self) -> OSError | None: ...

    @property
    def index(self) -> Index: ...

    def poll(self) -> Sequence[Record | Host]:
        """Read what there is to read; what it changed. Never raises OSError: that becomes `problem`."""

    def close(self) -> None:
        """Let go of the file; the index stays, and `poll` may be called again."""


class LeaseFile:
    """dhcpd.leases, followed.

    dhcpd replaces the file by writing a new one and renaming it over the old, so the held file is read to its end
    before the new one is opened.
    """

    server: ClassVar[str] = "dhcpd"
    advice: ClassVar[str] = "set 'dhcp-cache-threshold 0;' on the private subnet in dhcpd.conf"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.index = Index()
        self.problem: OSError | None = None
        self._name = os.fspath(path)
        self._file: int | None = None
        self._identity: tuple[int, int] | None = None
        self._offset = 0
        self._fingerprint = b""
        self._history = b""

    def poll(self) -> list[Record | Host]:
        """Read what there is to read; what it changed."""
        changed: list[Record | Host] = []
        try:
            # Look at the name first: if it has moved on, nothing more is appended to the file we hold.
            moved = self._name_moved()
            if self._file is not None:
                changed += self._read()
            if moved:
                changed += self._open()
        except OSError as error:
            self.problem = error
        return changed

    def close(self) -> None:
        """Let go of the file; the index stays."""
        if self._file is not None:
            os.close(self._file)
        self._file = self._identity = None

    def _name_moved(self) -> bool:
        try:
            now = os.stat(self._name)
        except OSError as error:
            self.problem = error
            return False
        self.problem = None
        return (now.st_dev, now.st_ino) != self._identity

    def _open(self) -> list[Record | Host]:
        file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._begin()
        except OSError:
            os.close(file)
            raise
        self.close()
        self._file = file
        status = os.fstat(file)
        self._identity = (status.st_dev, status.st_ino)
        index = self.index
        changed = self._read()
        if self.index is index:
            index.settle()
        return changed

    def _begin(self) -> None:
        self._history = self._read_history()
        self.index = Index(before=self.index, reader=self._reader(self.index.position))
        self._offset = 0
        self._fingerprint = b""

    def _reader(self, position: int) -> Reader:
        """What understands the file, its sequences being greater than `position`."""
        return Parser(position)

    def _read_history(self) -> bytes:
        """What comes before the first byte of the file: nothing, as dhcpd writes all it knows into each new one."""
        return b""

    def _read(self) -> list[Record | Host]:
        """To the end of the held file."""
        assert self._file is not None
        changed: list[Record | Host] = []
        size = _APPENDED
        while True:
            if self._offset == 0 and not self._history:
                changed += self._read_whole(self._file)
            start = self._offset - len(self._fingerprint)
            data = os.pread(self._file, size, start)
            if not data.startswith(self._fingerprint):
                # Rewritten in place. Nobody tells when its writer is done, so the index is not settled: until the next
                # rename what is new here is judged by its times.
                self._begin()
                continue
            new = data[len(self._fingerprint) :]
            if new or self._history:
                self._move_on(len(new), data)
                changed += self.index.feed(self._history + new if self._history else new)
                self._history = b""
            if len(data) < size:
                return changed
            size = _CHUNK

    def _read_whole(self, file: int) -> list[Record | Host]:
        """What is there now, of a file of which nothing was read."""

        def read(begin: int, end: int) -> bytes:
            return os.pread(file, end - begin, begin)

        end = os.fstat(file).st_size
        begin = max(0, end - _FINGERPRINT)
        tail = read(begin, end)  # before the rest: if that is truncated meanwhile, the next read finds another tail
        size = begin + len(tail) if tail else 0
        self._move_on(size, tail)
        return self.index.feed_whole(size, read)

    def _move_on(self, length: int, read: bytes) -> None:
        self._offset += length
        self._fingerprint = read[-_FINGERPRINT:]


class StaticHosts:
    """The `host` declarations of dhcpd.conf and the files it includes. Not thread-safe."""

    def __init__(self, conf: Path | None) -> None:
        self.index = Index()
        self.problem: OSError | None = None
        self._conf = conf
        self._files: dict[Path, tuple[int, int, int] | None] = {}

    def poll(self) -> list[Host]:
        """Read the files again if one of them is another than before; the declarations then found."""
        if self._conf is None or (self._files and all(_version(path) == seen for path, seen in self._files.items())):
            return []
        self.index = Index()
        self.problem = None
        self._files = {}
        found: list[Host] = []
        waiting = [self._conf]
        while waiting:
            path = waiting.pop()
            if path in self._files:
                continue
            self._files[path] = _version(path)
            parser = Parser()
            try:
                found += [item for item in parser.feed(path.read_bytes()) if isinstance(item, Host)]
            except OSError as error:
                self.problem = error
            waiting += [self._conf.parent / name for name in parser.includes if name and "\0" not in name]
        for host in found:
            self.index.add(host)
        return found


def _version(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
