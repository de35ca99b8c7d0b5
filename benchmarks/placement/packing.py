"""Whether so many VMs of each size fit on hosts, exactly: an integer programme of our own, with a generous limit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

Integers = npt.NDArray[np.int64]

_INFEASIBLE = 2
"""scipy.optimize.milp's status."""


def packing(
    sizes: Integers, needed: Integers, room: Integers, limit_s: float, per_host: int | None = None
) -> tuple[Integers | None, bool]:
    """Counts of each size on each host, or None and whether it is proved that there are none.

    `sizes` and `room` have a row (vCPUs, MB) for each size and each host; `needed` says how many of each size, of which
    a host may have at most `per_host` altogether (None: any number).
    """
    kinds, hosts = len(sizes), len(room)
    room = room.clip(0)
    kind, host = np.divmod(np.arange(kinds * hosts), hosts)
    row = np.concatenate([kind, kinds + host, kinds + hosts + host, kinds + 2 * hosts + host])
    column = np.tile(np.arange(kinds * hosts), 4)
    ones = np.ones(kinds * hosts)
    value = np.concatenate([ones, sizes[kind, 0], sizes[kind, 1], ones])
    matrix = coo_array((value, (row, column)), shape=(kinds + 3 * hosts, kinds * hosts)).tocsc()
    total = int(needed.sum())
    low = np.concatenate([needed, np.zeros(3 * hosts)])
    high = np.concatenate([needed, room[:, 0], room[:, 1], np.full(hosts, total if per_host is None else per_host)])
    most = (room[None, :, :] // sizes[:, None, :]).min(axis=2)
    answer = milp(
        np.zeros(kinds * hosts),
        constraints=LinearConstraint(matrix, low, high),
        bounds=Bounds(0, np.minimum(most, needed[:, None]).ravel()),
        integrality=np.ones(kinds * hosts),
        options={"time_limit": limit_s},
    )
    if answer.x is None:
        return None, answer.status == _INFEASIBLE
    return np.rint(answer.x).astype(np.int64).reshape(kinds, hosts), True
