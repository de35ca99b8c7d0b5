"""From a lease in dhcpd's file to the reply in the hands of the shim."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, percentile
from benchmarks.stage import Slot, Stage, succeeded

NAME = "lease"
BOUND_MS = 25.0
_LOADS = 200
_WAITING_S = 30.0
_IP = "10.77.200.1"
_COMPARED = (
    "from the return of the write that appended a lease record to dhcpd's file, to the line that the shim's Perl "
    "process prints when its load has been answered; the real service, one load at a time, p99"
)


def run(stage: Stage) -> list[Figure]:
    """One figure. The file is the benchmark's own, so that no guest is quicker."""
    leases = stage.bed.directory / "benchmark.leases"
    leases.touch()
    slot = stage.slots[0]
    milliseconds = []
    with stage.service(ESXPROV_LEASES_SOURCE=f"dhcpd:{leases}"), stage.client() as client:
        for number in range(_LOADS + 1):
            took_ms = _load(stage, slot, leases)
            succeeded(client.call(stage.request("unload", slot)))
            if number:  # the first one warms up
                milliseconds.append(took_ms)
    return [
        Figure(
            NAME,
            "record on disk to reply",
            len(milliseconds),
            percentile(milliseconds, 99),
            _COMPARED,
            bound=BOUND_MS,
            facts=(("median_ms", percentile(milliseconds, 50)), ("most_ms", max(milliseconds))),
        )
    ]


def _load(stage: Stage, slot: Slot, leases: Path) -> float:
    with stage.ask("load") as asked:
        assert asked.stdin is not None
        assert asked.stdout is not None
        asked.stdin.write(json.dumps(stage.data(slot)))
        asked.stdin.close()
        _wait_until_it_waits(stage, slot)
        written = _append(leases, _record(slot))
        for line in asked.stdout:
            heard: dict[str, Any] = json.loads(line)
            if "reply" in heard:
                took_ms = 1000 * (time.perf_counter() - written)
                break
        else:
            raise RuntimeError("the shim ended without a reply")
        asked.stdout.read()
    if heard["reply"]["outcome"] != "ok" or heard["reply"]["result"]["private_ip"] != _IP:
        raise RuntimeError(f"load failed: {heard}")
    return took_ms


def _wait_until_it_waits(stage: Stage, slot: Slot) -> None:
    """Until the journal says that the load has nothing to do but wait; then a moment, of any length, so that it does
    and that no sample profits from what was still awake.
    """
    deadline = time.monotonic() + _WAITING_S
    with stage.bed.mariadb.connect() as connection, connection.cursor() as cursor:
        while True:
            cursor.execute("SELECT step FROM esxprov_event WHERE computer_id = %s AND state = 'running'", (slot.id,))
            row = cursor.fetchone()
            if row is not None and row["step"] == "wait_for_address":
                break
            if time.monotonic() > deadline:
                raise RuntimeError(f"the load of {slot.name} did not come to waiting for its address, but to {row}")
            time.sleep(0.002)
    time.sleep(random.uniform(0.01, 0.03))


def _append(leases: Path, record: bytes) -> float:
    """When it was written."""
    file = os.open(leases, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(file, record)
        return time.perf_counter()
    finally:
        os.close(file)


def _record(slot: Slot) -> bytes:
    now = time.time()
    starts, ends = (time.strftime("%w %Y/%m/%d %H:%M:%S", time.gmtime(at)) for at in (now, now + 7200))
    return (
        f"lease {_IP} {{\n  starts {starts};\n  ends {ends};\n  cltt {starts};\n  binding state active;\n"
        f"  next binding state free;\n  rewind binding state free;\n  hardware ethernet {slot.private_mac};\n}}\n"
    ).encode()
