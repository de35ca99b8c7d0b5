"""VMs that are switched, reconfigured, removed; tasks that take their time."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from esxprov.vsphere.api import vim, vmodl
from tests.integration.vsim.rig import Bed, Client, Query, until, used_mb, wait
from tests.testbed.vsphere import VSphere


def test_power_changes_only_from_the_right_state(client: Client, bed: Bed) -> None:
    vm = client.register(bed.author("vm1"))
    with pytest.raises(vim.fault.InvalidPowerState) as caught:
        wait(vm.PowerOffVM_Task())
    assert (caught.value.existingState, caught.value.requestedState) == ("poweredOff", "poweredOff")
    with pytest.raises(vim.fault.InvalidPowerState):
        wait(vm.ResetVM_Task())
    with pytest.raises(vim.fault.InvalidPowerState):
        vm.ShutdownGuest()
    wait(vm.PowerOnVM_Task())
    for attempt in (vm.PowerOnVM_Task, vm.Destroy_Task):
        with pytest.raises(vim.fault.InvalidPowerState):
            wait(attempt())
    with pytest.raises(vim.fault.InvalidPowerState):
        vm.UnregisterVM()
    wait(vm.ResetVM_Task())
    assert vm.runtime.powerState == "poweredOn"
    vm.ShutdownGuest()
    until(lambda: vm.runtime.powerState == "poweredOff")


def test_an_unregistered_vm_is_gone_and_leaves_its_files(client: Client, bed: Bed) -> None:
    path = bed.author("vm1")
    vm = client.register(path)
    vm.UnregisterVM()
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        vm.PowerOnVM_Task()
    assert client.all(vim.VirtualMachine) == []
    assert client.all(vim.HostSystem)[0].vm == []
    assert (bed.path / "inuse/vm1/vm1.vmx").exists()
    client.register(path)


def test_a_vm_is_reconfigured_but_not_shrunk_while_it_runs(client: Client, bed: Bed) -> None:
    vm = client.register(bed.author("vm1"))
    wait(vm.PowerOnVM_Task())
    with pytest.raises(vim.fault.InvalidPowerState):
        wait(vm.ReconfigVM_Task(vim.vm.ConfigSpec(memoryMB=256)))
    wait(vm.ReconfigVM_Task(vim.vm.ConfigSpec(memoryMB=1024, annotation="new")))
    assert (vm.config.hardware.memoryMB, vm.config.annotation) == (1024, "new")
    assert used_mb(vm.runtime.host) == 1024 + 1024


def test_a_reconfigured_vm_is_the_same_when_it_is_registered_again(client: Client, bed: Bed) -> None:
    path = bed.author("vm1")
    vm = client.register(path)
    more = [vim.option.OptionValue(key="guestinfo.a", value="b")]
    spec = vim.vm.ConfigSpec(name="new", memoryMB=1024, numCPUs=4, annotation='two\n"lines"', extraConfig=more)
    wait(vm.ReconfigVM_Task(spec))
    vm.UnregisterVM()
    config = client.register(path).config
    assert (config.name, config.annotation) == ("new", 'two\n"lines"')
    assert (config.hardware.memoryMB, config.hardware.numCPU, config.hardware.numCoresPerSocket) == (1024, 4, 2)
    assert ("guestinfo.a", "b") in {(option.key, option.value) for option in config.extraConfig}


def test_a_standalone_host_cannot_clone(esx: Client, bed: Bed) -> None:
    vm = esx.register(bed.author("vm1"))
    with pytest.raises(vmodl.fault.NotSupported):
        vm.CloneVM_Task(esx.datacenter.vmFolder, "clone", vim.vm.CloneSpec(location=vim.vm.RelocateSpec()))


def test_many_clients_at_once_leave_straight_books(client: Client, bed: Bed) -> None:
    def live(number: int) -> None:
        """A linked VM's whole life, in a session of its own, and a look around after every step."""
        own = Client(client.server)
        disk = "[nfs1] golden/win/win.vmdk"
        vm = own.register(bed.author(f"vm{number}", memory_mb=256, mac=f"00:50:56:00:01:{number:02x}", disk=disk))
        for step in (
            lambda: vm.CreateSnapshot_Task("linked", "", False, False),
            vm.PowerOnVM_Task,
            lambda: own.copy(disk, f"[nfs1] copy{number}.vmdk"),
            vm.PowerOffVM_Task,
        ):
            wait(step())
            assert vm in own.all(vim.VirtualMachine)
            assert own.all(vim.Datastore)[0].summary.freeSpace > 0
        vm.UnregisterVM()
        own.content.sessionManager.Logout()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(live, range(16)))
    assert client.all(vim.VirtualMachine) == []
    assert {used_mb(host) for host in client.all(vim.HostSystem)} == {1024}
    assert len(list(bed.path.glob("copy*-flat.vmdk"))) == 16
    assert client.server.sessions() == 1
    wait(client.content.virtualDiskManager.DeleteVirtualDisk_Task("[nfs1] golden/win/win.vmdk", client.datacenter))


