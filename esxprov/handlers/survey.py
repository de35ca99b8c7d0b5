"""What the hypervisors of a pool have: asked, or known from the watch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from esxprov.model import Host, HostKey, Pool, Vm
from esxprov.placement.placer import Sight
from esxprov.ports import Tools


@dataclass(frozen=True, slots=True)
class Survey:
    """What the endpoints of a pool said. `silent` maps those that did not answer to why."""

    pool: Pool
    sights: tuple[Sight, ...]
    silent: Mapping[str, str]

    @property
    def hosts(self) -> tuple[Host, ...]:
        """The pool's."""
        return tuple(self._hosts())

    @property
    def vms(self) -> tuple[Vm, ...]:
        """All of the endpoints, as they may move to the pool's hosts."""
        return tuple(vm for sight in self.sights for vm in sight.vms)

    def name(self, key: HostKey) -> str:
        """The host's name, its key if it does not answer."""
        return next((host.name for host in self._hosts() if host.key == key), str(key))

    def _hosts(self) -> Iterator[Host]:
        return (host for sight in self.sights for host in sight.hosts if self.pool.has(host))


def survey(tools: Tools, pool: Pool, *, recent: bool = False, within_s: float | None = None) -> Survey:
    """Ask every endpoint of a pool for its hosts and VMs. One that does not answer (in time) has no hosts to offer."""
    looks = tools.looks.at(pool.endpoints, recent=recent, within_s=within_s)
    return Survey(
        pool,
        tuple(Sight(look.endpoint, look.hosts, look.vms, look.seen_at) for look in looks if look.problem is None),
        {look.endpoint: look.problem for look in looks if look.problem is not None},
    )
