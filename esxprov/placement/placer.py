"""A pool's farm, kept current by what changes: claims by the ledger, hosts and VMs by what endpoints say.

So a decision costs what has changed since the last one, not what there is. No clock, no I/O. Belongs to whoever holds
the turn of the ledger it follows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from esxprov import annotation
from esxprov.model import Claim, ClaimState, Host, HostKey, Pool, Vm
from esxprov.placement.choose import Decision, accept, choose_together
from esxprov.placement.failover import weakest
from esxprov.placement.farm import Farm, store_id
from esxprov.placement.host import HostState
from esxprov.placement.ledger import Ledger
from esxprov.placement.promises import Promises, foreign_claim_id
from esxprov.placement.request import PlacementRequest
from esxprov.placement.search import place_some, take_back
from esxprov.placement.snapshot import Rules, Size, Snapshot, state_of
from esxprov.placement.wants import Later, Proposal, Room


@dataclass(frozen=True, slots=True)
class Sight:
    """All that an endpoint has, and when (any clock) it was so. Hosts or VMs that are the very same tuple as before
    have not changed.
    """

    endpoint: str
    hosts: tuple[Host, ...]
    vms: tuple[Vm, ...]
    seen_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What a decision is made on beside the claims. `unfit` are hosts it must not choose, and why; `at` is when, in
    epoch seconds.
    """

    sights: tuple[Sight, ...]
    catalogue: tuple[Size, ...] = ()
    unfit: Mapping[HostKey, str] = field(default_factory=dict)
    at: int = 0


