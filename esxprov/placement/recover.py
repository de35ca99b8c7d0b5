"""What becomes of the VMs of a host that has booted, and may have forgotten them. Pure.

A host that boots from the network comes back with an empty inventory, while VMX files and disks still lie on a
datastore that it shares. A VM is only taken up again where its claim says, and only if nobody else has it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from esxprov import annotation
from esxprov.model import Claim, ClaimState, Host, HostKey, KnownHost, Machine, PowerState, Vm
from esxprov.placement.books import Held
from esxprov.placement.promises import host_of
from esxprov.placement.reconcile import Correction

BOOT_JITTER_S = 2.0
"""Two times of boot that differ by no more are one: hosts work theirs out from a clock that is being set right."""

PATIENCE_S = 3600
"""How long after a boot it is tried to put all right: a datastore may be mounted late, a lock may have to end."""


class Outcome(StrEnum):
    """What became of a VM, or is to become of it."""

    THERE = "there"  # its host has it, as it was
    RECOVER = "recover"  # it is to be registered, or switched on
    RECOVERED = "recovered"
    LEFT_OFF = "left off"  # registered, but not switched on though it was on
    MOVED = "moved"  # another host has it
    LOST = "lost"
    WAIT = "waiting"  # not now, but maybe soon


@dataclass(frozen=True, slots=True)
class Files:
    """What is where a VM's files were: whose the VMX is by its annotation (None: nobody's), whether there is one at
    all, or why nobody can tell.
    """

    exists: bool = True
    claim_id: str | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """One claim on a host that came back. `vm` is its VM where it was seen, `switch_on` whether it is off and was on.

    `reason` completes "vm1 is recovered: ".
    """

    claim: Claim
    machine: Machine
    outcome: Outcome
    reason: str = ""
    vm: Vm | None = None
    switch_on: bool = False

    def now(self, outcome: Outcome, reason: str) -> Case:
        return replace(self, outcome=outcome, reason=reason)


# --- hosts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hosts:
    """What is to be said of the hosts that were seen.

    `news` are those that are new, were added anew or have booted; `coming` those of which VMs may be missing because of
    it, `expired` those that came back too long ago to be waited for any longer. `ambiguous` are the uuids that are no
    identity, because two hosts have them at once.
    """

    news: tuple[Host, ...]
    coming: tuple[Host, ...]
    expired: tuple[Host, ...]
    ambiguous: frozenset[str]


def hosts(
    seen: Sequence[Host], ours: Collection[HostKey], known: Mapping[str, KnownHost], just_booted: Collection[str] = ()
) -> Hosts:
    """Which of `ours` come back. `known` goes by uuid; `just_booted` names hosts that are to be treated so."""
    identified = [host for host in seen if host.uuid and host.booted_at is not None and host.state == "connected"]
    ambiguous = _ambiguous(identified)
    news: list[Host] = []
    coming: list[Host] = []
    expired: list[Host] = []
    for host in identified:
        if host.uuid in ambiguous or host.key not in ours:
            continue
        before = known.get(host.uuid)
        if before is None or before.key != host.key or _has_booted(host, before):
            news.append(host)
            coming.append(host)
            continue
        host = replace(host, booted_at=before.booted_at)
        if host.name in just_booted:
            coming.append(host)
        elif not before.is_recovered:
            (expired if before.noticed_s > PATIENCE_S else coming).append(host)
    return Hosts(tuple(news), tuple(coming), tuple(expired), ambiguous)


def _ambiguous(identified: Iterable[Host]) -> frozenset[str]:
    keys: dict[str, set[HostKey]] = {}
    for host in identified:
        keys.setdefault(host.uuid, set()).add(host.key)
    return frozenset(uuid for uuid, where in keys.items() if len(where) > 1)


def _has_booted(host: Host, before: KnownHost) -> bool:
    assert host.booted_at is not None, "asked for hosts that say so"
    return abs((host.booted_at - before.booted_at).total_seconds()) > BOOT_JITTER_S


def rehome(
    held: Iterable[Held],
    seen: Sequence[Host],
    news: Iterable[Host],
    known: Mapping[str, KnownHost],
    answering: Collection[str],
    configured: Collection[str],
) -> list[Correction]:
    """Claims that follow their hosts, of which `news` tell that they have another endpoint or id than before.

    Only if the old one is gone: not among the hosts of its endpoint, which is `answering`, or not `configured` any
    more. (If another host has its place, nothing is moved: a second run would move it back.) VMs that nobody claimed
    are found anew.
    """
    keys = {host.key for host in seen}
    moved: dict[HostKey, Host] = {}
    for host in news:
        before = known.get(host.uuid)
        if before is None or before.key in keys:
            continue
        if before.key.endpoint in answering or before.key.endpoint not in configured:
            moved[before.key] = host
    corrections = []
    for one in held:
        new = moved.get(one.claim.host)
        if new is not None:
            after = None if one.claim.state is ClaimState.FOREIGN else replace(one.claim, host=new.key)
            corrections.append(Correction(one, after, f"{one.claim.host} is now {new.name}, {new.key}, by its uuid"))
    return corrections


# --- their VMs ------------------------------------------------------------------------------------------------------


def forgotten(
    claims: Iterable[Claim], coming: Collection[HostKey], vms: Iterable[Vm], machines: Mapping[str, Machine]
) -> list[Machine]:
    """The VMs that no host has: of these one must know what is where their files were."""
    there = _by_claim(vms)
    return [
        machines[claim.id]
        for claim in claims
        if _concerns(claim, coming) and claim.id not in there and claim.id in machines
    ]


def plan(
    claims: Iterable[Claim],
    coming: Collection[HostKey],
    vms: Iterable[Vm],
    machines: Mapping[str, Machine],
    files: Mapping[str, Files],
    busy: Collection[int] = (),
) -> list[Case]:
    """What is to become of each delivered VM of the hosts that come back.

    `machines` and `files` go by claim ids; `vms` are all that were seen anywhere. `busy` are computers that an event
    works on. Claims on their way are left to their own event, and what is to be destroyed to the sweep.
    """
    vms = list(vms)
    there = _by_claim(vms)
    unreadable = {host_of(vm) for vm in vms if not vm.vmx_path}
    cases = []
    for claim in claims:
        if not _concerns(claim, coming):
            continue
        machine = machines.get(claim.id) or Machine(claim.id, claim.computer_id, "", is_on=False)
        case = Case(claim, machine, Outcome.THERE, vm=_nearest(claim, there.get(claim.id, [])))
        if case.vm is not None:
            cases.append(_registered(case, case.vm, busy))
        elif claim.host in unreadable:
            cases.append(case.now(Outcome.WAIT, f"{claim.host} has a VM whose configuration cannot be read yet"))
        elif not machine.vmx_path:
            cases.append(case.now(Outcome.LOST, "nobody has written down where its files are"))
        else:
            cases.append(_unregistered(case, files.get(claim.id, Files(problem="nobody has looked")), busy))
    return cases


def _concerns(claim: Claim, coming: Collection[HostKey]) -> bool:
    return claim.host in coming and claim.state in (ClaimState.RUNNING, ClaimState.LOST)


def _by_claim(vms: Iterable[Vm]) -> dict[str, list[Vm]]:
    found: dict[str, list[Vm]] = {}
    for vm in vms:
        owner = annotation.read(vm.annotation)
        if owner is not None:
            found.setdefault(owner.claim_id, []).append(vm)
    return found


def _nearest(claim: Claim, vms: Sequence[Vm]) -> Vm | None:
    """Of a VM and its clones, which have the same annotation: one that runs, else one on the claim's host."""
    return min(vms, key=lambda vm: (vm.power is not PowerState.ON, host_of(vm) != claim.host), default=None)


def _registered(case: Case, vm: Vm, busy: Collection[int]) -> Case:
    if host_of(vm) != case.claim.host:
        return case.now(Outcome.MOVED, f"it is on {host_of(vm)}")
    if not case.machine.is_on or vm.power is not PowerState.OFF:
        return case
    if case.claim.computer_id in busy:
        return case.now(Outcome.WAIT, "an event works on its computer")
    return replace(case, switch_on=True).now(Outcome.RECOVER, "it is off and was on")


def _unregistered(case: Case, files: Files, busy: Collection[int]) -> Case:
    if files.problem is not None:
        return case.now(Outcome.WAIT, files.problem)
    if not files.exists:
        return case.now(Outcome.LOST, f"there is no {case.machine.vmx_path} any more")
    if files.claim_id != case.claim.id:
        return case.now(Outcome.LOST, f"{case.machine.vmx_path} is another VM's by now")
    if case.claim.computer_id in busy:
        return case.now(Outcome.WAIT, "an event works on its computer")
    return replace(case, switch_on=case.machine.is_on).now(Outcome.RECOVER, "its host has forgotten it")
