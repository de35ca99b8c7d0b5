"""retrieve_image: an image that lies elsewhere comes to the library of the pool, once for all who wait for it.

Made like a captured one (see handlers.capture): copied into a hidden directory, looked at, described, and moved into
place as a whole. Who comes while an image is on its way waits for it, and takes the work over if nobody does it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from esxprov.errors import ProvisioningError
from esxprov.handlers import condition, reap, sources, space, vm
from esxprov.handlers.describe import describe
from esxprov.handlers.image import image_disk
from esxprov.handlers.sources import Source
from esxprov.job import Job, Step
from esxprov.library import conversion, reference
from esxprov.library import manifest as manifests
from esxprov.model import DiskInfo, ImageWork
from esxprov.ports import Hypervisor, Tools

WAIT_S = 2.0
"""Between two looks at what somebody else does: a copy takes minutes."""

_UNREADABLE = frozenset({"InvalidDiskFormat", "NotSupported", "FileNotFound", "FileFault", "InvalidDiskType"})
"""What hosts answer that cannot read a disk of Workstation's."""


@dataclass(frozen=True, slots=True)
class Staged:
    """An image's disk in the library of its pool.

    `copied_mb` is what was copied for it, from the disk `source`: 0 and "" if it was there, or somebody else brought
    it.
    """

    disk: DiskInfo
    copied_mb: int = 0
    source: str = ""


def retrieve_image(job: Job, tools: Tools) -> dict[str, Any]:
    """Returns `copied_mb` and `source`, see Staged. Every host of a pool sees the pool's datastore, so an image that is
    there is where it is needed.

    Raises `image_not_found`, `datastore_full`, `vsphere_fault` for a disk that cannot become an image.
    """
    staged = stage(job, tools, vm.Site.of(job.request, tools))
    return {"copied_mb": staged.copied_mb, "source": staged.source}


def stage(job: Job, tools: Tools, site: vm.Site, loadstate: str | None = None) -> Staged:
    """The image of the request, brought into the library if it is not there. Raises as `retrieve_image`."""
    image = job.request.image.name
    with job.step("find_image", f"looking for image {image}", loadstate):
        disk = image_disk(job, tools)
    if disk is None:
        disk = _bring(job, tools, site)
    elif "staging" in job.steps:
        _leave(tools, site, _work(job, site))
    copied = job.steps.get("staged") or {}
    return Staged(disk, copied.get("copied_mb", 0), copied.get("source", ""))


def undo(job: Job, tools: Tools) -> None:
    """Remove the unfinished copy. While no host can do that, its lock remembers it for handlers.reap."""
    if "staging" in job.steps:
        site = vm.Site.of(job.request, tools)
        reap.discard(tools, site.pool, _work(job, site))


def _bring(job: Job, tools: Tools, site: vm.Site) -> DiskInfo:
    image, profile = job.request.image.name, job.request.profile
    places = sources.elsewhere(tools, site, profile)
    source = sources.find(tools, site, places, image)
    if source is None:
        raise sources.missing(site, profile, image, places)
    refused = conversion.refusal(source.disk) or _incomplete(source)
    if refused:
        raise ProvisioningError("vsphere_fault", f"{source.disk.path} {refused}")
    work = _work(job, site, space.needed_mb(source.hypervisor, [source.disk]))
    has_begun = "staging" in job.steps
    job.keep("staging", path=work.path)
    bringing = _Bringing(job, tools, site, source, work)
    with job.step("stage", f"bringing {image} from {source.place.name} to [{work.datastore}]", "transfervm") as step:
        disk = bringing.wait_for_turn()
        if disk is None:
            bringing.copy(step)
    if disk is None:
        copy = bringing.verify()
        bringing.describe(copy)
        return bringing.move()
    if has_begun:
        # Somebody has taken the work over, and the lock with it, which knew what is left here.
        _leave(tools, site, work)
    tools.images.done(work)
    return disk


