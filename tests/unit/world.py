"""A world in memory for handler tests: endpoints that share one datastore, claims, leases, VCL's tables.

Any call of a port can be made the last one before the service dies (`world.die_at`): before its effect, or after it
with the answer lost. Nothing else here is clever: it keeps files in a dict and VMs in a list.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

from bridge import envelope
from bridge.envelope import Event, decode, request
from esxprov.errors import ProvisioningError
from esxprov.handlers import CALLS
from esxprov.job import Job
from esxprov.model import (
    AttachedDisk,
    CatalogueImage,
    Claim,
    ClaimState,
    Condition,
    Datastore,
    DiskInfo,
    Extent,
    FileEntry,
    Health,
    Host,
    HostKey,
    ImageWork,
    KnownHost,
    Lease,
    Machine,
    Nic,
    Pool,
    PowerState,
    Profile,
    Promised,
    Revision,
    Vm,
)
from esxprov.placement.books import Books, Held
from esxprov.placement.ledger import Ledger
from esxprov.placement.placer import Placers
from esxprov.placement.reconcile import Correction
from esxprov.placement.wants import Later, Taken, Want, held_by, named, taken, waiting_for
from esxprov.ports import Armed, Busy, GuestAddresses, Look, Progress, Tools
from esxprov.request import read

EXAMPLES = Path(envelope.__file__).parent / "examples"

F = TypeVar("F", bound=Callable[..., Any])
D = TypeVar("D")
T = TypeVar("T")


class Died(BaseException):
    """kill -9 at a port call: no handler code may catch it."""


def port(method: F) -> F:
    """A method of a port: counted, and possibly the last one."""

    @functools.wraps(method)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        world: World = self.world
        number = world.calls_made = world.calls_made + 1
        world.log.append(f"{method.__name__}{args!r}")
        world.on_call(method.__name__)
        if world.fail_at == number:
            raise ProvisioningError("vsphere_fault", f"injected at call {number}, {method.__name__}")
        if world.die_at == (number, "before"):
            raise Died(f"{number} before {method.__name__}")
        result = method(self, *args, **kwargs)
        if world.die_at == (number, "after"):
            raise Died(f"{number} after {method.__name__}")
        return result

    return cast(F, wrapped)


@dataclass
class World:
    """All state, shared by the fakes below."""

    now: datetime = datetime(2026, 11, 22, 5, 41, 7, tzinfo=UTC)
    files: dict[str, bytes] = field(default_factory=dict)
    disks: dict[str, DiskInfo] = field(default_factory=dict)
    directories: set[str] = field(default_factory=set)
    vms: list[Vm] = field(default_factory=list)
    nics: dict[str, list[Nic]] = field(default_factory=dict)
    vm_disks: dict[str, list[str]] = field(default_factory=dict)
    conditions: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What differs from the ordinary in the Condition of a VM, by its moid: `{"question": "..."}`."""
    controllers: dict[str, str] = field(default_factory=dict)
    """What a VM's disk hangs on, by its moid, in the words of a descriptor."""
    snapshots: dict[str, list[str]] = field(default_factory=dict)
    allocated: dict[str, int | None] = field(default_factory=dict)
    """What disks occupy, in MB, where it is not their whole capacity; None: nobody can tell."""
    free_mb: int = 500_000
    datastores: tuple[str, ...] = ("nfs1",)
    """What every host sees."""
    reads_workstations: bool = False
    """Whether hosts can read disks in the format of VMware Workstation."""
    is_vcenter: bool = False
    """Whether copies of disks keep the type and the adapter of the original, as those by a vCenter do."""
    moved: list[str] = field(default_factory=list)
    """The moids of the VMs that were switched on as moved ones."""
    deaf_guests: set[str] = field(default_factory=set)
    """The moids of the VMs in which no VMware Tools run."""
    leases: list[tuple[float, Lease]] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    """MACs whose old leases were ended."""
    declined: set[str] = field(default_factory=set)
    """Addresses that their guests have declined."""
    guest_addresses: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """What VMware Tools say, by VM."""
    down: set[str] = field(default_factory=set)
    refuses: dict[str, ProvisioningError] = field(default_factory=dict)
    silent_guests: bool = False
    die_at: tuple[int, str] | None = None
    fail_at: int | None = None
    on_call: Callable[[str], None] = lambda method: None
    calls_made: int = 0
    log: list[str] = field(default_factory=list)
    registered: int = 0

    def golden(self, image: str, size_mb: int = 2048, datastore: str = "nfs1", library: str = "golden") -> None:
        directory = f"[{datastore}] {library}/{image}"
        self.directories.add(directory)
        path = f"{directory}/{image}.vmdk"
        self.disks[path] = DiskInfo(path, "lsilogic", "vmfs", size_mb, _extents(path, size_mb), thin=True)

    def paths(self) -> list[str]:
        """Everything on the datastore."""
        return sorted([*self.files, *self.disks, *self.directories])


