"""Hosts that reboot, lose their inventory, or get other ids; and what they can."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from esxprov.vsphere.api import vim
from tests.integration.vsim.rig import Bed, Client, used_mb, wait
from tests.testbed.vsphere import HostSpec, TestbedError, VSphere


def test_a_stateless_host_comes_back_without_vms_and_its_guests_have_ended(
    start: Callable[..., VSphere], bed: Bed, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "power"))
        listener.settimeout(5)
        server = start("esx1", power_socket=tmp_path / "power")
        before = Client(server)
        path = bed.author("on")
        vm = before.register(path)
        first_id, host = vm._moId, before.host("esx1")
        uuid, booted = host.hardware.systemInfo.uuid, host.runtime.bootTime
        wait(vm.PowerOnVM_Task())
        assert json.loads(listener.recv(4096))["event"] == "on"
        server.kill()
        again = Client(
            start("esx1", home=server.log.parent, port=server.port, power_socket=tmp_path / "power", stateless=True)
        )
        told = json.loads(listener.recv(4096))
        assert (told["event"], told["vm"]) == ("off", "on")
    assert again.all(vim.VirtualMachine) == []
    host = again.host("esx1")
    assert host.hardware.systemInfo.uuid == uuid
    assert booted < host.runtime.bootTime <= datetime.now(UTC)
    assert again.register(path)._moId != first_id


@pytest.mark.parametrize("stateless", [True, False])
def test_a_host_of_a_vcenter_that_reboots_has_its_vms_off_or_forgotten(
    vcenter: Client, bed: Bed, stateless: bool
) -> None:
    host, other = vcenter.host("h1"), vcenter.host("h2")
    gone, kept = vcenter.register(bed.author("vm1"), host), vcenter.register(bed.author("vm2"), other)
    wait(gone.PowerOnVM_Task())
    wait(kept.PowerOnVM_Task())
    booted = host.runtime.bootTime, other.runtime.bootTime
    vcenter.server.reboot_host("h1", stateless=stateless)
    assert host.runtime.bootTime > booted[0]
    assert other.runtime.bootTime == booted[1]
    assert kept.runtime.powerState == "poweredOn"
    assert used_mb(host) == 1024
    assert len(host.vm) == (0 if stateless else 1)
    if stateless:
        gone = vcenter.register("[nfs1] inuse/vm1/vm1.vmx", other)
    wait(gone.PowerOnVM_Task())


def test_a_host_that_is_added_again_has_other_ids_and_what_ran_runs_on(vcenter: Client, bed: Bed) -> None:
    host, other = vcenter.host("h1"), vcenter.host("h2")
    path = bed.author("vm1")
    vm = vcenter.register(path, host)
    wait(vm.PowerOnVM_Task())
    off = vcenter.register(bed.author("vm2"), host)
    elsewhere = vcenter.register(bed.author("vm3"), other)
    uuid = host.hardware.systemInfo.uuid
    vcenter.server.readd_host("h1")
    again = vcenter.host("h1")
    assert again._moId != host._moId
    assert (again.hardware.systemInfo.uuid, again.name) == (uuid, "h1")
    assert {store.name for store in again.datastore} == {"nfs1"}
    assert {mount.key for mount in again.datastore[0].host} == {again, other}
    vms = {each.name: each for each in vcenter.all(vim.VirtualMachine)}
    assert sorted(vms) == ["vm1", "vm2", "vm3"]
    assert vms["vm3"] == elsewhere
    assert vms["vm1"]._moId != vm._moId
    assert vms["vm1"].runtime.host == vms["vm2"].runtime.host == again
    assert (vms["vm1"].runtime.powerState, vms["vm2"].runtime.powerState) == ("poweredOn", "poweredOff")
    assert used_mb(again) == 1024 + 512
    with pytest.raises(vim.fault.FileLocked):
        wait(vcenter.copy("[nfs1] inuse/vm1/disk.vmdk", "[nfs1] new.vmdk"))
    wait(vms["vm1"].PowerOffVM_Task())
    wait(vcenter.copy("[nfs1] inuse/vm1/disk.vmdk", "[nfs1] new.vmdk"))
    assert off not in vms.values()


def test_a_standalone_host_reboots_only_as_a_process(esx: Client) -> None:
    with pytest.raises(TestbedError, match="restarting its process"):
        esx.server.reboot_host("esx1")


def test_hosts_lend_their_hardware_virtualisation_as_they_were_told(start: Callable[..., VSphere]) -> None:
    client = Client(start(hosts=[HostSpec("h1", nested=True), HostSpec("h2")]))
    assert client.host("h1").capability.nestedHVSupported
    assert not client.host("h2").capability.nestedHVSupported
    assert Client(start("esx1", nested=True)).host("esx1").capability.nestedHVSupported


def test_a_clock_is_told_as_it_was_set(esx: Client) -> None:
    def ahead_s() -> float:
        told = vim.ServiceInstance("ServiceInstance", esx.stub).CurrentTime()
        return float((told - datetime.now(UTC)).total_seconds())

    assert abs(ahead_s()) < 5
    esx.server.set_clock(90)
    assert 85 < ahead_s() < 95
    esx.server.set_clock(-90)
    assert -95 < ahead_s() < -85


def test_a_host_loses_a_network_and_a_datastore_that_others_keep(vcenter: Client) -> None:
    def has(name: str) -> tuple[set[str], set[str]]:
        host = vcenter.host(name)
        return {network.name for network in host.network}, {store.name for store in host.datastore}

    before = has("h1")
    assert before[0] >= {"Private", "Public"}
    vcenter.server.set_host("h1", networks=["Private"], datastores=[])
    assert (has("h1"), has("h2")) == (({"Private"}, set()), before)
    vcenter.server.set_host("h1", networks=["Private", "Public"], datastores=["nfs1"])
    assert has("h1") == ({"Private", "Public"}, {"nfs1"})
