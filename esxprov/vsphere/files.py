"""Directories and files of a datastore, through the FileManager and the datastore's browser."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from esxprov.model import FileEntry
from esxprov.vsphere import tasks
from esxprov.vsphere.api import vim
from esxprov.vsphere.paths import DatastorePath
from esxprov.vsphere.places import Places
from esxprov.vsphere.session import Session

log = logging.getLogger(__name__)

_Browser = vim.host.DatastoreBrowser


def entries(session: Session, places: Places, path: DatastorePath) -> list[FileEntry] | None:
    """What is in a directory, None if it does not exist."""
    browser = places.of(path.datastore).browser
    details = _Browser.FileInfo.Details(fileType=True, fileSize=True, modification=False, fileOwner=False)
    # Without a query: one for disks would hide their -flat files, and with them the sizes.
    search = _Browser.SearchSpec(details=details, matchPattern=["*"])
    try:
        result = tasks.run(session, lambda: browser.SearchDatastore_Task(str(path), search))
    except vim.fault.FileNotFound:
        return None
    return [
        FileEntry(str(file.path), int(file.fileSize or 0), isinstance(file, _Browser.FolderInfo))
        for file in result.file
    ]


def exists(session: Session, places: Places, path: DatastorePath) -> bool:
    """Whether there is a file or directory."""
    return any(entry.name == path.name for entry in entries(session, places, path.parent) or ())


def make_directory(session: Session, places: Places, path: DatastorePath) -> None:
    """With its parents; existing is fine."""
    datacenter = places.of(path.datastore).datacenter
    try:
        session.call(lambda: session.content.fileManager.MakeDirectory(str(path), datacenter, True))
    except vim.fault.FileAlreadyExists:
        log.debug("%s exists already", path)


def move(session: Session, places: Places, source: DatastorePath, target: DatastorePath) -> None:
    """Rename a directory or a plain file."""
    there, here = places.of(target.datastore).datacenter, places.of(source.datastore).datacenter
    manager = session.content.fileManager
    moving(
        session,
        places,
        source,
        target,
        lambda: manager.MoveDatastoreFile_Task(str(source), here, str(target), there, False),
    )


def moving(
    session: Session, places: Places, source: DatastorePath, target: DatastorePath, begin: Callable[[], Any]
) -> None:
    """Run a task that moves source to target; done, too, if an earlier try has moved it and its answer was lost."""
    try:
        tasks.run(session, begin)
    except (vim.fault.FileNotFound, vim.fault.FileAlreadyExists):
        if exists(session, places, source) or not exists(session, places, target):
            raise
        log.info("%s had been moved to %s already", source, target)


def delete(session: Session, places: Places, path: DatastorePath) -> None:
    """A directory with all it holds, or a plain file; gone already is fine."""
    datacenter = places.of(path.datastore).datacenter
    manager = session.content.fileManager
    try:
        tasks.run(session, lambda: manager.DeleteDatastoreFile_Task(str(path), datacenter))
    except vim.fault.FileNotFound:
        log.debug("%s is gone already", path)