@dataclass
class FakeClock:
    world: World

    def now(self) -> datetime:
        return self.world.now

    def monotonic(self) -> float:
        return self.world.now.timestamp()

    def wait(self, seconds: float) -> bool:
        self.world.now += timedelta(seconds=seconds)
        return False


@dataclass
class FakeHypervisor:
    """One endpoint with one host."""

    world: World
    name: str
    ram_mb: int = 16384
    networks: tuple[str, ...] = ("Private", "Public")
    maintenance: bool = False
    uuid: str = ""
    booted_at: datetime | None = datetime(2026, 11, 20, 4, 0, 0, 250_000, tzinfo=UTC)
    nested: bool = False

    def _answer(self) -> None:
        if self.name in self.world.down:
            raise ProvisioningError("host_unavailable", f"{self.name} does not answer", retryable=True, host=self.name)

    def look(self) -> Look:
        return Look(self.name, tuple(self.hosts()), tuple(self.vms()))

    @port
    def hosts(self) -> list[Host]:
        self._answer()
        used = sum(vm.ram_mb for vm in self.world.vms if vm.endpoint == self.name and vm.power is PowerState.ON)
        return [
            Host(
                HostKey(self.name, "ha-host"),
                self.name,
                "connected",
                self.maintenance,
                self.ram_mb,
                1024 + used,
                16,
                tuple(map(self._datastore, self.world.datastores)),
                self.networks,
                uuid=self.uuid or f"uuid-of-{self.name}",
                booted_at=self.booted_at,
                nested=self.nested,
            )
        ]

    def _datastore(self, name: str) -> Datastore:
        return Datastore(name, self.world.free_mb, 1_000_000)

    @port
    def datastore(self, name: str) -> Datastore:
        self._answer()
        return self._datastore(name)

    @port
    def vms(self) -> list[Vm]:
        self._answer()
        return [vm for vm in self.world.vms if vm.endpoint == self.name]

    @port
    def find_vm(self, vmx_path: str) -> Vm | None:
        self._answer()
        return self._find(vmx_path)

    def _find(self, vmx_path: str) -> Vm | None:
        return next((vm for vm in self.world.vms if vm.endpoint == self.name and vm.vmx_path == vmx_path), None)

    @port
    def nics(self, vm: Vm) -> list[Nic]:
        self._answer()
        return self.world.nics[vm.moid]

    @port
    def guest_addresses(self, vm: Vm) -> list[tuple[str, str]]:
        self._answer()
        return self.world.guest_addresses.get(vm.moid, [])

    @port
    def disks(self, vm: Vm) -> list[str]:
        self._answer()
        return self.world.vm_disks[vm.moid]

    @port
    def condition(self, vm: Vm) -> Condition:
        self._answer()
        found = self._find(vm.vmx_path)
        if found is None:
            raise ProvisioningError("vm_not_found", f"{vm.name} is not registered on {self.name} any more")
        ordinary = Condition(
            found.power,
            tuple(
                AttachedDisk(path, "persistent", self.world.controllers.get(vm.moid, "lsilogic"))
                for path in self.world.vm_disks[vm.moid]
            ),
            tuple(self.world.snapshots.get(vm.moid, ())),
        )
        return replace(ordinary, **self.world.conditions.get(vm.moid, {}))

    @port
    def power_state(self, vm: Vm) -> PowerState | None:
        self._answer()
        found = self._find(vm.vmx_path)
        return found.power if found else None

    @port
    def register(self, vmx_path: str, name: str, host_moid: str) -> Vm:
        self._answer()
        existing = self._find(vmx_path)
        if existing:
            return existing
        keys = dict(line.split(" = ", 1) for line in self.world.files[vmx_path].decode().splitlines() if " = " in line)
        text = {key: value.strip('"') for key, value in keys.items()}
        self.world.registered += 1
        moid = f"vm-{self.world.registered}"
        vm = Vm(
            self.name,
            moid,
            name,
            host_moid,
            vmx_path,
            PowerState.OFF,
            int(text["memSize"]),
            int(text["numvcpus"]),
            text["annotation"],
            f"uuid-{moid}",
        )
        self.world.vms.append(vm)
        self.world.nics[moid] = [
            Nic(
                text.get(f"ethernet{i}.address", f"00:0c:29:00:00:{self.world.registered:02x}"),
                text[f"ethernet{i}.networkName"],
            )
            for i in range(4)
            if f"ethernet{i}.present" in text
        ]
        bus = "ide0" if "ide0:0.fileName" in text else "scsi0"
        self.world.controllers[moid] = {"scsi0": "lsilogic", "ide0": "ide"}[bus]
        if text.get("scsi0.virtualDev") == "buslogic":
            self.world.controllers[moid] = "buslogic"
        disk = text[f"{bus}:0.fileName"]
        if disk.startswith("/vmfs/volumes/"):
            datastore, _, rest = disk.removeprefix("/vmfs/volumes/").partition("/")
            self.world.vm_disks[moid] = [f"[{datastore}] {rest}"]
        else:
            self.world.vm_disks[moid] = [f"{vmx_path.rpartition('/')[0]}/{disk}"]
        return vm

    @port
    def unregister(self, vm: Vm) -> None:
        self._answer()
        self.world.vms = [other for other in self.world.vms if other.moid != vm.moid]

    @port
    def snapshot_before_first_power_on(self, vm: Vm) -> None:
        self._answer()
        golden = self.world.disks[self.world.vm_disks[vm.moid][0]]
        in_own = b'snapshot.redoNotWithParent = "TRUE"' in self.world.files[vm.vmx_path]
        directory = (vm.vmx_path if in_own else golden.path).rpartition("/")[0]
        path = f"{directory}/{golden.path.rpartition('/')[2][:-5]}-000001.vmdk"
        # ESXi does not write an adapter into a redo disk's descriptor, and it reads as this.
        self.world.disks[path] = replace(
            golden,
            path=path,
            parent=golden.path,
            adapter="lsilogic",
            create_type="vmfsSparse",
            extents=_extents(path, golden.capacity_mb, "delta"),
        )
        self.world.vm_disks[vm.moid] = [path]
        self.world.snapshots[vm.moid] = ["esxprov-base"]

    @port
    def power_on(self, vm: Vm, *, moved: bool = False) -> None:
        self._answer()
        if self.name in self.world.refuses:
            raise self.world.refuses[self.name]
        same = (vm.vmx_path, vm.annotation)  # another annotation: the directory was deleted, and these are other files
        running = [one for one in self.world.vms if one.power is PowerState.ON]
        if any((one.vmx_path, one.annotation) == same and one.endpoint != self.name for one in running):
            raise ProvisioningError("vsphere_fault", "a file is locked", retryable=True, detail={"locked": True})
        if moved:
            self.world.moved.append(vm.moid)
        self._set_power(vm, PowerState.ON)

    @port
    def shutdown_guest(self, vm: Vm) -> bool:
        self._answer()
        found = self._find(vm.vmx_path)
        if found is None:
            raise ProvisioningError("vm_not_found", f"{vm.name} is not registered on {self.name} any more")
        if vm.moid in self.world.deaf_guests or found.power is not PowerState.ON:
            return False
        self._set_power(vm, PowerState.OFF)
        return True

    @port
    def power_off(self, vm: Vm) -> None:
        self._answer()
        self._set_power(vm, PowerState.OFF)

    @port
    def reset(self, vm: Vm) -> None:
        self._answer()
        self._set_power(vm, PowerState.OFF)
        self._set_power(vm, PowerState.ON)

    def _set_power(self, vm: Vm, power: PowerState) -> None:
        before = self._find(vm.vmx_path)
        if before is None or before.power is power:
            return
        self.world.vms = [replace(v, power=power) if v.moid == vm.moid else v for v in self.world.vms]
        if power is PowerState.ON and not self.world.silent_guests:
            mac = self.world.nics[vm.moid][0].mac
            self.world.now += timedelta(seconds=1)
            at = self.world.now.timestamp()
            lease = Lease(f"10.77.1.{len(self.world.leases) + 1}", mac, "active", int(at), int(at) + 7200)
            self.world.leases.append((at, lease))

    @port
    def disk(self, path: str) -> DiskInfo | None:
        self._answer()
        datastore = path.removeprefix("[").partition("]")[0]
        if datastore not in self.world.datastores and path not in self.world.disks:
            raise ProvisioningError("vsphere_fault", f"{self.name} has no datastore {datastore!r}")
        return self.world.disks.get(path)

    @port
    def copy_disk(self, source: str, target: str, *, adapter: str, progress: Progress) -> None:
        self._answer()
        if target in self.world.disks:
            raise ProvisioningError("image_exists", f"{target} exists")
        progress(50)
        original = self.world.disks[source]
        if not original.create_type.startswith("vmfs") and not self.world.reads_workstations:
            raise ProvisioningError(
                "vsphere_fault", f"{self.name} does not copy {source}", detail={"fault": "InvalidDiskFormat"}
            )
        capacity_mb = original.capacity_mb
        copy = DiskInfo(target, adapter, "vmfs", capacity_mb, _extents(target, capacity_mb), thin=True)
        if self.world.is_vcenter:
            copy = replace(copy, adapter=original.adapter, create_type=original.create_type, thin=original.thin)
        self.world.disks[target] = copy

    @port
    def move_disk(self, source: str, target: str) -> None:
        self._answer()
        moved = self.world.disks.pop(source)
        self.world.disks[target] = replace(moved, path=target, extents=_extents(target, moved.capacity_mb))

    @port
    def allocated_mb(self, disk_path: str) -> int | None:
        self._answer()
        if disk_path not in self.world.disks:
            return None
        return self.world.allocated.get(disk_path, self.world.disks[disk_path].capacity_mb)

    @port
    def list_directory(self, path: str) -> list[FileEntry] | None:
        self._answer()
        below = [d for d in self.world.directories if d.startswith(f"{path}/")]
        if path not in self.world.directories and not below:
            return None
        inside = dict.fromkeys([*self.world.files, *self.world.disks], 1024)
        for disk in self.world.disks.values():
            inside |= {f"{disk.path.rpartition('/')[0]}/{part.name}": part.size_bytes for part in disk.extents}
        here = {p.removeprefix(path + "/"): size for p, size in inside.items() if p.startswith(path + "/")}
        directories = {d.removeprefix(f"{path}/").partition("/")[0] for d in below}
        return [FileEntry(name, 0, is_directory=True) for name in sorted(directories)] + [
            FileEntry(name, size, is_directory=False) for name, size in here.items() if "/" not in name
        ]

    @port
    def make_directory(self, path: str) -> None:
        self._answer()
        self.world.directories.add(path)

    @port
    def move_directory(self, source: str, target: str) -> None:
        self._answer()
        if source not in self.world.directories:
            if target in self.world.directories:
                return  # an earlier try has moved it, and its answer was lost
            raise ProvisioningError("vsphere_fault", f"{source} is missing")
        if target in self.world.directories:
            raise ProvisioningError("image_exists", f"{target} exists")
        self.world.files = {_moved(path, source, target): content for path, content in self.world.files.items()}
        self.world.disks = {
            _moved(path, source, target): replace(disk, path=_moved(path, source, target))
            for path, disk in self.world.disks.items()
        }
        self.world.directories = {_moved(path, source, target) for path in self.world.directories}

    @port
    def delete(self, path: str) -> None:
        self._answer()
        for kept in (self.world.files, self.world.disks):
            for key in [key for key in kept if key == path or key.startswith(path + "/")]:
                del kept[key]
        self.world.directories = {d for d in self.world.directories if d != path and not d.startswith(path + "/")}

    @port
    def read_file(self, path: str) -> bytes | None:
        self._answer()
        if path in self.world.disks:
            disk = self.world.disks[path]
            return f"descriptor of {disk.capacity_mb} MB for {disk.adapter}".encode()
        return self.world.files.get(path)

    @port
    def write_file(self, path: str, content: bytes) -> None:
        self._answer()
        self.world.files[path] = content

    def health(self) -> Health:
        self._answer()
        return Health("8.0.0", "1", "", 0.0, None)


