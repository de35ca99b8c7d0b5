"""node_status: what the hypervisors know of a computer's VM. The shim adds what only the guest can tell."""

from __future__ import annotations

from typing import Any

from esxprov import vmx
from esxprov.handlers import vm
from esxprov.job import Job
from esxprov.model import PowerState
from esxprov.ports import Tools


def node_status(job: Job, tools: Tools) -> dict[str, Any]:
    """`present`: it runs; `on_known_host`: in the pool; `sized_right`: with the RAM and vCPUs of the image."""
    image = job.request.image
    found = vm.find(tools, vm.Site.of(job.request, tools), job.request.computer)
    if found is None:
        return {"present": False, "on_known_host": False, "sized_right": False}
    return {
        "present": found.vm.power is PowerState.ON,
        "on_known_host": True,
        "sized_right": found.vm.ram_mb >= vmx.ram_mb(image) and found.vm.cpus >= image.min_cpus,
    }
