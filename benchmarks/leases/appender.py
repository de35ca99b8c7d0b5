"""`python -m benchmarks.leases.appender FILE COUNT GAP_MS`: append records as dhcpd does, each written and synced.

Starts when a line comes on the standard input; prints when each write began, monotonic nanoseconds, as JSON.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time

from benchmarks.leases import churn

_FIRST = 1 << 20
"""Addresses and clients that no generated file has."""


def main() -> None:
    """The command."""
    path, count, gap_ms = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    now = int(time.time())
    numbers = range(_FIRST, _FIRST + int(count))
    # No time is written twice: what is remembered of one record must not help with the next.
    records = [
        churn.record(churn.ip_of(n), "active", at, at + churn.LEASE_S, churn.mac_of(n), b'  client-hostname "vm";\n')
        for n, at in zip(numbers, itertools.count(now), strict=False)
    ]
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    sys.stdin.readline()
    began = []
    for record in records:
        began.append(time.monotonic_ns())
        os.write(file, record)
        os.fsync(file)
        time.sleep(gap_ms / 1000)
    print(json.dumps(began))


if __name__ == "__main__":
    main()
