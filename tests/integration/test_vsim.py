"""The test bed's own vSphere server does what ESXi does wherever the product depends on it."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import time
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from esxprov.vsphere.api import SoapStubAdapter, vim, vmodl
from tests.testbed import vsphere
from tests.testbed.certificates import Certificates
from tests.testbed.vsphere import HostSpec, TestbedError, VSphere, golden_disk

Query = vmodl.query.PropertyCollector
MB = 1024 * 1024

VMX = """\
.encoding = "UTF-8"
# authored
displayName = "{name}"
annotation = "say |22hello|22|0Athere |7C"
guestOS = "windows9srv-64"
memSize = "{memory_mb}"
numvcpus = "2"
cpuid.coresPerSocket = "2"
uuid.bios = "56 4d 11 22 33 44 55 66-77 88 99 aa bb cc dd ee"
mem.hotadd = "TRUE"
vcpu.hotadd = "TRUE"
scsi0.present = "TRUE"
scsi0.virtualDev = "lsisas1068"
scsi0:0.present = "TRUE"
scsi0:0.fileName = "{disk}"
ethernet0.present = "TRUE"
ethernet0.virtualDev = "e1000e"
ethernet0.networkName = "Private"
ethernet0.addressType = "static"
ethernet0.address = "{mac}"
ethernet1.present = "TRUE"
ethernet1.virtualDev = "vmxnet3"
ethernet1.networkName = "{network}"
ethernet1.addressType = "generated"
"""


@pytest.fixture(scope="session")
def pki(certificates: Certificates) -> dict[str, Path]:
    """A private CA and a server certificate for 127.0.0.1."""
    served = certificates.server("vsim")
    return {"certificate": served.certificate, "key": served.key, "ca": certificates.ca}


class Client:
    """A pyVmomi session that verifies the server's certificate."""

    def __init__(self, server: VSphere, login: bool = True) -> None:
        self.server = server
        self.tls = ssl.create_default_context(cafile=str(server.ca))
        self.stub = SoapStubAdapter(
            host=server.host,
            port=server.port,
            version="vim.version.version10",
            sslContext=self.tls,
            httpConnectionTimeout=10,
        )
        self.content = vim.ServiceInstance("ServiceInstance", self.stub).RetrieveContent()
        if login:
            self.content.sessionManager.Login(server.user, server.password)

    def all(self, kind: type) -> list[Any]:
        view = self.content.viewManager.CreateContainerView(self.content.rootFolder, [kind], True)
        found = list(view.view)
        view.Destroy()
        return found

    @property
    def datacenter(self) -> Any:
        return self.content.rootFolder.childEntity[0]

    def host(self, name: str) -> Any:
        return next(host for host in self.all(vim.HostSystem) if host.name == name)

    def register(self, path: str, host: Any = None, pool: Any = None, name: str | None = None) -> Any:
        host = host or (None if pool else self.all(vim.HostSystem)[0])
        pool = pool or host.parent.resourcePool
        return wait(self.datacenter.vmFolder.RegisterVM_Task(path, name, False, pool, host))

    def copy(self, source: str, target: str, spec: Any = None) -> Any:
        datacenter = self.datacenter
        return self.content.virtualDiskManager.CopyVirtualDisk_Task(source, datacenter, target, datacenter, spec)

    def folder(self, method: str, path: str, body: bytes | None = None, cookie: bool = True, **query: str) -> Any:
        connection = http.client.HTTPSConnection(self.server.host, self.server.port, context=self.tls, timeout=10)
        asked = urllib.parse.urlencode({"dcPath": self.datacenter.name, "dsName": "nfs1"} | query)
        headers = {"Cookie": self.stub.cookie.split(";")[0]} if cookie else {}
        connection.request(method, f"/folder/{path}?{asked}", body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, content


def wait(task: Any, timeout_s: float = 10) -> Any:
    """The result of a task, or its error raised."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        info = task.info
        if info.state == vim.TaskInfo.State.error:
            raise info.error
        if info.state == vim.TaskInfo.State.success:
            return info.result
        time.sleep(0.005)
    raise AssertionError(f"{task} is still {task.info.state}")


def until(true: Callable[[], object], timeout_s: float = 5) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


class Bed:
    """A datastore directory with a golden disk, and VMs on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        golden_disk(path / "golden", "win", 64, payload=b"golden")
        (path / "inuse").mkdir()

    def author(
        self,
        name: str,
        *,
        memory_mb: int = 512,
        mac: str = "00:50:56:00:00:01",
        disk: str = "disk.vmdk",
        network: str = "Public",
        extra: str = "",
    ) -> str:
        """Write a VM's directory with a VMX and return the VMX's datastore path."""
        home = self.path / "inuse" / name
        home.mkdir()
        text = VMX.format(name=name, memory_mb=memory_mb, mac=mac, disk=disk, network=network)
        (home / f"{name}.vmx").write_text(text + extra)
        if disk == "disk.vmdk":
            golden_disk(home.parent, name, 8)
            (home / f"{name}.vmdk").rename(home / "disk.vmdk")
        return f"[nfs1] inuse/{name}/{name}.vmx"


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    return Bed(tmp_path / "nfs1")


@pytest.fixture
def start(tmp_path: Path, bed: Bed, pki: dict[str, Path]) -> Iterator[Callable[..., VSphere]]:
    """Starts ESXi hosts (`start("esx1", ...)`) and vCenters (`start(hosts=[...], ...)`) that share the bed."""
    running: list[VSphere] = []

    def run(name: str = "", *arguments: int, hosts: list[HostSpec] | None = None, **options: Any) -> VSphere:
        home = options.pop("home", tmp_path / f"server{len(running)}")
        given: Any = {"datastores": {"nfs1": bed.path}} | pki | options
        if hosts is None:
            running.append(VSphere.start_esxi(home, name, *arguments, **given))
        else:
            running.append(VSphere.start_vcenter(home, hosts, **given))
        return running[-1]

    yield run
    for server in running:
        server.stop()


@pytest.fixture
def esx(start: Callable[..., VSphere]) -> Client:
    return Client(start("esx1", 4096))


@pytest.fixture
def vcenter(start: Callable[..., VSphere]) -> Client:
    hosts = [HostSpec("h1", 8192, 8, 2000), HostSpec("h2", 4096)]
    return Client(start(hosts=hosts, cluster="C1"))


@pytest.fixture(params=["esx", "vcenter"])
def client(request: pytest.FixtureRequest) -> Client:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Client)
    return found


