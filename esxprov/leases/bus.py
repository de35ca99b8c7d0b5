"""Fresh leases that are seen on other machines, told on the bus by `esxprov leases publish`: the service's side."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from weakref import WeakValueDictionary

from bridge import lease as talk
from bridge.envelope import EnvelopeError, Event
from bridge.message import Delivery
from esxprov.leases.parser import is_address, normal_mac
from esxprov.model import Lease
from esxprov.plain import NotPlain, from_plain

log = logging.getLogger(__name__)

ASK_S = 3.0
"""How often a question is asked again: it, or its answer, may have got lost."""

ARM_S = 0.5
"""How long a power-on waits for those who see leases to note their place. Without their word times decide later."""


@dataclass(slots=True, weakref_slot=True, eq=False)
class Question:
    """What was asked and what came back, by who said so. `age_s` is how old it was at `begun` and `asked_at` when it
    was last asked, both by the monotonic clock: the other one may be set meanwhile. Owned by the lock of its Bus.
    """

    id: str
    age_s: float
    begun: float
    asked_at: float
    leases: dict[str, Lease] = field(default_factory=dict)
    says: dict[str, str] = field(default_factory=dict)
    wakes: list[Callable[[], None]] = field(default_factory=list)


class Bus:
    """The Source that asks elsewhere. Thread-safe.

    `post` sends a question without waiting, or loses it. Believed is only what the broker's user `publisher` says.
    """

    is_stopping = False

    def __init__(
        self,
        node: str,
        publisher: str,
        post: Callable[[Event], None],
        *,
        ask_s: float = ASK_S,
        arm_s: float = ARM_S,
    ) -> None:
        self._ask_s = ask_s
        self._arm_s = arm_s
        self._node = node
        self._publisher = publisher
        self._post = post
        self._lock = threading.Lock()
        # Whoever waits holds the question; when nobody does, nobody cares for its answers.
        self._questions: WeakValueDictionary[str, Question] = WeakValueDictionary()

    # --- for who waits ------------------------------------------------------------------------------------------------

    def arm(self, mac: str | None) -> Question:
        """Ask before power-on, so that those who see leases note their place; if the MAC is known."""
        question = self._question(time.time())
        if mac is not None:
            noted = threading.Event()
            with self.waking(mac, question, noted.set):
                self._ask(question, mac, is_early=True)
                noted.wait(self._arm_s)
        return question

    def rearm(self, mac: str | None, at: float) -> Question:
        """Ask what an earlier process had asked."""
        question = self._question(at)
        if mac is not None:
            self._ask(question, mac)
        return question

    def _question(self, at: float) -> Question:
        now = time.monotonic()
        question = Question(str(uuid.uuid4()), max(0.0, time.time() - at), begun=now, asked_at=now - self._ask_s)
        with self._lock:
            self._questions[question.id] = question
        return question

    def fresh(self, mac: str, mark: Question) -> Lease | None:
        """What was answered; if nothing was, it is asked again when it is time."""
        mac = normal_mac(mac) or mac
        with self._lock:
            lease = next((lease for lease in mark.leases.values() if lease.mac == mac), None)
        if lease is None:
            self._ask(mark, mac)
        return lease

    @contextmanager
    def waking(self, mac: str, mark: Question, wake: Callable[[], None]) -> Iterator[None]:
        """While it is entered, `wake` is called when an answer has come."""
        with self._lock:
            mark.wakes.append(wake)
        try:
            yield
        finally:
            with self._lock:
                mark.wakes.remove(wake)

    def active_of(self, mac: str) -> Sequence[Lease]:
        """Unknown here: who sees leases asks its own witnesses about old ones."""
        return ()

    def is_declined(self, mac: str, ip: str) -> bool:
        """Unknown here: what was declined is not told as fresh."""
        return False

    def heard(self, mark: Question) -> dict[str, str]:
        """Who has answered, and what it sees instead of a lease."""
        with self._lock:
            return dict(mark.says)

    def what_was_seen(self, mac: str, mark: Question) -> str:
        """What those who see leases say instead, or that there is nobody."""
        says = self.heard(mark)
        if not says:
            return (
                "nobody on the bus has answered: run 'esxprov leases publish' on the machine of the DHCP server, with "
                f"the broker user {self._publisher!r}"
            )
        return "; ".join(f"{by}: {what}" for by, what in sorted(says.items()))

    def _ask(self, question: Question, mac: str, *, is_early: bool = False) -> None:
        now = time.monotonic()
        with self._lock:
            if now - question.asked_at < self._ask_s:
                return
            question.asked_at = now
            age_s = question.age_s + now - question.begun
        self._post(talk.wanted(question.id, self._node, mac, age_s, datetime.now(UTC), is_early=is_early))

    # --- for the broker's thread --------------------------------------------------------------------------------------

    def on_delivery(self, delivery: Delivery) -> None:
        """Take an answer. What is none, or comes from somebody else, is logged and dropped."""
        if delivery.user_id != self._publisher:
            log.warning("dropped what broker user %r says of leases: only %r may", delivery.user_id, self._publisher)
            return
        try:
            seen = talk.read_seen(delivery.body)
            lease = None if seen.lease is None else _lease(seen.lease)
        except (EnvelopeError, NotPlain) as error:
            log.warning("dropped an answer about a lease: %s", error)
            return
        with self._lock:
            question = self._questions.get(seen.id)
            if question is None:
                return
            question.says[seen.by] = seen.says
            question.leases.pop(seen.by, None)  # declined since
            if lease is not None:
                question.leases[seen.by] = lease
            wakes = list(question.wakes)
        for wake in wakes:
            wake()


def _lease(data: object) -> Lease:
    lease = from_plain(Lease, data, "data.lease")
    if not is_address(lease.ip) or normal_mac(lease.mac) != lease.mac:
        raise NotPlain("data.lease has no IPv4 address, or no MAC address")
    return lease
