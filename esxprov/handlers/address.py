"""The private address of a VM that was just switched on."""

from __future__ import annotations

import logging

from esxprov.errors import ProvisioningError
from esxprov.job import Job
from esxprov.model import Lease
from esxprov.ports import Armed, GuestAddresses, Tools

log = logging.getLogger(__name__)

BOOT_MOST_S = 900
"""The slowest boot we wait for: a Windows guest on a busy host at the start of a class."""

ADDRESS_SPARE_S = 2
"""What is left of the deadline for telling the caller that no address was seen."""


def wait_for_address(job: Job, tools: Tools, mac: str, armed: Armed, guest: GuestAddresses) -> Lease:
    """The fresh lease of `mac`, or what else tells its address.

    Raises `ip_not_seen` with what was seen instead and what to look at.
    """
    timeout_s = min(BOOT_MOST_S, job.remaining_s() - ADDRESS_SPARE_S)
    try:
        return tools.leases.wait(mac, armed, timeout_s, job.interrupted, guest)
    except ProvisioningError:
        # Whoever interrupted the wait (a cancel, the end of the service, the deadline) has the better reason.
        job.check()
        raise


def look_again(job: Job, tools: Tools, lease: Lease, armed: Armed, guest: GuestAddresses) -> Lease:
    """The address right before it is told: `lease`, or what follows it, waited for if the guest has declined it.

    A guest looks whether its address is in use only after it was given, for up to some seconds. Who declines it after
    the reply has it declined too late for us.
    """
    while (now := tools.leases.look_again(lease, armed)) is None:
        log.warning("%s has %s no more, waiting for its next address", lease.mac, lease.ip)
        lease = wait_for_address(job, tools, lease.mac, armed, guest)
    return now
