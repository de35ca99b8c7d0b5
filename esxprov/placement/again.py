"""A decision of the past, made again by today's code on the world of that day."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from esxprov.placement.choose import Decision, choose_together, recorded


def compare(data: Mapping[str, Any]) -> dict[str, Any]:
    """What `choose.record` wrote against today's decision.

    same (the hosts are); vms (vm, host_then, host_now, reason_then, reason_now); refused (host, then, now), only where
    that has changed. Hosts and refusals are None where there is none.

    Raises plain.NotPlain naming the field that is wrong, KeyError if a part is missing.
    """
    requests, snapshot, then = recorded(data)
    now = choose_together(requests, snapshot)
    vms = [
        {
            "vm": request.id,
            "host_then": _host(then, number),
            "host_now": _host(now, number),
            "reason_then": _reason(then, number),
            "reason_now": _reason(now, number),
        }
        for number, request in enumerate(requests)
    ]
    refused = [
        {"host": host, "then": _refusal(then, host), "now": _refusal(now, host)}
        for host in sorted(then.refused.keys() | now.refused.keys())
        if then.refused.get(host) != now.refused.get(host)
    ]
    same = all(one["host_then"] == one["host_now"] for one in vms)
    return {"same": same, "vms": vms, "refused": refused}


def _host(decision: Decision, number: int) -> str | None:
    return decision.placements[number].host_name if decision.placements else None


def _reason(decision: Decision, number: int) -> str:
    return decision.placements[number].reason if decision.placements else decision.reason


def _refusal(decision: Decision, host: str) -> str | None:
    why = decision.refused.get(host)
    return why.reason if why else None