# 1 build


def test_a_second_build_returns_the_same_binary_at_once() -> None:
    binary = vsphere.build()
    made = binary.stat().st_mtime_ns
    assert vsphere.build() == binary
    assert binary.stat().st_mtime_ns == made


def test_a_missing_compiler_is_told_with_the_packages_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(vsphere, "_LIBRARIES", tmp_path)
    with pytest.raises(TestbedError, match=r"golang-1\.19-go golang-github-vmware-govmomi-dev"):
        vsphere._toolchain()


# 2, 10 inventory


def test_an_esxi_host_shows_its_name_size_datastore_and_networks(esx: Client) -> None:
    host = esx.all(vim.HostSystem)[0]
    assert (host.name, host.hardware.memorySize, host.summary.hardware.memorySize) == ("esx1", 4096 * MB, 4096 * MB)
    assert (host.summary.hardware.numCpuCores, host.summary.hardware.numCpuThreads) == (32, 64)
    assert host.hardware.cpuInfo.hz == 2_600_000_000
    assert [datastore.name for datastore in host.datastore] == ["nfs1"]
    assert host.datastore[0].summary.accessible
    assert {network.name for network in host.network} == {"VM Network", "Private", "Public"}
    assert esx.content.about.apiType == "HostAgent"
    assert esx.datacenter.name == "ha-datacenter"
    assert [datastore.name for datastore in esx.datacenter.datastore] == ["nfs1"]


def test_two_esxi_hosts_have_different_names_and_uuids_and_see_each_other_s_files(
    start: Callable[..., VSphere], bed: Bed
) -> None:
    first, second = Client(start("esx1")), Client(start("esx2"))
    hosts = [client.all(vim.HostSystem)[0] for client in (first, second)]
    assert [host.name for host in hosts] == ["esx1", "esx2"]
    assert hosts[0].hardware.systemInfo.uuid != hosts[1].hardware.systemInfo.uuid
    first.content.fileManager.MakeDirectory("[nfs1] shared", first.datacenter, False)
    with pytest.raises(vim.fault.FileAlreadyExists):
        second.content.fileManager.MakeDirectory("[nfs1] shared", second.datacenter, False)


