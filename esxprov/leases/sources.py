"""What `[leases]` says, put together: the watcher of the lease file, and who else is asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from esxprov.config import LeasesConfig
from esxprov.leases import probe
from esxprov.leases.followers import follower_for
from esxprov.leases.omapi import Omapi
from esxprov.leases.omapi_key import OmapiKey
from esxprov.leases.wait import FreshLeases
from esxprov.leases.watcher import LeaseWatcher
from esxprov.leases.witnesses import DhcpdItself, Neighbour, Witness

_OMAPI_S = 2.0
"""dhcpd answers within a millisecond; while it writes its file anew it answers nobody."""


def watcher_of(config: LeasesConfig) -> LeaseWatcher:
    """Of the lease file; not started."""
    return LeaseWatcher(follower_for(config.kind, config.path), config.conf)


def omapi_of(config: LeasesConfig) -> Omapi | None:
    """dhcpd's other door, None if it is not configured. Raises ConfigurationError for a key that cannot be used."""
    if config.omapi is None:
        return None
    key = OmapiKey.read(config.omapi_key_file) if config.omapi_key_file else None
    return Omapi(*config.omapi, key, _OMAPI_S)


def fresh_leases(config: LeasesConfig, watcher: LeaseWatcher) -> FreshLeases:
    """What handlers wait with. Raises ConfigurationError."""
    omapi = omapi_of(config)
    witnesses: list[Callable[[], Witness]] = [partial(DhcpdItself, omapi, time.time)] if omapi else []
    witnesses.append(partial(Neighbour, probe.answers))
    return FreshLeases(watcher, witnesses, omapi=omapi, guests=config.guests)
