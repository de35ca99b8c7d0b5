"""node_status: what the hypervisors know of a computer's VM. The shim adds what only the guest can tell."""

from __future__ import annotations

from typing import Any

from esxprov import vmx
from esxprov.handlers import vm
from esxprov.job import Job
from esxprov.model import PowerState
from esxprov.ports import Tools


def node_status(job: Job, tools: Tools) -> dict[str, Any]:
    """`present`: it runs; `on_known_host`: on one of the pool's hosts, which answers; `sized_right`: with the RAM and
    vCPUs of the image; `disk_right`: false if it shall be a server and has no whole disk of its own.
    """
    image = job.request.image
    site = vm.Site.of(job.request, tools)
    found = vm.find(tools, site, job.request.computer)
    if found is None:
        return {"present": False, "on_known_host": False, "sized_right": False, "disk_right": False}
    return {
        "present": found.vm.power is PowerState.ON,
        "on_known_host": _is_on_known_host(tools, site, found),
        "sized_right": found.vm.ram_mb >= vmx.ram_mb(image) and found.vm.cpus >= image.min_cpus,
        "disk_right": not job.request.reservation.server or _is_on_whole_disks(found),
    }


def _is_on_whole_disks(found: vm.Found) -> bool:
    """A VM that was loaded before anybody wanted a server may be linked to its image."""
    disks = [found.hypervisor.disk(path) for path in found.hypervisor.disks(found.vm)]
    return all(disk is not None and disk.parent is None for disk in disks)


def _is_on_known_host(tools: Tools, site: vm.Site, found: vm.Found) -> bool:
    """A vCenter may have moved it to another cluster, and still knows VMs of a host that it has lost."""
    (look,) = tools.looks.at([found.vm.endpoint], recent=True)
    # An endpoint that was silent a moment ago may be taken for that a little longer; it has just answered.
    hosts = look.hosts if look.problem is None else found.hypervisor.hosts()
    theirs = [host for host in hosts if host.key.moid == found.vm.host_moid]
    return any(host.state == "connected" and site.pool.has(host) for host in theirs)