def test_a_vcenter_shows_its_cluster_and_hosts(vcenter: Client) -> None:
    cluster = vcenter.all(vim.ClusterComputeResource)[0]
    assert cluster.name == "C1"
    assert {host.name for host in cluster.host} == {"h1", "h2"}
    assert cluster.summary.totalMemory == (8192 + 4096) * MB
    assert vcenter.datacenter.name == "DC0"
    host = vcenter.host("h1")
    assert (host.summary.hardware.cpuMhz, host.summary.hardware.numCpuThreads) == (2000, 16)
    assert {network.name for network in host.network} >= {"Private", "Public"}
    assert len(host.datastore[0].host) == 2


def test_hosts_of_a_vcenter_without_a_cluster_stand_alone(start: Callable[..., VSphere]) -> None:
    client = Client(start(hosts=[HostSpec("h1"), HostSpec("h2")]))
    assert sorted(resource.name for resource in client.all(vim.ComputeResource)) == ["h1", "h2"]


def test_only_the_given_account_gets_in(esx: Client) -> None:
    stranger = Client(esx.server, login=False)
    with pytest.raises(vim.fault.InvalidLogin):
        stranger.content.sessionManager.Login("svc", "wrong")


def test_a_client_that_does_not_know_the_ca_refuses_the_server(esx: Client) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        http.client.HTTPSConnection(esx.server.host, esx.server.port, context=ssl.create_default_context()).request(
            "GET", "/"
        )


# 3 registering


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


# 4 RAM and host state


def used_mb(host: Any) -> int:
    return int(host.summary.quickStats.overallMemoryUsage)


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


def test_changes_of_hosts_vms_and_tasks_are_streamed(client: Client, bed: Bed) -> None:
    vm = client.register(bed.author("vm1"))
    host = vm.runtime.host
    collector = client.content.propertyCollector.CreatePropertyCollector()
    specs = [
        (host, ["summary.quickStats.overallMemoryUsage", "runtime.inMaintenanceMode", "runtime.connectionState", "vm"]),
        (vm, ["runtime.powerState", "config.hardware.memoryMB"]),
    ]
    for managed, paths in specs:
        prop = Query.PropertySpec(type=type(managed), pathSet=paths)
        spec = Query.FilterSpec(objectSet=[Query.ObjectSpec(obj=managed)], propSet=[prop])
        collector.CreateFilter(spec, True)
    version = collector.WaitForUpdatesEx("", None).version
    wait(vm.PowerOnVM_Task())
    wait(vm.PowerOffVM_Task())
    wait(vm.ReconfigVM_Task(vim.vm.ConfigSpec(memoryMB=1024)))
    client.server.set_host(host.name, maintenance=True)
    vm.UnregisterVM()
    seen: dict[str, list[Any]] = {}
    left: list[Any] = []

    def all_seen() -> bool:
        nonlocal version
        news = collector.WaitForUpdatesEx(version, Query.WaitOptions(maxWaitSeconds=1))
        if news:
            version = news.version
            for update in (o for f in news.filterSet for o in f.objectSet):
                left.extend([update.obj] if update.kind == "leave" else [])
                for changed in update.changeSet:
                    seen.setdefault(changed.name, []).append(changed.val)
        return "vm" in seen and bool(left)

    until(all_seen)
    assert left == [vm]
    assert seen["runtime.powerState"] == ["poweredOn", "poweredOff"]
    assert seen["summary.quickStats.overallMemoryUsage"][:2] == [1024 + 512, 1024]
    assert seen["config.hardware.memoryMB"] == [1024]
    assert seen["runtime.inMaintenanceMode"] == [True]


def test_what_happened_to_a_vm_that_is_gone_meanwhile_is_told_to_a_filter_on_several_types(
    client: Client, bed: Bed
) -> None:
    vm = client.register(bed.author("vm1"))
    host = vm.runtime.host
    collector = client.content.propertyCollector.CreatePropertyCollector()
    spec = Query.FilterSpec(
        objectSet=[Query.ObjectSpec(obj=managed) for managed in (host, vm)],
        propSet=[
            Query.PropertySpec(type=vim.HostSystem, pathSet=["runtime.inMaintenanceMode"]),
            Query.PropertySpec(type=vim.VirtualMachine, pathSet=["runtime.powerState"]),
        ],
    )
    collector.CreateFilter(spec, False)
    version = collector.WaitForUpdatesEx("", None).version
    wait(vm.PowerOnVM_Task())
    wait(vm.PowerOffVM_Task())
    vm.UnregisterVM()
    news = collector.WaitForUpdatesEx(version, Query.WaitOptions(maxWaitSeconds=5))
    told = [(update.obj, update.kind, [c.val for c in update.changeSet]) for update in news.filterSet[0].objectSet]
    assert told == [(vm, "modify", ["poweredOn"]), (vm, "modify", ["poweredOff"]), (vm, "leave", [])]


