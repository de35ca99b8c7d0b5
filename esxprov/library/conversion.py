"""What a disk from elsewhere must become, so that VMs run from its copy. Pure.

VMs run from disks in the hypervisor's own format, of which every type's name begins with `vmfs`. Older VCL sites keep
their images as `twoGbMaxExtentSparse`, a format of VMware Workstation, which ESXi reads with its module `multiextent`
only; from version 6.5 on it has none.
"""

from __future__ import annotations

from esxprov.model import DiskInfo

_WORKSTATION = ("twogbmaxextent", "monolithic")
BY_HAND = "convert it with 'qemu-img convert', or with 'vmkfstools -i' on an ESXi that has the module multiextent"


def refusal(disk: DiskInfo) -> str:
    """Why no image can be made of a disk, and what to do; "" if it can be tried."""
    if disk.parent is not None:
        return f"is not a whole disk, it needs {disk.parent}: capture the image again"
    kind = disk.create_type.lower()
    if kind.startswith("vmfs") and not kind.endswith("rawdevicemap"):
        return ""
    if is_workstations(disk):
        return ""
    return f"is of type {disk.create_type}, which no host copies: {BY_HAND}"


def is_workstations(disk: DiskInfo) -> bool:
    """Whether a disk is in a format that only some hosts can read."""
    return disk.create_type.lower().startswith(_WORKSTATION)


def cannot_be_read(disk: DiskInfo) -> str:
    """What to say of such a disk when a host has tried and could not."""
    return (
        f"is of type {disk.create_type}, which this host cannot read: it has no module multiextent, as none has from "
        f"ESXi 6.5 on; {BY_HAND}"
    )


def adapter_for(disk: DiskInfo, architecture: str) -> str:
    """What the copy shall hang on, `ide`, `buslogic` or `lsilogic` (which stands for SAS and paravirtual ones, too).

    A guest boots from the controller that it knows, so it keeps its own; but ESXi switches no 64-bit guest on that has
    a BusLogic one.
    """
    kind = disk.adapter.lower()
    if kind == "buslogic" and architecture == "x86_64":
        return "lsilogic"
    return kind if kind in ("ide", "buslogic") else "lsilogic"
