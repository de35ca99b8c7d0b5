"""What an endpoint has: hosts, datastores, networks, VMs, and where they hang in its tree.

Everything is read by walking down from the root folder, not through container views: a view belongs to a session and
is gone with it, a walk can simply be repeated. What was read is the same whether it was asked for or was told as a
change (updates), so there is one place that makes our values of it: `Objects`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC
from typing import Any

from esxprov.errors import ProvisioningError
from esxprov.model import Datastore, Host, HostKey, PowerState, Vm
from esxprov.vsphere import properties
from esxprov.vsphere.api import vim
from esxprov.vsphere.properties import Found, moid, traverse
from esxprov.vsphere.session import Session

_MB = 1024 * 1024

_HOST = (
    "name",
    "parent",
    "datastore",
    "network",
    "hardware.memorySize",
    "hardware.cpuInfo.numCpuThreads",
    "hardware.systemInfo.uuid",
    "capability.nestedHVSupported",
    "runtime.connectionState",
    "runtime.inMaintenanceMode",
    "runtime.bootTime",
    "summary.quickStats.overallMemoryUsage",
)
_SPACE = ("name", "summary.freeSpace", "summary.capacity", "summary.accessible")
_DATASTORE = (*_SPACE, "browser", "summary.url")
# runtime.powerState, not summary's: a summary is evaluated lazily.
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
_TREE = {
    vim.HostSystem: _HOST,
    vim.Datastore: _DATASTORE,
    vim.Network: ("name",),
    vim.ComputeResource: ("name", "parent", "resourcePool"),
    vim.Datacenter: ("name", "parent", "vmFolder"),
    vim.Folder: ("name", "parent"),
}
_OF_HOST = (traverse(vim.HostSystem, "datastore"), traverse(vim.HostSystem, "network"))
_POWER = {"poweredOn": PowerState.ON, "poweredOff": PowerState.OFF, "suspended": PowerState.SUSPENDED}


@dataclass(frozen=True, slots=True)
class Place:
    """A datastore as its datacenter has it. `datacenter_path` is what /folder calls dcPath, `url` its identity."""

    datastore: Any
    browser: Any
    datacenter: Any
    datacenter_path: str
    url: str


@dataclass(frozen=True, slots=True)
class Home:
    """Where VMs of a host go."""

    folder: Any
    pool: Any


class Objects:
    """An endpoint's objects by their moid, and the values that they make together. Pure: the caller keeps `all`."""

    def __init__(self, endpoint: str, found: Iterable[Found] = ()) -> None:
        self.endpoint = endpoint
        self.all = {each.moid: each for each in found}

    def hosts(self) -> list[Host]:
        return [self.host(found) for found in self.of(vim.HostSystem)]

    def vms(self) -> list[Vm]:
        """Those whose configuration cannot be read (their datastore is away) have no vmx_path."""
        values = (self.vm(found) for found in self.of(vim.VirtualMachine))
        return [value for value in values if value is not None]

    def host(self, found: Found) -> Host:
        compute = self.above(found, vim.ClusterComputeResource)
        datacenter = self.above(found, vim.Datacenter)
        booted_at = found.get("runtime.bootTime")
        return Host(
            key=HostKey(self.endpoint, found.moid),
            name=str(found.get("name", "")),
            # vCenter keeps the last figures of a host that is gone: without a state it is not one to use.
            state=str(found.get("runtime.connectionState", "disconnected")),
            maintenance=bool(found.get("runtime.inMaintenanceMode", False)),
            ram_mb=found.get("hardware.memorySize", 0) // _MB,
            ram_used_mb=int(found.get("summary.quickStats.overallMemoryUsage", 0)),
            cpu_threads=int(found.get("hardware.cpuInfo.numCpuThreads", 0)),
            datastores=tuple(datastore_of(store) for store in self.named(found.get("datastore", ()))),
            networks=tuple(plain(network.get("name", "")) for network in self.named(found.get("network", ()))),
            datacenter=plain(datacenter.get("name", "")) if datacenter else None,
            cluster=plain(compute.get("name", "")) if compute else None,
            uuid=str(found.get("hardware.systemInfo.uuid", "")).lower(),
            booted_at=booted_at.astimezone(UTC) if booted_at is not None else None,
            nested=bool(found.get("capability.nestedHVSupported", False)),
        )

    def vm(self, found: Found) -> Vm | None:
        """None if nobody can tell whether it is on: it is just coming or going."""
        return _vm(self.endpoint, found) if found.get("runtime.powerState") else None

    def of(self, kind: Any) -> list[Found]:
        return [found for found in self.all.values() if isinstance(found.ref, kind)]

    def named(self, refs: Iterable[Any]) -> list[Found]:
        return [self.all[moid(ref)] for ref in refs if moid(ref) in self.all]

    def parents(self, found: Found) -> list[Found]:
        """Nearest first, up to the root folder."""
        parents: list[Found] = []
        ref = found.get("parent")
        while ref is not None and moid(ref) in self.all:
            parents.append(self.all[moid(ref)])
            ref = parents[-1].get("parent")
        return parents

    def above(self, found: Found, kind: Any) -> Found | None:
        return next((parent for parent in self.parents(found) if isinstance(parent.ref, kind)), None)


