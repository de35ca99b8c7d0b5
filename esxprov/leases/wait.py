"""The port LeaseSource on top of the sources: they first, then whoever else may know; no lease becomes an error that
says what was seen instead and what was tried.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from esxprov.errors import Cancelled, ProvisioningError
from esxprov.leases.omapi import Omapi, OmapiError
from esxprov.leases.source import Source
from esxprov.leases.witnesses import Guest, Witness
from esxprov.model import Lease
from esxprov.ports import Armed, GuestAddresses

log = logging.getLogger(__name__)

ASK_S = 3.0
"""How often witnesses are asked while a lease is waited for: the sources, which tell at once, are enough nearly
always.
"""

_WRITTEN = ("lease-file", "host-declaration")
"""What a source itself has seen, and does not see any more if it was taken back."""

CANCEL_CHECK_S = 1.0
"""How often a waiter asks whether it is still wanted."""


class Search:
    """The search for the fresh lease of one MAC. For one thread at a time."""

    def __init__(self, sources: Sequence[Source], witnesses: Sequence[Witness], mac: str, armed: Armed) -> None:
        self.mac = mac
        self.armed = armed
        self._sources = sources
        self._witnesses = witnesses

    @property
    def has_witnesses(self) -> bool:
        """Whether `told` could say anything."""
        return bool(self._witnesses)

    @contextmanager
    def waking(self, wake: Callable[[], None]) -> Iterator[None]:
        """While it is entered, `wake` is called whenever `fresh` may have another answer."""
        with ExitStack() as stack:
            for source, mark in zip(self._sources, self.armed.marks, strict=True):
                stack.enter_context(source.waking(self.mac, mark, wake))
            yield

    def fresh(self) -> Lease | None:
        """What the sources have seen since it was armed: the first that has seen anything counts, unless another one
        has seen it declined.
        """
        for source, mark in zip(self._sources, self.armed.marks, strict=True):
            lease = source.fresh(self.mac, mark)
            if lease is not None and not self.is_declined(lease.ip):
                return lease
        return None

    def is_declined(self, ip: str) -> bool:
        """Whether a source has seen that the MAC declined the address; each of them looks now."""
        declined = [source.is_declined(self.mac, ip) for source in self._sources]
        return any(declined)

    def told(self) -> Lease | None:
        """What a witness says, asked now, one after the other; that may take seconds."""
        candidates = [lease for source in self._sources for lease in source.active_of(self.mac)]
        for witness in self._witnesses:
            lease = witness.lease(self.mac, candidates, self.armed.at)
            if lease is not None and not self.is_declined(lease.ip):
                log.info("%s has %s although no lease was written (%s)", self.mac, lease.ip, lease.evidence)
                return lease
        return None

    def seen(self) -> str:
        """What the sources saw instead of a fresh lease, and what to do about it."""
        marked = zip(self._sources, self.armed.marks, strict=True)
        return "; ".join(source.what_was_seen(self.mac, mark) for source, mark in marked)

    def tried(self) -> list[str]:
        """Who was asked and why that did not help."""
        return [witness.says() for witness in self._witnesses]


class FreshLeases:
    """Fresh leases from the sources and, if these say nothing, from the `witnesses`, in their order. Each search has
    its own: they remember what to tell of it.

    With `omapi` a lease from before is ended before power-on, so that the next one is written whatever
    dhcp-cache-threshold says. `guests`: VMware Tools are asked, too.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        witnesses: Sequence[Callable[[], Witness]] = (),
        *,
        omapi: Omapi | None = None,
        guests: bool = False,
        ask_s: float = ASK_S,
    ) -> None:
        self._sources = tuple(sources)
        self._witnesses = tuple(witnesses)
        self._omapi = omapi
        self._guests = guests
        self._ask_s = ask_s

    def arm(self, mac: str | None) -> Armed:
        """The position now, taken before power-on."""
        at = time.time()
        return Armed(at, tuple(source.arm(mac) for source in self._sources))

    def rearm(self, mac: str | None, at: float) -> Armed:
        """What an earlier process armed at that time."""
        return Armed(at, tuple(source.rearm(mac, at) for source in self._sources))

    def end_old(self, mac: str) -> None:
        """End the MAC's leases, of a VM that is off: the next one is then new. Never fails: it is a precaution."""
        if self._omapi is None:
            return
        for lease in [lease for source in self._sources for lease in source.active_of(mac)]:
            try:
                if self._omapi.expire(lease.ip, mac, int(time.time())):
                    log.info("ended the lease of %s for %s, so that the next one is written", lease.ip, mac)
            except OmapiError as error:
                log.warning("the old lease of %s could not be ended: %s", mac, error)
                return

    def search(self, mac: str, armed: Armed, guest: GuestAddresses | None = None) -> Search:
        """A search for what the MAC got since it was armed."""
        witnesses = [make() for make in self._witnesses]
        if guest is not None and self._guests:
            witnesses.append(Guest(guest))
        return Search(self._sources, witnesses, mac, armed)

    def wait(
        self,
        mac: str,
        armed: Armed,
        timeout_s: float,
        cancelled: Callable[[], bool],
        guest: GuestAddresses | None = None,
    ) -> Lease:
        """The fresh lease of a MAC. ProvisioningError `ip_not_seen` at the timeout, `cancelled` if `cancelled()`."""
        search = self.search(mac, armed, guest)
        now = time.monotonic()
        deadline, ask_at = now + timeout_s, now + self._ask_s
        woken = threading.Event()
        with search.waking(woken.set):
            while True:
                woken.clear()
                lease = search.fresh()
                if lease is not None:
                    return lease
                if cancelled():
                    raise Cancelled(f"waiting for a DHCP lease of {mac} was given up")
                if any(source.is_stopping for source in self._sources):
                    raise _not_seen(search, timeout_s)
                now = time.monotonic()
                is_over = now >= deadline
                if search.has_witnesses and (now >= ask_at or is_over):
                    lease = search.told()
                    if lease is not None:
                        return lease
                    now = time.monotonic()
                    ask_at = now + self._ask_s
                if is_over:
                    raise _not_seen(search, timeout_s)
                until = min(deadline, ask_at) if search.has_witnesses else deadline
                woken.wait(max(0.0, min(until - now, CANCEL_CHECK_S)))

    def look_again(self, lease: Lease, armed: Armed) -> Lease | None:
        """A lease that `wait` has answered, as it is now: itself or a newer one, None if it was taken back."""
        search = self.search(lease.mac, armed)
        is_declined = search.is_declined(lease.ip)  # the sources look
        now = search.fresh()
        if now is None and lease.evidence not in _WRITTEN and not is_declined:
            return lease
        return now


def _not_seen(search: Search, timeout_s: float) -> ProvisioningError:
    seen, tried = search.seen(), search.tried()
    return ProvisioningError(
        "ip_not_seen",
        f"waited {timeout_s:.0f} s for a DHCP lease of {search.mac} after power-on: {'; '.join([seen, *tried])}",
        detail={"mac": search.mac, "seen": seen, "tried": tried},
    )
