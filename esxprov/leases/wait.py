"""The port LeaseSource on top of the watcher: the file first, then whoever else may know; no lease becomes an error
that says what was seen instead and what was tried.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from esxprov.errors import Cancelled, ProvisioningError
from esxprov.leases.omapi import Omapi, OmapiError
from esxprov.leases.watcher import LeaseWatcher
from esxprov.leases.witnesses import Guest, Witness
from esxprov.model import Lease
from esxprov.ports import GuestAddresses, Mark

log = logging.getLogger(__name__)

ASK_S = 3.0
"""How often witnesses are asked while a lease is waited for: the file, which tells at once, is enough nearly always."""


class FreshLeases:
    """Fresh leases from dhcpd's file and, if that says nothing, from the `witnesses`, in their order. Each
    wait has its own: they remember what to tell of it.

    With `omapi` a lease from before is ended before power-on, so that the next one is written whatever
    dhcp-cache-threshold says. `guests`: VMware Tools are asked, too.
    """

    def __init__(
        self,
        watcher: LeaseWatcher,
        witnesses: Sequence[Callable[[], Witness]] = (),
        *,
        omapi: Omapi | None = None,
        guests: bool = False,
        ask_s: float = ASK_S,
    ) -> None:
        self._watcher = watcher
        self._witnesses = tuple(witnesses)
        self._omapi = omapi
        self._guests = guests
        self._ask_s = ask_s

    def mark(self) -> Mark:
        """The position now, taken before power-on."""
        return self._watcher.mark()

    def mark_of(self, at: float) -> Mark:
        """A mark that an earlier process took at that time."""
        return self._watcher.mark_of(at)

    def end_old(self, mac: str) -> None:
        """End the MAC's leases, of a VM that is off: the next one is then new. Never fails: it is a precaution."""
        if self._omapi is None:
            return
        for lease in self._watcher.active_of(mac):
            try:
                if self._omapi.expire(lease.ip, mac, int(time.time())):
                    log.info("ended the lease of %s for %s, so that the next one is written", lease.ip, mac)
            except OmapiError as error:
                log.warning("the old lease of %s could not be ended: %s", mac, error)
                return

    def wait(
        self,
        mac: str,
        mark: Mark,
        timeout_s: float,
        cancelled: Callable[[], bool],
        guest: GuestAddresses | None = None,
    ) -> Lease:
        """The fresh lease of a MAC. ProvisioningError `ip_not_seen` at the timeout, `cancelled` if `cancelled()`."""
        witnesses = [make() for make in self._witnesses]
        if guest is not None and self._guests:
            witnesses.append(Guest(guest))
        deadline = time.monotonic() + timeout_s
        while True:
            left_s = deadline - time.monotonic()
            lease = self._watcher.wait(mac, mark, min(left_s, self._ask_s) if witnesses else left_s, cancelled)
            if lease is not None:
                return lease
            if cancelled():
                raise Cancelled(f"waiting for a DHCP lease of {mac} was given up")
            if self._watcher.is_stopping:
                break
            lease = self._told(mac, mark, witnesses)
            if lease is not None:
                log.info("%s has %s although dhcpd wrote nothing (%s)", mac, lease.ip, lease.evidence)
                return lease
            if time.monotonic() >= deadline:
                break
        raise self._not_seen(mac, timeout_s, witnesses)

    def _told(self, mac: str, mark: Mark, witnesses: Sequence[Witness]) -> Lease | None:
        candidates = self._watcher.active_of(mac)
        for witness in witnesses:
            lease = witness.lease(mac, candidates, mark.at)
            if lease is not None and not self._watcher.is_declined(mac, lease.ip):
                return lease
        return None

    def _not_seen(self, mac: str, timeout_s: float, witnesses: Sequence[Witness]) -> ProvisioningError:
        seen = self._watcher.what_was_seen(mac)
        tried = [witness.says() for witness in witnesses]
        return ProvisioningError(
            "ip_not_seen",
            f"waited {timeout_s:.0f} s for a DHCP lease of {mac} after power-on: {'; '.join([seen, *tried])}",
            detail={"mac": mac, "seen": seen, "tried": tried},
        )
