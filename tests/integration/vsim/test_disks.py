"""Disks: copied, locked, linked, on full datastores."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from esxprov.vsphere.api import vim, vmodl
from tests.integration.vsim.rig import MB, Bed, Client, until, wait
from tests.testbed.vsphere import HostSpec, VSphere, golden_disk

NOT_WITH_PARENT = 'snapshot.redoNotWithParent = "TRUE"\n'


def spec_of(adapter: str = "lsiLogic", kind: str = "thin") -> Any:
    return vim.VirtualDiskManager.VirtualDiskSpec(adapterType=adapter, diskType=kind)


def read_disk(bed: Bed, name: str) -> tuple[str, bytes]:
    """The descriptor and the first bytes of a disk."""
    descriptor = (bed.path / name).read_text()
    extent = (bed.path / name).parent / descriptor.split('VMFS "')[1].split('"')[0]
    with extent.open("rb") as content:
        return descriptor, content.read(6)


def test_a_20_gb_sparse_disk_is_copied_without_filling_its_holes(esx: Client, bed: Bed) -> None:
    golden_disk(bed.path / "golden", "huge", 20 * 1024, payload=b"golden")
    began = time.monotonic()
    wait(esx.copy("[nfs1] golden/huge/huge.vmdk", "[nfs1] inuse/new.vmdk", spec_of()))
    assert time.monotonic() - began < 2
    extent = (bed.path / "inuse/new-flat.vmdk").stat()
    assert (extent.st_size, extent.st_blocks * 512 < MB) == (20 * 1024 * MB, True)
    descriptor, content = read_disk(bed, "inuse/new.vmdk")
    assert content == b"golden"
    assert 'createType="vmfs"' in descriptor
    assert 'ddb.adapterType = "lsilogic"' in descriptor
    assert 'ddb.thinProvisioned = "1"' in descriptor


def test_esxi_without_a_specification_makes_a_thick_buslogic_disk(esx: Client, bed: Bed) -> None:
    wait(esx.copy("[nfs1] golden/win/win.vmdk", "[nfs1] new.vmdk"))
    descriptor = read_disk(bed, "new.vmdk")[0]
    assert 'ddb.adapterType = "buslogic"' in descriptor
    assert "thinProvisioned" not in descriptor


def test_a_vcenter_takes_no_specification_and_keeps_what_the_source_is(vcenter: Client, bed: Bed) -> None:
    with pytest.raises(vmodl.fault.NotImplemented):
        vcenter.copy("[nfs1] golden/win/win.vmdk", "[nfs1] new.vmdk", spec_of())
    wait(vcenter.copy("[nfs1] golden/win/win.vmdk", "[nfs1] new.vmdk"))
    assert 'ddb.thinProvisioned = "1"' in read_disk(bed, "new.vmdk")[0]


def test_copying_refuses_a_taken_target_a_missing_source_and_unknown_places(client: Client) -> None:
    with pytest.raises(vim.fault.FileAlreadyExists) as caught:
        wait(client.copy("[nfs1] golden/win/win.vmdk", "[nfs1] golden/win/win.vmdk"))
    assert caught.value.file == "[nfs1] golden/win/win.vmdk"
    with pytest.raises(vim.fault.FileNotFound):
        wait(client.copy("[nfs1] golden/none.vmdk", "[nfs1] new.vmdk"))
    with pytest.raises(vim.fault.FileNotFound):
        wait(client.copy("[nfs1] golden/win/win.vmdk", "[nfs1] nowhere/new.vmdk"))
    with pytest.raises(vim.fault.InvalidDatastore):
        client.copy("[other] win.vmdk", "[nfs1] new.vmdk")
    with pytest.raises(vim.fault.InvalidDatastorePath):
        client.copy("[nfs1] ../win.vmdk", "[nfs1] new.vmdk")


def test_a_vcenter_wants_to_know_the_datacenter(vcenter: Client) -> None:
    with pytest.raises(vmodl.fault.InvalidArgument):
        vcenter.content.virtualDiskManager.DeleteVirtualDisk_Task("[nfs1] golden/win/win.vmdk", None)


def test_a_full_datastore_leaves_half_a_disk_behind(start: Callable[..., VSphere], bed: Bed) -> None:
    client = Client(start("esx1", capacity_mb=4))
    golden_disk(bed.path / "golden", "big", 16, payload=b"x" * 3 * MB)
    datastore = client.all(vim.Datastore)[0]
    assert datastore.summary.capacity == 4 * MB
    assert 0 < datastore.summary.freeSpace < 1.1 * MB
    with pytest.raises(vim.fault.NoDiskSpace) as caught:
        wait(client.copy("[nfs1] golden/big/big.vmdk", "[nfs1] new.vmdk", spec_of()))
    assert caught.value.datastore == "nfs1"
    assert (bed.path / "new.vmdk").exists()
    assert (bed.path / "new-flat.vmdk").stat().st_size == 16 * MB
    wait(client.content.virtualDiskManager.DeleteVirtualDisk_Task("[nfs1] new.vmdk", client.datacenter))
    assert datastore.summary.freeSpace > 0


def test_a_copy_at_a_pace_tells_how_much_of_its_data_it_has_written(start: Callable[..., VSphere], bed: Bed) -> None:
    client = Client(start("esx1", copy_mb_s=20))
    golden_disk(bed.path / "golden", "big", 4096, payload=b"x" * 10 * MB)
    began = time.monotonic()
    task = client.copy("[nfs1] golden/big/big.vmdk", "[nfs1] new.vmdk", spec_of())
    seen: list[int] = []
    while task.info.state in ("queued", "running"):
        seen.append(task.info.progress or 0)
        time.sleep(0.02)
    assert 0.5 <= time.monotonic() - began < 3
    assert seen == sorted(seen)
    assert len({percent for percent in seen if 0 < percent < 100}) > 4


def test_a_copy_that_stands_still_goes_on_when_its_pace_is_raised(start: Callable[..., VSphere], bed: Bed) -> None:
    server = start("esx1")
    client = Client(server)
    server.set_pace(0.001)
    task = client.copy("[nfs1] golden/win/win.vmdk", "[nfs1] new.vmdk", spec_of())
    until(lambda: (bed.path / "new-flat.vmdk").exists())
    assert task.info.state == "running"
    with pytest.raises(vim.fault.FileLocked):
        wait(client.content.virtualDiskManager.DeleteVirtualDisk_Task("[nfs1] new.vmdk", client.datacenter))
    server.set_pace(0)
    wait(task)
    assert read_disk(bed, "new.vmdk")[1] == b"golden"


def test_a_copy_at_a_pace_that_is_cancelled_in_the_middle_leaves_nothing(
    start: Callable[..., VSphere], bed: Bed
) -> None:
    client = Client(start("esx1", copy_mb_s=1))
    golden_disk(bed.path / "golden", "big", 64, payload=b"x" * 60 * MB)
    task = client.copy("[nfs1] golden/big/big.vmdk", "[nfs1] new.vmdk", spec_of())
    until(lambda: (task.info.progress or 0) > 0)
    task.CancelTask()
    with pytest.raises(vmodl.fault.RequestCanceled):
        wait(task)
    assert not (bed.path / "new.vmdk").exists()
    assert not (bed.path / "new-flat.vmdk").exists()


def test_a_copy_ends_when_others_fill_the_datastore_meanwhile(start: Callable[..., VSphere], bed: Bed) -> None:
    client = Client(start("esx1", capacity_mb=64, copy_mb_s=4))
    golden_disk(bed.path / "golden", "big", 64, payload=b"x" * 20 * MB)
    task = client.copy("[nfs1] golden/big/big.vmdk", "[nfs1] new.vmdk", spec_of())
    until(lambda: (task.info.progress or 0) > 0)
    (bed.path / "filler").write_bytes(b"x" * 42 * MB)
    with pytest.raises(vim.fault.NoDiskSpace):
        wait(task)
    assert (bed.path / "new-flat.vmdk").exists()


@pytest.mark.parametrize("kind", ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"])
def test_a_disk_in_the_format_of_workstation_is_no_disk_for_esxi(client: Client, bed: Bed, kind: str) -> None:
    golden_disk(bed.path / "golden", "old", 4, payload=b"x" * 3 * MB, create_type=kind, extents=2)
    with pytest.raises(vim.fault.InvalidDiskFormat):
        wait(client.copy("[nfs1] golden/old/old.vmdk", "[nfs1] new.vmdk"))
    assert not (bed.path / "new.vmdk").exists()
    vm = client.register(bed.author("vm1", disk="[nfs1] golden/old/old.vmdk"))
    with pytest.raises(vim.fault.GenericVmConfigFault, match="imported"):
        wait(vm.PowerOnVM_Task())


@pytest.mark.parametrize("kind", ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"])
def test_a_host_that_reads_the_format_of_workstation_makes_one_extent_of_several(
    start: Callable[..., VSphere], bed: Bed, kind: str
) -> None:
    client = Client(start("esx1", multiextent=True))
    payload = b"golden" + b"x" * 2 * MB + b"end"
    golden_disk(bed.path / "golden", "old", 4, "ide", payload=payload, create_type=kind, extents=2)
    wait(client.copy("[nfs1] golden/old/old.vmdk", "[nfs1] new.vmdk", spec_of()))
    assert 'createType="vmfs"' in read_disk(bed, "new.vmdk")[0]
    content = (bed.path / "new-flat.vmdk").read_bytes()
    assert (len(content), content[: len(payload)]) == (4 * MB, payload)


def test_a_vcenter_that_reads_the_format_of_workstation_keeps_it(start: Callable[..., VSphere], bed: Bed) -> None:
    client = Client(start(hosts=[HostSpec("h1")], multiextent=True))
    golden_disk(bed.path / "golden", "old", 4, payload=b"golden", create_type="twoGbMaxExtentFlat", extents=2)
    wait(client.copy("[nfs1] golden/old/old.vmdk", "[nfs1] new.vmdk"))
    assert 'createType="twoGbMaxExtentFlat"' in (bed.path / "new.vmdk").read_text()


def test_a_disk_of_several_extents_is_moved_and_deleted_whole(client: Client, bed: Bed) -> None:
    manager, datacenter = client.content.virtualDiskManager, client.datacenter
    golden_disk(bed.path / "golden", "old", 4, create_type="twoGbMaxExtentSparse", extents=2)
    wait(manager.MoveVirtualDisk_Task("[nfs1] golden/old/old.vmdk", datacenter, "[nfs1] inuse/b.vmdk", datacenter))
    assert sorted(os.listdir(bed.path / "inuse")) == ["b-s001.vmdk", "b-s002.vmdk", "b.vmdk"]
    assert os.listdir(bed.path / "golden/old") == []
    wait(manager.DeleteVirtualDisk_Task("[nfs1] inuse/b.vmdk", datacenter))
    assert os.listdir(bed.path / "inuse") == []


def test_free_space_follows_what_others_write(start: Callable[..., VSphere], bed: Bed) -> None:
    client = Client(start("esx1", capacity_mb=100))
    datastore = client.all(vim.Datastore)[0]
    before = datastore.summary.freeSpace
    (bed.path / "file").write_bytes(b"x" * MB)
    datastore.RefreshDatastore()
    assert datastore.summary.freeSpace == before - MB
    assert datastore.info.freeSpace == before - MB


@pytest.mark.parametrize("same_host", [True, False])
def test_the_disk_of_a_running_vm_is_locked_for_every_host(
    start: Callable[..., VSphere], bed: Bed, same_host: bool
) -> None:
    owner = Client(start("esx1"))
    vm = owner.register(bed.author("vm1"))
    wait(vm.PowerOnVM_Task())
    client = owner if same_host else Client(start("esx2"))
    manager, path = client.content.virtualDiskManager, "[nfs1] inuse/vm1/disk.vmdk"
    attempts: tuple[Callable[[], Any], ...] = (
        lambda: client.copy(path, "[nfs1] new.vmdk"),
        lambda: manager.MoveVirtualDisk_Task(path, client.datacenter, "[nfs1] new.vmdk", client.datacenter),
        lambda: manager.DeleteVirtualDisk_Task(path, client.datacenter),
        lambda: client.content.fileManager.DeleteDatastoreFile_Task("[nfs1] inuse/vm1", client.datacenter),
    )
    for attempt in attempts:
        with pytest.raises(vim.fault.FileLocked):
            wait(attempt())
    if not same_host:
        with pytest.raises(vim.fault.FileLocked):
            wait(client.register("[nfs1] inuse/vm1/vm1.vmx").PowerOnVM_Task())
    wait(vm.PowerOffVM_Task())
    wait(client.copy(path, "[nfs1] new.vmdk"))


def test_of_two_hosts_only_one_makes_a_disk_and_only_one_runs_it(start: Callable[..., VSphere], bed: Bed) -> None:
    hosts = [Client(start(name)) for name in ("esx1", "esx2")]
    path = bed.author("vm1", disk="[nfs1] new.vmdk")

    def one_of_both(act: Callable[[Client], Any], refused: type[Exception]) -> None:
        outcomes = []
        for task in [act(host) for host in hosts]:
            try:
                wait(task)
                outcomes.append("done")
            except refused:
                outcomes.append("refused")
        assert sorted(outcomes) == ["done", "refused"]

    one_of_both(lambda host: host.copy("[nfs1] golden/win/win.vmdk", "[nfs1] new.vmdk"), vim.fault.FileAlreadyExists)
    assert read_disk(bed, "new.vmdk")[1] == b"golden"
    for host in hosts:
        host.register(path)
    one_of_both(lambda host: host.all(vim.VirtualMachine)[0].PowerOnVM_Task(), vim.fault.FileLocked)


def test_disks_are_created_moved_and_deleted_with_their_content(client: Client, bed: Bed) -> None:
    manager, datacenter = client.content.virtualDiskManager, client.datacenter
    spec = vim.VirtualDiskManager.FileBackedVirtualDiskSpec(adapterType="busLogic", diskType="thin", capacityKb=2048)
    wait(manager.CreateVirtualDisk_Task("[nfs1] a.vmdk", datacenter, spec))
    assert (bed.path / "a-flat.vmdk").stat().st_size == 2 * MB
    with pytest.raises(vim.fault.FileAlreadyExists):
        wait(manager.CreateVirtualDisk_Task("[nfs1] a.vmdk", datacenter, spec))
    wait(manager.MoveVirtualDisk_Task("[nfs1] a.vmdk", datacenter, "[nfs1] inuse/b.vmdk", datacenter))
    descriptor = read_disk(bed, "inuse/b.vmdk")[0]
    assert '"b-flat.vmdk"' in descriptor
    assert 'ddb.adapterType = "buslogic"' in descriptor
    target = "[nfs1] golden/win/win.vmdk"
    with pytest.raises(vim.fault.FileAlreadyExists):
        wait(manager.MoveVirtualDisk_Task("[nfs1] inuse/b.vmdk", datacenter, target, datacenter))
    wait(manager.DeleteVirtualDisk_Task("[nfs1] inuse/b.vmdk", datacenter))
    assert os.listdir(bed.path / "inuse") == []
    with pytest.raises(vim.fault.FileNotFound):
        wait(manager.DeleteVirtualDisk_Task("[nfs1] inuse/b.vmdk", datacenter))


def test_a_linked_vm_writes_to_a_redo_disk_in_its_own_directory(client: Client, bed: Bed) -> None:
    golden = "[nfs1] golden/win/win.vmdk"
    vm = client.register(bed.author("vm1", disk="/vmfs/volumes/nfs1/golden/win/win.vmdk", extra=NOT_WITH_PARENT))
    wait(vm.CreateSnapshot_Task("linked", "", False, False))
    home = bed.path / "inuse/vm1"
    assert sorted(os.listdir(home)) == ["vm1.vmx", "win-000001-delta.vmdk", "win-000001.vmdk"]
    assert 'parentFileNameHint="/vmfs/volumes/nfs1/golden/win/win.vmdk"' in (home / "win-000001.vmdk").read_text()
    backing = vm.config.hardware.device[-1].backing
    assert backing.fileName == "[nfs1] inuse/vm1/win-000001.vmdk"
    assert backing.parent.fileName == golden
    assert vm.snapshot.rootSnapshotList[0].name == "linked"
    wait(vm.PowerOnVM_Task())
    wait(client.copy(golden, "[nfs1] other.vmdk"))
    with pytest.raises(vim.fault.FileLocked):
        wait(client.content.virtualDiskManager.DeleteVirtualDisk_Task(golden, client.datacenter))
    with pytest.raises(vim.fault.FileLocked):
        wait(client.copy(backing.fileName, "[nfs1] captured.vmdk"))


def test_without_a_word_in_the_vmx_a_redo_disk_lies_beside_the_disk_it_is_based_on(client: Client, bed: Bed) -> None:
    vm = client.register(bed.author("vm1", disk="[nfs1] golden/win/win.vmdk"))
    wait(vm.CreateSnapshot_Task("linked", "", False, False))
    assert vm.config.hardware.device[-1].backing.fileName == "[nfs1] golden/win/win-000001.vmdk"
    assert (bed.path / "golden/win/win-000001-delta.vmdk").exists()
    assert 'scsi0:0.fileName = "/vmfs/volumes/nfs1/golden/win/win-000001.vmdk"' in (
        (bed.path / "inuse/vm1/vm1.vmx").read_text()
    )


@pytest.mark.parametrize(
    ("extra", "redo"),
    [(NOT_WITH_PARENT, "[nfs1] inuse/vm1/win-000001.vmdk"), ("", "[nfs1] golden/win/win-000001.vmdk")],
    ids=["own directory", "with parent"],
)
def test_a_linked_vm_that_is_registered_again_still_has_its_redo_disk(
    esx: Client, bed: Bed, extra: str, redo: str
) -> None:
    path = bed.author("vm1", disk="[nfs1] golden/win/win.vmdk", extra=extra)
    vm = esx.register(path)
    wait(vm.CreateSnapshot_Task("linked", "", False, False))
    vm.UnregisterVM()
    backing = esx.register(path).config.hardware.device[-1].backing
    assert (backing.fileName, backing.parent.fileName) == (redo, "[nfs1] golden/win/win.vmdk")


def test_a_second_snapshot_stands_on_the_first(esx: Client, bed: Bed) -> None:
    vm = esx.register(bed.author("vm1", disk="[nfs1] golden/win/win.vmdk", extra=NOT_WITH_PARENT))
    wait(vm.PowerOnVM_Task())
    for name in ("one", "two"):
        wait(vm.CreateSnapshot_Task(name, "", False, False))
    backing = vm.config.hardware.device[-1].backing
    assert backing.fileName == "[nfs1] inuse/vm1/win-000002.vmdk"
    assert backing.parent.parent.fileName == "[nfs1] golden/win/win.vmdk"
    assert vm.snapshot.rootSnapshotList[0].childSnapshotList[0].name == "two"
    with pytest.raises(vim.fault.FileLocked):
        wait(esx.copy(backing.fileName, "[nfs1] captured.vmdk"))


def test_copying_a_redo_disk_makes_a_whole_disk_with_what_the_vm_wrote(client: Client, bed: Bed) -> None:
    vm = client.register(bed.author("vm1", disk="[nfs1] golden/win/win.vmdk", extra=NOT_WITH_PARENT))
    wait(vm.CreateSnapshot_Task("linked", "", False, False))
    with (bed.path / "inuse/vm1/win-000001-delta.vmdk").open("r+b") as delta:
        delta.seek(8 * MB)
        delta.write(b"written")
    wait(client.copy("[nfs1] inuse/vm1/win-000001.vmdk", "[nfs1] captured.vmdk"))
    descriptor, content = read_disk(bed, "captured.vmdk")
    assert content == b"golden"
    assert "parentCID=ffffffff" in descriptor
    assert "parentFileNameHint" not in descriptor
    with (bed.path / "captured-flat.vmdk").open("rb") as captured:
        captured.seek(8 * MB)
        assert captured.read(7) == b"written"
    assert (bed.path / "captured-flat.vmdk").stat().st_size == 64 * MB


def test_destroying_a_linked_vm_takes_the_golden_disk_with_it(esx: Client, bed: Bed) -> None:
    vm = esx.register(bed.author("vm1", disk="[nfs1] golden/win/win.vmdk", extra=NOT_WITH_PARENT))
    wait(vm.CreateSnapshot_Task("linked", "", False, False))
    wait(vm.Destroy_Task())
    assert os.listdir(bed.path / "golden/win") == []
    assert not (bed.path / "inuse/vm1").exists()
