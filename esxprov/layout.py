"""Where things are on a datastore: the golden library and each computer's own directory. Pure path arithmetic."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from esxprov.errors import ProvisioningError
from esxprov.model import Pool, Profile
from esxprov.request import safe_name

_PART = re.compile(r"[^\x00-\x1f\x7f\\]{1,80}\Z")
_DATASTORE = re.compile(r"[^\[\]/\x00-\x1f\x7f]{1,80}\Z")

_UNFIT = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one pool for one profile. All of them are `[datastore] directory/...`."""

    image_datastore: str
    vm_datastore: str
    golden: str
    inuse: str

    @property
    def library(self) -> str:
        """Where all images are."""
        return f"[{self.image_datastore}] {self.golden}"

    def image_directory(self, image: str) -> str:
        return f"{self.library}/{safe_name(image, 'image.name')}"

    def image_disk(self, image: str) -> str:
        return f"{self.image_directory(image)}/{image}.vmdk"

    def references(self, image: str) -> tuple[str, str]:
        """Where the VMX of the VM that an image was made of may lie: as we, and as VCL's own module has named it."""
        path = f"{self.image_directory(image)}/{image}.vmx"
        return path, f"{path}.reference"

    def unfinished_image_directory(self, image: str, event_id: str, epoch: int = 1) -> str:
        """Where an event prepares an image: the leading dot keeps it out of every listing of images, the checksum one
        event's out of another's whose id looks the same as a name, and the epoch one service's out of another's that
        has taken the event over: whoever is late must not move into place what the other has just begun.
        """
        event = f"{_UNFIT.sub('-', event_id)}.{hashlib.sha256(event_id.encode()).hexdigest()[:8]}-{epoch}"
        return f"{self.library}/.{safe_name(image, 'image.name')}.{event}"

    def vm_directory(self, computer: str) -> str:
        return f"[{self.vm_datastore}] {self.inuse}/{safe_name(computer, 'computer.name')}"

    def vmx(self, computer: str) -> str:
        return f"{self.vm_directory(computer)}/{computer}.vmx"

    def vm_disk(self, computer: str, image: str) -> str:
        return f"{self.vm_directory(computer)}/{safe_name(image, 'image.name')}.vmdk"

    def unfinished_vm_disk(self, computer: str, image: str) -> str:
        """A copy in progress. Its host still writes it if our service died: deleting it fails until that has ended."""
        return f"{self.vm_directory(computer)}/{safe_name(image, 'image.name')}.unfinished.vmdk"


def of(pool: Pool, profile: Profile) -> Layout:
    """The layout of a pool for a profile.

    Raises ProvisioningError `invalid_event` if the profile names no datastore.
    """
    images = datastore_name(profile.datastore_path, profile.name)
    return Layout(
        images, datastore_name(profile.vm_path, profile.name) if profile.vm_path else images, pool.golden, pool.inuse
    )


def datastore_directory(path: str) -> str | None:
    """`[repo] images` for `[repo] images`, `/vmfs/volumes/repo/images`, and `[repo]` for `repo`: a directory that hosts
    can read. None for what is none, as the management node's own /install/vmware_images, or climbs out of one.
    """
    text = path.strip()
    if text.startswith("["):
        datastore, closed, rest = text[1:].partition("]")
    elif text.startswith("/vmfs/volumes/"):
        datastore, closed, rest = text.removeprefix("/vmfs/volumes/").partition("/")
    else:
        datastore, closed, rest = text, "", ""
    parts = rest.strip().strip("/").split("/") if rest.strip(" /") else []
    is_bad = not _DATASTORE.match(datastore) or datastore in (".", "..") or (text.startswith("[") and not closed)
    if is_bad or any(part in ("", ".", "..") or not _PART.match(part) for part in parts):
        return None
    return f"[{datastore}] {'/'.join(parts)}".rstrip()


def datastore_name(path: str, profile: str) -> str:
    """The datastore behind what VCL's admins write: `nfs1`, `[nfs1]`, `[nfs1] vcl`, `/vmfs/volumes/nfs1`."""
    name = path.strip()
    bracketed = re.match(r"\[([^\]]+)\]", name)
    if bracketed:
        name = bracketed[1]
    elif name.startswith("/vmfs/volumes/"):
        name = name.removeprefix("/vmfs/volumes/").split("/", 1)[0]
    if not _DATASTORE.match(name) or name in (".", ".."):
        raise ProvisioningError(
            "invalid_event",
            f"VM profile {profile!r} has the datastore path {path!r}, which names no datastore: "
            "set it to the datastore's name, like 'nfs1', in VCL's VM host profile",
        )
    return name