def _extents(path: str, capacity_mb: int, kind: str = "flat") -> tuple[Extent, ...]:
    """The one file beside a descriptor that has the disk's content."""
    return (Extent(f"{path.rpartition('/')[2][:-5]}-{kind}.vmdk", capacity_mb * 1024 * 1024),)


def _moved(path: str, source: str, target: str) -> str:
    return target + path.removeprefix(source) if path == source or path.startswith(source + "/") else path


@dataclass
class FakeHypervisors:
    endpoints: dict[str, FakeHypervisor]

    def endpoint(self, name: str) -> FakeHypervisor:
        if name not in self.endpoints:
            raise ProvisioningError("host_unavailable", f"the endpoint {name} is not configured any more")
        return self.endpoints[name]


@dataclass
class FakeLeases:
    world: World

    def arm(self, mac: str | None) -> Armed:
        return Armed(self.world.now.timestamp(), (len(self.world.leases),))

    def rearm(self, mac: str | None, at: float) -> Armed:
        return Armed(at)

    @port
    def end_old(self, mac: str) -> None:
        self.world.ended.append(mac)

    @port
    def wait(
        self,
        mac: str,
        armed: Armed,
        timeout_s: float,
        cancelled: Callable[[], bool],
        guest: GuestAddresses | None = None,
    ) -> Lease:
        for number, (at, lease) in enumerate(self.world.leases):
            fresh = number >= armed.marks[0] if armed.marks else at >= armed.at - 2
            if lease.mac == mac and fresh and lease.ip not in self.world.declined:
                return lease
        for card, ip in guest() if guest else ():
            if card == mac:
                return Lease(ip, mac, "active", None, None, evidence="vmware-tools")
        self.world.now += timedelta(seconds=timeout_s)
        raise ProvisioningError("ip_not_seen", f"no lease of {mac}")

    @port
    def look_again(self, lease: Lease, armed: Armed) -> Lease | None:
        return None if lease.ip in self.world.declined else lease


