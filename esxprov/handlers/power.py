"""power_on, power_off, power_reset, power_status of a computer's VM. All of them may be repeated."""

from __future__ import annotations

from functools import partial
from typing import Any

from esxprov.errors import ProvisioningError
from esxprov.handlers import vm
from esxprov.handlers.address import ADDRESS_SPARE_S
from esxprov.job import Job
from esxprov.model import PowerState
from esxprov.ports import Tools

BOOT_S = 120
"""How long after power-on a new lease is waited for: a checkpointed VM may come back with another address."""


def power_status(job: Job, tools: Tools) -> dict[str, Any]:
    """`state`: on, off or suspended. Raises `vm_not_found` for a computer without a VM."""
    computer = job.request.computer
    found = vm.the_vm(tools, vm.Site.of(job.request, tools), computer)
    state = found.hypervisor.power_state(found.vm)
    if state is None:
        raise ProvisioningError("vm_not_found", f"{computer.name} was removed from {found.hypervisor.name} just now")
    return {"state": state.value}


def power_off(job: Job, tools: Tools) -> dict[str, Any]:
    """Pull the plug."""
    found = vm.the_vm(tools, vm.Site.of(job.request, tools), job.request.computer)
    with job.step("power_off", f"switching {found.vm.name} off"):
        found.hypervisor.power_off(found.vm)
    return {"state": PowerState.OFF.value}


def power_on(job: Job, tools: Tools) -> dict[str, Any]:
    """Switch on; `private_ip` if a fresh lease was seen."""
    found = vm.the_vm(tools, vm.Site.of(job.request, tools), job.request.computer)
    if found.vm.power is PowerState.ON:
        return {"state": PowerState.ON.value}
    return _boot(job, tools, found, reset=False)


def power_reset(job: Job, tools: Tools) -> dict[str, Any]:
    """Reset hard; `private_ip` if a fresh lease was seen."""
    found = vm.the_vm(tools, vm.Site.of(job.request, tools), job.request.computer)
    return _boot(job, tools, found, reset=True)


def _boot(job: Job, tools: Tools, found: vm.Found, *, reset: bool) -> dict[str, Any]:
    armed = tools.leases.arm(job.request.computer.private_mac)
    with job.step("power_on", f"{'resetting' if reset else 'switching on'} {found.vm.name}", "startvm"):
        if reset:
            found.hypervisor.reset(found.vm)
        else:
            found.hypervisor.power_on(found.vm)
    nics = found.hypervisor.nics(found.vm)
    if not nics:
        return {"state": PowerState.ON.value}
    try:
        with job.step("wait_for_address", f"waiting for a lease of {nics[0].mac}"):
            wait_s = min(BOOT_S, job.remaining_s() - ADDRESS_SPARE_S)
            # Of a VM that was on, VMware Tools may still report what was so before its reset.
            guest = None if reset else partial(found.hypervisor.guest_addresses, found.vm)
            lease = tools.leases.wait(nics[0].mac, armed, wait_s, job.interrupted, guest)
    except ProvisioningError as error:
        # Whoever interrupted the wait has the better reason: the end of the service is no cancel.
        job.check()
        if error.code != "ip_not_seen":
            raise
        # A guest with a static or a cached address says nothing to dhcpd; its VM is on, which is what was asked.
        return {"state": PowerState.ON.value}
    return {"state": PowerState.ON.value, "private_ip": lease.ip}
