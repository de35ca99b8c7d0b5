"""Why not, host by host, and what would help. Whatever is said to help has been tried out on the farm."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from esxprov.placement.farm import Farm
from esxprov.placement.filters import refusal
from esxprov.placement.host import HostState
from esxprov.placement.request import PlacementRequest
from esxprov.placement.search import place, place_some, take_back

_MOST_CHANGES = 4
"""Who would have to change more than that is better told that there is no room."""

Change = Callable[[HostState], HostState]


@dataclass(frozen=True, slots=True)
class Refused:
    """The first rule that refuses a host, why in one sentence, and by how much in the rule's own unit."""

    rule: str
    reason: str
    missing: int = 0


def refused(farm: Farm, requests: Sequence[PlacementRequest]) -> dict[str, Refused]:
    """By label: why each host does not take the one that is stuck, when those before it are placed."""
    hosts, stuck = place_some(farm, requests)
    answer: dict[str, Refused] = {}
    if stuck is not None:
        request = _resolved(farm, requests[stuck])
        for number, label in enumerate(farm.labels()):
            no = refusal(request, farm.state(number), farm.rules)
            answer[label] = Refused(no.rule, no.reason, no.missing) if no else _unsafe()
    take_back(farm, requests, hosts)
    return answer


def help_for(farm: Farm, requests: Sequence[PlacementRequest], budget_s: float) -> tuple[str, ...]:
    """Sentences that complete "it would fit", the best first."""
    return tuple(_help(farm, requests, budget_s))


def _help(farm: Farm, requests: Sequence[PlacementRequest], budget_s: float) -> Iterator[str]:
    changes = _changes(farm, requests, budget_s)
    if changes:
        yield f"if {' and '.join(changes)}"
    limits = [request.max_per_host for request in requests if request.max_per_host is not None]
    for most in range(min(limits) + 1, len(requests) + 1) if limits else ():
        if _would_fit(farm, [replace(request, max_per_host=most) for request in requests], budget_s):
            yield f"with {most} per host"
            break
    free = [replace(r, affinities=tuple(w for w in r.affinities if not w.hard)) for r in requests]
    if free != list(requests) and _would_fit(farm, free, budget_s):
        yield "if they need not be apart or together"
    if farm.rules.n_plus_one:
        farm.rules = replace(farm.rules, n_plus_one=False)
        if _would_fit(farm, requests, budget_s):
            yield "if no host had to be replaceable (n_plus_one)"
        farm.rules = replace(farm.rules, n_plus_one=True)
    for count in range(len(requests) - 1, 0, -1):
        # From the front: which of them are left out is the asker's choice.
        if _would_fit(farm, requests[:count], budget_s):
            yield f"if only {count} of the {len(requests)} were asked for"
            break


def _would_fit(farm: Farm, requests: Sequence[PlacementRequest], budget_s: float) -> bool:
    found = place(farm, requests, budget_s)
    if found.hosts is not None:
        take_back(farm, requests, dict(enumerate(found.hosts)))
    return found.hosts is not None


def _changes(farm: Farm, requests: Sequence[PlacementRequest], budget_s: float) -> list[str] | None:
    """The nearest misses, cured one after the other until all fit; None if that takes too many, or nothing helps."""
    before: dict[int, HostState] = {}
    changes: list[str] = []
    try:
        while not _would_fit(farm, requests, budget_s):
            nearest = _nearest(farm, requests)
            if nearest is None or len(changes) + len(nearest[1]) > _MOST_CHANGES:
                return None
            number, texts, cures = nearest
            before.setdefault(number, farm.raw(number))
            for cure in cures:
                farm.put(cure(farm.raw(number)))
            changes += texts
    finally:
        for state in before.values():
            farm.put(state)
    return changes


def _nearest(farm: Farm, requests: Sequence[PlacementRequest]) -> tuple[int, list[str], list[Change]] | None:
    """The host that needs the least to take the one that is stuck, what has to change, and the changes."""
    hosts, stuck = place_some(farm, requests)
    best: tuple[float, int, list[str], list[Change]] | None = None
    if stuck is not None:
        request = _resolved(farm, requests[stuck])
        for number, label in enumerate(farm.labels()):
            cure = _cure(farm, number, request, label)
            if cure is not None and (best is None or cure[0] < best[0]):
                best = (cure[0], number, *cure[1:])
    take_back(farm, requests, hosts)
    return best[1:] if best else None


def _cure(
    farm: Farm, number: int, request: PlacementRequest, label: str
) -> tuple[float, list[str], list[Change]] | None:
    """(effort, changes) that make a host take the VM: each rule's own cure in turn, until no rule refuses it."""
    state = farm.state(number)
    effort, texts, cures = 0.0, [], []
    while (no := refusal(request, state, farm.rules)) is not None:
        if no.cure is None:
            return None
        texts.append(no.cure.change.replace("{host}", label))
        cures.append(no.cure.apply)
        effort += no.cure.effort
        state = no.cure.apply(state)
    return (effort, texts, cures) if texts else None


def _resolved(farm: Farm, request: PlacementRequest) -> PlacementRequest:
    """Without wishes to be with those who are nowhere: the first of a group goes where it likes."""
    wishes = tuple(wish for wish in request.affinities if not wish.together or farm.groups.get(wish.group))
    return replace(request, affinities=wishes)


def _unsafe() -> Refused:
    return Refused("n_plus_one", "with it here, some host's VMs would find no other host if that one failed")