class Survey:
    """Where things are and go: what a session must name when it asks for something to be done."""

    def __init__(self, session: Session, objects: Objects) -> None:
        self._objects = objects
        self._is_vcenter = session.is_vcenter
        self._root = moid(session.content.rootFolder)

    def places(self) -> dict[str, list[Place]]:
        """Datastores by name; in a vCenter the same NFS export may hang in several datacenters."""
        places: dict[str, list[Place]] = {}
        seen: set[tuple[str, str]] = set()
        for host in self._objects.of(vim.HostSystem):
            datacenter = self._objects.above(host, vim.Datacenter)
            for store in self._objects.named(host.get("datastore", ())):
                if datacenter is None or (store.moid, datacenter.moid) in seen:
                    continue
                seen.add((store.moid, datacenter.moid))
                place = Place(
                    datastore=store.ref,
                    browser=store.get("browser"),
                    datacenter=datacenter.ref,
                    datacenter_path=self._path_of(datacenter),
                    url=str(store.get("summary.url", "")),
                )
                places.setdefault(plain(store.get("name", "")), []).append(place)
        return places

    def homes(self) -> dict[str, Home]:
        """By the host's moid."""
        homes = {}
        for host in self._objects.of(vim.HostSystem):
            compute = self._objects.above(host, vim.ComputeResource)
            datacenter = self._objects.above(host, vim.Datacenter)
            if compute is not None and datacenter is not None:
                homes[host.moid] = Home(datacenter.get("vmFolder"), compute.get("resourcePool"))
        return homes

    def _path_of(self, datacenter: Found) -> str:
        # ESXi's /folder knows its only datacenter by this fixed name, whatever the tree says.
        if not self._is_vcenter:
            return "ha-datacenter"
        above = [parent for parent in self._objects.parents(datacenter) if parent.moid != self._root]
        return "/".join(str(part.get("name", "")) for part in [*reversed(above), datacenter])


def datastore_of(found: Found) -> Datastore:
    return Datastore(
        name=plain(found.get("name", "")),
        free_mb=found.get("summary.freeSpace", 0) // _MB,
        capacity_mb=found.get("summary.capacity", 0) // _MB,
        accessible=bool(found.get("summary.accessible", False)),
    )


def datastore(session: Session, ref: Any) -> Datastore:
    """A datastore as it is now: until it is told to look, the server keeps an older figure of its free space."""
    session.call(ref.RefreshDatastore, repeatable=True)
    return datastore_of(properties.read(session, ref, *_SPACE))


def everything_of(session: Session) -> Any:
    """The FilterSpec of hosts, VMs, and all they hang on."""
    walk = _to_hosts(*_OF_HOST, traverse(vim.HostSystem, "vm"))
    return properties.spec({**_TREE, vim.VirtualMachine: _VM}, [session.content.rootFolder], *walk)


def everything(session: Session) -> list[Found]:
    """Hosts, VMs, and all they hang on, in one question."""
    return properties.retrieve(session, everything_of(session))


def hosts(session: Session) -> Objects:
    """Hosts and all they hang on, without VMs."""
    spec = properties.spec(_TREE, [session.content.rootFolder], *_to_hosts(*_OF_HOST))
    return Objects(session.config.name, properties.retrieve(session, spec))


def vms(session: Session) -> list[Vm]:
    """All VMs of all hosts."""
    walk = _to_hosts(traverse(vim.HostSystem, "vm"))
    wanted = {vim.VirtualMachine: _VM, vim.Folder: ("name",)}
    found = properties.retrieve(session, properties.spec(wanted, [session.content.rootFolder], *walk))
    return Objects(session.config.name, found).vms()


def vm(session: Session, ref: Any) -> Vm:
    """One VM. Raises ManagedObjectNotFound."""
    return _vm(session.config.name, properties.read(session, ref, *_VM))


def power_state(session: Session, ref: Any) -> PowerState:
    """Raises ManagedObjectNotFound."""
    return power_of(properties.read(session, ref, "runtime.powerState"))


def power_of(found: Found) -> PowerState:
    state = _POWER.get(str(found.get("runtime.powerState")))
    if state is None:
        # Never taken for off: a VM that runs would be registered, or have its disk copied, once more.
        raise ProvisioningError(
            "vsphere_auth", f"cannot tell whether {found.moid} is on: grant our user System.Read on that VM"
        )
    return state


def _vm(endpoint: str, found: Found) -> Vm:
    host = found.get("runtime.host")
    return Vm(
        endpoint=endpoint,
        moid=found.moid,
        name=str(found.get("name", "")),
        host_moid=moid(host) if host is not None else "",
        vmx_path=str(found.get("config.files.vmPathName", "")),
        power=power_of(found),
        ram_mb=int(found.get("config.hardware.memoryMB", 0)),
        cpus=int(found.get("config.hardware.numCPU", 0)),
        annotation=str(found.get("config.annotation", "")),
        uuid=str(found.get("config.uuid", "")),
    )


def _to_hosts(*then: Any) -> list[Any]:
    """Root folder, nested folders, datacenters, their host folders, hosts; and `then` on from each host."""
    return [
        traverse(vim.Folder, "childEntity", "folder", "datacenter", "compute", name="folder"),
        traverse(vim.Datacenter, "hostFolder", "folder", name="datacenter"),
        traverse(vim.ComputeResource, "host", *then, name="compute"),
    ]


def plain(name: str) -> str:
    """The inventory escapes three characters in names; a VMX and an admin do not."""
    return name.replace("%2f", "/").replace("%5c", "\\").replace("%25", "%")
