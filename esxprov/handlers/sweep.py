"""VMs that could not be removed because their host did not answer: removed when it does."""

from __future__ import annotations

import logging

from esxprov.errors import ProvisioningError
from esxprov.handlers import vm
from esxprov.model import ClaimState, Pool
from esxprov.ports import Tools

log = logging.getLogger(__name__)


def sweep(tools: Tools, pool: Pool) -> int:
    """Try again to remove what is to be destroyed in a pool; returns how many VMs or claims are gone now.

    An endpoint that does not answer, or a host that its vCenter has lost, is asked once, not once for each claim: every
    time may take its whole timeout.
    """
    done = 0
    silent: set[str] = set()
    for claim in tools.claims.of_pool(pool.name):
        endpoint = claim.host.endpoint
        known_silent = endpoint in silent or str(claim.host) in silent
        if claim.state is ClaimState.TO_BE_DESTROYED and endpoint in pool.endpoints and not known_silent:
            try:
                vm.remove_claimed(tools, claim)
            except ProvisioningError as error:
                is_silent = error.code in vm.CANNOT_BE_ASKED
                log.log(
                    logging.DEBUG if is_silent else logging.WARNING,
                    "the VM of computer %d on %s stays to be destroyed: %s",
                    claim.computer_id,
                    claim.host,
                    error,
                )
                if is_silent:
                    silent.add(error.host or endpoint)
                continue
            tools.claims.release(claim.id, f"{claim.host} answers again and its VM is removed")
            done += 1
    return done
