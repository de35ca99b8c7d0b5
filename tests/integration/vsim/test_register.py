"""What becomes of a VMX that is registered."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from esxprov.vsphere.api import vim
from tests.integration.vsim.rig import Bed, Client, wait
from tests.testbed.vsphere import VSphere, golden_disk


def test_a_registered_vm_is_what_its_vmx_says(client: Client, bed: Bed) -> None:
    vm = client.register(bed.author("vm1"))
    assert (vm.name, vm.config.annotation) == ("vm1", 'say "hello"\nthere |')
    hardware = vm.config.hardware
    assert (hardware.memoryMB, hardware.numCPU, hardware.numCoresPerSocket) == (512, 2, 2)
    assert vm.config.guestId == "windows9Server64Guest"
    assert vm.config.uuid == "564d1122-3344-5566-7788-99aabbccddee"
    assert vm.config.files.vmPathName == "[nfs1] inuse/vm1/vm1.vmx"
    assert (vm.runtime.powerState, vm.summary.config.numVirtualDisks) == ("poweredOff", 1)
    cards = [device for device in hardware.device if isinstance(device, vim.vm.device.VirtualEthernetCard)]
    assert [type(card) for card in cards] == [vim.vm.device.VirtualE1000e, vim.vm.device.VirtualVmxnet3]
    assert (cards[0].macAddress, cards[0].addressType) == ("00:50:56:00:00:01", "manual")
    assert cards[1].macAddress.startswith("00:0c:29:")
    assert [network.name for network in vm.network] == ["Private", "Public"]
    disk = next(device for device in hardware.device if isinstance(device, vim.vm.device.VirtualDisk))
    assert (disk.backing.fileName, disk.capacityInKB) == ("[nfs1] inuse/vm1/disk.vmdk", 8 * 1024)
    controller = next(device for device in hardware.device if device.key == disk.controllerKey)
    assert isinstance(controller, vim.vm.device.VirtualLsiLogicSASController)
    assert sorted(os.listdir(bed.path / "inuse/vm1")) == ["disk.vmdk", "vm1-flat.vmdk", "vm1.vmx"]


@pytest.mark.parametrize(
    "disk",
    ["disk.vmdk", "[nfs1] golden/win/win.vmdk", "/vmfs/volumes/nfs1/golden/win/win.vmdk", "../../golden/win/win.vmdk"],
)
def test_a_disk_is_found_beside_the_vmx_or_by_its_whole_path(esx: Client, bed: Bed, disk: str) -> None:
    vm = esx.register(bed.author("vm1", disk=disk))
    expected = "[nfs1] inuse/vm1/disk.vmdk" if disk == "disk.vmdk" else "[nfs1] golden/win/win.vmdk"
    assert vm.config.hardware.device[-1].backing.fileName == expected


@pytest.mark.parametrize(
    "line", ["nonsense\n", 'a.b = "c\n', 'displayName = "again"\n', 'memsize = "1"\n', 'x = y"z"\n']
)
def test_a_malformed_vmx_is_refused(esx: Client, bed: Bed, line: str) -> None:
    with pytest.raises(vim.fault.InvalidVmConfig):
        esx.register(bed.author("vm1", extra=line))
    assert esx.all(vim.VirtualMachine) == []


def test_a_vmx_that_is_not_there_is_not_found(client: Client) -> None:
    with pytest.raises(vim.fault.NotFound):
        client.register("[nfs1] inuse/none/none.vmx")


def test_a_registered_path_cannot_be_registered_again(client: Client, bed: Bed) -> None:
    path = bed.author("vm1")
    vm = client.register(path)
    with pytest.raises(vim.fault.AlreadyExists):
        client.register(path)
    found = client.content.searchIndex.FindByDatastorePath(client.datacenter, path)
    assert found == vm


def test_a_vcenter_refuses_a_second_vm_of_the_same_name(vcenter: Client, bed: Bed) -> None:
    vcenter.register(bed.author("vm1"))
    with pytest.raises(vim.fault.DuplicateName):
        vcenter.register(bed.author("vm2"), name="vm1")


def test_a_cluster_chooses_the_emptiest_host_if_none_is_named(vcenter: Client, bed: Bed) -> None:
    pool = vcenter.all(vim.ClusterComputeResource)[0].resourcePool
    first = vcenter.register(bed.author("vm1"), host=vcenter.host("h1"), pool=pool)
    wait(first.PowerOnVM_Task())
    assert vcenter.register(bed.author("vm2"), pool=pool).runtime.host.name == "h2"


def test_a_card_on_a_missing_network_is_left_unconnected_and_the_vm_starts(esx: Client, bed: Bed) -> None:
    vm = esx.register(bed.author("vm1", network="Nowhere"))
    card = next(d for d in vm.config.hardware.device if isinstance(d, vim.vm.device.VirtualVmxnet3))
    assert (card.connectable.connected, card.backing.network) == (False, None)
    wait(vm.PowerOnVM_Task())
    assert vm.runtime.powerState == "poweredOn"


def test_a_vm_without_its_disk_registers_but_does_not_start(esx: Client, bed: Bed) -> None:
    vm = esx.register(bed.author("vm1", disk="gone.vmdk"))
    with pytest.raises(vim.fault.FileNotFound) as caught:
        wait(vm.PowerOnVM_Task())
    assert caught.value.file == "[nfs1] inuse/vm1/gone.vmdk"
    assert caught.value.msg == "File [nfs1] inuse/vm1/gone.vmdk was not found"


@pytest.mark.parametrize("mac", ["00:50:56:40:00:01", "00:0c:29:00:00:01", "01:50:56:00:00:01", "rubbish"])
def test_a_static_mac_of_a_reserved_range_is_refused_at_power_on(esx: Client, bed: Bed, mac: str) -> None:
    vm = esx.register(bed.author("vm1", mac=mac))
    with pytest.raises(vim.fault.GenericVmConfigFault, match="not an allowed static Ethernet address"):
        wait(vm.PowerOnVM_Task())


def test_check_mac_address_false_lets_a_reserved_mac_start(esx: Client, bed: Bed) -> None:
    extra = 'ethernet0.checkMACAddress = "FALSE"\n'
    wait(esx.register(bed.author("vm1", mac="00:50:56:40:00:01", extra=extra)).PowerOnVM_Task())


def test_a_mac_of_another_maker_is_no_problem(esx: Client, bed: Bed) -> None:
    wait(esx.register(bed.author("vm1", mac="52:54:00:00:00:01")).PowerOnVM_Task())


def test_generated_macs_differ_between_vms_on_all_hosts_of_a_datastore(start: Callable[..., VSphere], bed: Bed) -> None:
    clients = [Client(start("esx1")), Client(start("esx2"))]
    macs = [clients[n % 2].register(bed.author(f"vm{n}")).config.hardware.device[-3].macAddress for n in range(6)]
    assert len(set(macs)) == 6


def test_a_disk_for_ide_does_not_start_on_a_scsi_controller(esx: Client, bed: Bed) -> None:
    golden_disk(bed.path / "golden", "old", 8, adapter="ide")
    vm = esx.register(bed.author("vm1", disk="[nfs1] golden/old/old.vmdk"))
    with pytest.raises(vim.fault.GenericVmConfigFault, match="does not fit its controller"):
        wait(vm.PowerOnVM_Task())
