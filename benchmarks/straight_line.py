"""The floor under a load: what a script would do that knows no broker, no database, no claims and no failure.

It makes the same vSphere calls as `esxprov.handlers.load`, in the same order, and nothing else.
"""

from __future__ import annotations

import http.client
import ssl
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim as _vim
from pyVmomi import vmodl as _vmodl
from pyVmomi.SoapAdapter import SoapStubAdapter as _SoapStubAdapter

from benchmarks.stage import IMAGE, Slot
from esxprov.leases.watcher import LeaseWatcher
from tests.testbed.bed import DATASTORE
from tests.testbed.vsphere import VSphere

vim: Any = _vim
vmodl: Any = _vmodl
SoapStubAdapter: Any = _SoapStubAdapter  # untyped
_Collector = vmodl.query.PropertyCollector

_VERSION = "vim.version.version11"
_GOLDEN = f"[{DATASTORE}] golden/{IMAGE.name}/{IMAGE.name}.vmdk"
_LEASE_S = 30.0
_PATIENCE = _Collector.WaitOptions(maxWaitSeconds=3)
"""Updates get lost, in the simulator as in vCenter: then the task is looked at again."""
_VM = (
    "name",
    "runtime.host",
    "runtime.powerState",
    "config.files.vmPathName",
    "config.hardware.memoryMB",
    "config.hardware.numCPU",
    "config.annotation",
    "config.uuid",
)
_HOST = {
    vim.HostSystem: (
        "name",
        "parent",
        "datastore",
        "network",
        "hardware.memorySize",
        "hardware.cpuInfo.numCpuThreads",
        "runtime.connectionState",
        "runtime.inMaintenanceMode",
        "summary.quickStats.overallMemoryUsage",
    ),
    vim.Datastore: ("name", "browser", "summary.freeSpace", "summary.capacity", "summary.accessible", "summary.url"),
    vim.Network: ("name",),
    vim.ComputeResource: ("name", "parent", "resourcePool"),
    vim.Datacenter: ("name", "parent", "vmFolder"),
    vim.Folder: ("name", "parent"),
}
_TASK = {vim.Task: ("info.state", "info.error", "info.result", "info.progress")}


class Session:
    """A login on one standalone host, with one connection for SOAP and one for /folder."""

    def __init__(self, server: VSphere) -> None:
        tls = ssl.create_default_context(cafile=str(server.ca))
        self._stub = SoapStubAdapter(host=server.host, port=server.port, path="/sdk", version=_VERSION, sslContext=tls)
        self.content = vim.ServiceInstance("ServiceInstance", self._stub).RetrieveContent()
        self.content.sessionManager.Login(server.user, server.password, "en")
        self._waiter = self.content.propertyCollector.CreatePropertyCollector()
        self._folder = http.client.HTTPSConnection(server.host, server.port, context=tls)

    def close(self) -> None:
        self.content.sessionManager.Logout()
        self._folder.close()

    def read(self, wanted: Mapping[Any, tuple[str, ...]], start: Any, *traversals: Any) -> dict[Any, dict[str, Any]]:
        """The wanted properties of the objects found, by object."""
        spec = _spec(wanted, start, *traversals)
        page = self.content.propertyCollector.RetrievePropertiesEx([spec], _Collector.RetrieveOptions())
        return {each.obj: {p.name: p.val for p in each.propSet} for each in page.objects}

    def wait(self, task: Any) -> Any:
        """A task's result; its fault is raised."""
        watched, version = None, ""
        while (info := self.read(_TASK, task)[task])["info.state"] not in ("success", "error"):
            if watched is None:
                watched = self._waiter.CreateFilter(_spec(_TASK, task), False)
            updates = self._waiter.WaitForUpdatesEx(version, _PATIENCE)
            version = updates.version if updates is not None else version
        if watched is not None:
            watched.DestroyPropertyFilter()
        if info["info.state"] == "error":
            raise info["info.error"]
        return info.get("info.result")

    def get(self, path: str) -> bytes | None:
        return self._transfer("GET", path)

    def put(self, path: str, content: bytes) -> None:
        self._transfer("PUT", path, content)

    def _transfer(self, method: str, path: str, body: bytes | None = None) -> bytes | None:
        query = urllib.parse.urlencode({"dcPath": "ha-datacenter", "dsName": DATASTORE})
        target = f"/folder/{path.removeprefix(f'[{DATASTORE}] ')}?{query}"
        self._folder.request(method, target, body, {"Cookie": str(self._stub.cookie).split(";", 1)[0]})
        answer = self._folder.getresponse()
        content = answer.read()
        return None if answer.status == http.HTTPStatus.NOT_FOUND else content


