"""does_image_exist, get_image_size: questions about the golden library. retrieve_image is in handlers.staging."""

from __future__ import annotations

from typing import Any

from esxprov.errors import ProvisioningError
from esxprov.handlers import sources, vm
from esxprov.handlers.sources import Source
from esxprov.job import Job
from esxprov.library import manifest as manifests
from esxprov.library.manifest import Maker
from esxprov.model import DiskInfo
from esxprov.ports import Hypervisor, Tools

_MB = 1024 * 1024

MOST_MB = 65535
"""All that VCL's image.size can hold; with more its UPDATE fails, and the image stays deleted."""


def does_image_exist(job: Job, tools: Tools) -> dict[str, Any]:
    """`exists`, in the library of the pool: only after a no vcld asks to have it brought from elsewhere. An error means
    "cannot tell".

    While an image is captured, vcld asks whether its name is taken, which it is by one in the repository as well. By
    itself, from an attempt that came to its end but was not told so, it is not.
    """
    exists = image_disk(job, tools) is not None
    if job.request.is_of_a_capture:
        if exists:
            exists = not is_ours(job, tools, vm.Site.of(job.request, tools))
        else:
            exists = _in_repository(job, tools) is not None
    return {"exists": exists}


def get_image_size(job: Job, tools: Tools) -> dict[str, Any]:
    """`size_mb`: what the image's files occupy in the library or in the repository, whichever is more, rounded up, at
    most MOST_MB.
    """
    site = vm.Site.of(job.request, tools)
    image = job.request.image.name
    directory = site.layout.image_directory(image)
    size_mb = vm.ask_any(tools, site, lambda hypervisor: directory_size_mb(hypervisor, directory)) or 0
    try:
        stored = _in_repository(job, tools)
        if stored is not None:
            stored_mb = directory_size_mb(stored.hypervisor, stored.place.image_directory(image)) or 0
            size_mb = max(size_mb, stored_mb)
    except ProvisioningError:
        # vcld asks at the end of a capture: the image is there, whatever the repository's host says.
        if not size_mb:
            raise
    if not size_mb:
        place = sources.repository(job.request.profile)
        raise sources.missing(site, job.request.profile, image, [place] if place else [])
    return {"size_mb": size_mb}


def is_ours(job: Job, tools: Tools, site: vm.Site, endpoint: str | None = None) -> bool:
    """Whether the image of this name was made for this very capture, by this event or by an earlier one of the same
    reservation and revision: vcld begins it anew after an administrator's repair, and would never come to an end if
    what is done already were a name that is taken.

    Asks `endpoint`, or else all: the first that has the disk knows.
    """
    layout, image = site.layout, job.request.image.name
    path = f"{layout.image_directory(image)}/{manifests.FILE}"

    def look(hypervisor: Hypervisor) -> bool | None:
        if hypervisor.disk(layout.image_disk(image)) is None:
            return None
        found = manifests.read(hypervisor.read_file(path))
        return found is not None and found.purpose == "capture" and found.made_for.is_that_of(maker(job))

    return bool(vm.ask_endpoints(tools, [endpoint] if endpoint else site.pool.endpoints, look))


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


def image_disk(job: Job, tools: Tools) -> DiskInfo | None:
    """The disk of the request's image in the pool's library, None if it is not there."""
    site = vm.Site.of(job.request, tools)
    path = site.layout.image_disk(job.request.image.name)
    return vm.ask_any(tools, site, lambda hypervisor: hypervisor.disk(path))


def _in_repository(job: Job, tools: Tools) -> Source | None:
    place = sources.repository(job.request.profile)
    if place is None:
        return None
    return sources.find(tools, vm.Site.of(job.request, tools), [place], job.request.image.name)