@dataclass
class FakeInventory:
    world: World
    addresses: dict[int, str] = field(default_factory=dict)
    known: dict[str, int] = field(default_factory=lambda: {"esx1": 11, "esx2": 12, "esx3": 13})
    promises: list[Promised] = field(default_factory=list)
    revised: list[Revision] = field(default_factory=list)
    profiles: dict[str, Profile] = field(default_factory=dict)
    """Those of other pools."""

    def vmhost_id(self, host_name: str, profile_id: int) -> int | None:
        return self.known.get(host_name)

    def profile(self, name: str) -> Profile | None:
        own = Profile(4, name, "nfs1", networks=("Private", "Public")) if name == POOL.profile else None
        return self.profiles.get(name, own)

    def image_sizes(self) -> list[tuple[int, int, int]]:
        return [(1024, 1, 1), (4096, 2, 1)]

    def images(self) -> list[CatalogueImage]:
        return IMAGES

    def members(self, reservation_id: int, profile: str) -> list[Promised]:
        group = next((one.group for one in self.promises if one.reservation_id == reservation_id), None)
        return [one for one in self.promises if one.group == group]

    def promised(self, profile: str) -> list[Promised]:
        return self.promises

    def revisions(self) -> list[Revision]:
        return self.revised

    @port
    def set_private_address(self, computer_id: int, address: str) -> bool:
        changed = self.addresses.get(computer_id) != address
        self.addresses[computer_id] = address
        return changed


