"""The world that a decision is made on, as plain data and JSON both ways, so that the decision can be made again later.

A host's free capacity is what the hardware gives, minus what is promised: the claims, and the VMs seen that no claim
covers. Live figures only ever lower it.
"""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from esxprov.model import Claim, ClusterAffinity, Host, Pool, Vm
from esxprov.placement.booking import Booking
from esxprov.placement.host import HostState
from esxprov.placement.promises import Promises
from esxprov.placement.request import Affinity, PlacementRequest, overhead_mb
from esxprov.plain import from_plain, to_plain


class Policy(StrEnum):
    """PACK keeps room for large VMs; SPREAD leaves every host as much headroom as possible."""

    PACK = "pack"
    SPREAD = "spread"


@dataclass(frozen=True, slots=True)
class Size:
    """What a VM of some image takes from its host, overhead included, and how often one like that is asked for."""

    ram_mb: int
    cpus: int
    images: int = 1


def catalogue(sizes: Iterable[tuple[int, int, int]]) -> tuple[Size, ...]:
    """Of (RAM in MB, vCPUs, how often asked for) of every image: what they take, equal ones together."""
    asked: Counter[tuple[int, int]] = Counter()
    for ram_mb, cpus, often in sizes:
        asked[ram_mb, cpus] += often
    return tuple(Size(ram_mb + overhead_mb(ram_mb, cpus), cpus, asked[ram_mb, cpus]) for ram_mb, cpus in sorted(asked))


@dataclass(frozen=True, slots=True)
class Rules:
    """What a pool's owner decided. The ratios say how much more than the hardware may be promised.

    `reserved_ram_mb` is kept for the hypervisor on every host. With `n_plus_one`, any one host may fail and its VMs
    still fit elsewhere. `image_hosts` maps patterns of image names to the only hosts that may run them, the first that
    matches. `cluster_max_per_host` bounds how many VMs of one request a host may have (None: any number).
    """

    policy: Policy = Policy.PACK
    cpu_ratio: float = 1.0
    ram_ratio: float = 1.0
    reserved_ram_mb: int = 0
    n_plus_one: bool = False
    image_hosts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    cluster_max_per_host: int | None = None
    cluster_affinity: ClusterAffinity = ClusterAffinity.NONE

    @classmethod
    def of(cls, pool: Pool) -> Rules:
        """The rules in a pool's configuration."""
        return cls(
            Policy(pool.policy),
            pool.cpu_ratio,
            pool.ram_ratio,
            pool.reserved_ram_mb,
            pool.n_plus_one,
            dict(pool.image_hosts),
            pool.cluster_max_per_host,
            pool.cluster_affinity,
        )

    def cluster(self, requests: Sequence[PlacementRequest], group: str) -> tuple[PlacementRequest, ...]:
        """The requests as the parts of one cluster, which is counted by `group`."""
        mode = self.cluster_affinity
        wishes: tuple[Affinity, ...] = ()
        if mode is not ClusterAffinity.NONE:
            together = mode in (ClusterAffinity.TOGETHER, ClusterAffinity.PREFER_TOGETHER)
            hard = mode in (ClusterAffinity.TOGETHER, ClusterAffinity.APART)
            wishes = (Affinity(group, together, hard),)
        most = self.cluster_max_per_host
        return tuple(replace(one, group=group, max_per_host=most, affinities=wishes) for one in requests)

    def hosts_for(self, image: str) -> tuple[str, ...] | None:
        """The names of the only hosts that may run an image, None if all may."""
        for pattern, hosts in self.image_hosts.items():
            if fnmatch.fnmatchcase(image, pattern):
                return hosts
        return None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Hosts of a pool as they were seen, what is claimed (also by other pools, which may share a host), VMs seen, sizes
    of the images still to come. `unfit` maps host keys as text to why they must not be chosen: tried, or in quarantine.
    `at` is when, in epoch seconds; `bookings` are what VCL has promised and no claim holds yet.
    """

    hosts: tuple[Host, ...]
    claims: tuple[Claim, ...] = ()
    vms: tuple[Vm, ...] = ()
    catalogue: tuple[Size, ...] = ()
    rules: Rules = Rules()
    unfit: Mapping[str, str] = field(default_factory=dict)
    at: int = 0
    bookings: tuple[Booking, ...] = ()

    def states(self) -> tuple[HostState, ...]:
        """The hosts with what is promised on them."""
        promises = Promises(self.claims, self.vms)
        return tuple(self.state(host, promises) for host in self.hosts)

    def state(self, host: Host, promises: Promises) -> HostState:
        """One host with what is promised on it."""
        return state_of(host, promises, self.rules, self.unfit.get(str(host.key)))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; `from_json` makes the same snapshot of it."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    @classmethod
    def from_json(cls, data: Any) -> Snapshot:
        """The snapshot that `to_json` wrote. Raises plain.NotPlain naming the field that is wrong."""
        return from_plain(cls, data)


def state_of(host: Host, promises: Promises, rules: Rules, unfit: str | None) -> HostState:
    """A host with what is promised on it. Its datastores are as they are: what is still to be written to one, also by
    other hosts that share it, is Farm's to know.
    """
    promised = promises.of(host.key)
    return HostState(
        key=host.key,
        name=host.name,
        state=host.state,
        maintenance=host.maintenance,
        ram_mb=host.ram_mb,
        ram_used_mb=host.ram_used_mb,
        reserved_ram_mb=rules.reserved_ram_mb,
        ram_ratio=rules.ram_ratio,
        cpu_threads=host.cpu_threads,
        cpu_ratio=rules.cpu_ratio,
        promised_ram_mb=promised.ram_mb,
        promised_cpus=promised.cpus,
        datastores=host.datastores,
        networks=host.networks,
        warming_ram_mb=promised.warming_ram_mb,
        groups=dict(promised.groups),
        residents=dict(promised.residents),
        unfit=unfit,
        ends=dict(promised.ends),
    )
