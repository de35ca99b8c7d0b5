"""Keeping what every endpoint has current: one thread, one session and one stream of updates for each."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from esxprov.errors import ProvisioningError
from esxprov.model import EndpointConfig
from esxprov.ports import Look
from esxprov.vsphere import faults, inventory
from esxprov.vsphere.properties import Found
from esxprov.vsphere.session import Session
from esxprov.vsphere.table import Table
from esxprov.vsphere.updates import LOST, Updates

log = logging.getLogger(__name__)

POLL_S = 60
"""How old something may get that the stream does not tell."""

WAIT_S = 10
"""The longest that an endpoint holds back its answer that nothing has changed."""

ALIVE_S = 15
"""What is known is served for so long after the endpoint's last sign of life: a wait, and half of one for the way."""

PAUSES_S = (1, 2, 4, 8, 16, 30)
"""Between attempts to reach a silent endpoint. Until the next attempt is over nobody else need wait for it."""

REFUSED_S = 300
"""Between logins with a password that was refused: ESXi locks an account after five."""

STOP_S = 5
"""How long `stop` waits for sessions to be logged out."""


def pause_s(failures: int, code: str) -> float:
    """Until the next attempt, after so many in a row have failed, the last one with that ProvisioningError code."""
    return REFUSED_S if code == "vsphere_auth" else PAUSES_S[min(failures, len(PAUSES_S)) - 1]


