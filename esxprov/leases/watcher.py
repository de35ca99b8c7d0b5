"""Watch a lease file for thousands of waiters: one thread reads, each waiter is woken for its own MAC only."""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType

from inotify_simple import INotify, flags, parse_events

from esxprov.leases.follower import Follower, StaticHosts
from esxprov.leases.parser import Host, Record, normal_mac
from esxprov.model import Lease

logger = logging.getLogger(__name__)

SAFETY_TICK_S = 10.0
"""How often the files are looked at without an event: network file systems and overlays give none."""

CANCEL_CHECK_S = 1.0
"""How often `wait` asks whether it is still wanted."""

CLOCK_SLACK_S = 2
"""dhcpd's times are whole seconds, and it may run on a neighbour with its own clock."""

_SELF = flags.DELETE_SELF | flags.MOVE_SELF
_WATCHED = flags.MODIFY | flags.CREATE | flags.MOVED_TO | _SELF | flags.ONLYDIR
_WATCH_LOST = _SELF | flags.IGNORED | flags.UNMOUNT | flags.Q_OVERFLOW

_EVENTS_BYTES = 64 << 10
"""Bytes of events that are read at a time: hundreds, of the longest names."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A position in the stream of lease records: the count of those read so far, negative if that is not known, and
    the time (epoch seconds).
    """

    sequence: int
    at: float


