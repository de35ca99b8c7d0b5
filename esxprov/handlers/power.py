"""power_on, power_off, power_reset, power_status of a computer's VM. All of them may be repeated."""

from __future__ import annotations

from functools import partial
from typing import Any

from esxprov.errors import ProvisioningError
from esxprov.handlers import vm
from esxprov.handlers.address import ADDRESS_SPARE_S
from esxprov.job import Job
from esxprov.model import PowerState
from esxprov.ports import Armed, Tools

BOOT_S = 120
"""How long after power-on a new lease is waited for: a checkpointed VM may come back with another address."""

MOST_SHUTDOWN_S = 240
"""The longest a guest may take to shut down: the call's own deadline is five minutes."""

PLUG_S = 20
"""What is left of the deadline for pulling the plug of a guest that does not shut down."""


def power_status(job: Job, tools: Tools) -> dict[str, Any]:
    """`state`: on, off or suspended. Raises `vm_not_found` for a computer without a VM."""
    computer = job.request.computer
    found = vm.the_vm(tools, vm.Site.of(job.request, tools), computer)
    state = found.hypervisor.power_state(found.vm)
    if state is None:
        raise ProvisioningError("vm_not_found", f"{computer.name} was removed from {found.hypervisor.name} just now")
    return {"state": state.value}


def power_off(job: Job, tools: Tools) -> dict[str, Any]:
    """Pull the plug; `data.shutdown_s` of patience (0 to 240, default 0) lets the guest shut down before.

    `how` tells what switched it off: `already`, `guest` or `hard`.
    """
    shutdown_s = _shutdown_s(job)
    found = vm.the_vm(tools, vm.Site.of(job.request, tools), job.request.computer)
    # An earlier run of this event may have asked the guest, or pulled the plug, before its service died.
    if found.vm.power is PowerState.OFF:
        how = "hard" if "plug" in job.steps else "guest" if "shutdown" in job.steps else "already"
    elif shutdown_s and _shuts_down(job, found, shutdown_s):
        how = "guest"
    else:
        how = "hard"
        job.keep("plug", pulled=True)
        with job.step("power_off", f"switching {found.vm.name} off"):
            found.hypervisor.power_off(found.vm)
    vm.remember_power(tools, found.vm, is_on=False)
    return {"state": PowerState.OFF.value, "how": how}


def _shutdown_s(job: Job) -> int:
    value = job.event.data.get("shutdown_s", 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_SHUTDOWN_S:
        raise ProvisioningError(
            "invalid_event", f"shutdown_s is {value!r}, expected a whole number of seconds from 0 to {MOST_SHUTDOWN_S}"
        )
    return value


def _shuts_down(job: Job, found: vm.Found, shutdown_s: int) -> bool:
    """Whether the guest, asked by VMware Tools, is off within that time, counted from when it was first asked."""
    asked_at = (job.steps.get("shutdown") or {}).get("at", job.now().timestamp())
    job.keep("shutdown", at=asked_at)
    with job.step("shutdown", f"asking {found.vm.name} to shut down"):
        if not found.hypervisor.shutdown_guest(found.vm):
            return False
        until = min(asked_at + shutdown_s, job.now().timestamp() + job.remaining_s() - PLUG_S)
        while found.hypervisor.power_state(found.vm) is PowerState.ON:
            if job.now().timestamp() >= until:
                return False
            job.pause(1)
    return True


def power_on(job: Job, tools: Tools) -> dict[str, Any]:
    """Switch on; `private_ip` if a fresh lease was seen."""
    found = vm.the_vm(tools, vm.Site.of(job.request, tools), job.request.computer)
    # Once it is armed it was off: then this event has switched it on, and its address is new.
    if found.vm.power is PowerState.ON and "arm" not in job.steps:
        return {"state": PowerState.ON.value}
    return _boot(job, tools, found, reset=False)


def power_reset(job: Job, tools: Tools) -> dict[str, Any]:
    """Reset hard; `private_ip` if a fresh lease was seen."""
    found = vm.the_vm(tools, vm.Site.of(job.request, tools), job.request.computer)
    return _boot(job, tools, found, reset=True)


def _boot(job: Job, tools: Tools, found: vm.Found, *, reset: bool) -> dict[str, Any]:
    armed = _armed(job, tools)
    with job.step("power_on", f"{'resetting' if reset else 'switching on'} {found.vm.name}", "startvm") as step:
        # Not a second time: its guest may have been booting for a while.
        if step.result is None:
            if reset:
                found.hypervisor.reset(found.vm)
            else:
                found.hypervisor.power_on(found.vm)
            step.keep(done=True)
    vm.remember_power(tools, found.vm, is_on=True)
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


def _armed(job: Job, tools: Tools) -> Armed:
    """The moment is written down before anything is switched, so that who takes over knows which leases are fresh."""
    mac = job.request.computer.private_mac
    before = job.steps.get("arm")
    armed = tools.leases.arm(mac) if before is None else tools.leases.rearm(mac, before["at"])
    job.keep("arm", at=armed.at)
    return armed
