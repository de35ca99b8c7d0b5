"""capture: the disk of a computer's VM becomes an image. The golden library never holds half an image.

The copy is made in a hidden directory beside the images, described by a manifest, and the whole directory is then
renamed into place. A crash leaves either no image, or the whole one, whose manifest names the event that made it.
"""

from __future__ import annotations

import json
from typing import Any

from esxprov import annotation
from esxprov.errors import ProvisioningError
from esxprov.handlers import vm
from esxprov.handlers.image import directory_size_mb
from esxprov.job import Job
from esxprov.model import DiskInfo, PowerState
from esxprov.ports import Hypervisor, Tools

MANIFEST = "esxprov.json"


def capture(job: Job, tools: Tools) -> dict[str, Any]:
    """Returns `image_path` and `size_mb`. The VM is removed only for request state `image`; a checkpoint keeps it.

    Raises `image_exists` for a name that is taken, `vm_not_found`, `vsphere_fault` for a VM with several disks.
    """
    request = job.request
    image, state = request.image.name, request.reservation.state
    site = vm.Site.of(request, tools)
    target = site.layout.image_directory(image)
    found = vm.find(tools, site, request.computer)
    hypervisor = found.hypervisor if found else tools.hypervisors.endpoint(site.pool.endpoints[0])
    if not _is_ours(hypervisor, target, job.event.id):
        if found is None:
            found = vm.the_vm(tools, site, request.computer)
        _copy(job, site, found)
    result = {"image_path": site.layout.image_disk(image), "size_mb": directory_size_mb(hypervisor, target) or 1}
    if state == "image":
        with job.step("destroy", f"removing {request.computer.name}"):
            vm.destroy(tools, site, request.computer)
    return result


def _copy(job: Job, site: vm.Site, found: vm.Found) -> None:
    image = job.request.image.name
    hypervisor = found.hypervisor
    unfinished = site.layout.unfinished_image_directory(image, job.event.id)
    with job.step("check", f"looking at the disk of {found.vm.name}"):
        disks = hypervisor.disks(found.vm)
        if len(disks) != 1:
            raise ProvisioningError(
                "vsphere_fault", f"{found.vm.name} has {len(disks)} disks, an image has exactly one: remove the others"
            )
        source = hypervisor.disk(disks[0])
        if source is None:
            raise ProvisioningError(
                "vsphere_fault",
                f"the disk {disks[0]} of {found.vm.name} is not there any more: nothing is left to capture, reload the "
                "computer",
            )
        adapter = _adapter(site, found, source)
        if hypervisor.list_directory(site.layout.image_directory(image)) is not None:
            raise ProvisioningError(
                "image_exists", f"{site.layout.image_directory(image)} exists already and is not overwritten"
            )
    with job.step("power_off", f"switching {found.vm.name} off"):
        if hypervisor.power_state(found.vm) is not PowerState.OFF:
            hypervisor.power_off(found.vm)
    with job.step("copy_disk", f"copying {source.path} to {unfinished}", "info") as step:
        hypervisor.delete(unfinished)
        hypervisor.make_directory(unfinished)
        hypervisor.copy_disk(source.path, f"{unfinished}/{image}.vmdk", adapter=adapter, progress=step.progress)
    with job.step("verify", f"checking the copy of {found.vm.name}"):
        copy = hypervisor.disk(f"{unfinished}/{image}.vmdk")
        if copy is None or copy.parent is not None or copy.capacity_mb != source.capacity_mb:
            raise ProvisioningError(
                "vsphere_fault", f"the copy {unfinished} is not a whole disk: {copy}", retryable=True
            )
        manifest = {
            "image": image,
            "event": job.event.id,
            "source": source.path,
            "computer": job.request.computer.name,
            "capacity_mb": copy.capacity_mb,
            "adapter": copy.adapter,
            "captured_at": job.now().isoformat(),
        }
        hypervisor.write_file(f"{unfinished}/{MANIFEST}", json.dumps(manifest, indent=1).encode())
    with job.step("move", f"moving {image} into the library"):
        hypervisor.move_directory(unfinished, site.layout.image_directory(image))


def _adapter(site: vm.Site, found: vm.Found, source: DiskInfo) -> str:
    """What the disk hangs on. On ESXi the descriptor of a redo disk does not say it, that of the image below does."""
    owner = annotation.read(found.vm.annotation)
    if source.parent is None or owner is None:
        return source.adapter
    golden = found.hypervisor.disk(site.layout.image_disk(owner.image))
    return golden.adapter if golden else source.adapter


def _is_ours(hypervisor: Hypervisor, directory: str, event_id: str) -> bool:
    """Whether this very event moved the image into place before it was interrupted."""
    manifest = hypervisor.read_file(f"{directory}/{MANIFEST}")
    if manifest is None:
        return False
    try:
        return bool(json.loads(manifest).get("event") == event_id)
    except (ValueError, AttributeError):
        return False


def undo(job: Job, tools: Tools) -> None:
    """Remove the unfinished copy; an image in place and the VM are left as they are."""
    site = vm.Site.of(job.request, tools)
    unfinished = site.layout.unfinished_image_directory(job.request.image.name, job.event.id)

    def remove(hypervisor: Hypervisor) -> bool:
        hypervisor.delete(unfinished)
        return True

    vm.ask_any(tools, site, remove)
