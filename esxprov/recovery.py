"""Hosts that boot from the network come back empty: their VMs are registered again, and what was on is switched on.

Whatever is done is looked for first, so that it may be killed anywhere and begun again, and two services may do it at
once. That no VM runs twice is in the end the datastore's doing: a disk in use is locked.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from esxprov import annotation
from esxprov.errors import ProvisioningError
from esxprov.model import Claim, ClaimState, Host, HostKey, KnownHost, Machine, Pool, PowerState, Recover, Vm
from esxprov.placement import recover
from esxprov.placement.books import Books
from esxprov.placement.promises import host_of
from esxprov.placement.reconcile import Correction
from esxprov.placement.recover import Case, Files, Outcome
from esxprov.ports import Hypervisor, Look, Tools

log = logging.getLogger(__name__)

ADDRESS_S = 180
"""How long the new address of a VM that was switched on is waited for."""

WAIT_S = 20
"""So much of it at once: the same thread has other things to do."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What became of the VMs of the hosts that came back, and which of these are not done yet."""

    cases: tuple[Case, ...] = ()
    coming: frozenset[HostKey] = frozenset()


class ClaimsToCorrect(Protocol):
    """What recovery does with claims; see placement.claims.Claims."""

    def books(self) -> Books: ...

    def correct(self, corrections: Sequence[Correction]) -> list[Correction]: ...


