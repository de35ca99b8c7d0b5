"""Who else may know which address a MAC has, where dhcpd's file says nothing: dhcpd itself, the wire, the guest.

dhcpd writes nothing when a client gets its young lease again (dhcp-cache-threshold), so a VM that is reloaded quickly
may never be seen in the file. An old lease alone proves nothing: each answer here rests on something that happened
after power-on, and says on what.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from esxprov.errors import ProvisioningError
from esxprov.leases.omapi import Omapi, OmapiError
from esxprov.leases.watcher import CLOCK_SLACK_S
from esxprov.model import Lease
from esxprov.ports import GuestAddresses


class Witness(Protocol):
    """Asked again and again while one lease is waited for, by one thread."""

    def lease(self, mac: str, candidates: Sequence[Lease], since: float) -> Lease | None:
        """The address that the MAC has got since then (epoch seconds); None if the witness cannot tell, or not yet.

        `candidates` are its leases from before, the newest first.
        """

    def says(self) -> str:
        """What it was asked and why that did not help, for an admin, in a few words."""


@dataclass(slots=True)
class DhcpdItself:
    """When dhcpd last heard the client: that moves in its memory also if it writes nothing."""

    omapi: Omapi
    clock: Callable[[], float]
    _problem: str = "dhcpd has not heard the VM since (OMAPI)"

    def lease(self, mac: str, candidates: Sequence[Lease], since: float) -> Lease | None:
        for candidate in candidates:
            try:
                known = self.omapi.lease(candidate.ip)
            except OmapiError as error:
                self._problem = f"OMAPI: {error}"
                return None
            if known is None or known.mac != mac or known.state != "active" or known.cltt < since - CLOCK_SLACK_S:
                continue
            if known.ends is None or known.ends > self.clock():
                return replace(candidate, ends=known.ends, cltt=known.cltt, evidence="omapi-cltt")
        return None

    def says(self) -> str:
        return self._problem


@dataclass(slots=True)
class Neighbour:
    """Whether the address is answered by that MAC now, on the wire; `answers` is probe.answers."""

    answers: Callable[[str, str, float], bool | None]
    timeout_s: float = 1.0
    _cannot_tell: bool = False

    def lease(self, mac: str, candidates: Sequence[Lease], since: float) -> Lease | None:
        for candidate in candidates:
            answered = self.answers(candidate.ip, mac, self.timeout_s)
            self._cannot_tell = answered is None
            if answered:
                return replace(candidate, evidence="neighbour")
        return None

    def says(self) -> str:
        if self._cannot_tell:
            return "its old address is on no network of this node, so it could not be probed"
        return "nobody answers with its MAC at its old address"


@dataclass(slots=True)
class Guest:
    """What VMware Tools in the guest say."""

    addresses: GuestAddresses
    _problem: str = "VMware Tools report no address"

    def lease(self, mac: str, candidates: Sequence[Lease], since: float) -> Lease | None:
        try:
            found = dict(self.addresses())
        except ProvisioningError as error:
            self._problem = f"VMware Tools could not be asked ({error})"
            return None
        return Lease(found[mac], mac, "active", None, None, evidence="vmware-tools") if mac in found else None

    def says(self) -> str:
        return self._problem