@dataclass
class FakeClaims:
    """The claims in memory, with the promises of esxprov.placement.claims.Claims."""

    world: World
    held: list[Claim] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)

    @port
    def take(self, want: Want[D]) -> Taken[D]:
        ledger = self.ledger
        ledger.replace_all(self.held)
        if (claim := held_by(ledger, want)) is not None:
            return Taken(None, claim)
        if (claim := waiting_for(ledger, want)) is not None:
            adopted = replace(claim, event_id=want.event_id)
            self.held = [adopted if one is claim else one for one in self.held]
            return Taken(None, adopted)
        proposal, hint = want.decide(ledger, None), None
        while isinstance(proposal, Later):
            hint = proposal.work()
            proposal = want.decide(ledger, hint)
        rooms = named(want, proposal)
        self.held += [room.claim for room in rooms]
        return taken(want, proposal, rooms)

    @port
    def release(self, claim_id: str, evidence: str = "") -> None:
        self.held = [claim for claim in self.held if claim.id != claim_id]

    @port
    def mark(self, claim_id: str, state: ClaimState) -> None:
        self.held = [replace(claim, state=state) if claim.id == claim_id else claim for claim in self.held]

    def books(self) -> Books:
        return Books(tuple(Held(claim) for claim in self.held), {})

    @port
    def correct(self, corrections: Sequence[Correction]) -> list[Correction]:
        done = [one for one in corrections if one.before in self.held]
        for one in done:
            self.held = [claim for claim in self.held if claim.id != one.id] + ([one.after] if one.after else [])
        return done

    def of_computer(self, computer_id: int) -> list[Claim]:
        return [claim for claim in self.held if claim.computer_id == computer_id]

    def of_pool(self, pool: str) -> list[Claim]:
        return [claim for claim in self.held if claim.pool == pool]

    def all(self) -> list[Claim]:
        return list(self.held)


