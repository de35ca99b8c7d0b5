"""A decision on a snapshot, with its reasons. Pure: it can be made again, any day, from the journal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from esxprov.model import Placement
from esxprov.placement import explain
from esxprov.placement.calendar import help_later
from esxprov.placement.explain import Refused
from esxprov.placement.farm import FULL, Farm, store_id
from esxprov.placement.promises import Promises
from esxprov.placement.request import PlacementRequest
from esxprov.placement.search import SOLVER_S, Found, place
from esxprov.placement.snapshot import Snapshot
from esxprov.plain import from_plain, to_plain


@dataclass(frozen=True, slots=True)
class Decision:
    """A host for each request, in their order, or none for all of them; `reason` says it in one sentence.

    Without placements, `refused` has, by the label of each host, why it does not take the VM that found none; `help`
    what would let all of them in, each tried out. `proved`: there is no way, not merely none found in time.
    """

    placements: tuple[Placement, ...]
    reason: str
    refused: Mapping[str, Refused] = field(default_factory=dict)
    help: tuple[str, ...] = ()
    proved: bool = True


def choose(request: PlacementRequest, snapshot: Snapshot) -> Decision:
    """The best host for one VM."""
    return choose_together((request,), snapshot)


def choose_together(requests: Sequence[PlacementRequest], snapshot: Snapshot, budget_s: float = SOLVER_S) -> Decision:
    """Hosts for all of them, or none."""
    farm = farm_of(snapshot)
    found = place(farm, requests, budget_s)
    if found.hosts is None:
        refused = refuse(farm, requests, found, budget_s)
        return replace(refused, help=refused.help + help_later(snapshot, requests, budget_s))
    return accept(farm, requests, found.hosts)


def farm_of(snapshot: Snapshot) -> Farm:
    """The snapshot's hosts, to decide on."""
    promises = Promises(snapshot.claims, snapshot.vms)
    states = [snapshot.state(host, promises) for host in snapshot.hosts]
    return Farm(states, snapshot.rules, snapshot.catalogue, pending(snapshot, promises), snapshot.at)


def pending(snapshot: Snapshot, promises: Promises) -> Counter[str]:
    """What is still to be written to each datastore, by all hosts that share it."""
    total: Counter[str] = Counter()
    for host in snapshot.hosts:
        for name, amount_mb in promises.of(host.key).disks_mb.items():
            for store in host.datastores:
                if store.name == name:
                    total[store_id(host.key, store)] += amount_mb
    return total


def accept(farm: Farm, requests: Sequence[PlacementRequest], hosts: Sequence[int]) -> Decision:
    """The decision for hosts that the requests occupy already."""
    if len(requests) == 1:
        reason = _reason(farm, requests[0], hosts[0])
    else:
        reason = f"{len(requests)} VMs together, on {len(set(hosts))} host(s)"
    labels = farm.labels()
    placements = tuple(
        Placement(farm.hosts[host].key, labels[host], request.datastore, reason)
        for request, host in zip(requests, hosts, strict=True)
    )
    return Decision(placements, reason)


def _reason(farm: Farm, request: PlacementRequest, host: int) -> str:
    farm.vacate(host, request)
    costs = farm.costs(request)
    takers = int((costs != FULL).sum())
    cost = int(costs[host])
    farm.occupy(host, request)
    if takers == 1:
        return "the only host that takes it"
    return f"of {takers} hosts that take it, {farm.explain(cost)}"


def refuse(farm: Farm, requests: Sequence[PlacementRequest], found: Found, budget_s: float = SOLVER_S) -> Decision:
    """The decision when `place` found nothing."""
    what = "it" if len(requests) == 1 else f"all {len(requests)} VMs together"
    if not len(farm):
        reason = "the pool has no host"
    elif found.proved:
        reason = f"no host takes {what}" if len(requests) == 1 else f"the hosts do not take {what}"
    else:
        reason = f"no way was found to take {what} within {budget_s * 1000:.0f} ms"
    help_ = explain.help_for(farm, requests, budget_s)
    return Decision((), reason, explain.refused(farm, requests), help_, found.proved)


def record(requests: Sequence[PlacementRequest], snapshot: Snapshot, decision: Decision) -> dict[str, Any]:
    """Input and answer as plain JSON, for the journal."""
    return {"requests": to_plain(list(requests)), "snapshot": snapshot.to_json(), "decision": to_plain(decision)}


def recorded(data: Mapping[str, Any]) -> tuple[tuple[PlacementRequest, ...], Snapshot, Decision]:
    """What `record` wrote. Raises plain.NotPlain naming the field that is wrong."""
    requests = tuple(
        from_plain(PlacementRequest, one, f"requests[{number}]") for number, one in enumerate(data["requests"])
    )
    snapshot = from_plain(Snapshot, data["snapshot"], "snapshot")
    return requests, snapshot, from_plain(Decision, data["decision"], "decision")


def decide_again(data: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Of what `record` wrote: (hosts then, hosts that today's rules choose on the world of that day)."""
    requests, snapshot, then = recorded(data)
    return _hosts(then), _hosts(choose_together(requests, snapshot))


def _hosts(decision: Decision) -> str | None:
    return ", ".join(placement.host_name for placement in decision.placements) or None
