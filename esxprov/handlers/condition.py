"""Whether a disk can become an image, and whether a copy of it has: what the VM, its disks and their files are like."""

from __future__ import annotations

from esxprov.errors import ProvisioningError
from esxprov.handlers import vm
from esxprov.model import BASE_SNAPSHOT, AttachedDisk, Condition, DiskInfo, PowerState
from esxprov.ports import Hypervisor

_MOST_LAYERS = 32
"""More redo disks than vSphere ever makes: a chain that bites its tail ends here."""

_VOLUMES = "/vmfs/volumes/"


def the_disk(name: str, condition: Condition) -> AttachedDisk:
    """The one disk of the VM `name`, which can be captured as it is. Raises `vsphere_fault` saying why it cannot."""
    refused = _refusal(condition)
    if refused is not None:
        raise ProvisioningError("vsphere_fault", f"{name} {refused}, then capture it again")
    return condition.disks[0]


def _refusal(condition: Condition) -> str | None:
    if condition.question is not None:
        return f"waits for an answer: give it in the vSphere client ({condition.question})"
    if condition.power is PowerState.SUSPENDED:
        return "is suspended: wake it up and shut it down"
    if condition.power is not PowerState.OFF:
        return "is switched on: shut it down"
    foreign = [one for one in condition.snapshots if one != BASE_SNAPSHOT]
    if foreign or len(condition.snapshots) > 1:
        return f"has snapshots ({', '.join(condition.snapshots)}): delete them"
    if len(condition.disks) != 1:
        return f"has {len(condition.disks)} disks, an image has exactly one: remove the others"
    if condition.disks[0].mode != "persistent":
        return f"has a disk of mode {condition.disks[0].mode}: make it dependent and persistent"
    return None


def chain(hypervisor: Hypervisor, site: vm.Site, path: str, name: str) -> list[DiskInfo]:
    """The disk of the VM `name` and all it is based on, the base last. Raises `vsphere_fault` if one is missing."""
    layers: list[DiskInfo] = []
    candidates = [path]
    while True:
        found = next((disk for disk in map(hypervisor.disk, candidates) if disk is not None), None)
        if found is None:
            lost = "nothing is left to capture" if not layers else f"{layers[-1].path} is based on it"
            raise ProvisioningError(
                "vsphere_fault",
                f"the disk {candidates[0]} of {name} is not there any more: {lost}, reload the computer",
            )
        layers.append(found)
        if found.parent is None:
            return layers
        if len(layers) == _MOST_LAYERS:
            raise ProvisioningError(
                "vsphere_fault", f"the disk {path} of {name} is based on more than {_MOST_LAYERS} others: reload it"
            )
        candidates = _places(found, site)


def _places(child: DiskInfo, site: vm.Site) -> list[str]:
    """Where a disk's parent may be. A hint names the volume by its name or, on ESXi, by a uuid that only the host can
    translate: then it is one of the two datastores that the site has.
    """
    hint = child.parent or ""
    if hint.startswith("["):
        return [hint]
    if not hint.startswith(_VOLUMES):
        return [f"{child.path.rpartition('/')[0]}/{hint}"]
    volume, _, rest = hint.removeprefix(_VOLUMES).partition("/")
    ours = dict.fromkeys((site.layout.image_datastore, site.layout.vm_datastore))
    return [f"[{name}] {rest}" for name in ([volume] if volume in ours else ours)]


def flaw(hypervisor: Hypervisor, directory: str, copy: DiskInfo | None, layers: list[DiskInfo], adapter: str) -> str:
    """What is wrong with the copy of a chain in `directory`, "" if nothing is.

    A vCenter does not let us choose: there the adapter and the type of the base are kept.
    """
    base = layers[-1]
    if copy is None:
        return "it has no descriptor"
    if copy.parent is not None:
        return f"it is not whole, it needs {copy.parent}"
    if copy.capacity_mb != layers[0].capacity_mb:
        return f"it has {copy.capacity_mb} MB instead of {layers[0].capacity_mb}"
    if not copy.create_type.startswith("vmfs") or copy.create_type.lower().endswith("sparse"):
        return f"it is of type {copy.create_type}, from which no VM runs"
    if base.thin and not copy.thin:
        return "it is thick, and its source thin"
    if copy.adapter not in (adapter, base.adapter):
        return f"it is made for {copy.adapter}, and its source for {adapter}"
    there = {entry.name: entry.size_bytes for entry in hypervisor.list_directory(directory) or ()}
    for extent in copy.extents:
        if extent.name and there.get(extent.name, -1) < extent.size_bytes:
            return f"its {extent.name} has {max(0, there.get(extent.name, 0))} of {extent.size_bytes} bytes"
    return ""
