"""VMs that could not be removed because their host did not answer: removed when it does."""

from __future__ import annotations

import logging

from esxprov import annotation
from esxprov.errors import ProvisioningError
from esxprov.model import Claim, ClaimState, Pool
from esxprov.ports import Tools

log = logging.getLogger(__name__)


def sweep(tools: Tools, pool: Pool) -> int:
    """Try again to remove what is to be destroyed in a pool; returns how many VMs or claims are gone now."""
    done = 0
    for claim in tools.claims.of_pool(pool.name):
        if claim.state is ClaimState.TO_BE_DESTROYED and claim.host.endpoint in pool.endpoints:
            try:
                _destroy(tools, claim)
            except ProvisioningError as error:
                log.debug("%s stays to be destroyed: %s", claim.host, error)
                continue
            done += 1
    return done


def _destroy(tools: Tools, claim: Claim) -> None:
    """The VM is found by the claim in its annotation: its computer may have a new name, or another VM, meanwhile."""
    hypervisor = tools.hypervisors.endpoint(claim.host.endpoint)
    for vm in hypervisor.vms():
        owner = annotation.read(vm.annotation)
        if owner is not None and owner.claim_id == claim.id:
            hypervisor.power_off(vm)
            hypervisor.unregister(vm)
            hypervisor.delete(vm.vmx_path.rpartition("/")[0])
    tools.claims.release(claim.id)
    log.info("%s answers again: computer %d is removed from it", claim.host, claim.computer_id)
