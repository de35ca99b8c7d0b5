"""What `[leases]` says, put together: the watchers of the lease files, and who else is asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from esxprov.config import LeasesConfig
from esxprov.leases import probe
from esxprov.leases.followers import follower_for
from esxprov.leases.omapi import Omapi
from esxprov.leases.omapi_key import OmapiKey
from esxprov.leases.source import Source
from esxprov.leases.wait import FreshLeases
from esxprov.leases.watcher import LeaseWatcher
from esxprov.leases.witnesses import DhcpdItself, Neighbour, Witness
from esxprov.model import Lease

_OMAPI_S = 2.0
"""dhcpd answers within a millisecond; while it writes its file anew it answers nobody."""


def watchers_of(config: LeasesConfig, on_change: Callable[[Lease], None] | None = None) -> list[LeaseWatcher]:
    """One for each lease file, dhcpd's with the fixed addresses of its configuration; not started."""
    return [
        LeaseWatcher(follower_for(file.kind, file.path), config.conf if file.kind == "dhcpd" else None, on_change)
        for file in config.files
    ]


@contextmanager
def watching(config: LeasesConfig, on_change: Callable[[Lease], None] | None = None) -> Iterator[list[LeaseWatcher]]:
    """The same, started, and stopped in the end."""
    with ExitStack() as stack:
        yield [stack.enter_context(watcher) for watcher in watchers_of(config, on_change)]


def omapi_of(config: LeasesConfig) -> Omapi | None:
    """dhcpd's other door, None if it is not configured. Raises ConfigurationError for a key that cannot be used."""
    if config.omapi is None:
        return None
    key = OmapiKey.read(config.omapi_key_file) if config.omapi_key_file else None
    return Omapi(*config.omapi, key, _OMAPI_S)


def fresh_leases(config: LeasesConfig, sources: Sequence[Source]) -> FreshLeases:
    """What handlers wait with. Raises ConfigurationError."""
    omapi = omapi_of(config)
    witnesses: list[Callable[[], Witness]] = [partial(DhcpdItself, omapi, time.time, probe.answers)] if omapi else []
    if config.files:  # who only hears of leases knows of no old ones that could be looked for
        witnesses.append(partial(Neighbour, probe.answers))
    return FreshLeases(sources, witnesses, omapi=omapi, guests=config.guests)