@dataclass(frozen=True, slots=True)
class _Bringing:
    """One attempt to bring an image from `source`, in the directory of `work`."""

    job: Job
    tools: Tools
    site: vm.Site
    source: Source
    work: ImageWork

    @property
    def hypervisor(self) -> Hypervisor:
        return self.source.hypervisor

    @property
    def copied(self) -> str:
        return f"{self.work.path}/{self.work.image}.vmdk"

    @property
    def adapter(self) -> str:
        return conversion.adapter_for(self.source.disk, self.job.request.image.architecture)

    def wait_for_turn(self) -> DiskInfo | None:
        """None once it is ours to bring the image; its disk if somebody else has brought it meanwhile."""
        seen = ""
        while True:
            busy = reap.hold(self.tools, self.hypervisor, self.work)
            # Asked while nobody else can move it there; before, it may have come between the two questions.
            disk = self.hypervisor.disk(self.site.layout.image_disk(self.work.image))
            if busy is None or disk is not None:
                return disk
            if busy.is_abandoned:
                # Its service is dead, and the next one may wait for a worker that is waiting here.
                self.tools.images.take(self.work, over=busy.work.event_id)
                continue
            if busy.work.event_id != seen:
                seen = busy.work.event_id
                self.job.notify("stage", f"event {seen} brings {self.work.image} already: waiting for it", None, None)
            self.job.pause(WAIT_S)

    def copy(self, step: Step) -> None:
        work, hypervisor, disk = self.work, self.hypervisor, self.source.disk
        reap.clear(hypervisor, work)
        space.require(self.tools, hypervisor, work)
        hypervisor.make_directory(work.path)
        try:
            with space.told(hypervisor, work.datastore, work.path, work.needed_mb, work.image):
                hypervisor.copy_disk(disk.path, self.copied, adapter=self.adapter, progress=step.progress)
        except ProvisioningError as error:
            if conversion.is_workstations(disk) and error.detail.get("fault") in _UNREADABLE:
                raise ProvisioningError(
                    "vsphere_fault", f"{disk.path} {conversion.cannot_be_read(disk)} ({error.message})"
                ) from error
            raise

    def verify(self) -> DiskInfo:
        with self.job.step("verify", f"checking the copy of {self.work.image}") as step:
            copy = self.hypervisor.disk(self.copied)
            flaw = condition.flaw(self.hypervisor, self.work.path, copy, [self.source.disk], self.adapter)
            if copy is not None and not flaw and copy.adapter == "buslogic" != self.adapter:
                flaw = "it is made for buslogic, with which no 64-bit guest is switched on: copy it by an ESXi host"
            if flaw or copy is None:
                is_workstations = conversion.is_workstations(self.source.disk)
                again = step.result is None and not is_workstations
                step.keep(flaw=flaw)
                flaw += f"; {conversion.BY_HAND}" if is_workstations else ""
                raise ProvisioningError(
                    "vsphere_fault",
                    f"the copy {self.copied} of {self.source.disk.path} is not as it should be: {flaw}",
                    retryable=again,
                )
        return copy

    def describe(self, copy: DiskInfo) -> None:
        """What is known of where the image came from before stays known."""
        hypervisor, there = self.hypervisor, self.source.place.image_directory(self.work.image)
        with self.job.step("describe", f"writing the manifest of {self.work.image}"):
            origin = manifests.read(hypervisor.read_file(f"{there}/{manifests.FILE}"))
            source = manifests.Source(
                self.source.disk.path,
                origin.source.image if origin else "",
                origin.source.revision if origin else None,
            )
            computer = origin.computer if origin else ""
            made = describe(self.job, hypervisor, self.work, copy, self._hardware(there), source, computer)
        self.job.keep("staged", copied_mb=made.allocated_mb or copy.capacity_mb, source=source.path)

    def _hardware(self, there: str) -> bytes:
        for name in (f"{self.work.image}.vmx", f"{self.work.image}.vmx.reference"):
            content = self.hypervisor.read_file(f"{there}/{name}")
            if content is not None:
                return reference.of(content)
        return b""

    def move(self) -> DiskInfo:
        layout, image = self.site.layout, self.work.image
        with self.job.step("move", f"moving {image} into the library"):
            try:
                self.hypervisor.move_directory(self.work.path, layout.image_directory(image))
            except ProvisioningError as error:
                if error.code != "image_exists":
                    raise
                # Somebody who was taken for dead was first after all, and that one is as good.
                self.job.forget("staged")
                reap.clear(self.hypervisor, self.work)
            disk = self.hypervisor.disk(layout.image_disk(image))
            if disk is None:
                raise ProvisioningError(
                    "image_exists",
                    f"{layout.image_directory(image)} exists already, but holds no disk {image}.vmdk: look what it is, "
                    "and remove it",
                )
        self.tools.images.done(self.work)
        return disk


def _leave(tools: Tools, site: vm.Site, work: ImageWork) -> None:
    """The image is there: remove what this event has begun itself, and hold nobody up any more."""

    def remove(hypervisor: Hypervisor) -> bool:
        reap.clear(hypervisor, work)
        return True

    vm.ask_any(tools, site, remove)
    tools.images.done(work)


def _incomplete(source: Source) -> str:
    """What a disk in a repository lacks that somebody is still filling, "" if nothing."""
    directory = source.disk.path.rpartition("/")[0]
    there = {entry.name: entry.size_bytes for entry in source.hypervisor.list_directory(directory) or ()}
    is_sparse = source.disk.create_type.lower().endswith("sparse")
    for extent in source.disk.extents:
        if extent.name and there.get(extent.name, -1) < (0 if is_sparse else extent.size_bytes):
            return f"is not complete: its {extent.name} is missing or too short; copy it there again"
    return ""


def _work(job: Job, site: vm.Site, needed_mb: int = 0) -> ImageWork:
    image, layout = job.request.image.name, site.layout
    return ImageWork(
        datastore=layout.image_datastore,
        image=image,
        event_id=job.event.id,
        purpose="stage",
        pool=site.pool.name,
        path=layout.unfinished_image_directory(image, job.event.id, job.epoch),
        needed_mb=needed_mb,
    )
