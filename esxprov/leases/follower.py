"""Keep an index in step with files that others write: dhcpd.leases as it grows and is replaced, and dhcpd.conf."""

from __future__ import annotations

import os
from pathlib import Path

from esxprov.leases.index import Index
from esxprov.leases.parser import Host, Parser, Record

_CHUNK = 8 << 20
"""Bytes read at a time of what was appended."""

_FINGERPRINT = 128
"""Bytes before the offset that are compared at each read: somebody may rewrite the file in place."""


class LeaseFile:
    """dhcpd.leases, followed. Not thread-safe.

    dhcpd replaces the file by writing a new one and renaming it over the old, so the held file is read to its end
    before the new one is opened. `problem` is why the file cannot be read at the moment.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.index = Index()
        self.problem: OSError | None = None
        self._file: int | None = None
        self._identity: tuple[int, int] | None = None
        self._offset = 0
        self._fingerprint = b""

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
            now = os.stat(self.path)
        except OSError as error:
            self.problem = error
            return False
        self.problem = None
        return (now.st_dev, now.st_ino) != self._identity

    def _open(self) -> list[Record | Host]:
        file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        self.close()
        self._file = file
        status = os.fstat(file)
        self._identity = (status.st_dev, status.st_ino)
        self._begin()
        index = self.index
        changed = self._read()
        if self.index is index:
            index.settle()
        return changed

    def _begin(self) -> None:
        self.index = Index(before=self.index)
        self._offset = 0
        self._fingerprint = b""

    def _read(self) -> list[Record | Host]:
        """To the end of the held file."""
        assert self._file is not None
        changed: list[Record | Host] = []
        while True:
            if self._offset == 0:
                changed += self._read_whole(self._file)
            start = self._offset - len(self._fingerprint)
            wanted = max(os.fstat(self._file).st_size - start, len(self._fingerprint))
            data = os.pread(self._file, min(wanted, _CHUNK), start)
            if not data.startswith(self._fingerprint):
                # Rewritten in place. Nobody tells when its writer is done, so the index is not settled: until the next
                # rename what is new here is judged by its times.
                self._begin()
                continue
            new = data[len(self._fingerprint) :]
            if new:
                self._move_on(len(new), data)
                changed += self.index.feed(new)
            if wanted <= _CHUNK:
                return changed

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
