"""Putting the claims right: asks the endpoints what is there, has it compared, and does what may be done."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from esxprov.model import HostKey, Pool
from esxprov.placement.claims import Claims
from esxprov.placement.reconcile import Correction, Memory, Plan, Seen, reconcile
from esxprov.ports import Look, Looks
from esxprov.recovery import Recovered

log = logging.getLogger(__name__)

RECONCILE_S = 30


@dataclass(frozen=True, slots=True)
class Report:
    """What was planned, what of it was done, and which endpoints did not answer."""

    plan: Plan
    done: tuple[Correction, ...]
    silent: tuple[str, ...]


class Reconciler:
    """For one thread. Remembers from one look to the next, as a VM must be missed twice to be lost.

    `put_right` brings back what hosts that booted have forgotten, and says of which of them VMs are still to come.
    """

    def __init__(
        self,
        claims: Claims,
        looks: Looks,
        pools: Iterable[Pool],
        put_right: Callable[[Sequence[Look]], Recovered] = lambda looks: Recovered(),
    ) -> None:
        self._put_right = put_right
        self._claims = claims
        self._looks = looks
        self._pools = tuple(pools)
        self._memory = Memory()
        self._alarm: str | None = None

    def run(self, *, force: bool = False, dry_run: bool = False) -> Report:
        """One look and what follows from it; with `dry_run` nothing is done."""
        endpoints = sorted({name for pool in self._pools for name in pool.endpoints})
        looks = self._looks.at(endpoints)
        recovered = self._put_right(looks)
        if recovered.cases:
            # That takes its time, and changes what is there.
            looks = self._looks.at(endpoints)
        # Read after the looks: a VM that was seen has its claim in the books, unless it went meanwhile.
        books = self._claims.books()
        seen = [_seen(look) for look in looks if look.problem is None]
        plan = reconcile(books, seen, self._ours(looks), self._memory, force=force, coming=recovered.coming)
        silent = tuple(look.endpoint for look in looks if look.problem is not None)
        if dry_run:
            return Report(plan, (), silent)
        self._memory = plan.memory
        self._claims.sum_up([repair.host for repair in plan.repairs])
        done = self._claims.correct(plan.corrections)
        self._tell(plan, done)
        return Report(plan, tuple(done), silent)

    def _ours(self, looks: Sequence[Look]) -> frozenset[HostKey]:
        hosts = [host for look in looks for host in look.hosts]
        return frozenset(host.key for host in hosts if any(pool.has(host) for pool in self._pools))

    def _tell(self, plan: Plan, done: Iterable[Correction]) -> None:
        for repair in plan.repairs:
            log.error(
                "%s had %d MB and %d vCPUs booked, its claims are %d MB and %d: somebody has changed rows by hand",
                *(repair.host, *repair.booked, *repair.claimed),
            )
        for one in done:
            log.warning("claim %s: %s", one.id, one.why)
        if plan.alarm is not None and self._alarm is None:
            log.error("%s", plan.alarm)
        elif plan.alarm is None and self._alarm is not None:
            log.warning("no more claims than usual are to be freed any more")
        self._alarm = plan.alarm


def _seen(look: Look) -> Seen:
    hosts = frozenset(host.key for host in look.hosts if host.state == "connected")
    return Seen(look.endpoint, hosts, look.vms)
