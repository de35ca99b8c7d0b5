"""The other side of the comparison: nobody over-commits, the bound is one, a seed is a workload."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import pytest

from benchmarks.placement import workload
from benchmarks.placement.bound import FreeRepacking
from benchmarks.placement.nova import NovaDefault
from benchmarks.placement.ours import Ours
from benchmarks.placement.replay import Placer, replay
from benchmarks.placement.rows import Host, Request, Vm
from esxprov.placement.snapshot import Size

HOSTS = workload.farm(1, blades=4)
REQUESTS = workload.requests(1, HOSTS, 1.2, weeks=1)
IMAGES = [Size(image.ram_mb, image.cpus) for image in workload.CATALOGUE]


class Watched:
    """A placer whose every answer is added up."""

    def __init__(self, placer: Placer, requests: Sequence[Request]) -> None:
        self._placer = placer
        self._vms = {vm.name: vm for request in requests for vm in request.vms}
        self._where: dict[str, str] = {}
        self.most: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
        self._used: Counter[tuple[str, str]] = Counter()

    def place(self, request: Request, now: int) -> dict[str, str] | None:
        placed = self._placer.place(request, now)
        for vm, host in (placed or {}).items():
            self._where[vm] = host
            self._add(self._vms[vm], host, 1)
        return placed

    def remove(self, vm: str) -> None:
        self._placer.remove(vm)
        self._add(self._vms[vm], self._where.pop(vm), -1)

    def _add(self, vm: Vm, host: str, sign: int) -> None:
        self._used[host, "cpus"] += sign * vm.cpus
        self._used[host, "ram"] += sign * vm.ram_mb
        now = self._used[host, "cpus"], self._used[host, "ram"]
        self.most[host] = [max(pair) for pair in zip(self.most[host], now, strict=True)]


@pytest.mark.parametrize("make", [NovaDefault, lambda hosts: Ours(hosts, IMAGES)], ids=["nova", "ours"])
def test_no_host_ever_has_more_than_it_may(make: Callable[[Sequence[Host]], Placer]) -> None:
    watched = Watched(make(HOSTS), REQUESTS)
    outcome = replay(HOSTS, REQUESTS, watched)
    assert outcome.refused > 0
    assert outcome.placed + outcome.refused == len(REQUESTS)
    for host in HOSTS:
        cpus, ram_mb = watched.most[host.name]
        assert cpus <= host.cpus
        assert ram_mb <= host.ram_mb


def test_the_bound_moves_what_is_in_the_way() -> None:
    hosts = [Host("a", 4, 4000), Host("b", 4, 4000)]
    vms = [Vm(f"v{number}", 1, 1000, 10 if number % 2 else None) for number in range(8)]
    requests = [Request(vm.name, 0, (vm,)) for vm in vms]
    requests.append(Request("large", 20, (Vm("large", 1, 4000, None),)))
    assert replay(hosts, requests, FreeRepacking(hosts)).refused == 0


def test_the_bound_never_holds_more_than_there_is() -> None:
    bound = FreeRepacking(HOSTS)
    for request in REQUESTS[:300]:
        bound.place(request, request.time_s)
        assert (bound.free >= 0).all()
    assert bound.undecided == 0


def test_a_seed_is_a_workload() -> None:
    assert workload.requests(1, HOSTS, 1.2, weeks=1) == REQUESTS
    assert workload.requests(2, HOSTS, 1.2, weeks=1) != REQUESTS
