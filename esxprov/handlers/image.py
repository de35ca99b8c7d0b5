"""does_image_exist, get_image_size, retrieve_image: questions about the golden library."""

from __future__ import annotations

from typing import Any

from esxprov.errors import ProvisioningError
from esxprov.handlers import vm
from esxprov.job import Job
from esxprov.library import manifest as manifests
from esxprov.library.manifest import Maker
from esxprov.model import DiskInfo
from esxprov.ports import Hypervisor, Tools

_MB = 1024 * 1024

MOST_MB = 65535
"""All that VCL's image.size can hold; with more its UPDATE fails, and the image stays deleted."""


def does_image_exist(job: Job, tools: Tools) -> dict[str, Any]:
    """`exists`; an error means "cannot tell".

    While an image is captured, vcld asks whether its name is taken: by itself, from an attempt that came to its end
    but was not told so, it is not.
    """
    exists = _disk(job, tools) is not None
    if exists and job.request.is_of_a_capture:
        exists = not is_ours(job, tools, vm.Site.of(job.request, tools))
    return {"exists": exists}


def get_image_size(job: Job, tools: Tools) -> dict[str, Any]:
    """`size_mb`: what the image's files occupy, rounded up, at most MOST_MB."""
    site = vm.Site.of(job.request, tools)
    image = job.request.image.name
    size = vm.ask_any(tools, site, lambda hypervisor: directory_size_mb(hypervisor, site.layout.image_directory(image)))
    if size is None:
        raise _not_found(job, tools)
    return {"size_mb": size}


def retrieve_image(job: Job, tools: Tools) -> dict[str, Any]:
    """Every host of a pool sees the pool's datastore, so an image that is there is where it is needed: `copied_mb` is
    0.
    """
    with job.step("find_image", f"looking for image {job.request.image.name}"):
        if _disk(job, tools) is None:
            raise _not_found(job, tools)
    return {"copied_mb": 0}


def is_ours(job: Job, tools: Tools, site: vm.Site) -> bool:
    """Whether the image of this name was made for this very capture, by this event or by an earlier one of the same
    reservation and revision: vcld begins it anew after an administrator's repair, and would never come to an end if
    what is done already were a name that is taken.
    """
    image = job.request.image.name
    path = f"{site.layout.image_directory(image)}/{manifests.FILE}"
    found = manifests.read(vm.ask_any(tools, site, lambda hypervisor: hypervisor.read_file(path)))
    return found is not None and found.made_for.is_that_of(maker(job)) and _disk(job, tools) is not None


def maker(job: Job) -> Maker:
    """For whom a job makes its image."""
    reservation = job.request.reservation
    return Maker(job.event.id, reservation.request_id, reservation.reservation_id, job.request.image.revision_id)


def directory_size_mb(hypervisor: Hypervisor, directory: str) -> int | None:
    """The sum of a directory's files in MB, from 1 to MOST_MB; None if there is no such directory."""
    entries = hypervisor.list_directory(directory)
    if entries is None:
        return None
    return min(MOST_MB, max(1, -(-sum(entry.size_bytes for entry in entries) // _MB)))


def _disk(job: Job, tools: Tools) -> DiskInfo | None:
    site = vm.Site.of(job.request, tools)
    path = site.layout.image_disk(job.request.image.name)
    return vm.ask_any(tools, site, lambda hypervisor: hypervisor.disk(path))


def _not_found(job: Job, tools: Tools) -> ProvisioningError:
    site = vm.Site.of(job.request, tools)
    return missing(site, job.request.image.name)


def missing(site: vm.Site, image: str) -> ProvisioningError:
    """The error for an image whose disk is not in the golden library."""
    return ProvisioningError(
        "image_not_found",
        f"image {image} has no disk {site.layout.image_disk(image)}: copy it there, or capture the image again",
    )
