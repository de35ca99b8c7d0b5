"""`python -m benchmarks.leases.rotator FILE ROTATIONS PACE_MS SEED`: append and rotate as dhcpd does, call by call.

Between two rotations seven clients that nobody has seen get one of fifty addresses; one record in five is half-written
for a while. PACE_MS is the least time between two rotations. Prints ip -> mac of what is leased at the end, and how
many leases were written, as JSON.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path

from benchmarks.leases import churn

_ADDRESSES = 50
_BETWEEN = 7


def main() -> None:
    """The command."""
    path, rotations, pace_s, seed = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) / 1000, int(sys.argv[4])
    chance = random.Random(seed)
    now = int(time.time())
    leased: dict[int, int] = {}

    def record(address: int) -> bytes:
        ip, mac = churn.ip_of(address), churn.mac_of(leased[address])
        return churn.record(ip, "active", now, now + churn.LEASE_S, mac)

    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    clients = 0
    for rotation in range(rotations):
        rotated = time.monotonic()
        for _ in range(_BETWEEN):
            address = chance.randrange(_ADDRESSES)
            leased[address] = clients
            clients += 1
            written = record(address)
            half = chance.randrange(1, len(written)) if chance.random() < 0.2 else len(written)
            os.write(file, written[:half])
            time.sleep(pace_s / (2 * _BETWEEN))
            os.write(file, written[half:])
            time.sleep(pace_s / (2 * _BETWEEN))
        time.sleep(max(0.0, rotated + pace_s - time.monotonic()))
        dumped = sorted(leased, key=lambda _: chance.random())
        file = _rotate(path, file, rotation, [record(address) for address in dumped])
    os.close(file)
    owners = {churn.ip_of(address): churn.mac_of(client) for address, client in leased.items()}
    print(json.dumps({"owners": owners, "written": clients}))


def _rotate(path: Path, old: int, number: int, records: list[bytes]) -> int:
    """The new file, open for more."""
    new, backup = path.with_name(f"{path.name}.{number}"), path.with_name(f"{path.name}~")
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o664)
    os.write(file, churn.HEADER + b"".join(records))
    os.fsync(file)
    os.close(old)
    backup.unlink(missing_ok=True)
    os.link(path, backup)
    new.rename(path)
    return file


if __name__ == "__main__":
    main()