@dataclass
class FakeImages:
    """Who works on which image, with the promises of esxprov.library.locks.ImageLocks. `ended` and `abandoned` are ids
    of events; those which are in neither are being worked on.
    """

    world: World
    held: dict[tuple[str, str], ImageWork] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    abandoned: set[str] = field(default_factory=set)

    @port
    def take(self, work: ImageWork, *, held_s: int | None = None, over: str | None = None) -> Busy | None:
        holder = self.held.get((work.datastore, work.image))
        if holder is not None and holder.event_id not in (work.event_id, over if over in self.abandoned else None):
            return Busy(holder, holder.event_id in self.abandoned, holder.event_id in self.ended)
        self.held.pop((work.datastore, work.image), None)
        self.held[work.datastore, work.image] = work  # in the order in which they were begun
        return None

    @port
    def done(self, work: ImageWork) -> None:
        holder = self.held.get((work.datastore, work.image))
        if holder is not None and holder.event_id == work.event_id:
            del self.held[work.datastore, work.image]

    def stale(self) -> list[ImageWork]:
        return [work for work in self.held.values() if work.event_id in self.ended]

    def of_datastore(self, datastore: str) -> list[ImageWork]:
        return [work for work in self.held.values() if work.datastore == datastore]


@dataclass
class FakeMachines:
    """What is written down for the hosts, with the promises of esxprov.machines.Machines."""

    world: World
    claims: FakeClaims
    known: dict[str, Machine] = field(default_factory=dict)
    known_hosts: dict[str, KnownHost] = field(default_factory=dict)

    @port
    def record(self, machine: Machine) -> None:
        self.known[machine.claim_id] = machine

    @port
    def switched(self, claim_id: str, *, is_on: bool) -> None:
        if claim_id in self.known:
            self.known[claim_id] = replace(self.known[claim_id], is_on=is_on)

    @port
    def armed(self, claim_id: str, at: float | None) -> None:
        if claim_id in self.known:
            self.known[claim_id] = replace(self.known[claim_id], armed_at=at)

    def of(self, claim_id: str) -> Machine | None:
        return next((machine for machine in self.all() if machine.claim_id == claim_id), None)

    def all(self) -> list[Machine]:
        held = {claim.id for claim in self.claims.held}
        return [machine for machine in self.known.values() if machine.claim_id in held]

    def hosts(self) -> list[KnownHost]:
        return list(self.known_hosts.values())

    @port
    def seen(self, host: Host) -> None:
        assert host.booted_at is not None
        for uuid, other in self.known_hosts.items():
            if other.key == host.key:
                self.known_hosts[uuid] = replace(other, key=HostKey("", ""))
        self.known_hosts[host.uuid] = KnownHost(host.uuid, host.key, host.booted_at, 0, is_recovered=False)

    @port
    def recovered(self, host: Host) -> None:
        if self.known_hosts[host.uuid].booted_at == host.booted_at:
            self.known_hosts[host.uuid] = replace(self.known_hosts[host.uuid], is_recovered=True)


@dataclass
class FakeQuarantine:
    """Hosts that are not chosen, until they succeed."""

    hosts: dict[HostKey, str] = field(default_factory=dict)

    def put(self, host: HostKey, reason: str, image: str = "") -> None:
        self.hosts[host] = reason

    def of(self, image: str) -> dict[HostKey, str]:
        return dict(self.hosts)

    def clear(self, host: HostKey, image: str) -> None:
        self.hosts.pop(host, None)


