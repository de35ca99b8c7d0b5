"""The follower for each kind of `[leases] source`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from esxprov.leases.dnsmasq import DnsmasqFile
from esxprov.leases.follower import Follower, LeaseFile
from esxprov.leases.kea import KeaFile

_FOLLOWERS: Mapping[str, Callable[[Path], Follower]] = {"dhcpd": LeaseFile, "kea": KeaFile, "dnsmasq": DnsmasqFile}


def follower_for(kind: str, path: Path) -> Follower:
    """A follower of `path`, a lease file of that kind: "dhcpd", "kea" or "dnsmasq"."""
    return _FOLLOWERS[kind](path)
