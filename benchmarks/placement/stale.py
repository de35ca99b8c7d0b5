"""Statistics that are old and too low: does a VM ever come to a host that is too full? Claims are the truth.

What a host says of its RAM is what its VMs really used one to three minutes ago, and of that half to nine tenths. VMs
come to use `_TOUCHED` of what they are configured with in the ten minutes after they come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.placement import workload
from benchmarks.placement.campus import IMAGES
from benchmarks.placement.parts import Options
from benchmarks.placement.rows import Host as Blade
from benchmarks.placement.rows import Request
from benchmarks.targets import Figure, at_most
from esxprov.model import Claim, ClaimState, Host, HostKey
from esxprov.placement.choose import farm_of
from esxprov.placement.request import PlacementRequest, overhead_mb
from esxprov.placement.search import place
from esxprov.placement.snapshot import Rules, Snapshot

_VCPU_RATIO = 8  # so that it is the RAM that is short
_TOUCHED = 0.6
_OLDEST_S = 180
_LOADING_S = 300
"""So long is a VM on its way: its claim is `claimed`, not yet `running`."""


@dataclass(frozen=True, slots=True)
class _There:
    """A VM on a blade, from `came_s` until before `ends_s`."""

    blade: int
    request: PlacementRequest
    came_s: int
    ends_s: float

    def used_mb(self, now: float) -> float:
        """What it really uses."""
        if not self.came_s <= now < self.ends_s:
            return 0.0
        return _TOUCHED * self.request.ram_mb * min(1.0, (now - self.came_s) / 600)


class Site:
    """Blades, what really is on them, and what they say."""

    def __init__(self, seed: int, blades: Sequence[Blade], ram_ratio: float) -> None:
        self._random = np.random.default_rng([seed, 5])
        self.rules = Rules(cpu_ratio=_VCPU_RATIO, ram_ratio=ram_ratio, reserved_ram_mb=workload.HYPERVISOR_MB)
        self.hosts = [
            Host(
                key=HostKey("", blade.name),
                name=blade.name,
                state="connected",
                maintenance=False,
                ram_mb=blade.ram_mb + workload.HYPERVISOR_MB,
                ram_used_mb=0,
                cpu_threads=blade.cpus // _VCPU_RATIO,
            )
            for blade in blades
        ]
        self._vms: list[_There] = []

    def pass_time(self, now: int) -> None:
        """Hosts say something new; who is gone for so long that no figure shows them is forgotten."""
        self._vms = [vm for vm in self._vms if vm.ends_s > now - _OLDEST_S]
        lags = self._random.uniform(60, _OLDEST_S, len(self.hosts))
        told = self._random.uniform(0.5, 0.9, len(self.hosts))
        used = np.zeros(len(self.hosts))
        for vm in self._vms:
            used[vm.blade] += vm.used_mb(now - lags[vm.blade])
        self.hosts = [replace(host, ram_used_mb=int(mb)) for host, mb in zip(self.hosts, used * told, strict=True)]

    def claims(self, now: int) -> tuple[Claim, ...]:
        """Of all VMs that are not gone."""
        return tuple(
            Claim(
                id=vm.request.id,
                host=self.hosts[vm.blade].key,
                computer_id=0,
                ram_mb=vm.request.ram_needed_mb,
                cpus=vm.request.cpus,
                event_id="",
                state=ClaimState.CLAIMED if now < vm.came_s + _LOADING_S else ClaimState.RUNNING,
                group=vm.request.group,
            )
            for vm in self._vms
            if vm.ends_s > now
        )

    def put(self, blade: int, request: PlacementRequest, now: int, duration_s: int | None) -> None:
        """The VM is there from now on."""
        self._vms.append(_There(blade, request, now, np.inf if duration_s is None else now + duration_s))

    def too_full(self, blade: int, now: int) -> bool:
        """Whether more is promised than the rules allow, or will be used than there is."""
        there = [vm.request for vm in self._vms if vm.blade == blade and vm.ends_s > now]
        ram_mb = self.hosts[blade].ram_mb - self.rules.reserved_ram_mb
        promised = sum(request.ram_needed_mb for request in there)
        return promised > ram_mb * self.rules.ram_ratio or _TOUCHED * sum(each.ram_mb for each in there) > ram_mb


Choose = Callable[[Site, Sequence[PlacementRequest], int], Sequence[int] | None]
"""(site, VMs, now) -> the number of a blade for each of them, None for a no."""


def by_claims(site: Site, requests: Sequence[PlacementRequest], now: int) -> Sequence[int] | None:
    """As the service: a snapshot of what is claimed and what the hosts say."""
    snapshot = Snapshot(tuple(site.hosts), site.claims(now), catalogue=tuple(IMAGES), rules=site.rules)
    farm = farm_of(snapshot)
    found = place(farm, requests)
    if found.hosts is None:
        return None
    numbers = {host.key: number for number, host in enumerate(site.hosts)}
    return [numbers[farm.hosts[host].key] for host in found.hosts]


def by_statistics(site: Site, requests: Sequence[PlacementRequest], now: int) -> Sequence[int] | None:
    """Best fit into what the hosts say is free: what the figures alone would lead to."""
    free = [host.ram_mb - site.rules.reserved_ram_mb - host.ram_used_mb for host in site.hosts]
    chosen = []
    for request in requests:
        fitting = [number for number, mb in enumerate(free) if mb >= request.ram_needed_mb]
        if not fitting:
            return None
        chosen.append(min(fitting, key=free.__getitem__))
        free[chosen[-1]] -= request.ram_needed_mb
    return chosen


def on_too_full(site: Site, arrivals: Sequence[Request], choose: Choose) -> tuple[int, int]:
    """How many VMs came to a host that was too full with them, of how many."""
    wrong = count = 0
    for arrival in arrivals:
        now = arrival.time_s
        site.pass_time(now)
        requests = [
            PlacementRequest(vm.name, vm.ram_mb, vm.cpus, overhead_mb(vm.ram_mb, vm.cpus), group=arrival.name)
            for vm in arrival.vms
        ]
        blades = choose(site, requests, now)
        if blades is None:
            continue
        for blade, request, vm in zip(blades, requests, arrival.vms, strict=True):
            site.put(blade, request, now, vm.duration_s)
        wrong += sum(site.too_full(blade, now) for blade in blades)
        count += len(blades)
    return wrong, count


def measure(options: Options) -> Iterator[Figure]:
    """One week on 14 blades that is more than fits, with and without more RAM promised than there is."""
    blades = workload.farm(1, vcpu_ratio=_VCPU_RATIO)
    print()
    for ratio in (1.0, 1.5):
        roomy = [replace(blade, ram_mb=int(blade.ram_mb * ratio)) for blade in blades]
        arrivals = workload.requests(1, roomy, 1.2, weeks=1)
        wrong, count = on_too_full(Site(1, blades, ratio), arrivals, by_claims)
        lured, others = on_too_full(Site(1, blades, ratio), arrivals, by_statistics)
        print(
            f"Stale statistics, RAM ratio {ratio:g}: ours put {wrong} of {count} VMs on a host that was too full; best "
            f"fit into what the hosts say is free {lured} of {others}"
        )
        yield at_most(f"stale statistics, RAM ratio {ratio:g}: VMs on too full hosts", 0, wrong)
