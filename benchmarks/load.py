"""A load through the real service, against a straight-line script: one at a time, and 16 at once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from benchmarks.figures import Figure
from benchmarks.stage import SLOTS, Slot, Stage, succeeded
from benchmarks.straight_line import Script
from bridge.client import Client
from esxprov.leases.follower import LeaseFile
from esxprov.leases.watcher import LeaseWatcher

NAME = "load"
BOUND = 1.5
_SINGLES = 30
_WAVES = 8
_WARM_UPS = 4

Load = Callable[[Slot], object]


@dataclass(slots=True)
class Side:
    """How one side loads a slot, for each of the callers that work at once; and what it took."""

    loads: Sequence[Load]
    milliseconds: list[float] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)

    def measure(self, stage: Stage, slots: Sequence[Slot], pool: ThreadPoolExecutor, *, keep: bool = True) -> None:
        """Load all slots at once, until the last one has its address; what is not kept warms up."""
        before = stage.vsphere_calls()
        began = time.perf_counter()
        done = [pool.submit(load, slot) for load, slot in zip(self.loads, slots, strict=False)]
        for one in done:
            one.result()
        took_ms = 1000 * (time.perf_counter() - began)
        if keep:
            self.milliseconds.append(took_ms)
            self.calls += stage.vsphere_calls() - before


def run(stage: Stage) -> list[Figure]:
    """One figure for one at a time, one for 16 at once: each with a service that has a worker for each."""
    return [
        _measured(stage, stage.slots[:1], _SINGLES, "one at a time"),
        _measured(stage, stage.slots, _WAVES, f"{SLOTS} at once"),
    ]


def _measured(stage: Stage, slots: Sequence[Slot], rounds: int, case: str) -> Figure:
    with ExitStack() as ends:
        # One worker more than loads: a service whose last worker is taken stops taking in, which is not measured here.
        ends.enter_context(stage.service(ESXPROV_SERVICE_WORKERS_SLOW=str(len(slots) + 1)))
        clients = [ends.enter_context(stage.client()) for _ in slots]
        watcher = ends.enter_context(LeaseWatcher(LeaseFile(stage.bed.lan.leases), stage.bed.lan.conf))
        scripts = [ends.enter_context(_script(stage, watcher)) for _ in slots]
        pool = ends.enter_context(ThreadPoolExecutor(len(slots)))

        def sides() -> tuple[Side, Side]:
            return Side([_through(stage, client) for client in clients]), Side([script.load for script in scripts])

        def unload(slots: Sequence[Slot]) -> None:
            callers = zip(clients, slots, strict=False)
            for done in [pool.submit(_call, stage, client, "unload", slot) for client, slot in callers]:
                done.result()

        for side in sides() * _WARM_UPS:  # threads are begun, sessions logged in, templates compiled
            side.measure(stage, slots, pool, keep=False)
            unload(slots)
        return _compare(stage, pool, sides(), unload, slots, rounds, case)


def _compare(
    stage: Stage,
    pool: ThreadPoolExecutor,
    sides: tuple[Side, Side],
    unload: Callable[[Sequence[Slot]], None],
    slots: Sequence[Slot],
    rounds: int,
    case: str,
) -> Figure:
    for _ in range(rounds):
        for side in sides:
            side.measure(stage, slots, pool)
            unload(slots)
    service, script = sides
    loads = rounds * len(slots)
    return Figure.ratio(
        NAME,
        case,
        service.milliseconds,
        script.milliseconds,
        BOUND,
        "from publishing the requests (bridge.client.Client) to the last reply, by the real service; against: a "
        "pyVmomi script with the same vSphere calls in the same order, in threads of the benchmark, waiting for the "
        "lease with the same watcher (esxprov.leases). Simulator without task time, a real dhcpd, guests that ask at "
        "once; sessions are logged in on both sides, and unloading is not measured. vSphere calls per load: "
        f"{service.calls.total() / loads:.1f} by the service (that it is told of changes included), "
        f"{script.calls.total() / loads:.1f} by the script",
        vsphere_calls_per_load=_per_load(service.calls, loads),
        vsphere_calls_per_load_of_the_floor=_per_load(script.calls, loads),
    )


def _per_load(calls: Counter[str], loads: int) -> dict[str, float]:
    return {method: round(count / loads, 2) for method, count in sorted(calls.items())}


def _through(stage: Stage, client: Client) -> Load:
    return lambda slot: _call(stage, client, "load", slot)


def _call(stage: Stage, client: Client, call: str, slot: Slot) -> None:
    succeeded(client.call(stage.request(call, slot)))


@contextmanager
def _script(stage: Stage, watcher: LeaseWatcher) -> Iterator[Script]:
    script = Script(stage.bed.endpoints, watcher)
    try:
        yield script
    finally:
        script.close()