def test_a_filter_on_an_object_that_is_gone_is_refused_unless_it_may_be_missing(client: Client, bed: Bed) -> None:
    vm = client.register(bed.author("vm1"))
    vm.UnregisterVM()
    collector = client.content.propertyCollector.CreatePropertyCollector()
    spec = Query.FilterSpec(
        objectSet=[Query.ObjectSpec(obj=vm)], propSet=[Query.PropertySpec(type=vim.VirtualMachine, pathSet=["name"])]
    )
    with pytest.raises(vmodl.fault.ManagedObjectNotFound) as caught:
        collector.CreateFilter(spec, False)
    assert caught.value.obj == vm
    spec.reportMissingObjectsInResults = True
    collector.CreateFilter(spec, False)
    assert collector.WaitForUpdatesEx("", None).filterSet == []


# 5 disks and files


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
    vm = client.register(bed.author("vm1", disk="/vmfs/volumes/nfs1/golden/win/win.vmdk"))
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


def test_a_linked_vm_that_is_registered_again_still_has_its_redo_disk(esx: Client, bed: Bed) -> None:
    path = bed.author("vm1", disk="[nfs1] golden/win/win.vmdk")
    vm = esx.register(path)
    wait(vm.CreateSnapshot_Task("linked", "", False, False))
    vm.UnregisterVM()
    backing = esx.register(path).config.hardware.device[-1].backing
    assert (backing.fileName, backing.parent.fileName) == (
        "[nfs1] inuse/vm1/win-000001.vmdk",
        "[nfs1] golden/win/win.vmdk",
    )


def test_a_second_snapshot_stands_on_the_first(esx: Client, bed: Bed) -> None:
    vm = esx.register(bed.author("vm1", disk="[nfs1] golden/win/win.vmdk"))
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
    vm = client.register(bed.author("vm1", disk="[nfs1] golden/win/win.vmdk"))
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
    vm = esx.register(bed.author("vm1", disk="[nfs1] golden/win/win.vmdk"))
    wait(vm.CreateSnapshot_Task("linked", "", False, False))
    wait(vm.Destroy_Task())
    assert os.listdir(bed.path / "golden/win") == []
    assert not (bed.path / "inuse/vm1").exists()


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


# life of a VM


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


# 6 power socket


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


# 7 tasks


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


# 8 /folder


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


# 9 control


def test_control_wants_the_token(esx: Client) -> None:
    connection = http.client.HTTPSConnection(esx.server.host, esx.server.port, context=esx.tls, timeout=5)
    connection.request("GET", "/ctl/calls", headers={"X-Vsim-Control": "guess"})
    assert connection.getresponse().status == 403
    connection.close()


def test_injected_faults_come_in_every_kind_and_as_often_as_asked(client: Client, bed: Bed) -> None:
    server, vm = client.server, client.register(bed.author("vm1"))
    server.inject("PowerOnVM_Task", "task", fault="NoCompatibleHost", count=1)
    with pytest.raises(vim.fault.NoCompatibleHost):
        wait(vm.PowerOnVM_Task())
    server.inject("PowerOnVM_Task", "soap", fault="HostNotConnected", count=1)
    with pytest.raises(vmodl.fault.HostNotConnected):
        vm.PowerOnVM_Task()
    server.inject("PowerOnVM_Task", "http", status=503, count=1)
    with pytest.raises(http.client.HTTPException):
        vm.PowerOnVM_Task()
    server.inject("PowerOnVM_Task", "drop", count=1)
    with pytest.raises((http.client.HTTPException, OSError)):
        vm.PowerOnVM_Task()
    assert vm.runtime.powerState == "poweredOff"
    server.inject("PowerOnVM_Task", "dropafter", match=vm._moId, count=1)
    with pytest.raises((http.client.HTTPException, OSError)):
        vm.PowerOnVM_Task()
    until(lambda: vm.runtime.powerState == "poweredOn")
    server.inject("PowerOffVM_Task", "delay", ms=200, count=1)
    began = time.monotonic()
    wait(vm.PowerOffVM_Task())
    assert time.monotonic() - began > 0.2
    wait(vm.PowerOnVM_Task())