@dataclass(frozen=True, slots=True)
class Home:
    """Where a host puts its VMs."""

    session: Session
    host: Any
    pool: Any
    folder: Any
    datacenter: Any


class Script:
    """The script, with a session on every host: for one thread."""

    def __init__(self, servers: Mapping[str, VSphere], leases: LeaseWatcher) -> None:
        self._sessions = [Session(server) for server in servers.values()]
        # Once: the service too knows what the hosts have before it is asked.
        self._homes = [self._survey(session) for session in self._sessions]
        self._leases = leases

    def close(self) -> None:
        for session in self._sessions:
            session.close()

    def load(self, slot: Slot) -> str:
        """The private address of a new VM on a host; whose turn it is, the slot's number says."""
        directory = f"[{DATASTORE}] inuse/{slot.name}"
        vmx, disk = f"{directory}/{slot.name}.vmx", f"{directory}/{IMAGE.name}.vmdk"
        unfinished = f"{directory}/{IMAGE.name}.unfinished.vmdk"

        if self._sessions[0].get(_GOLDEN) is None:
            raise FileNotFoundError(_GOLDEN)

        home = self._homes[slot.id % len(self._homes)]
        for each in self._homes:
            index = each.session.content.searchIndex
            if index.FindByDatastorePath(each.datacenter, vmx) is not None:
                raise FileExistsError(vmx)
        files, disks = home.session.content.fileManager, home.session.content.virtualDiskManager
        _if_there(lambda: home.session.wait(files.DeleteDatastoreFile_Task(directory, home.datacenter)))

        if home.session.get(disk) is not None:
            raise FileExistsError(disk)
        _if_there(lambda: home.session.wait(disks.DeleteVirtualDisk_Task(unfinished, home.datacenter)))
        files.MakeDirectory(directory, home.datacenter, True)
        thin = vim.VirtualDiskManager.VirtualDiskSpec(diskType="thin", adapterType="lsiLogic")
        home.session.wait(
            disks.CopyVirtualDisk_Task(_GOLDEN, home.datacenter, unfinished, home.datacenter, thin, False)
        )
        home.session.wait(disks.MoveVirtualDisk_Task(unfinished, home.datacenter, disk, home.datacenter, False))

        for reference in (f"{IMAGE.name}.vmx", f"{IMAGE.name}.vmx.reference"):
            if home.session.get(f"[{DATASTORE}] golden/{IMAGE.name}/{reference}") is not None:
                raise FileExistsError(reference)
        _if_new(lambda: files.MakeDirectory(directory, home.datacenter, True))
        home.session.put(vmx, _configuration(slot))

        register = home.folder.RegisterVM_Task(vmx, slot.name, False, home.pool, home.host)
        vm = home.session.wait(register)
        home.session.read({vim.VirtualMachine: _VM}, vm)

        mark = self._leases.mark()
        home.session.wait(vm.PowerOnVM_Task())
        mac = self._first_mac(home.session, vm)
        lease = self._leases.wait(mac, mark, _LEASE_S)
        if lease is None:
            raise TimeoutError(f"no lease of {mac}: {self._leases.what_was_seen(mac)}")
        return lease.ip

    @staticmethod
    def _survey(session: Session) -> Home:
        """Look at a host and its VMs."""
        root = session.content.rootFolder
        look = (_traverse(vim.HostSystem, "datastore"), _traverse(vim.HostSystem, "network"))
        found = session.read(_HOST, root, *_to_hosts(*look))
        vms = _to_hosts(_traverse(vim.HostSystem, "vm"))
        session.read({vim.VirtualMachine: _VM, vim.Folder: ("name",)}, root, *vms)
        of = {type(ref): (ref, properties) for ref, properties in found.items()}
        host = of[vim.HostSystem][0]
        compute, datacenter = of[vim.ComputeResource], of[vim.Datacenter]
        return Home(session, host, compute[1]["resourcePool"], datacenter[1]["vmFolder"], datacenter[0])

    @staticmethod
    def _first_mac(session: Session, vm: Any) -> str:
        wanted = {
            vim.VirtualMachine: ("config.hardware.device",),
            vim.Network: ("name",),
            vim.dvs.DistributedVirtualPortgroup: ("key",),
        }
        walk = _traverse(vim.VirtualMachine, "runtime.host", _traverse(vim.HostSystem, "network"))
        devices = session.read(wanted, vm, walk)[vm]["config.hardware.device"]
        cards = [device for device in devices if isinstance(device, vim.vm.device.VirtualEthernetCard)]
        return str(min(cards, key=lambda card: int(card.key)).macAddress).lower()


