"""Finding and removing the VM of a computer, wherever in the pool it is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from esxprov import annotation
from esxprov import layout as layouts
from esxprov.errors import ProvisioningError
from esxprov.layout import Layout
from esxprov.model import Claim, ClaimState, Computer, DiskMode, Pool, Reservation, Vm
from esxprov.ports import Hypervisor, Tools
from esxprov.request import Request

T = TypeVar("T")

log = logging.getLogger(__name__)

CANNOT_BE_ASKED = ("host_unavailable", "vsphere_auth")
"""The errors of an endpoint of which nobody knows what runs on it."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a request's VM and image live: the pool of its profile and the paths in it."""

    pool: Pool
    layout: Layout

    @classmethod
    def of(cls, request: Request, tools: Tools) -> Site:
        """The site of a request's profile. Raises `invalid_event` for a profile without pool or datastore."""
        pool = tools.pools.of(request.profile)
        return cls(pool, layouts.of(pool, request.profile))


def disk_mode(pool: Pool, reservation: Reservation) -> DiskMode:
    """How a reservation's VM gets its disk. A server's is its own: it is kept for long, and may outlive its image."""
    return DiskMode.COPY if reservation.server else pool.disk


@dataclass(frozen=True, slots=True)
class Found:
    """A VM and the endpoint that has it."""

    hypervisor: Hypervisor
    vm: Vm


def find(tools: Tools, site: Site, computer: Computer) -> Found | None:
    """The computer's VM, None if every endpoint says that it has none.

    Raises `host_unavailable` if it was not found and an endpoint could not be asked: "no" and "cannot tell" are kept
    apart.
    """
    silent: ProvisioningError | None = None
    for hypervisor in _claimed_first(tools, site, tools.claims.of_computer(computer.id)):
        try:
            vm = hypervisor.find_vm(site.layout.vmx(computer.name))
        except ProvisioningError as error:
            silent = silent or error
            continue
        if vm is not None:
            return Found(hypervisor, vm)
    if silent is not None:
        raise silent
    return None


def the_vm(tools: Tools, site: Site, computer: Computer) -> Found:
    """As `find`, but a computer without a VM raises `vm_not_found`."""
    found = find(tools, site, computer)
    if found is None:
        raise ProvisioningError(
            "vm_not_found",
            f"{computer.name} has no VM on {', '.join(site.pool.endpoints)}: reload the computer",
        )
    return found


def destroy(tools: Tools, site: Site, computer: Computer, *, keep: str | None = None) -> list[str]:
    """Remove the computer's VMs, its directory and its claims; returns the endpoints that could not be asked.

    VMs of other pools too: VCL may have given the computer to another VM host since it was loaded.
    A claim on an endpoint that cannot be asked is kept and marked `to_be_destroyed`: the VM may still run there, so its
    RAM is not free and its directory must stay. `keep` is the claim of a load that wants the directory empty, but not
    its own capacity back.
    """
    silent: dict[str, ProvisioningError] = {}
    claims = [claim for claim in tools.claims.of_computer(computer.id) if claim.id != keep]
    seen_on: set[str] = set()
    vmx = site.layout.vmx(computer.name)
    for name, found in tools.looks.ask(site.pool.endpoints, lambda hypervisor: hypervisor.find_vm(vmx)):
        try:
            if isinstance(found, ProvisioningError):
                raise found
            if found is not None:
                hypervisor = tools.hypervisors.endpoint(name)
                log.info("removing VM %s from %s", found.name, name)
                hypervisor.power_off(found)
                hypervisor.unregister(found)
        except ProvisioningError as error:
            if error.code not in CANNOT_BE_ASKED:
                raise
            silent[name] = error
            if isinstance(found, Vm):
                seen_on.add(name)
    for claim in claims:
        if claim.host.endpoint not in site.pool.endpoints and _is_configured(tools, claim):
            try:
                remove_claimed(tools, claim)
            except ProvisioningError as error:
                if error.code not in CANNOT_BE_ASKED:
                    raise
                silent[claim.host.endpoint] = error
    stuck = [claim for claim in claims if claim.host.endpoint in silent]
    unclaimed = sorted(seen_on.difference(claim.host.endpoint for claim in stuck))
    if unclaimed:
        raise silent[unclaimed[0]]  # it is there, and no claim remembers it: its directory must stay
    for claim in stuck:
        tools.claims.mark(claim.id, ClaimState.TO_BE_DESTROYED)
        log.warning("%s may still run on %s: it is to be destroyed when that answers again", computer.name, claim.host)
    if not stuck:
        _delete_directory(tools, site, computer, silent)
    for claim in claims:
        if claim not in stuck:
            tools.claims.release(claim.id, f"no VM of {computer.name} is left")
    return sorted({claim.host.endpoint for claim in stuck})


