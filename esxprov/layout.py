"""Where things are on a datastore: the golden library and each computer's own directory. Pure path arithmetic."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from esxprov.errors import ProvisioningError
from esxprov.model import Pool, Profile
from esxprov.request import safe_name

_DATASTORE = re.compile(r"[^\[\]/\x00-\x1f\x7f]{1,80}\Z")

_UNFIT = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one pool for one profile. All of them are `[datastore] directory/...`."""

    image_datastore: str
    vm_datastore: str
    golden: str
    inuse: str

    def image_directory(self, image: str) -> str:
        return f"[{self.image_datastore}] {self.golden}/{safe_name(image, 'image.name')}"

    def image_disk(self, image: str) -> str:
        return f"{self.image_directory(image)}/{image}.vmdk"

    def references(self, image: str) -> tuple[str, str]:
        """Where the VMX of the VM that an image was made of may lie: as we, and as VCL's own module has named it."""
        path = f"{self.image_directory(image)}/{image}.vmx"
        return path, f"{path}.reference"

    def unfinished_image_directory(self, image: str, event_id: str) -> str:
        """Where an event prepares an image: the leading dot keeps it out of every listing of images, the checksum one
        event's out of another's whose id looks the same as a name.
        """
        event = f"{_UNFIT.sub('-', event_id)}.{hashlib.sha256(event_id.encode()).hexdigest()[:8]}"
        return f"[{self.image_datastore}] {self.golden}/.{safe_name(image, 'image.name')}.{event}"

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