class LeaseWatcher:
    """The leases in a followed file as they are written, and the `host` declarations in `conf`, a dhcpd.conf.

    The directories are watched, not the files: dhcpd and Kea replace theirs every hour. Events only say when to look;
    what happened is read from the files, so a lost event costs a delay and no lease. A missing file or directory is
    waited for. `on_change` is called with each lease that is newly active, one at a time and never for those found by
    `start`.
    """

    def __init__(
        self,
        file: Follower,
        conf: Path | None = None,
        on_change: Callable[[Lease], None] | None = None,
        *,
        tick_s: float = SAFETY_TICK_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._lock = threading.RLock()  # owns the files, their indexes and the table of waiters
        self._file = file
        self._hosts = StaticHosts(conf)
        self._waiters: dict[str, list[Callable[[], None]]] = defaultdict(list)
        self._on_change = on_change
        self._tick_s = tick_s
        self._clock = clock
        paths = [path for path in (file.path, conf) if path is not None]
        self._names = frozenset(path.name for path in paths)
        self._conf_name = conf.name if conf else ""
        self._directories = {path.parent for path in paths}
        self._watched: dict[Path, int] = {}
        self._is_missing = False  # a directory, for which an ancestor is watched
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._inotify: INotify | None = None
        self._wake = -1
        self._reported: tuple[str, ...] = ()
        self._torn = 0

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Read what is there and follow it from now on. OSError if the kernel grants no inotify instance."""
        self._stopping.clear()
        self._inotify = INotify()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._watch_directories()  # before the first look, or what is written between the two would be missed
        with self._lock:
            self._look(announce=False)
        self._thread = threading.Thread(target=self._run, name="lease-watcher", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop reading; waiters return without a lease."""
        self._stopping.set()
        if self._thread is not None:
            os.eventfd_write(self._wake, 1)
            self._thread.join()
            os.close(self._wake)
            self._thread = None
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None
        with self._lock:
            self._watched = {}
            self._file.close()
            for waiters in self._waiters.values():
                for wake in waiters:
                    wake()

    def __enter__(self) -> LeaseWatcher:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def is_stopping(self) -> bool:
        """Nothing more is read, and nobody waits any more."""
        return self._stopping.is_set()

    @property
    def problem(self) -> OSError | None:
        """Why the lease file cannot be read at the moment."""
        return self._file.problem

    # --- questions ----------------------------------------------------------------------------------------------------

    def mark(self) -> Mark:
        """The position now, after everything dhcpd has written: take it before power-on."""
        with self._lock:
            self._look()
            return Mark(self._file.index.position, self._clock())

    def arm(self, mac: str | None) -> Mark:
        """See Source: every MAC's leases are read, so any mark does."""
        return self.mark()

    def rearm(self, mac: str | None, at: float) -> Mark:
        """See Source: what the earlier process had counted is gone, so the records' own times decide."""
        return Mark(-1, at)

    def wait(
        self, mac: str, mark: Mark, timeout_s: float, cancelled: Callable[[], bool] = lambda: False
    ) -> Lease | None:
        """The active, unexpired lease of a MAC that was recorded after the mark; the newest if there are several.

        A fixed address is answered at once. None at the timeout, when `cancelled()` turns true, or at `stop`. What was
        declined before the answer is not answered.
        """
        woken = threading.Event()
        deadline = time.monotonic() + timeout_s
        with self.waking(mac, mark, woken.set):
            while True:
                woken.clear()
                lease = self.fresh(mac, mark)
                left_s = deadline - time.monotonic()
                if lease is not None or left_s <= 0 or self._stopping.is_set() or cancelled():
                    return lease
                woken.wait(min(left_s, CANCEL_CHECK_S))

    def active(self) -> list[Lease]:
        """All leases that are one now, fixed addresses included."""
        with self._lock:
            index = self._file.index
            return [*index.leases(self._clock()), *index.all_fixed(), *self._hosts.index.all_fixed()]

    def active_of(self, mac: str) -> list[Lease]:
        """The active, unexpired leases of a MAC, fresh or not, the newest first."""
        mac = normal_mac(mac) or mac
        with self._lock:
            return [record.lease() for record in reversed(self._active_records(mac))]

    def is_declined(self, mac: str, ip: str) -> bool:
        """Whether the MAC has declined the address since, or somebody else was found to have it; looked up now."""
        with self._lock:
            self._look()
            return self._file.index.declined.get(normal_mac(mac) or mac) == ip

    def what_was_seen(self, mac: str, mark: Mark | None = None) -> str:
        """Why there is no fresh lease of this MAC and what to do about it, in one sentence without a full stop."""
        mac = normal_mac(mac) or mac
        with self._lock:
            path, problem = self._file.path, self._file.problem
            if isinstance(problem, FileNotFoundError):
                return (
                    f"the lease file {path} does not exist: start {self._file.server}, or set [leases] source to the "
                    f"file that it writes"
                )
            if problem is not None:
                return f"the lease file {path} cannot be read ({problem.strerror}): let the service's user read it"
            if found := self._active_records(mac):
                return (
                    f"an active lease {found[-1].ip} from before power-on exists but no fresh one was written: "
                    f"{self._file.advice}"
                )
            if declined := self._file.index.declined.get(mac):
                return (
                    f"the VM got {declined} and declined it: find the other machine that uses this address, or take it "
                    f"out of {self._file.server}'s range"
                )
            if old := self._file.index.records(mac):
                state = "expired" if old[-1].state == "active" else old[-1].state
                return (
                    f"the last lease of this MAC, {old[-1].ip}, is {state} and no new one was written: is the VM's "
                    f"first NIC connected to the private network and does the guest use DHCP?"
                )
            return (
                "no lease of this MAC at all: is the VM's first NIC on the private network and does the subnet have a "
                "range and allow unknown clients?"
            )

    def _active_records(self, mac: str) -> list[Record]:
        now = self._clock()
        return [record for record in self._file.index.records(mac) if record.is_lease_at(now)]

    def _fixed(self, mac: str) -> Lease | None:
        """What OMAPI declared at run time (in the lease file) is newer than dhcpd.conf."""
        return self._file.index.fixed(mac) or self._hosts.index.fixed(mac)

    def fresh(self, mac: str, mark: Mark) -> Lease | None:
        """The newest active, unexpired lease of a MAC that was recorded after the mark; a fixed address at once."""
        mac = normal_mac(mac) or mac
        with self._lock:
            if fixed := self._fixed(mac):
                return fixed
            fresh = [record for record in self._active_records(mac) if _is_after(record, mark)]
            return fresh[-1].lease() if fresh else None

    @contextmanager
    def waking(self, mac: str, mark: Mark, wake: Callable[[], None]) -> Iterator[None]:
        """While it is entered, `wake` is called whenever `fresh` may have another answer. It must not take long."""
        mac = normal_mac(mac) or mac
        with self._lock:
            self._waiters[mac].append(wake)
        try:
            yield
        finally:
            with self._lock:
                self._waiters[mac].remove(wake)
                if not self._waiters[mac]:
                    del self._waiters[mac]

    # --- reading ------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        assert self._inotify is not None
        inotify = self._inotify.fileno()
        poller = select.poll()
        poller.register(inotify, select.POLLIN)
        poller.register(self._wake, select.POLLIN)
        while True:
            ready = dict(poller.poll(self._tick_s * 1000))
            if self._wake in ready:
                return
            is_lost, names = _told(os.read(inotify, _EVENTS_BYTES)) if ready else (True, frozenset())
            if is_lost or self._is_missing:
                self._watch_directories()
                names = self._names
            if not names.isdisjoint(self._names):
                with self._lock:
                    self._look(hosts=self._conf_name in names)

    def _look(self, *, announce: bool = True, hosts: bool = True) -> None:
        """Read the files and wake whom it concerns. Called with the lock, by whoever wants to know.

        Not the `hosts`, if only a lease was written.
        """
        changed: Sequence[Record | Host] = self._file.poll()
        for item in (*changed, *self._hosts.poll()) if hosts else changed:
            for wake in self._waiters.get(item.mac or "", ()):
                wake()
            if announce and isinstance(item, Record) and item.mac and item.is_lease_at(self._clock()):
                self._announce(item.lease())
        self._report()

    def _announce(self, lease: Lease) -> None:
        if self._on_change is None:
            return
        try:
            self._on_change(lease)
        except Exception:  # a listener's bug must not end the reading for everybody
            logger.exception("the listener for leases failed on %s", lease)

    def _report(self) -> None:
        """Tell the admin once about what keeps leases from being seen."""
        problems = tuple(str(problem) for problem in (self._file.problem, self._hosts.problem) if problem)
        if problems != self._reported:
            for problem in problems:
                logger.warning(
                    "cannot read what the DHCP server writes: %s; it is tried again on every change", problem
                )
            self._reported = problems
        torn = self._file.index.torn
        if torn > self._torn:
            logger.warning("%s holds records torn by a full disk or a crash: see to its file system", self._file.path)
        self._torn = torn

    def _watch_directories(self) -> None:
        """Watch each directory, or while it is missing its nearest ancestor, where it will appear."""
        before: dict[Path, int] | None = None
        watched: dict[Path, int] = self._watched
        # Until nothing changes: a directory may appear after it was missed and before its ancestor was watched.
        while watched != before:
            before, watched = watched, {}
            for directory in self._directories:
                for candidate in (directory, *directory.parents):
                    watch = self._add_watch(candidate)
                    if watch is not None:
                        watched[candidate] = watch
                        break
            for stale in set(before.values()) - set(watched.values()):
                self._remove_watch(stale)
        self._watched = watched
        self._is_missing = watched.keys() != self._directories

    def _add_watch(self, directory: Path) -> int | None:
        assert self._inotify is not None
        try:
            return int(self._inotify.add_watch(directory, _WATCHED))
        except OSError:  # missing, or the kernel's limit of watches is reached: the safety tick looks anyway
            return None

    def _remove_watch(self, watch: int) -> None:
        assert self._inotify is not None
        with suppress(OSError):  # the kernel itself drops the watch of a directory that was deleted
            self._inotify.rm_watch(watch)


@lru_cache(maxsize=16)  # an append is told in the same bytes as the one before
def _told(events: bytes) -> tuple[bool, frozenset[str]]:
    """What the kernel's bytes say: whether a watch or events were lost, and the names of the files that changed."""
    parsed = parse_events(events)
    return any(event.mask & _WATCH_LOST for event in parsed), frozenset(event.name for event in parsed)


def tells(path: Path, timeout_s: float = 2.0) -> bool:
    """Whether the kernel tells what happens to a file: it is opened for that, which changes nothing."""
    try:
        with INotify() as inotify:
            inotify.add_watch(path.parent, flags.OPEN | flags.ONLYDIR)
            os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            return any(event.name == path.name for event in inotify.read(timeout=int(timeout_s * 1000)))
    except OSError:
        return False


def _is_after(record: Record, mark: Mark) -> bool:
    """Whether a record is news to whoever took the mark. Its place decides, its times where places say nothing."""
    is_recent = record.last_seen >= mark.at - CLOCK_SLACK_S
    if mark.sequence < 0:
        return is_recent
    return record.sequence > mark.sequence and (record.in_order or is_recent)