def _if_there(remove: Any) -> None:
    try:
        remove()
    except vim.fault.FileNotFound:
        pass


def _if_new(make: Any) -> None:
    try:
        make()
    except vim.fault.FileAlreadyExists:
        pass


def _traverse(kind: Any, path: str, *then: Any, name: str | None = None) -> Any:
    selection = [_Collector.SelectionSpec(name=step) if isinstance(step, str) else step for step in then]
    return _Collector.TraversalSpec(name=name, type=kind, path=path, skip=False, selectSet=selection)


def _to_hosts(*then: Any) -> list[Any]:
    return [
        _traverse(vim.Folder, "childEntity", "folder", "datacenter", "compute", name="folder"),
        _traverse(vim.Datacenter, "hostFolder", "folder", name="datacenter"),
        _traverse(vim.ComputeResource, "host", *then, name="compute"),
    ]


def _spec(wanted: Mapping[Any, tuple[str, ...]], start: Any, *traversals: Any) -> Any:
    return _Collector.FilterSpec(
        objectSet=[_Collector.ObjectSpec(obj=start, skip=False, selectSet=list(traversals))],
        propSet=[_Collector.PropertySpec(type=kind, pathSet=list(paths), all=False) for kind, paths in wanted.items()],
    )


def _configuration(slot: Slot) -> bytes:
    lines = {
        ".encoding": "UTF-8",
        "config.version": "8",
        "virtualHW.version": "11",
        "displayName": slot.name,
        "guestOS": "otherlinux-64",
        "memSize": IMAGE.ram_mb,
        "numvcpus": IMAGE.cpus,
        "scsi0.present": "TRUE",
        "scsi0.virtualDev": "lsilogic",
        "scsi0:0.present": "TRUE",
        "scsi0:0.deviceType": "scsi-hardDisk",
        "scsi0:0.fileName": f"{IMAGE.name}.vmdk",
    }
    for number, (network, mac) in enumerate((("Private", slot.private_mac), ("Public", slot.public_mac))):
        lines |= {
            f"ethernet{number}.present": "TRUE",
            f"ethernet{number}.virtualDev": "e1000",
            f"ethernet{number}.networkName": network,
            f"ethernet{number}.addressType": "static",
            f"ethernet{number}.address": mac,
        }
    return "".join(f'{key} = "{value}"\n' for key, value in lines.items()).encode()