def test_rules_meet_only_what_they_name_until_they_are_cleared(esx: Client) -> None:
    server = esx.server
    server.inject("CopyVirtualDisk_Task", "task", fault="FileLocked", match="golden/win")
    server.inject("PUT /folder", "http", status=500)
    for _ in range(2):
        with pytest.raises(vim.fault.FileLocked):
            wait(esx.copy("[nfs1] golden/win/win.vmdk", "[nfs1] new.vmdk"))
    assert esx.folder("PUT", "a", b"")[0] == 500
    with pytest.raises(vim.fault.FileNotFound):
        wait(esx.copy("[nfs1] other.vmdk", "[nfs1] new.vmdk"))
    server.clear_faults()
    wait(esx.copy("[nfs1] golden/win/win.vmdk", "[nfs1] new.vmdk"))
    assert server.calls()["CopyVirtualDisk_Task"] == 4
    with pytest.raises(TestbedError, match="NoSuchFault"):
        server.inject("*", "soap", fault="NoSuchFault")


def test_the_file_side_fails_in_every_kind_too(client: Client, bed: Bed) -> None:
    server = client.server
    server.inject("PUT /folder", "drop", match="a.txt", count=1)
    with pytest.raises((http.client.HTTPException, OSError)):
        client.folder("PUT", "inuse/a.txt", b"one")
    assert not (bed.path / "inuse/a.txt").exists()
    server.inject("PUT /folder", "dropafter", match="a.txt", count=1)
    with pytest.raises((http.client.HTTPException, OSError)):
        client.folder("PUT", "inuse/a.txt", b"one")
    assert (bed.path / "inuse/a.txt").read_bytes() == b"one"
    server.inject("GET /folder", "http", status=503, count=1)
    assert client.folder("GET", "inuse/a.txt")[0] == 503
    server.inject("GET /folder", "delay", ms=200, count=1)
    began = time.monotonic()
    assert client.folder("GET", "inuse/a.txt") == (200, b"one")
    assert time.monotonic() - began > 0.2


@pytest.mark.parametrize(
    ("method", "kind", "more", "problem"),
    [
        ("PowerOnVM", "drop", {}, "no method is called"),
        ("VirtualMachine", "drop", {}, "no method is called"),
        ("PATCH /folder", "drop", {}, "no method is called"),
        ("PUT /folder", "task", {"fault": "NoDiskSpace"}, "no SOAP call"),
        ("PowerOnVM_Task", "http", {}, "no HTTP status"),
        ("PowerOnVM_Task", "delay", {}, "no time"),
        ("PowerOnVM_Task", "explode", {}, "no rule is of kind"),
        ("PowerOnVM_Task", "task", {"fault": "NoSuchFault"}, "no fault is called"),
        ("*", "soap", {"fault": "VirtualMachine"}, "no fault is called"),
    ],
)
def test_a_rule_that_could_never_work_is_refused(
    esx: Client, method: str, kind: str, more: dict[str, Any], problem: str
) -> None:
    with pytest.raises(TestbedError, match=problem):
        esx.server.inject(method, kind, **more)


def test_a_rule_for_everything_meets_every_call(esx: Client) -> None:
    esx.server.inject("*", "http", status=503)
    with pytest.raises(http.client.HTTPException):
        esx.content.sessionManager.Logout()
    esx.server.clear_faults()
    esx.server.inject("*", "soap", fault="HostCommunication")
    with pytest.raises(vmodl.fault.HostCommunication):
        esx.content.sessionManager.Logout()


def test_a_host_that_is_not_there_or_a_state_that_is_none_is_refused(esx: Client) -> None:
    with pytest.raises(TestbedError, match="no host esx9"):
        esx.server.set_host("esx9", maintenance=True)
    with pytest.raises(TestbedError, match="cannot be asleep"):
        esx.server.set_host("esx1", state="asleep")


