"""RAM, maintenance and lost hosts: what may run where."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from esxprov.vsphere.api import vim, vmodl
from tests.integration.vsim.rig import MB, Bed, Client, used_mb, wait
from tests.testbed.vsphere import VSphere


def test_ram_of_running_vms_is_counted_on_their_host(client: Client, bed: Bed) -> None:
    vm = client.register(bed.author("vm1", memory_mb=1000))
    host, empty = vm.runtime.host, used_mb(vm.runtime.host)
    assert host.vm == [vm]
    wait(vm.PowerOnVM_Task())
    assert used_mb(host) == empty + 1000
    wait(vm.PowerOffVM_Task())
    assert used_mb(host) == empty


def test_a_vm_beyond_the_host_s_ram_is_refused_and_its_disk_stays_free(esx: Client, bed: Bed) -> None:
    vm = esx.register(bed.author("vm1", memory_mb=4096))
    with pytest.raises(vim.fault.InsufficientMemoryResourcesFault) as caught:
        wait(vm.PowerOnVM_Task())
    assert (caught.value.requested, caught.value.unreserved) == (4096 * MB, 3072 * MB)
    wait(esx.copy("[nfs1] inuse/vm1/disk.vmdk", "[nfs1] copy.vmdk"))


def test_two_vms_that_fit_alone_do_not_both_start_however_close_together(
    start: Callable[..., VSphere], bed: Bed
) -> None:
    client = Client(start("esx1", 4096, task_ms=100))
    vms = [client.register(bed.author(f"vm{n}", memory_mb=2048, mac=f"00:50:56:00:00:0{n}")) for n in (1, 2)]
    outcomes = []
    for task in [vm.PowerOnVM_Task() for vm in vms]:
        try:
            outcomes.append(wait(task))
        except vim.fault.InsufficientMemoryResourcesFault:
            outcomes.append("refused")
    assert sorted(outcomes, key=str) == [None, "refused"]
    wait(vms[outcomes.index(None)].PowerOffVM_Task())
    wait(vms[outcomes.index("refused")].PowerOnVM_Task())


def test_each_host_of_a_vcenter_has_ram_of_its_own(vcenter: Client, bed: Bed) -> None:
    small = vcenter.register(bed.author("vm1", memory_mb=4096), host=vcenter.host("h2"))
    with pytest.raises(vim.fault.InsufficientMemoryResourcesFault):
        wait(small.PowerOnVM_Task())
    wait(vcenter.register(bed.author("vm2", memory_mb=4096), host=vcenter.host("h1")).PowerOnVM_Task())


def test_ram_cannot_be_added_to_a_running_vm_beyond_the_host_s(esx: Client, bed: Bed) -> None:
    vm = esx.register(bed.author("vm1"))
    wait(vm.PowerOnVM_Task())
    with pytest.raises(vim.fault.InsufficientMemoryResourcesFault):
        wait(vm.ReconfigVM_Task(vim.vm.ConfigSpec(memoryMB=4096)))
    assert vm.config.hardware.memoryMB == 512


def test_a_suspended_vm_gives_back_its_ram_and_its_disk(esx: Client, bed: Bed) -> None:
    vm = esx.register(bed.author("vm1"))
    with pytest.raises(vim.fault.InvalidPowerState):
        wait(vm.SuspendVM_Task())
    wait(vm.PowerOnVM_Task())
    wait(vm.SuspendVM_Task())
    assert (vm.runtime.powerState, used_mb(vm.runtime.host)) == ("suspended", 1024)
    wait(esx.copy("[nfs1] inuse/vm1/disk.vmdk", "[nfs1] copy.vmdk"))
    wait(vm.PowerOnVM_Task())
    assert (vm.runtime.powerState, used_mb(vm.runtime.host)) == ("poweredOn", 1024 + 512)


def test_what_would_go_around_ram_and_locks_is_not_done(vcenter: Client, bed: Bed) -> None:
    vm = vcenter.register(bed.author("vm1", memory_mb=64 * 1024))
    with pytest.raises(vmodl.fault.NotSupported):
        vcenter.datacenter.PowerOnMultiVM_Task([vm])
    assert vm.runtime.powerState == "poweredOff"


def test_a_host_without_admission_takes_more_than_it_has(start: Callable[..., VSphere], bed: Bed) -> None:
    client = Client(start("esx1", 2048, admit=False))
    wait(client.register(bed.author("vm1", memory_mb=4096)).PowerOnVM_Task())


def test_nothing_starts_in_maintenance_mode(client: Client, bed: Bed) -> None:
    vm = client.register(bed.author("vm1"))
    wait(vm.runtime.host.EnterMaintenanceMode_Task(0))
    with pytest.raises(vim.fault.InvalidState):
        wait(vm.PowerOnVM_Task())
    wait(vm.runtime.host.ExitMaintenanceMode_Task(0))
    wait(vm.PowerOnVM_Task())


def test_a_host_does_not_enter_maintenance_while_a_vm_runs(client: Client, bed: Bed) -> None:
    vm = client.register(bed.author("vm1"))
    host = vm.runtime.host
    wait(vm.PowerOnVM_Task())
    with pytest.raises(vim.fault.Timedout):
        wait(host.EnterMaintenanceMode_Task(0))
    assert not host.runtime.inMaintenanceMode
    wait(vm.PowerOffVM_Task())
    wait(host.EnterMaintenanceMode_Task(0))
    assert host.runtime.inMaintenanceMode


def test_a_cluster_puts_nothing_on_a_host_in_maintenance_or_out_of_reach(vcenter: Client, bed: Bed) -> None:
    pool = vcenter.all(vim.ClusterComputeResource)[0].resourcePool
    vcenter.server.set_host("h1", maintenance=True)
    assert vcenter.register(bed.author("vm1"), pool=pool).runtime.host.name == "h2"
    vcenter.server.set_host("h2", state="disconnected")
    with pytest.raises(vim.fault.NoCompatibleHost):
        vcenter.register(bed.author("vm2"), pool=pool)
    vcenter.server.set_host("h1", maintenance=False)
    assert vcenter.register("[nfs1] inuse/vm2/vm2.vmx", pool=pool).runtime.host.name == "h1"


def test_a_host_that_is_lost_answers_nothing_for_its_vms(vcenter: Client, bed: Bed) -> None:
    vm = vcenter.register(bed.author("vm1"), host=vcenter.host("h1"))
    vcenter.server.set_host("h1", state="notResponding")
    assert (vm.runtime.connectionState, vm.runtime.host.runtime.connectionState) == ("disconnected", "notResponding")
    with pytest.raises(vmodl.fault.HostNotConnected):
        wait(vm.PowerOnVM_Task())
    with pytest.raises(vmodl.fault.HostNotConnected):
        vm.UnregisterVM()
    vcenter.server.set_host("h1", state="connected", memory_mb=2048)
    wait(vm.PowerOnVM_Task())
    assert vm.runtime.host.hardware.memorySize == 2048 * MB
