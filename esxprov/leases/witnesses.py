"""Who else may know which address a MAC has, where dhcpd's file says nothing: dhcpd itself, the wire, the guest.

dhcpd writes nothing when a client gets its young lease again (dhcp-cache-threshold), so a VM that is reloaded quickly
may never be seen in the file. An old lease alone proves nothing: each answer here rests on something that happened
after power-on, and says on what.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
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


Answers = Callable[[str, str, float, float], bool | None]
"""probe.answers: is an address answered by a MAC, within a time, after a moment? None if that cannot be told."""

ANSWER_S = 1.0
"""How long an answer on the wire is waited for."""


@dataclass(slots=True)
class DhcpdItself:
    """When dhcpd last heard the client: that moves in its memory also if it writes nothing, or could not.

    Heard, not more: it moves at a DISCOVER, too, which the client need not follow up, or which another server (a
    failover peer) answers with another address. So the address must be the MAC's active lease there, of several that
    were heard of the last one counts, and nothing counts that is not answered where `answers` can tell.
    """

    omapi: Omapi
    clock: Callable[[], float]
    answers: Answers
    _began: float = field(default_factory=time.monotonic)
    _problem: str = "dhcpd has not heard the VM since (OMAPI)"

    def lease(self, mac: str, candidates: Sequence[Lease], since: float) -> Lease | None:
        before = {candidate.ip: candidate for candidate in candidates}
        try:
            leases = self.omapi.leases(mac, before)
        except OmapiError as error:
            self._problem = f"OMAPI: {error}"
            return None
        heard = [known for known in leases if known.state == "active" and known.cltt >= since - CLOCK_SLACK_S]
        for known in sorted(heard, key=lambda known: known.cltt, reverse=True):
            if known.ends is not None and known.ends <= self.clock():
                continue
            if self.answers(known.ip, mac, ANSWER_S, self._began) is False:
                self._problem = f"dhcpd has heard the VM since (OMAPI), but nobody answers with its MAC at {known.ip}"
                continue
            lease = before.get(known.ip) or Lease(known.ip, mac, known.state, None, None)
            return replace(lease, ends=known.ends, cltt=known.cltt, evidence="omapi-cltt")
        return None

    def says(self) -> str:
        return self._problem


@dataclass(slots=True)
class Neighbour:
    """Whether the address was answered by that MAC since the wait began, on the wire.

    A guest may come up between two questions and answer the kernel, which then does not ask it again for a while.
    """

    answers: Answers
    _began: float = field(default_factory=time.monotonic)
    _cannot_tell: bool = False

    def lease(self, mac: str, candidates: Sequence[Lease], since: float) -> Lease | None:
        for candidate in candidates:
            answered = self.answers(candidate.ip, mac, ANSWER_S, self._began)
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
