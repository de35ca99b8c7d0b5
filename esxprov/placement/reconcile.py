"""What is wrong with the claims, seen from what the hypervisors have, and what would put it right. Pure.

Whatever is in doubt counts: a host that is silent, or one of whose VMs cannot be read, frees nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from esxprov import annotation
from esxprov.model import Claim, ClaimState, HostKey, Vm
from esxprov.placement.books import Books, Held, Sums
from esxprov.placement.promises import cost, foreign_claim_id, host_of

LOST_GRACE_S = 600
"""How long a claim whose VM was lost is kept: a VM comes back with its datastore, its host, or a moved inventory."""

MOST_FREED = 0.05
MOST_FREED_CLAIMS = 3
"""More than both in one cycle is taken for a mistake: an empty inventory, a restored database. The number is there
because on a farm of ten VMs a single one is a tenth.
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """What an endpoint said: the hosts that answer, and all its VMs. An endpoint that did not answer is left out."""

    endpoint: str
    hosts: frozenset[HostKey]
    vms: tuple[Vm, ...]


@dataclass(frozen=True, slots=True)
class Correction:
    """One claim put right: `planned` is it as it was read (None: a new one), `after` as it shall be (None: released).

    `why` completes "claim of ...: ".
    """

    planned: Held | None
    after: Claim | None
    why: str

    @property
    def before(self) -> Claim | None:
        return self.planned.claim if self.planned else None

    @property
    def id(self) -> str:
        claim = self.before or self.after
        assert claim is not None, "a correction changes something"
        return claim.id

    def still_holds(self, now: Held | None) -> bool:
        """Whether the claim is as it was when this was planned; None: there is no such claim, or it was released."""
        if self.planned is None or now is None:
            return self.planned is now
        return (self.planned.changed, self.planned.is_abandoned) == (now.changed, now.is_abandoned)


@dataclass(frozen=True, slots=True)
class Repair:
    """A host whose sums are not those of its claims."""

    host: HostKey
    booked: Sums
    claimed: Sums


@dataclass(frozen=True, slots=True)
class Memory:
    """What the next look needs of this one: delivered claims without VM, and VMs whose claim was just released."""

    missing: frozenset[str] = frozenset()
    leaving: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Plan:
    """`alarm` says what was not done, and why, if too much would be freed at once."""

    corrections: tuple[Correction, ...] = ()
    repairs: tuple[Repair, ...] = ()
    alarm: str | None = None
    memory: Memory = field(default_factory=Memory)


def reconcile(
    books: Books,
    seen: Sequence[Seen],
    ours: Collection[HostKey],
    memory: Memory,
    *,
    force: bool = False,
    coming: Collection[HostKey] = (),
) -> Plan:
    """What is to be done about the claims.

    `seen` must have been looked at before the books were read: then a VM on its way has its claim in them. VMs without
    a claim are claimed on the hosts in `ours` only. `force` frees what is to be freed, however much it is. Hosts in
    `coming` have booted and may get their VMs back: what is not there says nothing yet.
    """
    matched = _Matched(books, seen, memory, coming)
    corrections = [*_own(books, matched, memory.missing), *_foreign(books, matched, ours)]
    freed = [one for one in corrections if one.after is None]
    alarm = None if force else _alarm(len(freed), len(books.claims), freed)
    if alarm is not None:
        corrections = [one for one in corrections if one.after is not None]
    missing = (one.claim for one in books.claims if one.claim.state is ClaimState.RUNNING)
    next_time = Memory(frozenset(claim.id for claim in missing if matched.is_missing(claim)), matched.leaving)
    return Plan(tuple(corrections), _repairs(books), alarm, next_time)


class _Matched:
    """Which VM is whose.

    `vm_of` maps claim ids to their VM. `strangers` are VMs that are no claim's. `telling` are the hosts of which one
    knows what is not there: those that answer, have no VM that does not say whose it is, and are not coming back.
    """

    def __init__(self, books: Books, seen: Sequence[Seen], memory: Memory, coming: Collection[HostKey]) -> None:
        self.known = {held.claim.id: held for held in books.claims}
        self.vm_of: dict[str, Vm] = {}
        self.strangers: list[Vm] = []
        named: defaultdict[str, list[Vm]] = defaultdict(list)
        unreadable: defaultdict[HostKey, list[Vm]] = defaultdict(list)
        leaving: set[str] = set()
        for vm in sorted((vm for one in seen for vm in one.vms), key=_age):
            owner = annotation.read(vm.annotation)
            if not vm.vmx_path:
                unreadable[host_of(vm)].append(vm)
            elif owner is None or owner.claim_id not in self.known:
                identity = foreign_claim_id(vm.endpoint, vm.moid)
                just_released = owner is not None and owner.claim_id in books.released
                if just_released and identity not in memory.leaving and identity not in self.known:
                    # Most likely it has been removed since it was seen.
                    leaving.add(identity)
                else:
                    self.strangers.append(vm)
            else:
                named[owner.claim_id].append(vm)
        for claim_id, vms in named.items():
            self._choose(claim_id, vms)
        self._allot(unreadable)
        self.leaving = frozenset(leaving)
        self.telling = frozenset(host for one in seen for host in one.hosts) - frozenset(unreadable) - frozenset(coming)

    def is_missing(self, claim: Claim) -> bool:
        """Its VM would be seen if it were there, and is not."""
        return claim.id not in self.vm_of and claim.host in self.telling

    def _choose(self, claim_id: str, vms: list[Vm]) -> None:
        """A clone has its original's annotation: the one on the claim's host is it, of those the oldest."""
        host = self.known[claim_id].claim.host
        vms = sorted(vms, key=lambda vm: (foreign_claim_id(vm.endpoint, vm.moid) in self.known, host_of(vm) != host))
        self.vm_of[claim_id] = vms[0]
        self.strangers += vms[1:]

    def _allot(self, unreadable: dict[HostKey, list[Vm]]) -> None:
        """VMs that do not say whose they are: as many as claims of their host have no VM are those, whichever."""
        unseen: defaultdict[HostKey, int] = defaultdict(int)
        for held in self.known.values():
            if held.claim.state is not ClaimState.FOREIGN and held.claim.id not in self.vm_of:
                unseen[held.claim.host] += 1
        for host, vms in unreadable.items():
            unknown = [vm for vm in vms if foreign_claim_id(vm.endpoint, vm.moid) not in self.known]
            self.strangers += [vm for vm in vms if vm not in unknown]
            self.strangers += unknown[unseen[host] :]


