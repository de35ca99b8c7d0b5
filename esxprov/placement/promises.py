"""What is promised on each host, nothing twice, kept current one change at a time.

A VM whose annotation names a claim is that claim. A claim counts where its VM is (somebody may have moved it), and
where it was made while there is no VM. Every other VM counts for itself, whoever made it: one that is off may be
switched on at any moment, and a clone of one of our VMs has its annotation too. Such a foreign VM may have a claim that
was made for it, under an id that its own key makes.
"""

from __future__ import annotations

import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from esxprov import annotation
from esxprov.model import Claim, ClaimState, HostKey, Vm
from esxprov.placement.request import overhead_mb

T = TypeVar("T")

VmKey = tuple[str, str]
"""(endpoint, moid)."""


@dataclass(slots=True)
class Promise:
    """The sum of one host. `warming_ram_mb` is not visible in live figures yet, `disks_mb` (by datastore) not written
    yet; `residents` counts VMs by what they take, (RAM in MB, vCPUs); `ends` has what is known to end, RAM in MB and
    vCPUs by epoch seconds.
    """

    ram_mb: int = 0
    cpus: int = 0
    warming_ram_mb: int = 0
    groups: Counter[str] = field(default_factory=Counter)
    disks_mb: Counter[str] = field(default_factory=Counter)
    residents: Counter[tuple[int, int]] = field(default_factory=Counter)
    ends: dict[int, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Part:
    """What one claim or one VM adds to a host."""

    host: HostKey
    ram_mb: int
    cpus: int
    warming: bool = False
    group: str = ""
    datastore: str = ""
    disk_mb: int = 0
    ends_at: int | None = None


class Promises:
    """Belongs to one thread. `touched` collects the hosts whose sum has changed; whoever reads it clears it."""

    def __init__(self, claims: Iterable[Claim] = (), vms: Iterable[Vm] = ()) -> None:
        self.claims: dict[str, Claim] = {}
        self.vms: dict[VmKey, Vm] = {}
        self.touched: set[HostKey] = set()
        self._sums: defaultdict[HostKey, Promise] = defaultdict(Promise)
        self._named: dict[VmKey, str] = {}  # the claim that a VM is, by its annotation or for want of one
        self._carriers: defaultdict[str, set[VmKey]] = defaultdict(set)  # and back
        self._by_foreign_id: dict[str, VmKey] = {}
        self._parts: dict[str, list[_Part]] = {}  # what was added for a claim and the VMs that name it
        self._of_computer: defaultdict[int, set[str]] = defaultdict(set)
        self._vms_of_computer: defaultdict[int, set[VmKey]] = defaultdict(set)
        self._computer_of: dict[VmKey, int] = {}
        for vm in vms:
            self.put_vm(vm)
        for claim in claims:
            self.put_claim(claim)

    def of(self, host: HostKey) -> Promise:
        """Not to be changed."""
        return self._sums.get(host) or Promise()

    def claims_of(self, computer_id: int) -> list[Claim]:
        return [self.claims[each] for each in sorted(self._of_computer.get(computer_id, ()))]

    def vms_of(self, computer_id: int) -> list[Vm]:
        """Those whose annotation names the computer."""
        return [self.vms[key] for key in sorted(self._vms_of_computer.get(computer_id, ()))]

    def carrier(self, claim_id: str) -> Vm | None:
        """The VM that is the claim, None if there is none yet."""
        return self._vms_of(claim_id)[0]

    def put_claim(self, claim: Claim) -> None:
        """A claim that is new or has changed."""
        self.drop_claim(claim.id)
        self.claims[claim.id] = claim
        self._of_computer[claim.computer_id].add(claim.id)
        self._account_for(claim.id)

    def drop_claim(self, claim_id: str) -> None:
        claim = self.claims.pop(claim_id, None)
        if claim is not None:
            self._of_computer[claim.computer_id].discard(claim_id)
            self._account_for(claim_id)

    def put_vm(self, vm: Vm) -> None:
        """A VM that is new or has changed."""
        key = (vm.endpoint, vm.moid)
        if self.vms.get(key) is vm:
            return
        self.drop_vm(key)
        owner = annotation.read(vm.annotation)
        named = owner.claim_id if owner else foreign_claim_id(*key)
        self.vms[key] = vm
        self._named[key] = named
        self._carriers[named].add(key)
        if owner:
            self._computer_of[key] = owner.computer_id
            self._vms_of_computer[owner.computer_id].add(key)
        self._by_foreign_id[foreign_claim_id(*key)] = key
        self._account_for(named)

    def drop_vm(self, key: VmKey) -> None:
        if self.vms.pop(key, None) is None:
            return
        if key in self._computer_of:
            self._vms_of_computer[self._computer_of.pop(key)].discard(key)
        named = self._named.pop(key)
        self._carriers[named].discard(key)
        made_for_it = foreign_claim_id(*key)
        del self._by_foreign_id[made_for_it]
        self._account_for(named)
        self._account(made_for_it)

    def _account_for(self, claim_id: str) -> None:
        """A claim, or a VM that names it, is another now: so may be what others make of it."""
        self._account(claim_id)
        for key in self._carriers.get(claim_id, ()):
            made_for_it = foreign_claim_id(*key)
            if made_for_it != claim_id and made_for_it in self.claims:
                self._account(made_for_it)
        clone = self._by_foreign_id.get(claim_id)
        if clone is not None and self._named[clone] != claim_id:
            self._account(self._named[clone])

    def _account(self, claim_id: str) -> None:
        """Replace what a claim and the VMs that name it add."""
        for part in self._parts.pop(claim_id, ()):
            self._add(part, -1)
        parts = list(self._parts_of(claim_id))
        if parts:
            self._parts[claim_id] = parts
            for part in parts:
                self._add(part, 1)

    def _parts_of(self, claim_id: str) -> Iterator[_Part]:
        own, others = self._vms_of(claim_id)
        claim = self.claims.get(claim_id)
        if claim is not None:
            yield _held(claim, own or self._clone(claim_id))
        yield from (_foreign(vm) for vm in others if foreign_claim_id(vm.endpoint, vm.moid) not in self.claims)

    def _vms_of(self, claim_id: str) -> tuple[Vm | None, list[Vm]]:
        """The VM that is the claim, and others that say they are."""
        vms = [self.vms[key] for key in sorted(self._carriers.get(claim_id, ()))]
        claim = self.claims.get(claim_id)
        if claim is None:
            return None, vms
        vms.sort(key=lambda vm: host_of(vm) != claim.host)
        return (vms[0] if vms else None), vms[1:]

    def _clone(self, claim_id: str) -> Vm | None:
        """The VM that a claim was made for because its annotation names another VM's claim."""
        key = self._by_foreign_id.get(claim_id)
        if key is None:
            return None
        vm = self.vms[key]
        return None if self._vms_of(self._named[key])[0] is vm else vm

    def _add(self, part: _Part, sign: int) -> None:
        total = self._sums[part.host]
        total.ram_mb += sign * part.ram_mb
        total.cpus += sign * part.cpus
        if part.warming:
            total.warming_ram_mb += sign * part.ram_mb
        _count(total.residents, (part.ram_mb, part.cpus), sign)
        if part.group:
            _count(total.groups, part.group, sign)
        if part.disk_mb:
            _count(total.disks_mb, part.datastore, sign * part.disk_mb)
        if part.ends_at is not None:
            ram_mb, cpus = total.ends.pop(part.ends_at, (0, 0))
            sums = ram_mb + sign * part.ram_mb, cpus + sign * part.cpus
            if sums != (0, 0):
                total.ends[part.ends_at] = sums
        self.touched.add(part.host)


def _count(counter: Counter[T], key: T, amount: int) -> None:
    counter[key] += amount
    if not counter[key]:
        del counter[key]


def foreign_claim_id(endpoint: str, moid: str) -> str:
    """The id of the claim for a VM that nobody claimed: the same whoever makes it."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"esxprov:foreign/{endpoint}/{moid}"))


def host_of(vm: Vm) -> HostKey:
    return HostKey(vm.endpoint, vm.host_moid)


def cost(vm: Vm) -> tuple[int, int]:
    """(RAM with overhead, vCPUs) that a VM takes, as its configuration says."""
    return vm.ram_mb + overhead_mb(vm.ram_mb, vm.cpus), vm.cpus


def _foreign(vm: Vm) -> _Part:
    return _Part(host_of(vm), *cost(vm))


def _held(claim: Claim, vm: Vm | None) -> _Part:
    """A claim where its VM is, the larger of what was claimed and what the VM has."""
    ram_mb, cpus, host = claim.ram_mb, claim.cpus, claim.host
    if vm is not None:
        own_ram_mb, own_cpus = cost(vm)
        ram_mb, cpus, host = max(ram_mb, own_ram_mb), max(cpus, own_cpus), host_of(vm)
    on_its_way = claim.state is ClaimState.CLAIMED
    disk_mb = claim.disk_mb if on_its_way else 0
    return _Part(host, ram_mb, cpus, on_its_way, claim.group, claim.datastore, disk_mb, claim.ends_at)