def remove_claimed(tools: Tools, claim: Claim) -> None:
    """Remove the VM that holds a claim, and its directory; the claim itself stays.

    The VM is found by the claim in its annotation: its computer may have a new name, or another VM, meanwhile. A host
    that has booted from the network may not know it any more; then what was written down says where it lies. Raises
    `vsphere_fault` if it may be one of those that cannot be read, as after a boot whose datastores are not back yet.
    """
    hypervisor = tools.hypervisors.endpoint(claim.host.endpoint)
    machines = hypervisor.vms()
    theirs = [vm for vm in machines if _claim_of(vm) == claim.id]
    if not theirs and any(not vm.vmx_path and vm.host_moid == claim.host.moid for vm in machines):
        raise ProvisioningError(
            "vsphere_fault",
            f"{claim.host} has a VM whose configuration cannot be read: bring its datastore back, or unregister it",
        )
    for vm in theirs:
        hypervisor.power_off(vm)
        hypervisor.unregister(vm)
        _delete_of_claim(tools, hypervisor, claim, vm.vmx_path.rpartition("/")[0])
    if not theirs:
        _delete_unregistered(tools, hypervisor, claim, machines)


def _delete_unregistered(tools: Tools, hypervisor: Hypervisor, claim: Claim, machines: Sequence[Vm]) -> None:
    known = tools.machines.of(claim.id)
    if known is None or any(vm.vmx_path == known.vmx_path for vm in machines):
        return
    written = hypervisor.read_file(known.vmx_path)
    owner = annotation.of_vmx(written) if written is not None else None
    if owner is None or owner.claim_id == claim.id:
        log.info("%s is not registered on %s any more: its directory goes", known.name, claim.host)
        _delete_of_claim(tools, hypervisor, claim, known.directory)


def _delete_of_claim(tools: Tools, hypervisor: Hypervisor, claim: Claim, directory: str) -> None:
    # Without the claim somebody else has removed this VM, and the directory may be the next one's.
    if any(held.id == claim.id for held in tools.claims.of_computer(claim.computer_id)):
        hypervisor.delete(directory)


def remember_power(tools: Tools, vm: Vm, *, is_on: bool) -> None:
    """Write down that a VM was switched, for the day on which its host forgets it."""
    claim_id = _claim_of(vm)
    if claim_id is not None:
        tools.machines.switched(claim_id, is_on=is_on)


def _is_configured(tools: Tools, claim: Claim) -> bool:
    try:
        tools.hypervisors.endpoint(claim.host.endpoint)
    except ProvisioningError as error:
        log.warning("the claim of computer %d on it is given up: %s", claim.computer_id, error)
        return False
    return True


def _claim_of(vm: Vm) -> str | None:
    owner = annotation.read(vm.annotation)
    return owner.claim_id if owner else None


def _delete_directory(tools: Tools, site: Site, computer: Computer, silent: dict[str, ProvisioningError]) -> None:
    answering = [name for name in site.pool.endpoints if name not in silent]
    if not answering:
        raise next(iter(silent.values()))
    tools.hypervisors.endpoint(answering[0]).delete(site.layout.vm_directory(computer.name))


def ask_any(tools: Tools, site: Site, question: Callable[[Hypervisor], T | None]) -> T | None:
    """The first answer that is not None; None if all endpoints of the pool answered None.

    For what lies on the pool's datastore, which any host may know. Raises the first endpoint's error if nobody had an
    answer and not everybody could be asked.
    """
    return ask_endpoints(tools, site.pool.endpoints, question)


def ask_endpoints(tools: Tools, names: Sequence[str], question: Callable[[Hypervisor], T | None]) -> T | None:
    """As `ask_any`, of endpoints by their names."""
    silent: ProvisioningError | None = None
    for name in names:
        try:
            answer = question(tools.hypervisors.endpoint(name))
        except ProvisioningError as error:
            silent = silent or error
            continue
        if answer is not None:
            return answer
    if silent is not None:
        raise silent
    return None


def _claimed_first(tools: Tools, site: Site, claims: Sequence[Claim]) -> list[Hypervisor]:
    claimed = {claim.host.endpoint for claim in claims}
    names = sorted(site.pool.endpoints, key=lambda name: name not in claimed)
    return [tools.hypervisors.endpoint(name) for name in names]