class Watch:
    """One endpoint: what it has, whether it is alive, and the thread that finds out."""

    def __init__(
        self,
        config: EndpointConfig,
        tell: Callable[[], None],
        poll_s: float = POLL_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._tell = tell
        self._poll_s = poll_s
        self._monotonic = monotonic
        self._ended = threading.Event()
        self._awake = threading.Event()  # ends a pause between attempts
        self._thread = threading.Thread(target=self._run, name=f"watch {config.name}", daemon=True)
        # Of the thread alone, but for Session.interrupt:
        self._session = Session(config)
        self._updates = Updates(self._session)
        self._failures = 0  # in a row
        # Of all threads:
        self._lock = threading.Lock()  # guards all below
        self._table = Table(config.name)
        self._alive_at = -math.inf  # the last proof of life
        self._silence: _Silence | None = None  # since then
        self._leaving = False

    def start(self) -> None:
        self._thread.start()

    def look(self) -> Look | None:
        """ports.Watches.look"""
        name = self._config.name
        with self._lock:
            now = self._monotonic()
            if self._silence is not None and now < self._silence.until:
                return Look(name, problem=self._silence.text(now))
            if now - self._alive_at > ALIVE_S:
                return None
            return Look(name, self._table.hosts(), self._table.vms(), seen_at=self._alive_at)

    def poll(self, session: Session) -> list[Found]:
        """Read everything through that session, and correct by it what is known. Any thread. Raises foreign."""
        began = self._monotonic()
        try:
            found = self._polled(lambda: inventory.everything(session))
        except faults.FOREIGN as error:
            self._is_silent(self._translated(error), began, 0)
            raise
        self._awake.set()  # it answers: the stream need not wait for its next attempt
        return found

    def end(self) -> None:
        """Ask the thread to end; it logs out first. Any thread."""
        self._ended.set()
        self._awake.set()

    def join(self, until: float) -> bool:
        """Wait for the thread to end, until that monotonic time. False if it has not."""
        while self._thread.is_alive() and (left_s := until - time.monotonic()) > 0:
            with self._lock:
                if not self._leaving:
                    # Again and again, for between two looks at _ended it may just have begun to wait.
                    self._session.interrupt()
            self._thread.join(min(left_s, 0.05))
        return not self._thread.is_alive()

    # --- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self._follow()
            except Exception as error:
                if self._ended.is_set():
                    break
                next_s = self._failed(error)
                self._awake.clear()
                if not self._ended.is_set():
                    self._awake.wait(next_s)
        self._leave()

    def _follow(self) -> None:
        """Take over what the endpoint tells, until it is lost or we shall end."""
        self._polled(self._updates.begin)
        # Endpoints that were begun together are not polled together.
        due = time.monotonic() + self._poll_s * random.uniform(0.5, 1)
        while not self._ended.is_set():
            # The answer is held back for so long, so it must be well within the time-out.
            wait_s = min(WAIT_S, self._config.timeout_s // 2, due - time.monotonic())
            updates = self._updates.next(max(1, int(wait_s)))
            with self._lock:
                news = self._table.fold(updates)
            self._is_alive(self._monotonic(), news)
            self._failures = 0
            if self._table.has_gaps or time.monotonic() >= due:
                self.poll(self._session)
                due = time.monotonic() + self._poll_s

    def _polled(self, read: Callable[[], list[Found]]) -> list[Found]:
        with self._lock:
            poll = self._table.begin()
            began = self._monotonic()
        try:
            found = read()
            with self._lock:
                news = self._table.correct(poll, found)
        finally:
            with self._lock:
                self._table.end(poll)
        self._is_alive(began, news)
        return found

    def _is_alive(self, at: float, changed: bool) -> None:
        """It has answered a question of the time `at`, and what it said made a difference or not."""
        with self._lock:
            self._alive_at = max(self._alive_at, at)
            silence, self._silence = self._silence, None
        if silence is not None:
            log.info("%s answers again after %.0f s", self._config.name, self._monotonic() - silence.since)
        if changed or silence is not None:
            self._tell()

    def _is_silent(self, problem: ProvisioningError, asked_at: float, next_s: float) -> None:
        """A question of `asked_at` had no answer, and we shall ask again after `next_s`."""
        with self._lock:
            if self._alive_at > asked_at:
                return  # it has answered somebody else
            now = self._monotonic()
            since = self._silence.since if self._silence else now
            first = self._silence is None
            self._silence = _Silence(problem.message, since, now + next_s + self._config.timeout_s)
        if first:
            log.warning("%s is left out until it answers: %s", self._config.name, problem)
            self._tell()

    def _failed(self, error: Exception) -> float:
        """Note that following the endpoint has failed; returns the seconds until the next attempt."""
        self._failures += 1
        name = self._config.name
        if self._failures == 1 and isinstance(error, LOST):
            log.debug("the updates of %s are begun anew: %s", name, faults.name_of(error))
            return 0
        if not isinstance(error, faults.FOREIGN):
            # Without this thread the endpoint would be asked each time, and nobody would know why.
            log.exception("watching %s failed", name)
            return pause_s(self._failures, "")
        problem = self._translated(error)
        next_s = pause_s(self._failures, problem.code)
        self._is_silent(problem, math.inf, next_s)
        return next_s

    def _translated(self, error: BaseException) -> ProvisioningError:
        return faults.translate(error, self._config, "look at the hosts")

    def _leave(self) -> None:
        with self._lock:
            self._leaving = True
            silent = self._silence is not None
        if silent:
            return
        try:
            self._session.close()
        except faults.FOREIGN as error:
            log.debug("%s could not be logged out: %s", self._config.name, faults.name_of(error))


@dataclass(frozen=True, slots=True)
class _Silence:
    """Why there was no answer, since when, and until when nobody else need try (monotonic)."""

    problem: str
    since: float
    until: float

    def text(self, now: float) -> str:
        silent_s = now - self.since
        return f"{self.problem} (for {silent_s:.0f} s)" if silent_s >= 1 else self.problem


class Watches:
    """All watched endpoints (ports.Watches)."""

    def __init__(self, endpoints: Mapping[str, EndpointConfig], poll_s: float = POLL_S) -> None:
        self._callbacks: list[Callable[[str], object]] = []
        self._watches = {name: Watch(config, partial(self._tell, name), poll_s) for name, config in endpoints.items()}

    def start(self) -> None:
        """Begin to watch; returns at once."""
        for watch in self._watches.values():
            watch.start()

    def stop(self) -> None:
        """Log out everywhere, waiting no longer than STOP_S for those that do not answer."""
        for watch in self._watches.values():
            watch.end()
        until = time.monotonic() + STOP_S
        for name, watch in self._watches.items():
            if not watch.join(until):
                log.warning("%s does not answer: its session is left to expire", name)

    def of(self, endpoint: str) -> Watch:
        """KeyError for one that is not configured."""
        return self._watches[endpoint]

    def look(self, endpoint: str) -> Look | None:
        watch = self._watches.get(endpoint)
        return watch.look() if watch else None

    def on_change(self, callback: Callable[[str], object]) -> None:
        self._callbacks.append(callback)

    def _tell(self, endpoint: str) -> None:
        for callback in self._callbacks:
            try:
                callback(endpoint)
            except Exception:
                # Whoever listens must not blind us.
                log.exception("a listener failed on a change of %s", endpoint)