def _own(books: Books, matched: _Matched, missed_before: Collection[str]) -> Iterable[Correction]:
    for held in books.claims:
        claim, vm = held.claim, matched.vm_of.get(held.claim.id)
        if claim.state is ClaimState.FOREIGN:
            continue
        if vm is not None:
            yield from _where_it_is(held, vm)
        elif matched.is_missing(claim):
            yield from _where_it_is_not(held, missed_before)


def _where_it_is(held: Held, vm: Vm) -> Iterable[Correction]:
    """The claim of a VM that was seen."""
    claim, host = held.claim, host_of(vm)
    after, why = claim, []
    if host != claim.host and vm.host_moid:
        after = replace(after, host=host)
        why.append(f"its VM is on {host}, not on {claim.host}")
    size = cost(vm)
    if size[0] > claim.ram_mb or size[1] > claim.cpus:
        after = replace(after, ram_mb=max(claim.ram_mb, size[0]), cpus=max(claim.cpus, size[1]))
        why.append(f"its VM needs {size[0]} MB and {size[1]} vCPUs, {claim.ram_mb} MB and {claim.cpus} are claimed")
    if claim.state is ClaimState.LOST:
        after = replace(after, state=ClaimState.RUNNING)
        why.append("its VM is seen again")
    elif claim.state is ClaimState.CLAIMED and held.is_abandoned:
        # Of an event that is not in the journal nobody knows how it ended: then the VM may be somebody's.
        is_wanted = held.event in ("ok", "")
        after = replace(after, state=ClaimState.RUNNING if is_wanted else ClaimState.TO_BE_DESTROYED)
        why.append(f"its lease is over and its event {_ended(held)}, but its VM is there")
    if why:
        yield Correction(held, after, "; ".join(why))


def _where_it_is_not(held: Held, missed_before: Collection[str]) -> Iterable[Correction]:
    """The claim of a VM that would be seen if it were there."""
    claim = held.claim
    if claim.state is ClaimState.CLAIMED and held.is_abandoned:
        yield Correction(held, None, f"its lease is over, its event {_ended(held)}, and {claim.host} has no VM of it")
    elif claim.state is ClaimState.RUNNING and claim.id in missed_before:
        lost = replace(claim, state=ClaimState.LOST)
        yield Correction(held, lost, f"{claim.host} answers, and twice had no VM of it")
    elif claim.state is ClaimState.LOST and held.age_s >= LOST_GRACE_S:
        yield Correction(held, None, f"its VM has been lost for {held.age_s} s")


def _ended(held: Held) -> str:
    return f"ended ({held.event})" if held.event else "is not in the journal"


def _foreign(books: Books, matched: _Matched, ours: Collection[HostKey]) -> Iterable[Correction]:
    there = {foreign_claim_id(vm.endpoint, vm.moid): vm for vm in matched.strangers}
    for claim_id, vm in there.items():
        known, host = matched.known.get(claim_id), host_of(vm)
        after = Claim(claim_id, host, 0, *cost(vm), "", ClaimState.FOREIGN)
        if known is None:
            if host in ours:
                yield Correction(None, after, f"{vm.name} on {host} is nobody's: it is counted")
        elif known.claim != after and vm.vmx_path and vm.host_moid:
            yield Correction(known, after, f"{vm.name} is now on {host} with {vm.ram_mb} MB and {vm.cpus} vCPUs")
    for held in books.claims:
        claim = held.claim
        if claim.state is ClaimState.FOREIGN and claim.id not in there and claim.host in matched.telling:
            yield Correction(held, None, f"the VM that was nobody's is not on {claim.host} any more")


def _repairs(books: Books) -> tuple[Repair, ...]:
    claimed: defaultdict[HostKey, Sums] = defaultdict(lambda: (0, 0))
    for held in books.claims:
        ram_mb, cpus = claimed[held.claim.host]
        claimed[held.claim.host] = ram_mb + held.claim.ram_mb, cpus + held.claim.cpus
    return tuple(
        Repair(host, books.sums.get(host, (0, 0)), claimed.get(host, (0, 0)))
        for host in sorted({*books.sums, *claimed}, key=str)
        if books.sums.get(host, (0, 0)) != claimed.get(host, (0, 0))
    )


def _alarm(count: int, total: int, freed: Sequence[Correction]) -> str | None:
    if count <= MOST_FREED_CLAIMS or count <= MOST_FREED * total:
        return None
    endpoints = sorted({one.before.host.endpoint for one in freed if one.before})
    return (
        f"{count} of {total} claims would be freed at once ({count / total:.0%}, at most {MOST_FREED:.0%} are), on "
        f"{', '.join(endpoints)}: none is; see 'esxprov claims reconcile --dry-run', and if the VMs are really gone "
        "run 'esxprov claims reconcile --force'"
    )


def _age(vm: Vm) -> tuple[str, int, str]:
    """Older ones first: vSphere counts its moids up."""
    return vm.endpoint, len(vm.moid), vm.moid