@dataclass(frozen=True, slots=True)
class Member:
    """One VM of those that are placed together: what it asks for, and whose it is."""

    request: PlacementRequest
    computer_id: int
    reservation_id: int


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision and what it was made on, for the journal."""

    requests: tuple[PlacementRequest, ...]
    snapshot: Snapshot
    decision: Decision


Foresight = Callable[[Snapshot], Snapshot]
"""Adds to a snapshot what VCL has promised for later. Asked where nobody waits, so it may take its time."""


class Placer:
    """Decides for one pool, on one ledger."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.rules = Rules.of(pool)
        self._ledger: Ledger | None = None
        self._promises = Promises()
        self._sights: dict[str, Sight] = {}
        self._hosts: dict[HostKey, Host] = {}
        self._farm = Farm((), self.rules)
        self._pending: dict[HostKey, Counter[str]] = {}
        self._unfit: dict[HostKey, str] = {}
        self._at = 0

    def decide(
        self,
        ledger: Ledger,
        hint: Decided | None,
        computer_id: int,
        members: Sequence[Member],
        seen: Seen,
        foresight: Foresight,
    ) -> Proposal[Decided] | Later:
        """A place for every member who has none, or for nobody. `computer_id` is that of the one who asks.

        What greed does not find is worked out later, on a copy, while others go on; `hint` is what came of that.
        """
        self._follow(ledger)
        self._at = max(self._at, seen.at)  # who has seen the world first need not decide first
        self._see(seen.sights)
        self._farm.expect(seen.catalogue)
        self._farm.advance(self._at)
        homeless = [one for one in members if one.computer_id == computer_id or not self._is_housed(one)]
        requests = tuple(one.request for one in homeless)
        if hint is not None and hint.requests != requests:
            hint = None  # meanwhile another member was housed
        with self._as_if_gone(homeless, seen.unfit):
            snapshot = self._snapshot(seen)
            hosts = self._settle(requests, hint)
            if hosts is None:
                if hint is not None and not hint.decision.placements:
                    return Proposal(hint)
                return Later(lambda: _thorough(requests, foresight(snapshot)))
            if hint is not None and hint.decision.placements:
                snapshot = hint.snapshot  # on which it was found
            decision = accept(self._farm, requests, hosts)
            take_back(self._farm, requests, dict(enumerate(hosts)))
            rooms = tuple(self._room(one, host, ledger) for one, host in zip(homeless, hosts, strict=True))
            return Proposal(Decided(requests, snapshot, decision), rooms)

    # --- finding hosts -----------------------------------------------------------------------------------------------

    def _is_housed(self, member: Member) -> bool:
        """It has a claim, or a VM of its image from earlier, which VCL will not load again."""
        assert self._ledger is not None
        holding = (ClaimState.CLAIMED, ClaimState.RUNNING)
        claims = self._ledger.of_reservation(member.reservation_id)
        if any(one.computer_id == member.computer_id and one.state in holding for one in claims):
            return True
        owners = (annotation.read(vm.annotation) for vm in self._promises.vms_of(member.computer_id))
        return any(owner is not None and owner.image == member.request.image for owner in owners)

    def _settle(self, requests: Sequence[PlacementRequest], hint: Decided | None) -> list[int] | None:
        """Hosts for all of them, which they occupy then, or None, and the farm is as it was."""
        if hint is not None and hint.decision.placements:
            return self._settle_as(requests, hint.decision)
        found, stuck = place_some(self._farm, requests)
        if stuck is None:
            return [found[number] for number in range(len(requests))]
        take_back(self._farm, requests, found)
        return None

    def _settle_as(self, requests: Sequence[PlacementRequest], decision: Decision) -> list[int] | None:
        """Where an earlier decision put them, if all of its hosts still take them."""
        farm, done = self._farm, dict[int, int]()
        for number, placement in enumerate(decision.placements):
            host = farm.index.get(placement.host)
            if host is None or farm.refusals(requests[number])[host]:
                break
            farm.occupy(host, requests[number])
            done[number] = host
        if len(done) == len(requests) and not (self.rules.n_plus_one and weakest(farm) is not None):
            return list(done.values())
        take_back(farm, requests, done)
        return None

    def _room(self, member: Member, number: int, ledger: Ledger) -> Room:
        """The claim, and the most that its host's claims may add up to: what it may promise, less what VMs take that no
        claim counts.
        """
        host, request = self._farm.hosts[number].key, member.request
        claim = Claim(
            id="",
            host=host,
            computer_id=member.computer_id,
            ram_mb=request.ram_needed_mb,
            cpus=request.cpus,
            event_id="",
            pool=self._pool.name,
            reservation_id=member.reservation_id,
            group=request.group,
            disk_mb=request.disk_mb,
            datastore=request.datastore,
            ends_at=request.ends_at,
        )
        claimed = ledger.of_host(host)
        return Room(
            claim,
            sum(one.ram_mb for one in claimed) + int(self._farm.ram_free[number]),
            sum(one.cpus for one in claimed) + int(self._farm.cpus_free[number]),
        )

    @contextmanager
    def _as_if_gone(self, members: Iterable[Member], unfit: Mapping[HostKey, str]) -> Iterator[None]:
        """The farm without what the members' computers have, which is given back before their new VMs are switched on;
        and without hosts that must not be chosen.
        """
        computers = [member.computer_id for member in members]
        vms = [vm for computer in computers for vm in self._promises.vms_of(computer)]
        made_for_them = (self._promises.claims.get(foreign_claim_id(vm.endpoint, vm.moid)) for vm in vms)
        claims = [claim for computer in computers for claim in self._promises.claims_of(computer)]
        claims += [claim for claim in made_for_them if claim is not None and claim not in claims]
        for claim in claims:
            self._promises.drop_claim(claim.id)
        for vm in vms:
            self._promises.drop_vm((vm.endpoint, vm.moid))
        turned = {key for key, _ in self._unfit.items() ^ unfit.items()}
        self._unfit = dict(unfit)
        self._put(turned)
        try:
            yield
        finally:
            for claim in claims:
                self._promises.put_claim(claim)
            for vm in vms:
                self._promises.put_vm(vm)
            self._put(())

    def _snapshot(self, seen: Seen) -> Snapshot:
        """What the decision is made on. Of claims only those that count in the pool."""
        return Snapshot(
            hosts=tuple(self._hosts.values()),
            claims=tuple(claim for claim in self._promises.claims.values() if claim.host in self._hosts),
            vms=tuple(self._promises.vms.values()),
            catalogue=seen.catalogue,
            rules=self.rules,
            unfit={str(key): why for key, why in self._unfit.items()},
            at=self._at,
        )

    # --- what has changed --------------------------------------------------------------------------------------------

    def _follow(self, ledger: Ledger) -> None:
        if self._ledger is None:
            self._ledger = ledger
            ledger.listen(self._hear)
        if self._ledger is not ledger:
            raise ValueError("a placer follows one ledger, and was asked to decide on another one")

    def _hear(self, before: Claim | None, after: Claim | None) -> None:
        if after is not None:
            self._promises.put_claim(after)
        elif before is not None:
            self._promises.drop_claim(before.id)

    def _see(self, sights: Iterable[Sight]) -> None:
        """Take in what endpoints say. One that is not among them offers nothing; of one that said something newer to
        somebody else already, that holds.
        """
        said = {sight.endpoint: sight for sight in sights}
        for endpoint in self._sights.keys() - said.keys():
            said[endpoint] = Sight(endpoint, (), ())
        moved: list[tuple[Sight, Sight]] = []
        for endpoint, sight in said.items():
            known = self._sights.get(endpoint, Sight(endpoint, (), ()))
            if known.seen_at > sight.seen_at > 0:
                continue
            self._sights[endpoint] = sight
            if sight.vms is not known.vms:
                self._see_vms(known.vms, sight.vms)
            if sight.hosts is not known.hosts:
                moved.append((known, sight))
        if moved:
            self._see_hosts(moved)
        self._put(())

    def _see_hosts(self, moved: Iterable[tuple[Sight, Sight]]) -> None:
        hosts = dict(self._hosts)
        for before, now in moved:
            for host in before.hosts:
                hosts.pop(host.key, None)
            hosts.update({host.key: host for host in now.hosts if self._pool.has(host)})
        known, self._hosts = self._hosts, hosts
        if hosts.keys() != known.keys():
            self._build()
        else:
            self._put({key for key, host in hosts.items() if known[key] is not host and known[key] != host})

    def _see_vms(self, before: Iterable[Vm], now: Iterable[Vm]) -> None:
        left = {(vm.endpoint, vm.moid) for vm in before}
        for vm in now:
            key = (vm.endpoint, vm.moid)
            left.discard(key)
            if self._promises.vms.get(key) != vm:
                self._promises.put_vm(vm)
        for key in left:
            self._promises.drop_vm(key)

    def _build(self) -> None:
        self._promises.touched.clear()
        self._pending = {}
        states = (self._state(host) for host in self._hosts.values())
        self._farm = Farm(states, self.rules, self._farm.catalogue, at=self._at)
        for host in self._hosts.values():
            self._write_pending(host)

    def _put(self, changed: Iterable[HostKey]) -> None:
        """Hosts that have changed, or whose promises have."""
        touched = self._promises.touched.union(changed)
        self._promises.touched.clear()
        for key in touched:
            if (host := self._hosts.get(key)) is not None:
                self._farm.put(self._state(host))
                self._write_pending(host)

    def _state(self, host: Host) -> HostState:
        return state_of(host, self._promises, self.rules, self._unfit.get(host.key))

    def _write_pending(self, host: Host) -> None:
        """Tell the farm what is still to be written to a host's datastores, if that has changed."""
        now: Counter[str] = Counter()
        for store in host.datastores:
            if amount_mb := self._promises.of(host.key).disks_mb.get(store.name, 0):
                now[store_id(host.key, store)] += amount_mb
        before = self._pending.get(host.key, Counter())
        for name in {*now, *before}:
            if now[name] != before[name]:
                self._farm.write_pending(name, now[name] - before[name])
        self._pending[host.key] = now


class Placers:
    """One for each pool."""

    def __init__(self) -> None:
        self._placers: dict[str, Placer] = {}

    def of(self, pool: Pool) -> Placer:
        """The pool's."""
        return self._placers.setdefault(pool.name, Placer(pool))


def _thorough(requests: tuple[PlacementRequest, ...], snapshot: Snapshot) -> Decided:
    return Decided(requests, snapshot, choose_together(requests, snapshot))
