"""How much requests would need at once, and as many of them as bring a farm to a chosen load."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from benchmarks.placement.rows import Host, Request


def peak(requests: Sequence[Request], hosts: Sequence[Host]) -> float:
    """The most that would run at once if nothing were refused, as a share of the hosts' tighter resource."""
    return _Demand(requests, hosts).peak(np.ones(len(requests), dtype=np.bool_))


def thinned(requests: Sequence[Request], hosts: Sequence[Host], load: float, seed: int) -> list[Request]:
    """As many of the requests, left out at random, as keep the peak at or below `load`; in order of arrival."""
    demand = _Demand(requests, hosts)
    ranks = np.random.default_rng(seed).permutation(len(requests))
    few, many = 0, len(requests) + 1
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (middle, many) if demand.peak(ranks < middle) <= load else (few, middle)
    kept = [request for request, rank in zip(requests, ranks, strict=True) if rank < few]
    return sorted(kept, key=lambda request: request.time_s)


class _Demand:
    """Comings and goings in the order of time, what goes first; as shares of what the hosts offer."""

    def __init__(self, requests: Sequence[Request], hosts: Sequence[Host]) -> None:
        offered = np.array([sum(host.cpus for host in hosts), sum(host.ram_mb for host in hosts)])
        rows = [
            (index, request.time_s + when_s, sign * vm.cpus, sign * vm.ram_mb)
            for index, request in enumerate(requests)
            for vm in request.vms
            for when_s, sign in ((vm.duration_s, -1), (0, 1))
            if when_s is not None
        ]
        table = np.array(rows, dtype=np.float64).reshape(len(rows), 4)
        table = table[np.lexsort((table[:, 2], table[:, 1]))]
        self._request = table[:, 0].astype(np.int64)
        self._change: npt.NDArray[np.float64] = table[:, 2:] / offered

    def peak(self, kept: npt.NDArray[np.bool_]) -> float:
        """With only the requests that are kept."""
        return float(np.cumsum(self._change[kept[self._request]], axis=0).max(initial=0.0))