def test_expired_sessions_are_told_so_and_can_log_in_again(client: Client) -> None:
    assert client.server.sessions() == 1
    client.server.expire_sessions()
    with pytest.raises(vim.fault.NotAuthenticated):
        client.content.fileManager.MakeDirectory("[nfs1] x", client.content.rootFolder.childEntity[0], False)
    client.content.sessionManager.Login(client.server.user, client.server.password)
    client.content.fileManager.MakeDirectory("[nfs1] x", client.datacenter, False)


def test_an_idle_session_ends_but_own_methods_keep_it_alive(start: Callable[..., VSphere]) -> None:
    server = start("esx1", idle_s=0.5)
    busy, idle = Client(server), Client(server)
    root, datacenter = idle.content.rootFolder, busy.datacenter
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:
        with pytest.raises(vim.fault.FileAlreadyExists):
            busy.content.fileManager.MakeDirectory("[nfs1] golden", datacenter, False)
        time.sleep(0.05)
    assert server.sessions() == 1
    with pytest.raises(vim.fault.NotAuthenticated):
        idle.content.viewManager.CreateContainerView(root, [vim.VirtualMachine], True)


def test_the_inventory_is_told_without_a_session(client: Client, bed: Bed) -> None:
    vm = client.register(bed.author("vm1"))
    wait(vm.PowerOnVM_Task())
    report = client.server.inventory()
    machine = report["vms"][0]
    assert (machine["name"], machine["power"], machine["host"]) == ("vm1", "poweredOn", vm.runtime.host.name)
    assert (machine["path"], machine["memory_mb"]) == ("[nfs1] inuse/vm1/vm1.vmx", 512)
    assert machine["macs"][0] == "00:50:56:00:00:01"
    assert machine["disks"] == ["[nfs1] inuse/vm1/disk.vmdk"]
    host = next(host for host in report["hosts"] if host["name"] == machine["host"])
    assert host["used_mb"] == 1024 + 512


# 11 the process


def test_a_paused_server_answers_again_when_it_is_resumed(esx: Client) -> None:
    esx.server.pause()
    connection = http.client.HTTPSConnection(esx.server.host, esx.server.port, context=esx.tls, timeout=0.2)
    with pytest.raises(TimeoutError):
        connection.request("GET", "/sdk/vimServiceVersions.xml")
    esx.server.resume()
    assert esx.all(vim.HostSystem)


def test_a_stopped_server_leaves_only_its_log(start: Callable[..., VSphere], bed: Bed, tmp_path: Path) -> None:
    server = start("esx1")
    Client(server).register(bed.author("vm1"))
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 1
    assert os.listdir(tmp_path / "server0") == ["vsim.log"]


def test_a_killed_host_frees_its_disks_and_can_come_back_on_its_port(start: Callable[..., VSphere], bed: Bed) -> None:
    server = start("esx1")
    path = bed.author("vm1")
    wait(Client(server).register(path).PowerOnVM_Task())
    server.kill()
    again = Client(start("esx1", port=server.port))
    wait(again.register(path).PowerOnVM_Task())


def test_a_host_that_comes_back_after_a_power_cut_has_its_vms_and_none_runs(
    start: Callable[..., VSphere], bed: Bed, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "power"))
        listener.settimeout(5)
        server = start("esx1", power_socket=tmp_path / "power")
        before = Client(server)
        wait(before.register(bed.author("on")).PowerOnVM_Task())
        before.register(bed.author("off"), name="renamed")
        before.register(bed.author("left")).UnregisterVM()
        assert json.loads(listener.recv(4096))["event"] == "on"
        server.kill()
        again = Client(start("esx1", home=server.log.parent, port=server.port, power_socket=tmp_path / "power"))
        told = json.loads(listener.recv(4096))
        assert (told["event"], told["vm"]) == ("off", "on")
    vms = again.all(vim.VirtualMachine)
    assert sorted((vm.name, vm.config.files.vmPathName, vm.runtime.powerState) for vm in vms) == [
        ("on", "[nfs1] inuse/on/on.vmx", "poweredOff"),
        ("renamed", "[nfs1] inuse/off/off.vmx", "poweredOff"),
    ]
    assert used_mb(again.all(vim.HostSystem)[0]) == 1024


def test_a_server_that_cannot_start_says_why(start: Callable[..., VSphere], tmp_path: Path) -> None:
    with pytest.raises(TestbedError, match="tlscert"):
        start("esx1", certificate=tmp_path / "none")
