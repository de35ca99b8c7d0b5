"""Virtual disks: a descriptor and the extents it names, always handled together by the VirtualDiskManager."""

from __future__ import annotations

import logging

from esxprov.errors import ProvisioningError
from esxprov.model import DiskInfo
from esxprov.vsphere import descriptor, files, tasks
from esxprov.vsphere.api import vim
from esxprov.vsphere.folder import Folder
from esxprov.vsphere.paths import DatastorePath
from esxprov.vsphere.places import Places
from esxprov.vsphere.session import Session

log = logging.getLogger(__name__)

_DESCRIPTOR_BYTES = 64 * 1024
_MB = 1024 * 1024

_Browser = vim.host.DatastoreBrowser

_ADAPTERS = {"buslogic": "busLogic", "ide": "ide"}
"""VirtualDiskManager's words for a descriptor's. It has no word for the others, whose disks are all SCSI's."""


def disk(folder: Folder, places: Places, path: DatastorePath) -> DiskInfo | None:
    """What the descriptor says, None if there is no such file. A file that is no descriptor raises `vsphere_fault`."""
    content = folder.get(path, places.of(path.datastore), limit=_DESCRIPTOR_BYTES)
    if content is None:
        return None
    found = descriptor.parse(content)
    if found is None:
        raise ProvisioningError(
            "vsphere_fault", f"{path} is not the descriptor of a virtual disk: replace or delete it"
        )
    return DiskInfo(
        path=str(path),
        adapter=found.adapter,
        create_type=found.create_type,
        capacity_mb=found.capacity_mb,
        extents=found.extents,
        parent=found.parent,
        thin=found.thin,
    )


def allocated_mb(session: Session, places: Places, path: DatastorePath) -> int | None:
    """What the disk's own layer occupies, rounded up; None if it is not there or the datastore does not tell.

    A search for files tells how long they are, which of a thin disk is its capacity; one for disks, what they occupy.
    """
    browser = places.of(path.datastore).browser
    details = _Browser.FileInfo.Details(fileType=True, fileSize=True, modification=False, fileOwner=False)
    search = _Browser.SearchSpec(query=[_Browser.VmDiskQuery()], details=details, matchPattern=[path.name])
    try:
        result = tasks.run(session, lambda: browser.SearchDatastore_Task(str(path.parent), search))
    except vim.fault.FileNotFound:
        return None
    sizes = [file.fileSize for file in result.file if str(file.path) == path.name and file.fileSize is not None]
    return -(-int(sizes[0]) // _MB) if sizes else None


def copy(
    session: Session,
    places: Places,
    source: DatastorePath,
    target: DatastorePath,
    adapter: str,
    progress: tasks.Progress,
) -> None:
    """A new thin disk with the content of a whole chain. Raises FileAlreadyExists, and what `progress` raises."""
    here, there = places.of(source.datastore).datacenter, places.of(target.datastore).datacenter
    manager = session.content.virtualDiskManager
    # Without a spec ESXi may write the copy thick; vCenter answers NotImplemented to one, and keeps the disk's type.
    wanted = None
    if not session.is_vcenter:
        wanted = vim.VirtualDiskManager.VirtualDiskSpec(diskType="thin", adapterType=_ADAPTERS.get(adapter, "lsiLogic"))
    tasks.run(
        session,
        lambda: manager.CopyVirtualDisk_Task(str(source), here, str(target), there, wanted, False),
        progress=progress,
    )


def move(session: Session, places: Places, source: DatastorePath, target: DatastorePath) -> None:
    """Rename a disk with its extents."""
    here, there = places.of(source.datastore).datacenter, places.of(target.datastore).datacenter
    manager = session.content.virtualDiskManager
    files.moving(
        session,
        places,
        source,
        target,
        lambda: manager.MoveVirtualDisk_Task(str(source), here, str(target), there, False),
    )


def delete(session: Session, places: Places, path: DatastorePath) -> None:
    """A disk with its extents, but not its parent; gone already is fine."""
    datacenter = places.of(path.datastore).datacenter
    manager = session.content.virtualDiskManager
    try:
        tasks.run(session, lambda: manager.DeleteVirtualDisk_Task(str(path), datacenter))
    except vim.fault.FileNotFound:
        log.debug("%s is gone already", path)
    except vim.fault.InvalidDiskFormat:
        # A copy that broke off can leave a descriptor that describes nothing: then it is just a file.
        files.delete(session, places, path)
