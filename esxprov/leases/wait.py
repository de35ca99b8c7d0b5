"""The port LeaseSource on top of the watcher: no lease becomes an error that says what was seen instead."""

from __future__ import annotations

from collections.abc import Callable

from esxprov.errors import Cancelled, ProvisioningError
from esxprov.leases.watcher import LeaseWatcher
from esxprov.model import Lease
from esxprov.ports import Mark


class FreshLeases:
    """Fresh leases from dhcpd's file."""

    def __init__(self, watcher: LeaseWatcher) -> None:
        self._watcher = watcher

    def mark(self) -> Mark:
        """The position now, taken before power-on."""
        return self._watcher.mark()

    def mark_of(self, at: float) -> Mark:
        """A mark that an earlier process took at that time."""
        return self._watcher.mark_of(at)

    def wait(self, mac: str, mark: Mark, timeout_s: float, cancelled: Callable[[], bool]) -> Lease:
        """The fresh lease of a MAC. ProvisioningError `ip_not_seen` at the timeout, `cancelled` if `cancelled()`."""
        lease = self._watcher.wait(mac, mark, timeout_s, cancelled)
        if lease is not None:
            return lease
        if cancelled():
            raise Cancelled(f"waiting for a DHCP lease of {mac} was given up")
        seen = self._watcher.what_was_seen(mac)
        raise ProvisioningError(
            "ip_not_seen",
            f"waited {timeout_s:.0f} s for a DHCP lease of {mac} after power-on: {seen}",
            detail={"mac": mac, "seen": seen},
        )
