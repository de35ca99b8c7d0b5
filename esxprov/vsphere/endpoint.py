"""The adapter that handlers see: each method says in words what it tries, so that its errors can say it, too."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from esxprov.errors import ProvisioningError
from esxprov.model import (
    Condition,
    Datastore,
    DiskInfo,
    EndpointConfig,
    FileEntry,
    Health,
    Host,
    HostKey,
    Nic,
    PowerState,
    Vm,
)
from esxprov.ports import Look
from esxprov.vsphere import disks, faults, files, health, inventory, tasks, vms
from esxprov.vsphere.folder import Folder
from esxprov.vsphere.inventory import Objects, Survey
from esxprov.vsphere.paths import DatastorePath
from esxprov.vsphere.places import Places
from esxprov.vsphere.properties import Found
from esxprov.vsphere.session import Session
from esxprov.vsphere.watch import Watches

Poll = Callable[[Session], list[Found]]
"""Reads everything that an endpoint has."""

log = logging.getLogger(__name__)


class Endpoint:
    """One ESXi host or vCenter through one session. Implements ports.Hypervisor; belongs to one thread."""

    def __init__(self, config: EndpointConfig, poll: Poll = inventory.everything) -> None:
        self.name = config.name
        self._config = config
        self._poll = poll
        self._session = Session(config)
        self._places = Places(self._session)
        self._folder = Folder(self._session)

    def look(self) -> Look:
        began = time.monotonic()
        with self._trying("look at the hosts"):
            objects = Objects(self.name, self._poll(self._session))
            self._places.learn(Survey(self._session, objects))
            return Look(self.name, tuple(objects.hosts()), tuple(objects.vms()), seen_at=began)

    def hosts(self) -> list[Host]:
        with self._trying("look at the hosts"):
            objects = inventory.hosts(self._session)
            self._places.learn(Survey(self._session, objects))
            return objects.hosts()

    def vms(self) -> list[Vm]:
        with self._trying("list the VMs"):
            return inventory.vms(self._session)

    def find_vm(self, vmx_path: str) -> Vm | None:
        path = DatastorePath.parse(vmx_path)
        with self._trying(f"look for {path}"):
            return vms.find(self._session, self._places, path)

    def nics(self, vm: Vm) -> list[Nic]:
        with self._trying(f"read the network cards of {vm.name}", vm.host_moid):
            return vms.nics(self._session, vm)

    def guest_addresses(self, vm: Vm) -> list[tuple[str, str]]:
        with self._trying(f"ask VMware Tools in {vm.name} for addresses", vm.host_moid):
            return vms.guest_addresses(self._session, vm)

    def disks(self, vm: Vm) -> list[str]:
        with self._trying(f"read the disks of {vm.name}", vm.host_moid):
            return vms.disks(self._session, vm)

    def condition(self, vm: Vm) -> Condition:
        with self._trying(f"read the condition of {vm.name}", vm.host_moid):
            return vms.condition(self._session, vm)

    def power_state(self, vm: Vm) -> PowerState | None:
        with self._trying(f"ask whether {vm.name} is on", vm.host_moid):
            return vms.power_state(self._session, vm)

    def register(self, vmx_path: str, name: str, host_moid: str) -> Vm:
        path = DatastorePath.parse(vmx_path)
        with self._trying(f"register {path}", host_moid):
            return vms.register(self._session, self._places, path, name, host_moid)

    def unregister(self, vm: Vm) -> None:
        with self._trying(f"unregister {vm.name}", vm.host_moid):
            vms.unregister(self._session, vm)

    def snapshot_before_first_power_on(self, vm: Vm) -> None:
        with self._trying(f"take a snapshot of {vm.name}", vm.host_moid):
            vms.snapshot(self._session, vm)

    def power_on(self, vm: Vm, *, moved: bool = False) -> None:
        with self._trying(f"switch {vm.name} on", vm.host_moid):
            vms.power_on(self._session, vm, moved=moved)

    def shutdown_guest(self, vm: Vm) -> bool:
        with self._trying(f"ask {vm.name} to shut down", vm.host_moid):
            return vms.shutdown_guest(self._session, vm)

    def power_off(self, vm: Vm) -> None:
        with self._trying(f"switch {vm.name} off", vm.host_moid):
            vms.power_off(self._session, vm)

    def reset(self, vm: Vm) -> None:
        with self._trying(f"reset {vm.name}", vm.host_moid):
            vms.reset(self._session, vm)

    def disk(self, path: str) -> DiskInfo | None:
        where = DatastorePath.parse(path)
        with self._trying(f"read {where}"):
            return disks.disk(self._folder, self._places, where)

    def allocated_mb(self, disk_path: str) -> int | None:
        where = DatastorePath.parse(disk_path)
        with self._trying(f"read what {where} occupies"):
            return disks.allocated_mb(self._session, self._places, where)

    def datastore(self, name: str) -> Datastore:
        with self._trying(f"look at the datastore {name}"):
            return inventory.datastore(self._session, self._places.of(name).datastore)

    def copy_disk(self, source: str, target: str, *, adapter: str, progress: tasks.Progress) -> None:
        here, there = DatastorePath.parse(source), DatastorePath.parse(target)
        with self._trying(f"copy {here} to {there}"):
            disks.copy(self._session, self._places, here, there, adapter, progress)

    def move_disk(self, source: str, target: str) -> None:
        here, there = DatastorePath.parse(source), DatastorePath.parse(target)
        with self._trying(f"move {here} to {there}"):
            disks.move(self._session, self._places, here, there)

    def list_directory(self, path: str) -> list[FileEntry] | None:
        where = DatastorePath.parse(path)
        with self._trying(f"list {where}"):
            return files.entries(self._session, self._places, where)

    def make_directory(self, path: str) -> None:
        where = DatastorePath.parse(path)
        with self._trying(f"make the directory {where}"):
            files.make_directory(self._session, self._places, where)

    def move_directory(self, source: str, target: str) -> None:
        here, there = DatastorePath.parse(source), DatastorePath.parse(target)
        with self._trying(f"move {here} to {there}"):
            files.move(self._session, self._places, here, there)

    def delete(self, path: str) -> None:
        where = DatastorePath.parse(path)
        if where.is_root:
            raise ProvisioningError(
                "invalid_event", f"{path!r} is a whole datastore, which is never deleted: name a directory"
            )
        with self._trying(f"delete {where}"):
            if where.name.endswith(".vmdk"):
                disks.delete(self._session, self._places, where)
            else:
                files.delete(self._session, self._places, where)

    def read_file(self, path: str) -> bytes | None:
        where = DatastorePath.parse(path)
        with self._trying(f"read {where}"):
            return self._folder.get(where, self._places.of(where.datastore))

    def write_file(self, path: str, content: bytes) -> None:
        where = DatastorePath.parse(path)
        with self._trying(f"write {where}"):
            self._folder.put(where, self._places.of(where.datastore), content)

    def health(self) -> Health:
        with self._trying("log in"):
            return health.of(self._session)

    def close(self) -> None:
        """Log out. Any thread."""
        with self._trying("log out"):
            self._folder.close()
            self._session.close()

    @contextmanager
    def _trying(self, doing: str, host_moid: str | None = None) -> Iterator[None]:
        try:
            with faults.translated(self._config, doing, str(HostKey(self.name, host_moid)) if host_moid else None):
                yield
        except ProvisioningError as error:
            if error.detail.get("fault") == "ManagedObjectNotFound":
                self._places.forget()  # what was remembered may be what is gone
            raise


class VSphere:
    """All configured endpoints. Implements ports.Hypervisors; may be shared by threads, each has its own sessions.

    A look at one that is among the `watches` corrects what they know of it.
    """

    def __init__(self, endpoints: Mapping[str, EndpointConfig], watches: Watches | None = None) -> None:
        self._configs = dict(endpoints)
        self._watches = watches
        self._of_thread = threading.local()
        self._lock = threading.Lock()
        self._opened: list[Endpoint] = []  # guarded by _lock

    def endpoint(self, name: str) -> Endpoint:
        mine: dict[str, Endpoint] = self._of_thread.__dict__.setdefault("endpoints", {})
        if name not in mine:
            config = self._configs.get(name)
            if config is None:
                raise ProvisioningError(
                    "host_unavailable",
                    f"the endpoint {name} is not configured any more: restore its section [endpoint {name}]",
                    detail={"endpoint": name},
                )
            mine[name] = Endpoint(config, self._watches.of(name).poll) if self._watches else Endpoint(config)
            with self._lock:
                self._opened.append(mine[name])
        return mine[name]

    def close(self) -> None:
        """Log all sessions out: a vCenter has only so many. Never raises; the threads must not use them any more."""
        with self._lock:
            opened, self._opened = self._opened, []
        silent: set[str] = set()
        for endpoint in opened:
            if endpoint.name in silent:
                continue
            try:
                endpoint.close()
            except ProvisioningError as error:
                silent.add(endpoint.name)
                log.warning("%s", error)