def test_the_power_socket_is_told_what_was_switched(start: Callable[..., VSphere], bed: Bed, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "power"))
        listener.settimeout(5)
        client = Client(start("esx1", power_socket=tmp_path / "power"))
        vm = client.register(bed.author("vm1"))
        generated = vm.config.hardware.device[-3].macAddress
        wait(vm.PowerOnVM_Task())
        wait(vm.PowerOffVM_Task())
        told = [json.loads(listener.recv(4096)) for _ in range(2)]
    assert told[0] == {
        "event": "on",
        "vm": "vm1",
        "macs": ["00:50:56:00:00:01", generated],
        "networks": ["Private", "Public"],
    }
    assert told[1]["event"] == "off"


def test_a_missing_power_socket_is_no_error(start: Callable[..., VSphere], bed: Bed, tmp_path: Path) -> None:
    client = Client(start("esx1", power_socket=tmp_path / "none"))
    wait(client.register(bed.author("vm1")).PowerOnVM_Task())


def test_a_task_takes_its_time_shows_progress_and_acts_at_its_end(start: Callable[..., VSphere], bed: Bed) -> None:
    client = Client(start("esx1", task_ms=1000))
    vm = client.register(bed.author("vm1"))
    collector = client.content.propertyCollector.CreatePropertyCollector()
    began = time.monotonic()
    task = vm.PowerOnVM_Task()
    spec = Query.FilterSpec(
        objectSet=[Query.ObjectSpec(obj=managed) for managed in (task, vm)],
        propSet=[
            Query.PropertySpec(type=vim.Task, pathSet=["info.progress", "info.state"]),
            Query.PropertySpec(type=vim.VirtualMachine, pathSet=["runtime.powerState"]),
        ],
    )
    collector.CreateFilter(spec, True)
    with pytest.raises(vim.fault.TaskInProgress):
        vm.PowerOffVM_Task()
    seen: list[object] = []
    version = ""
    while "success" not in seen:
        news = collector.WaitForUpdatesEx(version, Query.WaitOptions(maxWaitSeconds=5))
        version = news.version
        seen += [changed.val for f in news.filterSet for o in f.objectSet for changed in o.changeSet]
    assert time.monotonic() - began > 0.99
    at_first = (0, "queued", "running", "poweredOff")
    assert [value for value in seen if value not in at_first] == [25, 50, 75, "poweredOn", 100, "success"]
    assert (task.info.entity, task.info.entityName) == (vm, "vm1")


def test_a_copy_that_is_cancelled_leaves_nothing(start: Callable[..., VSphere], bed: Bed) -> None:
    client = Client(start("esx1", task_ms=5000))
    task = client.copy("[nfs1] golden/win/win.vmdk", "[nfs1] new.vmdk")
    until(lambda: task.info.state == "running")
    assert task.info.cancelable
    task.CancelTask()
    with pytest.raises(vmodl.fault.RequestCanceled):
        wait(task)
    assert task.info.cancelled
    assert not (bed.path / "new.vmdk").exists()


def test_a_copy_appears_at_the_end_of_its_task(start: Callable[..., VSphere], bed: Bed) -> None:
    client = Client(start("esx1", task_ms=100))
    task = client.copy("[nfs1] golden/win/win.vmdk", "[nfs1] new.vmdk")
    assert not (bed.path / "new.vmdk").exists()
    wait(task)
    assert (bed.path / "new.vmdk").exists()
