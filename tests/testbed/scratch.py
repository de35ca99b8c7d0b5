"""Directories in memory for what servers write: quick, with short names for sockets, and gone when their owner is."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import TextIO

_MEMORY = Path("/dev/shm")
_PREFIX = "esxprov-bed-"
_LEAST_BYTES = 512 * 1024 * 1024


class Scratch:
    """`path` lives until `remove()`, at the latest until the interpreter ends.

    Its owner holds a lock on a file in it. Whoever makes the next one removes those whose lock nobody holds: what a
    starter that was killed has left. (A process id would not do: the owner may have been in another pid namespace.)
    """

    def __init__(self, directory: Path) -> None:
        """On /dev/shm if there is room, else in `directory`."""
        parent = _MEMORY if _has_room(_MEMORY) else directory
        sweep(parent)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        self._lock: TextIO = (self.path / "lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._remove = weakref.finalize(self, _remove, self.path, self._lock)

    def remove(self) -> None:
        """Delete it; a second time does nothing."""
        self._remove()


def _remove(path: Path, lock: TextIO) -> None:
    shutil.rmtree(path, ignore_errors=True)
    lock.close()


def sweep(parent: Path = _MEMORY) -> None:
    """Delete the directories whose owners are gone."""
    for path in parent.glob(f"{_PREFIX}*"):
        try:
            with (path / "lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue  # held by its owner, being made right now, or somebody else's


def _has_room(directory: Path) -> bool:
    if not os.access(directory, os.W_OK):
        return False
    return shutil.disk_usage(directory).free >= _LEAST_BYTES
