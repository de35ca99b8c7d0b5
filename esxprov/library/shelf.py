"""The golden library of a pool: what lies there, what VCL knows of it, who needs it, and so whether it may go. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from esxprov.library.manifest import Manifest
from esxprov.model import DiskInfo, FileEntry, ImageWork, Revision

_IMAGE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,74}\Z")


class State(StrEnum):
    """What an image is to VCL. `new`: it is being captured, and vcld has not said yet that it is complete. `kept`: a
    revision that is not in production. `unknown`: VCL has no such name; it may be the neighbour's, on a datastore that
    two sites share. `unfinished`: a hidden directory in which an event prepares an image.
    """

    PRODUCTION = "production"
    KEPT = "kept"
    NEW = "new"
    DELETED = "deleted"
    UNKNOWN = "unknown"
    UNFINISHED = "unfinished"


@dataclass(frozen=True, slots=True)
class User:
    """A VM that needs an image.

    `where` is its endpoint, or "not registered" for one that only has its directory. `chain_depth` redo disks lie over
    the image's disk, 0 for a VM with a copy of its own; `redo_mb` is what they occupy, as far as is known.
    """

    vm: str
    where: str
    image: str
    chain_depth: int = 0
    redo_mb: int = 0


@dataclass(frozen=True, slots=True)
class Shelved:
    """A directory of the library.

    `name` is that of the directory, and so of the image. `damage` says why its disk cannot be read. `size_mb` is what
    the disk occupies, None if nobody can tell. `work` is what an event does, or was to do, with it; `is_live` whether
    that event has not ended.
    """

    name: str
    directory: str
    files: tuple[FileEntry, ...] = ()
    disk: DiskInfo | None = None
    damage: str = ""
    size_mb: int | None = None
    manifest: Manifest | None = None
    descriptor_sha256: str = ""
    revision: Revision | None = None
    work: ImageWork | None = None
    is_live: bool = False
    users: tuple[User, ...] = ()

    @property
    def is_hidden(self) -> bool:
        """Whether it is one in which an image is prepared, or goes."""
        return self.name.startswith(".")

    @property
    def state(self) -> State:
        """What it is to VCL."""
        revision = self.revision
        if self.is_hidden:
            return State.UNFINISHED
        if revision is None:
            return State.UNKNOWN
        if revision.deleted:
            return State.DELETED if revision.deleted_at else State.NEW
        return State.PRODUCTION if revision.production else State.KEPT


@dataclass(frozen=True, slots=True)
class Shelf:
    """A pool's library. `blind` says of what nobody could see whether it needs an image: endpoints that are silent, VMs
    that cannot be read.
    """

    pool: str
    directory: str
    images: tuple[Shelved, ...] = ()
    blind: tuple[str, ...] = ()

    def named(self, name: str) -> Shelved | None:
        """The one of that name."""
        return next((one for one in self.images if one.name == name), None)


def revision_of(revisions: Iterable[Revision]) -> Revision | None:
    """What counts of several rows with one name: one that is not deleted before one that is."""
    ordered = sorted(revisions, key=lambda one: (one.deleted, one.deleted_at is not None, not one.production))
    return ordered[0] if ordered else None


def keepers(image: Shelved, blind: Iterable[str] = ()) -> list[str]:
    """Why an image must stay; empty if it is an orphan: nobody has it in mind, needs it, or works on it."""
    reasons = []
    revision = image.revision
    if image.state in (State.PRODUCTION, State.KEPT):
        reasons.append("VCL has it")
    elif image.state is State.NEW:
        reasons.append("VCL waits for it to be captured")
    if not image.is_hidden and not _IMAGE.match(image.name):
        reasons.append("no image can have such a name: look yourself what it is")
    if revision and revision.reservations:
        reasons.append(f"{revision.reservations} reservation(s) have it")
    if revision and revision.computers:
        reasons.append(f"it is loaded on {revision.computers} computer(s), or next")
    if image.work and image.is_live:
        reasons.append(f"event {image.work.event_id} works on it ({image.work.purpose})")
    if image.users:
        reasons.append(f"{len(image.users)} VM(s) need it: {', '.join(sorted({user.vm for user in image.users}))}")
    if not image.is_hidden:
        reasons += [f"cannot tell who needs it: {one}" for one in blind]
    return reasons


def flaws(image: Shelved) -> list[str]:
    """What is wrong with an image that is in place, one sentence each."""
    found = [image.damage] if image.damage else []
    if image.revision is None:
        found.append("VCL has no revision of this name")
    if image.disk is None:
        return found if image.damage else [f"there is no disk {image.name}.vmdk", *found]
    found += _flaws_of_disk(image, image.disk)
    manifest = image.manifest
    names = {entry.name for entry in image.files}
    if manifest and manifest.image != image.name:
        found.append(f"its manifest is that of {manifest.image}")
    if manifest and manifest.descriptor_sha256 and manifest.descriptor_sha256 != image.descriptor_sha256:
        found.append("its descriptor was changed since it was made: its disk may have been written to")
    was_a_vm_s = manifest is not None and manifest.purpose == "capture" and manifest.descriptor_sha256
    if was_a_vm_s and not names & {f"{image.name}.vmx", f"{image.name}.vmx.reference"}:
        found.append("its reference VMX is not there: VMs get the hardware that is usual for its operating system")
    return found


def _flaws_of_disk(image: Shelved, disk: DiskInfo) -> list[str]:
    found = []
    if disk.parent is not None:
        found.append(f"its disk is not whole, it needs {disk.parent}")
    if not disk.create_type.startswith("vmfs"):
        found.append(f"its disk is of type {disk.create_type}, from which no VM runs")
    there = {entry.name: entry.size_bytes for entry in image.files}
    for extent in disk.extents:
        if extent.name and extent.name not in there:
            found.append(f"{extent.name}, where its disk's content is, is not there")
        elif extent.name and there[extent.name] < extent.size_bytes and disk.create_type == "vmfs":
            found.append(f"{extent.name} has {there[extent.name]} of {extent.size_bytes} bytes")
    return found


def lineage(image: Shelved, shelf: Shelf) -> list[str]:
    """The images that an image was made from, the nearest first, up to the first of which nobody knows."""
    names: list[str] = []
    current: Shelved | None = image
    while current and current.manifest and current.manifest.source.image not in ("", image.name, *names):
        names.append(current.manifest.source.image)
        current = shelf.named(names[-1])
    return names