class Recovery:
    """For one thread. `busy` tells the computers that an event works on, `stopping` whether the service ends."""

    def __init__(
        self,
        tools: Tools,
        claims: ClaimsToCorrect,
        busy: Callable[[], Collection[int]],
        stopping: Callable[[], bool] = lambda: False,
        *,
        wait_s: float = WAIT_S,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._tools = tools
        self._claims = claims
        self._busy = busy
        self._stopping = stopping
        self._wait_s = wait_s
        self._wall = wall
        self._pools = {pool.name: pool for pool in tools.pools.all()}
        self._told: dict[str, tuple[Outcome, str]] = {}  # by claim, what the log knows
        self._ambiguous: frozenset[str] = frozenset()

    def run(self, looks: Sequence[Look], *, just_booted: Collection[str] = (), dry_run: bool = False) -> Recovered:
        """Put right what these looks, which must be fresh, show. `just_booted` names hosts to be treated so. With
        `dry_run` nothing is done, and the cases say what would be.
        """
        seen = [host for look in looks for host in look.hosts]
        known = {one.uuid: one for one in self._tools.machines.hosts()}
        found = recover.hosts(seen, self._ours(seen), known, just_booted)
        self._warn_of(found.ambiguous)
        claims = self._moved(looks, found, known, dry_run=dry_run)
        vms = [vm for look in looks for vm in look.vms]
        coming = {host.key: host for host in found.coming}
        cases = self._plan(claims, coming, vms)
        if dry_run:
            return Recovered(tuple(cases), _waiting(cases))
        for host in found.news:
            self._tools.machines.seen(host)
        return self._put_right(found, coming, cases, claims, vms)

    def _moved(
        self, looks: Sequence[Look], found: recover.Hosts, known: Mapping[str, KnownHost], *, dry_run: bool
    ) -> list[Claim]:
        """All claims, after those of hosts that were added anew have followed them."""
        if not any(host.uuid in known and known[host.uuid].key != host.key for host in found.news):
            return self._tools.claims.all()
        books = self._claims.books()
        moves = recover.rehome(
            books.claims,
            [host for look in looks for host in look.hosts],
            found.news,
            known,
            answering={look.endpoint for look in looks if look.problem is None},
            configured={name for pool in self._pools.values() for name in pool.endpoints},
        )
        if dry_run:
            after = {move.id: move.after for move in moves}
            return [one for held in books.claims if (one := after.get(held.claim.id, held.claim)) is not None]
        for move in self._claims.correct(moves):
            log.warning("claim %s: %s", move.id, move.why)
        return self._tools.claims.all()

    def _put_right(
        self, found: recover.Hosts, coming: dict[HostKey, Host], cases: list[Case], claims: list[Claim], vms: list[Vm]
    ) -> Recovered:
        for host in found.expired:
            log.warning("%s came back long ago: what is not right on it by now is given up", host.name)
            self._tools.machines.recovered(host)
        done = []
        for case in cases:
            case = self._recover(case, coming[case.claim.host]) if case.outcome is Outcome.RECOVER else case
            self._tell(case)
            done.append(case)
        waiting = _waiting(done)
        self._learn_addresses(claims, [*vms, *(case.vm for case in done if case.vm and case.vm not in vms)])
        for key, host in coming.items():
            if key not in waiting:
                self._tools.machines.recovered(host)
        self._remember({claim.id: claim for claim in claims if claim.host not in coming}, vms)
        return Recovered(tuple(done), waiting)

    # --- what there is -----------------------------------------------------------------------------------------------

    def _ours(self, hosts: Iterable[Host]) -> frozenset[HostKey]:
        """The hosts of pools whose VMs are to be recovered."""
        pools = [pool for pool in self._pools.values() if pool.recover is not Recover.NO]
        return frozenset(host.key for host in hosts if any(pool.has(host) for pool in pools))

    def _pool(self, claim: Claim, host: Host) -> Pool:
        """The claim's; if that is not configured any more, another one of the host's."""
        return self._pools.get(claim.pool) or next(pool for pool in self._pools.values() if pool.has(host))

    def _warn_of(self, ambiguous: frozenset[str]) -> None:
        for uuid in ambiguous - self._ambiguous:
            log.warning("several hosts have the hardware uuid %s: none of them is known by it", uuid)
        self._ambiguous = ambiguous

    def _plan(self, claims: Sequence[Claim], coming: dict[HostKey, Host], vms: Sequence[Vm]) -> list[Case]:
        if not coming:
            return []
        claims = [
            claim
            for claim in claims
            if claim.host in coming and self._pool(claim, coming[claim.host]).recover is not Recover.NO
        ]
        machines = {machine.claim_id: machine for machine in self._tools.machines.all()}
        hosts = {claim.id: coming[claim.host] for claim in claims}
        files = {
            machine.claim_id: self._files(machine, hosts[machine.claim_id])
            for machine in recover.forgotten(claims, coming, vms, machines)
        }
        return recover.plan(claims, coming, vms, machines, files, self._busy())

    def _files(self, machine: Machine, host: Host) -> Files:
        datastore = machine.vmx_path.partition("]")[0].removeprefix("[")
        if not any(one.name == datastore and one.accessible for one in host.datastores):
            return Files(problem=f"{host.name} cannot access datastore {datastore}")
        try:
            content = self._tools.hypervisors.endpoint(host.key.endpoint).read_file(machine.vmx_path)
        except ProvisioningError as error:
            return Files(problem=error.message)
        if content is None:
            return Files(exists=False)
        owner = annotation.of_vmx(content)
        return Files(claim_id=owner.claim_id if owner else None)

    # --- taking a VM up again ----------------------------------------------------------------------------------------

    def _recover(self, case: Case, host: Host) -> Case:
        if self._stopping():
            return case.now(Outcome.WAIT, "the service ends")
        try:
            return self._take_up(case, host)
        except ProvisioningError as error:
            return case.now(Outcome.WAIT, error.message)

    def _take_up(self, case: Case, host: Host) -> Case:
        hypervisor = self._tools.hypervisors.endpoint(host.key.endpoint)
        if (now := self._now(case)) is not None:
            return now
        is_new = case.vm is None
        vm = case.vm or hypervisor.register(case.machine.vmx_path, case.machine.name, host.key.moid)
        owner = annotation.read(vm.annotation)
        if owner is None or owner.claim_id != case.claim.id:
            return case.now(Outcome.LOST, f"{vm.vmx_path} is registered as another VM's by now")
        case = replace(case, vm=vm)
        if (now := self._now(case)) is not None:
            return self._taken_back(hypervisor, vm, now) if is_new else now
        try:
            return self._brought_back(hypervisor, case, vm, host, is_new=is_new)
        except ProvisioningError:
            now = self._now(case)
            if now is None or not is_new:
                raise
            return self._taken_back(hypervisor, vm, now)

    def _brought_back(self, hypervisor: Hypervisor, case: Case, vm: Vm, host: Host, *, is_new: bool) -> Case:
        """A registered VM, switched on if it was on and may be."""
        if not case.switch_on:
            return case.now(Outcome.RECOVERED, "registered again, it was off")
        if self._pool(case.claim, host).recover is Recover.REGISTER:
            return case.now(Outcome.LEFT_OFF, "it is left off, as its pool wants it")
        own = f"{vm.vmx_path.rpartition('/')[0]}/"
        strange = [disk for disk in hypervisor.disks(vm) if not disk.startswith(own)]
        if strange:
            # A load was interrupted before the snapshot that keeps the image from being written.
            return case.now(Outcome.LEFT_OFF, f"its disk {strange[0]} is not its own: reload its computer")
        return self._switch_on(hypervisor, case, vm, is_new=is_new)

    def _switch_on(self, hypervisor: Hypervisor, case: Case, vm: Vm, *, is_new: bool) -> Case:
        nics = hypervisor.nics(vm)
        armed = self._tools.leases.arm(nics[0].mac if nics else None)
        # Written down before, so that whoever goes on after us still knows which leases are new.
        self._tools.machines.armed(case.claim.id, armed.at)
        try:
            hypervisor.power_on(vm, moved=True)
        except ProvisioningError as error:
            # Of any other error nobody knows whether it is on: then the mark is still wanted.
            if error.code == "no_capacity" or error.detail.get("locked"):
                self._tools.machines.armed(case.claim.id, None)
            if error.code == "no_capacity":
                return case.now(Outcome.LEFT_OFF, f"registered again, but not switched on: {error.message}")
            if error.detail.get("locked") and is_new:
                hypervisor.unregister(vm)
                return replace(case, vm=None).now(Outcome.WAIT, "its files are locked: does it run elsewhere?")
            raise
        if (now := self._now(case)) is not None:
            return self._taken_back(hypervisor, vm, now)
        how = "registered again and switched on" if is_new else "switched on again"
        return replace(case, vm=replace(vm, power=PowerState.ON)).now(Outcome.RECOVERED, how)

    def _now(self, case: Case) -> Case | None:
        """What is to be said if the claim is not as it was any more; None: it is."""
        for held in self._tools.claims.of_computer(case.claim.computer_id):
            if held.id == case.claim.id:
                is_wanted = held.state in (ClaimState.RUNNING, ClaimState.LOST) and held.host == case.claim.host
                return None if is_wanted else case.now(Outcome.WAIT, "its claim was changed meanwhile")
        return case.now(Outcome.LOST, "its claim was given back meanwhile")

    def _taken_back(self, hypervisor: Hypervisor, vm: Vm, case: Case) -> Case:
        """Of a VM that we brought back while its claim was given back: whoever did that did not see it."""
        if case.outcome is Outcome.LOST:
            hypervisor.power_off(vm)
            hypervisor.unregister(vm)
        return replace(case, vm=None)

    # --- their addresses ---------------------------------------------------------------------------------------------

    def _learn_addresses(self, claims: Iterable[Claim], vms: Iterable[Vm]) -> None:
        """Tell VCL where the VMs are now that were switched on: no vcld process is there that would."""
        running = {
            owner.claim_id: vm
            for vm in vms
            if vm.power is PowerState.ON and (owner := annotation.read(vm.annotation)) is not None
        }
        held = {claim.id for claim in claims}
        until = time.monotonic() + self._wait_s
        for machine in self._tools.machines.all():
            if machine.armed_at is None or machine.claim_id not in held:
                continue
            vm = running.get(machine.claim_id)
            is_over = self._wall() - machine.armed_at > ADDRESS_S
            if vm is None:
                is_known = is_over  # its endpoint may be silent just now
            else:
                wait_s = max(0.0, until - time.monotonic())
                is_known = self._has_address(machine, vm, machine.armed_at, wait_s, is_over=is_over)
            if is_known:
                self._tools.machines.armed(machine.claim_id, None)

    def _has_address(self, machine: Machine, vm: Vm, at: float, wait_s: float, *, is_over: bool) -> bool:
        """Whether nothing more is to be waited for."""
        hypervisor = self._tools.hypervisors.endpoint(vm.endpoint)
        try:
            nics = hypervisor.nics(vm)
            if not nics:
                return True
            armed = self._tools.leases.rearm(nics[0].mac, at)
            guest = partial(hypervisor.guest_addresses, vm)
            lease = self._tools.leases.wait(nics[0].mac, armed, wait_s, self._stopping, guest)
        except ProvisioningError as error:
            if not is_over:
                return False
            log.warning("no new address of %s was seen, VCL keeps the one it has: %s", machine.name, error)
            return True
        if self._tools.inventory.set_private_address(machine.computer_id, lease.ip):
            log.warning("%s has the address %s now (%s)", machine.name, lease.ip, lease.evidence)
        return True

    # --- what is remembered ------------------------------------------------------------------------------------------

    def _remember(self, claims: dict[str, Claim], vms: Iterable[Vm]) -> None:
        """Write down where VMs lie and whether they are on, as seen on hosts that do not come back just now."""
        known = {machine.claim_id: machine for machine in self._tools.machines.all()}
        for vm in vms:
            owner = annotation.read(vm.annotation)
            claim = claims.get(owner.claim_id) if owner else None
            if claim is None or claim.state is not ClaimState.RUNNING or claim.host != host_of(vm) or not vm.vmx_path:
                continue
            before = known.get(claim.id)
            is_on = vm.power is PowerState.ON
            if before is None or (before.vmx_path, before.is_on) != (vm.vmx_path, is_on):
                armed_at = before.armed_at if before else None
                self._tools.machines.record(Machine(claim.id, claim.computer_id, vm.vmx_path, is_on, armed_at))

    def _tell(self, case: Case) -> None:
        told = (case.outcome, case.reason)
        if case.outcome is Outcome.THERE or self._told.get(case.claim.id) == told:
            return
        self._told[case.claim.id] = told
        level = logging.INFO if case.outcome is Outcome.RECOVERED else logging.WARNING
        name = case.machine.name or f"computer {case.claim.computer_id}"
        log.log(level, "%s on %s is %s: %s", name, case.claim.host, case.outcome.value, case.reason)


def _waiting(cases: Iterable[Case]) -> frozenset[HostKey]:
    """The hosts on which something is still to be done."""
    return frozenset(case.claim.host for case in cases if case.outcome in (Outcome.WAIT, Outcome.RECOVER))
