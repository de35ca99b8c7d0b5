"""Where a VM goes, and why nowhere else. Pure: the same request on the same snapshot is the same decision, any day."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from esxprov.model import HostKey, Placement
from esxprov.placement.filters import PlacementRequest, refusal
from esxprov.placement.scores import SCORES, expected
from esxprov.placement.snapshot import HostState, Snapshot


@dataclass(frozen=True, slots=True)
class Decision:
    """`placement` is None if no host takes the VM; `nearest` says then, in one sentence, what would have helped.

    `refused` maps the label of every host that does not take it to the reason; see Snapshot.labels.
    """

    placement: Placement | None
    refused: dict[str, str]
    nearest: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; `from_json` makes the same decision of it."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Decision:
        """The decision that `to_json` wrote."""
        place = data["placement"]
        placement = Placement(**{**place, "host": HostKey(**place["host"])}) if place else None
        return cls(placement, data["refused"], data["nearest"])


def choose(request: PlacementRequest, snapshot: Snapshot) -> Decision:
    """The best host by the request's policy; of equal ones, one that depends on the request's id."""
    labels = snapshot.labels()
    refused: dict[str, str] = {}
    takers: list[HostState] = []
    for host in snapshot.hosts:
        no = refusal(request, host)
        if no is None:
            takers.append(host)
        else:
            refused[labels[host.key]] = no.reason
    if not takers:
        return Decision(None, refused, _nearest(request, snapshot, labels))
    score, saying = SCORES[request.policy]
    futures = expected(snapshot.catalogue or ((request.ram_mb, request.cpus, 1),))
    ranked = [(score(request, host, futures), _tie(request.id, host.key), host) for host in takers]
    points, _, best = min(ranked, key=lambda entry: entry[:2])
    reason = (
        "the only host that takes it"
        if len(takers) == 1
        else f"of {len(takers)} hosts that take it, {saying.format(score=points)}"
    )
    return Decision(Placement(best.key, best.name, request.datastore, reason, refused), refused)


def _tie(request_id: str, key: HostKey) -> bytes:
    """Not hash(), which differs in every process."""
    return hashlib.blake2b(f"{request_id}|{key}".encode(), digest_size=8).digest()


def _nearest(request: PlacementRequest, snapshot: Snapshot, labels: Mapping[HostKey, str]) -> str | None:
    """What the nearest miss would have needed, None if nothing helps on any host."""
    cures = [cure for host in snapshot.hosts if (cure := _cure(request, host, labels[host.key])) is not None]
    return f"it would fit if {min(cures)[1]}" if cures else None


def _cure(request: PlacementRequest, host: HostState, label: str) -> tuple[float, str] | None:
    """(effort, changes) that make a host take the VM: each rule's own cure in turn, until no rule refuses it."""
    changes: list[str] = []
    effort = 0.0
    while (no := refusal(request, host)) is not None:
        if no.cure is None:
            return None
        changes.append(no.cure.change.replace("{host}", label))
        effort += no.cure.effort
        host = no.cure.host
    return effort, " and ".join(changes)


def record(request: PlacementRequest, snapshot: Snapshot, decision: Decision) -> dict[str, Any]:
    """Input and answer as plain JSON, for the journal."""
    return {"request": request.to_json(), "snapshot": snapshot.to_json(), "decision": decision.to_json()}


def decide_again(recorded: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """(host then, host that today's rules choose on the world of that day)."""
    snapshot = Snapshot.from_json(recorded["snapshot"])
    labels = snapshot.labels()
    then = Decision.from_json(recorded["decision"]).placement
    now = choose(PlacementRequest.from_json(recorded["request"]), snapshot).placement
    return labels[then.host] if then else None, labels[now.host] if now else None
