"""The RAM that could be placed at most if VMs could be cut into pieces: a linear programme."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array

from benchmarks.placement.rows import Host, Vm


def most_ram_mb(hosts: Sequence[Host], vms: Iterable[Vm]) -> float:
    """Of all VMs at once, whoever they may not share a host with; pieces only where the whole VM has room."""
    wanted = Counter((vm.cpus, vm.ram_mb) for vm in vms)
    alike = Counter((host.cpus, host.ram_mb) for host in hosts)
    pairs = [
        (size, host)
        for size, vm in enumerate(wanted)
        for host, room in enumerate(alike)
        if vm[0] <= room[0] and vm[1] <= room[1]
    ]
    if not pairs:
        return 0.0
    size, host = np.array(pairs).T
    sizes, rooms = np.array(list(wanted)), np.array(list(alike))
    column = np.arange(len(pairs))
    row = np.concatenate([size, len(sizes) + host, len(sizes) + len(rooms) + host])
    value = np.concatenate([np.ones(len(pairs)), sizes[size, 0], sizes[size, 1]])
    shape = len(sizes) + 2 * len(rooms), len(pairs)
    matrix = coo_array((value, (row, np.tile(column, 3))), shape=shape).tocsr()
    many = np.array(list(alike.values()))
    most = np.concatenate([list(wanted.values()), rooms[:, 0] * many, rooms[:, 1] * many])
    answer = linprog(-sizes[size, 1].astype(np.float64), A_ub=matrix, b_ub=most, method="highs")
    assert answer.status == 0, answer.message
    return float(-answer.fun)
