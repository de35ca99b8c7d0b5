"""`python -m benchmarks.leases.hearer floor|watcher FILE COUNT`: hear of COUNT records that another process appends.

`floor` waits for inotify and reads the file, and does nothing with what it reads; `watcher` is ours, up to the
callback. Prints the delays from the beginning of each write in microseconds and the CPU microseconds per record.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from inotify_simple import INotify, flags

from esxprov.leases.follower import LeaseFile
from esxprov.leases.watcher import LeaseWatcher
from esxprov.model import Lease

_GAP_MS = 3.0
_PATIENCE_S = 120.0


def main() -> None:
    """The command."""
    how, path, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    command = [sys.executable, "-m", "benchmarks.leases.appender", str(path), str(count), str(_GAP_MS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as appender:
        assert appender.stdin is not None
        assert appender.stdout is not None

        def begin() -> float:
            assert appender.stdin is not None
            appender.stdin.write("\n")
            appender.stdin.flush()
            return time.process_time()

        cpu_s, heard = (_floor if how == "floor" else _watcher)(path, count, begin)
        began = json.loads(appender.stdout.read())
    delays_us = [(there - then) / 1000 for there, then in zip(heard, began, strict=True)]
    print(json.dumps({"delays_us": delays_us, "cpu_us": 1e6 * cpu_s / count}))


def _floor(path: Path, count: int, begin: Callable[[], float]) -> tuple[float, list[int]]:
    heard: list[int] = []
    with INotify() as inotify:
        inotify.add_watch(path.parent, flags.MODIFY | flags.MOVED_TO)
        file = os.open(path, os.O_RDONLY)
        os.lseek(file, 0, os.SEEK_END)
        before = begin()
        while len(heard) < count:
            os.read(inotify.fileno(), 65536)
            heard += [time.monotonic_ns()] * os.read(file, 65536).count(b"}\n")
        return time.process_time() - before, heard


def _watcher(path: Path, count: int, begin: Callable[[], float]) -> tuple[float, list[int]]:
    heard: list[int] = []
    all_heard = threading.Event()

    def hear(lease: Lease) -> None:
        heard.append(time.monotonic_ns())
        if len(heard) == count:
            all_heard.set()

    with LeaseWatcher(LeaseFile(path), None, hear):
        before = begin()
        if not all_heard.wait(_PATIENCE_S):
            raise RuntimeError(f"{len(heard)} of {count} records were heard of")
        return time.process_time() - before, heard


if __name__ == "__main__":
    main()
