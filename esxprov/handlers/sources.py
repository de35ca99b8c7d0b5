"""Where an image may lie beside the library of its pool: in the repository, and in the libraries of other pools."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from esxprov import layout as layouts
from esxprov.errors import ProvisioningError
from esxprov.handlers import vm
from esxprov.model import DiskInfo, Profile
from esxprov.ports import Hypervisor, Look, Tools
from esxprov.request import safe_name

REPOSITORY = "the repository"


@dataclass(frozen=True, slots=True)
class Place:
    """A directory of images, `[datastore] path`, and what it is called."""

    directory: str
    name: str

    @property
    def datastore(self) -> str:
        return self.directory.removeprefix("[").partition("]")[0]

    def image_directory(self, image: str) -> str:
        separator = " " if self.directory.endswith("]") else "/"
        return f"{self.directory}{separator}{safe_name(image, 'image.name')}"

    def image_disk(self, image: str) -> str:
        return f"{self.image_directory(image)}/{image}.vmdk"


@dataclass(frozen=True, slots=True)
class Source:
    """An image's disk in a place, and an endpoint that sees it."""

    hypervisor: Hypervisor
    place: Place
    disk: DiskInfo


def repository(profile: Profile) -> Place | None:
    """The profile's repository, None if it has none that hosts can read."""
    directory = layouts.datastore_directory(profile.repository_path)
    return Place(directory, REPOSITORY) if directory else None


def elsewhere(tools: Tools, site: vm.Site, profile: Profile) -> list[Place]:
    """Every place that may have what the pool's library lacks, the repository first."""
    places: dict[str, Place] = {}
    if (stored := repository(profile)) is not None:
        places[stored.directory] = stored
    for pool in tools.pools.all():
        other = tools.inventory.profile(pool.profile)
        with suppress(ProvisioningError):  # its profile names no datastore
            if other is not None:
                directory = layouts.of(pool, other).library
                places.setdefault(directory, Place(directory, f"the library of pool {pool.name}"))
    places.pop(site.layout.library, None)
    return list(places.values())


def find(tools: Tools, site: vm.Site, places: list[Place], image: str) -> Source | None:
    """The first place that has the image; None if none has.

    An endpoint without a place's datastore is not asked. Raises the first error if the image was not found and not
    everybody could be asked.
    """
    if not places:
        return None
    silent: ProvisioningError | None = None
    looks = tools.looks.at(site.pool.endpoints, recent=True)
    for place in places:
        for look in looks:
            try:
                if place.datastore not in _datastores(look):
                    continue
                hypervisor = tools.hypervisors.endpoint(look.endpoint)
                disk = hypervisor.disk(place.image_disk(image))
            except ProvisioningError as error:
                silent = silent or error
                continue
            if disk is not None:
                return Source(hypervisor, place, disk)
    if silent is not None:
        raise silent
    return None


def missing(site: vm.Site, profile: Profile, image: str, looked_at: list[Place]) -> ProvisioningError:
    """The error for an image that is nowhere."""
    nor = "".join(f", nor is it in {place.name} ({place.directory})" for place in looked_at)
    if profile.repository_path.strip() and repository(profile) is None:
        nor += (
            f" (the profile's repository {profile.repository_path!r} is no datastore's directory: mount it on the "
            "hosts and write it like '[repository] images')"
        )
    return ProvisioningError(
        "image_not_found",
        f"image {image} has no disk {site.layout.image_disk(image)}{nor}: copy it there, or capture the image again",
    )


def _datastores(look: Look) -> set[str]:
    if look.problem is not None:
        raise ProvisioningError("host_unavailable", f"{look.endpoint} cannot be asked: {look.problem}", retryable=True)
    return {store.name for host in look.hosts for store in host.datastores if store.accessible}
