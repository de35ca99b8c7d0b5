"""capture: the disk of a computer's VM becomes an image. The golden library never holds half an image.

The copy is made in a hidden directory beside the images, looked at, described by a manifest, and the whole directory is
then renamed into place. A crash leaves either no image, or the whole one, whose manifest says for whom it was made.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Any

from esxprov import annotation
from esxprov.errors import ProvisioningError
from esxprov.handlers import condition, reap, space, vm
from esxprov.handlers.describe import describe
from esxprov.handlers.image import directory_size_mb, is_ours
from esxprov.job import Job
from esxprov.library import reference
from esxprov.library.manifest import Source
from esxprov.model import AttachedDisk, ClaimState, DiskInfo, ImageWork, Vm
from esxprov.ports import Hypervisor, Tools

log = logging.getLogger(__name__)

_REVISION = re.compile(r"-v(\d{1,9})\Z")


def capture(job: Job, tools: Tools) -> dict[str, Any]:
    """Returns `image_path`, `size_mb`, and whether the VM was `removed`: only for request state `image`, a checkpoint
    keeps it. Where it cannot be removed it is recorded as to be destroyed; the image is good all the same.

    Raises `image_exists` for a name that is taken, `conflict` for one being captured by another event, `vm_not_found`,
    `datastore_full`, `vsphere_fault` for a VM that is not off, or has snapshots, several disks or an open question.
    """
    request = job.request
    keeps_vm = request.reservation.state != "image"
    site = vm.Site.of(request, tools)
    target = site.layout.image_directory(request.image.name)
    found = _find(job, tools, site)
    if is_ours(job, tools, site, found.hypervisor.name if isinstance(found, vm.Found) else None):
        if "locked" in job.steps:
            reap.discard(tools, site.pool, _work(job, site))
    elif isinstance(found, ProvisioningError):
        raise found
    else:
        _make(job, tools, site, found)
        tools.images.done(_work(job, site))
    size_mb = vm.ask_any(tools, site, lambda hypervisor: directory_size_mb(hypervisor, target))
    removed = False
    if not keeps_vm:
        with job.step("destroy", f"removing {request.computer.name}"):
            removed = _destroy(job, tools, site)
    return {"image_path": site.layout.image_disk(request.image.name), "size_mb": size_mb or 1, "removed": removed}


def undo(job: Job, tools: Tools) -> None:
    """Remove the unfinished copy; an image in place and the VM are left as they are. While no host can remove it, its
    lock remembers it for handlers.reap.
    """
    if "locked" not in job.steps:
        return
    site = vm.Site.of(job.request, tools)
    reap.discard(tools, site.pool, _work(job, site))


def _find(job: Job, tools: Tools, site: vm.Site) -> vm.Found | ProvisioningError:
    """The computer's VM, whose host then need be the only one that answers; or why it was not found: it may be gone
    since an earlier attempt came to its end.
    """
    try:
        return vm.the_vm(tools, site, job.request.computer)
    except ProvisioningError as error:
        return error


def _make(job: Job, tools: Tools, site: vm.Site, found: vm.Found) -> None:
    request = job.request
    with job.step("check", f"looking at the disk of {found.vm.name}"):
        disk = condition.the_disk(found.vm.name, found.hypervisor.condition(found.vm))
        _refuse_taken(found.hypervisor, site, request.image.name)
        layers = condition.chain(found.hypervisor, site, disk.path, found.vm.name)
        work = _work(job, site, space.needed_mb(found.hypervisor, layers))
        job.keep("locked", path=work.path)
    making = _Making(job, tools, site, found.hypervisor, found.vm, disk, layers, work)
    making.copy()
    copied = making.verify()
    making.describe(copied)
    making.move()


def _refuse_taken(hypervisor: Hypervisor, site: vm.Site, image: str) -> None:
    directory = site.layout.image_directory(image)
    entries = hypervisor.list_directory(directory)
    if entries is None:
        return
    if any(entry.name == f"{image}.vmdk" for entry in entries):
        raise ProvisioningError("image_exists", f"{directory} exists already and is not overwritten")
    raise ProvisioningError(
        "image_exists", f"{directory} exists already, but holds no disk {image}.vmdk: look what it is, and remove it"
    )


@dataclass(frozen=True, slots=True)
class _Making:
    """One attempt to make the image, in the directory of `work`, of `layers`: the disk of the VM and its parents."""

    job: Job
    tools: Tools
    site: vm.Site
    hypervisor: Hypervisor
    machine: Vm
    disk: AttachedDisk
    layers: list[DiskInfo]
    work: ImageWork

    @property
    def target(self) -> str:
        return f"{self.work.path}/{self.work.image}.vmdk"

    def copy(self) -> None:
        work, hypervisor = self.work, self.hypervisor
        source = self.layers[0].path
        with self.job.step("copy_disk", f"copying {source} to {work.path}", "info") as step:
            busy = reap.hold(self.tools, hypervisor, work)
            if busy is not None:
                raise ProvisioningError(
                    "conflict",
                    f"{work.image} on [{work.datastore}] is being worked on already ({busy.work.purpose}): wait until "
                    f"event {busy.work.event_id} has ended, see 'esxprov events show'",
                )
            reap.clear(hypervisor, work)
            space.require(self.tools, hypervisor, work)
            hypervisor.make_directory(work.path)
            with space.told(hypervisor, work.datastore, work.path, work.needed_mb, work.image):
                hypervisor.copy_disk(source, self.target, adapter=self.disk.adapter, progress=step.progress)

    def verify(self) -> DiskInfo:
        with self.job.step("verify", f"checking the copy of {self.machine.name}") as step:
            copy = self.hypervisor.disk(self.target)
            flaw = condition.flaw(self.hypervisor, self.work.path, copy, self.layers, self.disk.adapter)
            if flaw or copy is None:
                again = step.result is None
                step.keep(flaw=flaw)
                raise ProvisioningError(
                    "vsphere_fault",
                    f"the copy {self.target} of {self.layers[0].path} is not as it should be: {flaw}",
                    retryable=again,
                )
        return copy

    def describe(self, copy: DiskInfo) -> None:
        with self.job.step("describe", f"writing the manifest of {self.work.image}"):
            hardware = reference.of(self.hypervisor.read_file(self.machine.vmx_path) or b"")
            owner = annotation.read(self.machine.annotation)
            origin = owner.image if owner else ""
            revision = _REVISION.search(origin)
            source = Source(self.layers[0].path, origin, int(revision[1]) if revision else None)
            computer = self.job.request.computer.name
            describe(self.job, self.hypervisor, self.work, copy, hardware, source, computer)

    def move(self) -> None:
        with self.job.step("move", f"moving {self.work.image} into the library"):
            try:
                self.hypervisor.move_directory(self.work.path, self.site.layout.image_directory(self.work.image))
            except ProvisioningError as error:
                # A service that was taken for dead may have been about to do just this, with its own whole copy.
                if error.code != "image_exists" or not is_ours(self.job, self.tools, self.site, self.hypervisor.name):
                    raise
                reap.clear(self.hypervisor, self.work)


def _work(job: Job, site: vm.Site, needed_mb: int = 0) -> ImageWork:
    image, layout = job.request.image.name, site.layout
    return ImageWork(
        datastore=layout.image_datastore,
        image=image,
        event_id=job.event.id,
        purpose="capture",
        pool=site.pool.name,
        path=layout.unfinished_image_directory(image, job.event.id, job.epoch),
        needed_mb=needed_mb,
    )


def _destroy(job: Job, tools: Tools, site: vm.Site) -> bool:
    """Whether nothing of the VM is left. A VM that stays is no reason to call a good image a failure: vcld would keep
    the image from its users for it.
    """
    computer = job.request.computer
    try:
        return not vm.destroy(tools, site, computer)
    except ProvisioningError as error:
        log.warning("%s is captured, but cannot be removed now: %s", computer.name, error)
        for claim in tools.claims.of_computer(computer.id):
            tools.claims.mark(claim.id, ClaimState.TO_BE_DESTROYED)
        return False