@dataclass
class FakeLooks:
    """One endpoint after the other, in the caller's thread, where a call may be the last one."""

    hypervisors: dict[str, FakeHypervisor]
    remembered: list[Look] | None = None
    """What somebody else was told just now."""

    def at(self, endpoints: Sequence[str], *, recent: bool = False, within_s: float | None = None) -> list[Look]:
        if recent and self.remembered is not None:
            return [look for look in self.remembered if look.endpoint in endpoints]
        looks = []
        for name in endpoints:
            try:
                looks.append(self.hypervisors[name].look())
            except ProvisioningError as error:
                looks.append(Look(name, problem=error.message))
        return looks

    def ask(self, endpoints: Sequence[str], question: Callable[[Any], T]) -> list[tuple[str, T | ProvisioningError]]:
        answers: list[tuple[str, T | ProvisioningError]] = []
        for name in endpoints:
            try:
                answers.append((name, question(self.hypervisors[name])))
            except ProvisioningError as error:
                answers.append((name, error))
        return answers


@dataclass
class FakePools:
    pool: Pool
    others: tuple[Pool, ...] = ()

    def of(self, profile: Profile) -> Pool:
        return self.pool

    def all(self) -> list[Pool]:
        return [self.pool, *self.others]


IMAGES = [
    CatalogueImage("vmwarelinux-base9-v3", "Base", 1024, 1, 2048),
    CatalogueImage("vmwarewin10-office5-v0", "Windows 10 with Office", 4096, 2, 20_480),
]
IMAGE = "vmwarelinux-base9-v3"
POOL = Pool("main", ("esx1", "esx2", "esx3"), "blades")


@dataclass
class Site:
    """A whole site: three hosts, one image, and a way to run handlers on it as the service would."""

    world: World = field(default_factory=World)
    pool: Pool = POOL

    def __post_init__(self) -> None:
        self.hypervisors = {name: FakeHypervisor(self.world, name) for name in self.pool.endpoints}
        self.claims = FakeClaims(self.world)
        self.quarantine = FakeQuarantine()
        self.looks = FakeLooks(self.hypervisors)
        self.inventory = FakeInventory(self.world)
        self.images = FakeImages(self.world)
        self.machines = FakeMachines(self.world, self.claims)
        self.tools = Tools(
            FakeHypervisors(self.hypervisors),
            self.looks,
            FakePools(self.pool),
            self.claims,
            self.quarantine,
            FakeLeases(self.world),
            self.inventory,
            Placers(),
            self.images,
            self.machines,
        )
        self.world.golden(IMAGE)

    def event(self, call: str, **changes: Any) -> Event:
        """A request like the golden one, with sections changed: `image={"name": ...}`."""
        data = decode((EXAMPLES / f"vcl.{call}.requested.v1.json").read_bytes()).data
        for section, values in changes.items():
            data[section] = {**data[section], **values} if isinstance(values, dict) else values
        return request(call, source="urn:vcl:mn:mn1", data=data, now=self.world.now)

    def job(self, event: Event, book: StoredSteps | None = None, epoch: int = 1) -> Job:
        book = book or StoredSteps()
        clock = FakeClock(self.world)
        return Job(event, read(event), book=book, notify=_ignore, clock=clock, steps=book.read(), epoch=epoch)

    def run(self, event: Event) -> dict[str, Any]:
        return CALLS[event.call].run(self.job(event), self.tools)

    def run_until_done(self, event: Event) -> dict[str, Any]:
        """As services would that take over from each other: each begins with the steps that were written down."""
        book = StoredSteps()
        try:
            return CALLS[event.call].run(self.job(event, book), self.tools)
        except Died:
            self.world.die_at = None
            return CALLS[event.call].run(self.job(event, book, epoch=2), self.tools)


def loaded(**pool: Any) -> Site:
    """A site with one loaded computer; `pool` changes its pool."""
    site = Site(pool=replace(POOL, **pool))
    site.run(site.event("load"))
    return site


class StoredSteps:
    """The journal's row: what survives when the process dies."""

    def __init__(self) -> None:
        self._written = "{}"
        self.decision: dict[str, Any] = {}

    def read(self) -> dict[str, Any]:
        steps: dict[str, Any] = json.loads(self._written)
        return steps

    def step(self, name: str, steps: dict[str, Any], decision: dict[str, Any] | None) -> None:
        self._written = json.dumps(steps)
        if decision is not None:
            self.decision = json.loads(json.dumps(decision))


def _ignore(step: str, message: str, loadstate: str | None, percent: int | None) -> None:
    """Nobody listens."""
