"""Files and directories, through the API and over HTTP."""

from __future__ import annotations

import os
from typing import Any

import pytest

from esxprov.vsphere.api import vim, vmodl
from tests.integration.vsim.rig import MB, Bed, Client, wait


def test_directories_are_made_once_and_only_where_they_can_be(client: Client, bed: Bed) -> None:
    files, datacenter = client.content.fileManager, client.datacenter
    with pytest.raises(vim.fault.FileNotFound):
        files.MakeDirectory("[nfs1] a/b/c", datacenter, False)
    files.MakeDirectory("[nfs1] a/b/c", datacenter, True)
    assert (bed.path / "a/b/c").is_dir()
    with pytest.raises(vim.fault.FileAlreadyExists):
        files.MakeDirectory("[nfs1] a/b/c", datacenter, True)


def test_files_and_directories_are_moved_copied_and_deleted_but_never_replaced(client: Client, bed: Bed) -> None:
    files, datacenter = client.content.fileManager, client.datacenter

    def move(source: str, target: str) -> None:
        wait(files.MoveDatastoreFile_Task(f"[nfs1] {source}", datacenter, f"[nfs1] {target}", datacenter, False))

    move("golden/win", "golden/win10")
    assert sorted(os.listdir(bed.path / "golden/win10")) == ["win-flat.vmdk", "win.vmdk"]
    with pytest.raises(vim.fault.FileAlreadyExists):
        move("golden/win10", "inuse")
    with pytest.raises(vim.fault.FileNotFound):
        move("none", "other")
    with pytest.raises(vim.fault.FileNotFound):
        move("golden", "none/golden")
    (bed.path / "one").write_text("1")
    move("one", "two")
    wait(files.CopyDatastoreFile_Task("[nfs1] two", datacenter, "[nfs1] three", datacenter, False))
    assert (bed.path / "three").read_text() == "1"
    with pytest.raises(vim.fault.FileAlreadyExists):
        move("two", "three")
    wait(files.DeleteDatastoreFile_Task("[nfs1] golden", datacenter))
    assert sorted(os.listdir(bed.path)) == ["inuse", "three", "two"]
    with pytest.raises(vim.fault.FileNotFound):
        wait(files.DeleteDatastoreFile_Task("[nfs1] golden", datacenter))


def search(client: Client, path: str, *, recurse: bool = False, **spec: Any) -> Any:
    browser = client.all(vim.Datastore)[0].browser
    method = browser.SearchDatastoreSubFolders_Task if recurse else browser.SearchDatastore_Task
    return wait(method(path, vim.host.DatastoreBrowser.SearchSpec(**spec) if spec else None))


def test_a_directory_is_listed_with_sizes(client: Client, bed: Bed) -> None:
    details = vim.host.DatastoreBrowser.FileInfo.Details(fileSize=True, fileType=True, modification=False)
    found = search(client, "[nfs1] golden/win", details=details)
    assert found.folderPath == "[nfs1] golden/win/"
    assert {file.path: file.fileSize for file in found.file} == {
        "win.vmdk": (bed.path / "golden/win/win.vmdk").stat().st_size,
        "win-flat.vmdk": 64 * MB,
    }
    with pytest.raises(vim.fault.FileNotFound):
        search(client, "[nfs1] none", details=details)


def test_a_search_without_a_specification_is_answered(client: Client) -> None:
    assert {file.path for file in search(client, "[nfs1]").file} == {"golden", "inuse"}


def test_a_search_for_disks_finds_descriptors_with_what_their_content_occupies(client: Client) -> None:
    wanted = vim.host.DatastoreBrowser.VmDiskQuery.Details(
        capacityKb=True, diskType=True, hardwareVersion=False, thin=True, controllerType=True
    )
    found = search(
        client,
        "[nfs1] golden",
        recurse=True,
        query=[vim.host.DatastoreBrowser.VmDiskQuery(details=wanted)],
        details=vim.host.DatastoreBrowser.FileInfo.Details(fileSize=True, fileType=True, modification=False),
        matchPattern=["*.vmdk"],
    )
    assert [(where.folderPath, len(where.file)) for where in found] == [
        ("[nfs1] golden/", 0),
        ("[nfs1] golden/win/", 1),
    ]
    disk = found[1].file[0]
    assert (disk.path, disk.capacityKb, disk.thin, disk.fileSize) == ("win.vmdk", 64 * 1024, True, 4096)
    assert disk.controllerType == vim.vm.device.VirtualLsiLogicController


def test_the_server_s_own_gaps_are_answered_with_a_fault_on_a_living_connection(client: Client) -> None:
    config = vim.vm.ConfigSpec(name="odd", files=vim.vm.FileInfo(vmPathName="[nowhere] odd"))
    host = client.all(vim.HostSystem)[0]
    with pytest.raises(vmodl.fault.SystemError):
        wait(client.datacenter.vmFolder.CreateVM_Task(config, host.parent.resourcePool, host))
    assert client.all(vim.HostSystem)[0].name == host.name


def test_files_are_put_read_and_deleted_over_http(client: Client, bed: Bed) -> None:
    assert client.folder("PUT", "inuse/a%20b.txt", b"one")[0] == 201
    assert client.folder("PUT", "inuse/a%20b.txt", b"two")[0] == 200
    assert (bed.path / "inuse/a b.txt").read_bytes() == b"two"
    assert os.listdir(bed.path / "inuse") == ["a b.txt"]
    assert client.folder("GET", "inuse/a%20b.txt") == (200, b"two")
    assert client.folder("HEAD", "inuse/a%20b.txt") == (200, b"")
    assert client.folder("DELETE", "inuse/a%20b.txt")[0] == 204
    assert client.folder("GET", "inuse/a%20b.txt")[0] == 404
    assert client.folder("PUT", "nowhere/a.txt", b"one")[0] == 404


def test_folder_wants_a_session_and_the_right_names(client: Client) -> None:
    path = "golden/win/win.vmdk"
    assert client.folder("GET", path)[0] == 200
    assert client.folder("GET", path, cookie=False)[0] == 401
    assert client.folder("GET", path, dsName="other")[0] == 404
    assert client.folder("GET", path, dcPath="other")[0] == 404
    for outside in ("../nfs1/golden/win/win.vmdk", "golden/../../nfs1/golden/win/win.vmdk", "%2e%2e/nfs1/golden"):
        assert client.folder("GET", outside)[0] == 404
    client.content.sessionManager.Logout()
    connection_cookie = client.stub.cookie
    assert connection_cookie
    stranger = Client(client.server)
    stranger.stub.cookie, alive = connection_cookie, stranger.stub.cookie
    assert alive != connection_cookie
    with pytest.raises(vim.fault.NotAuthenticated):
        stranger.content.fileManager.MakeDirectory("[nfs1] x", stranger.datacenter, False)
