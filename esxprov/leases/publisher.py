"""Fresh leases of this machine's DHCP server, told on the bus to services elsewhere: `esxprov leases publish`.

A service that is about to switch a VM on asks for its MAC, and again every few seconds. So nothing need be remembered
across a restart of this process or of the broker: what is still wanted is asked for again, with its age.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from queue import Empty, SimpleQueue

from bridge import lease as talk
from bridge.envelope import EnvelopeError, Event
from bridge.message import Delivery
from esxprov.leases.parser import normal_mac
from esxprov.leases.wait import ASK_S, FreshLeases, Search
from esxprov.leases.watcher import CLOCK_SLACK_S
from esxprov.model import Lease
from esxprov.plain import to_plain

log = logging.getLogger(__name__)

FORGET_S = 10 * ASK_S
"""A question that was not asked again for so long is not waited for any more."""

MOST_QUESTIONS = 10_000
"""More than any farm switches on at once; what comes beyond is dropped, and asked again."""

_WITNESSES = 16
_TICK_S = 1.0


@dataclass(slots=True, eq=False)
class _Wanted:
    """A question, where it was asked and when last (monotonic), and the search for its answer."""

    question: talk.Wanted
    search: Search
    asked_at: float
    ends: ExitStack = field(default_factory=ExitStack)
    asks_witnesses: bool = False


class Publisher:
    """Answers the questions that `on_delivery` is given, on a thread of its own.

    `by` is how it calls itself; `send(node, event)` takes an answer to the service of a management node, or loses it.
    """

    def __init__(self, leases: FreshLeases, by: str, send: Callable[[str, Event], None]) -> None:
        self._leases = leases
        self._by = by
        self._send = send
        self._inbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._wanted: dict[str, _Wanted] = {}  # the thread's own
        self._thread = threading.Thread(target=self._run, name="lease-publisher", daemon=True)
        self._witnesses = ThreadPoolExecutor(_WITNESSES, "witnesses")

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """End; witnesses that are being asked are waited for."""
        self._inbox.put(None)
        self._thread.join()
        self._witnesses.shutdown(cancel_futures=True)

    def on_delivery(self, delivery: Delivery) -> None:
        """Take a question. What is none is logged and dropped."""
        self._inbox.put(partial(self._ask, delivery.body))

    def _run(self) -> None:
        forget_at = time.monotonic() + FORGET_S
        while True:
            try:
                work = self._inbox.get(timeout=_TICK_S)
            except Empty:
                work = _nothing
            if work is None:
                break
            try:
                work()
            except Exception:  # one question's trouble must not end the answering of all
                log.exception("a question about a lease could not be answered")
            if time.monotonic() >= forget_at:
                forget_at = time.monotonic() + FORGET_S
                self._forget()
        for wanted in self._wanted.values():
            wanted.ends.close()

    def _ask(self, body: bytes) -> None:
        try:
            question = talk.read_wanted(body)
            mac = normal_mac(question.mac)
            if mac is None:
                raise EnvelopeError("invalid_event", "data.mac is no MAC address")
        except EnvelopeError as error:
            log.warning("dropped a question about a lease: %s", error)
            return
        wanted = self._find(question, mac)
        if wanted is None:
            return
        wanted.asked_at = time.monotonic()
        lease = wanted.search.fresh()
        self._answer(wanted, lease)
        if lease is None and wanted.search.has_witnesses and question.age_s >= ASK_S and not wanted.asks_witnesses:
            wanted.asks_witnesses = True
            self._witnesses.submit(self._ask_witnesses, wanted)

    def _find(self, question: talk.Wanted, mac: str) -> _Wanted | None:
        """The search for it: the one under way, unless that began too late because the first question was late."""
        at = time.time() - question.age_s
        wanted = self._wanted.get(question.event.id)
        if wanted is not None and wanted.search.mac == mac and at >= wanted.search.armed.at - CLOCK_SLACK_S:
            return wanted
        if wanted is not None:
            wanted.ends.close()
        elif len(self._wanted) >= MOST_QUESTIONS:
            log.warning("dropped a question about a lease: %d are being answered", MOST_QUESTIONS)
            return None
        armed = self._leases.arm(mac) if question.is_early else self._leases.rearm(mac, at)
        wanted = _Wanted(question, self._leases.search(mac, armed), time.monotonic())
        self._wanted[question.event.id] = wanted
        wake = partial(self._inbox.put, partial(self._look, wanted))
        wanted.ends.enter_context(wanted.search.waking(wake))
        log.debug("%s wants to know which address %s gets", question.node, mac)
        return wanted

    def _look(self, wanted: _Wanted) -> None:
        """Something was written for its MAC. A lease is told at once; what else is seen is told when asked."""
        lease = wanted.search.fresh()
        if lease is not None:
            self._answer(wanted, lease)

    def _ask_witnesses(self, wanted: _Wanted) -> None:
        lease = wanted.search.told()
        self._inbox.put(partial(self._told, wanted, lease))

    def _told(self, wanted: _Wanted, lease: Lease | None) -> None:
        wanted.asks_witnesses = False
        if lease is not None:
            self._answer(wanted, lease)

    def _answer(self, wanted: _Wanted, lease: Lease | None) -> None:
        search = wanted.search
        says = "" if lease is not None else "; ".join([search.seen(), *search.tried()])
        plain = to_plain(lease) if lease is not None else None
        if lease is not None:
            log.info("%s has %s (%s), told %s", lease.mac, lease.ip, lease.evidence, wanted.question.node)
        self._send(wanted.question.node, talk.seen(wanted.question.event, datetime.now(UTC), self._by, says, plain))

    def _forget(self) -> None:
        now = time.monotonic()
        for id, wanted in list(self._wanted.items()):
            if now - wanted.asked_at > FORGET_S:
                wanted.ends.close()
                del self._wanted[id]


def _nothing() -> None:
    """What is done when nobody asks."""
