"""What handlers ask of the world, as small Protocols shaped by the question.

The adapters behind them are vsphere, database, leases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar

from esxprov.errors import ProvisioningError
from esxprov.model import (
    CatalogueImage,
    Claim,
    ClaimState,
    Condition,
    Datastore,
    DiskInfo,
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
from esxprov.placement.placer import Placers
from esxprov.placement.wants import Taken, Want

D = TypeVar("D")
T = TypeVar("T")


class Clock(Protocol):
    """Time, so that tests own it."""

    def now(self) -> datetime:
        """Aware UTC wall clock, for what is written down and compared with other machines."""

    def monotonic(self) -> float:
        """Seconds for measuring waits."""

    def wait(self, seconds: float) -> bool:
        """Sleep; True if the wait was cut short because the work shall stop."""


Progress = Callable[[int], None]
"""Called with a percentage while a long task runs; may raise to abandon the task (it is cancelled where vSphere can).
"""


class Hypervisor(Protocol):
    """One endpoint (an ESXi host or a vCenter), as handlers use it.

    Paths are `[datastore] directory/file`. Every method raises ProvisioningError only: `host_unavailable` (retryable)
    if the endpoint does not answer, `vsphere_auth` for refused credentials or certificate, `datastore_full`,
    `vsphere_fault` with the fault's name in `detail`. Where an answer may be lost after its effect, the method looks
    before it does it again, so calling twice is safe.
    """

    name: str

    def look(self) -> Look:
        """All hosts and VMs of the endpoint, in one question."""

    def hosts(self) -> list[Host]:
        """All hosts of the endpoint with live figures."""

    def vms(self) -> list[Vm]:
        """All VMs of the endpoint, without their devices. Of one whose datastore is away little is known: its
        `vmx_path` is empty.
        """

    def find_vm(self, vmx_path: str) -> Vm | None:
        """The VM registered with this VMX."""

    def nics(self, vm: Vm) -> list[Nic]:
        """The VM's network cards in slot order, with MACs as the hypervisor knows them."""

    def guest_addresses(self, vm: Vm) -> list[tuple[str, str]]:
        """(MAC, IPv4 address) of the guest's cards, as VMware Tools in it say; empty as long as they say nothing."""

    def disks(self, vm: Vm) -> list[str]:
        """The paths of the VM's virtual disks, as it writes them now (the redo disk of a linked VM)."""

    def condition(self, vm: Vm) -> Condition:
        """What decides whether the VM's disk can be captured, in one question. A VM that is gone is `vm_not_found`."""

    def power_state(self, vm: Vm) -> PowerState | None:
        """None if the VM is gone."""

    def register(self, vmx_path: str, name: str, host_moid: str) -> Vm:
        """Register a VMX on a host; a VM already registered with that path is returned as it is."""

    def unregister(self, vm: Vm) -> None:
        """Forget the VM, leave its files. Gone already is fine."""

    def snapshot_before_first_power_on(self, vm: Vm) -> None:
        """Give the VM a redo disk in its own directory, so that the disk its VMX names is never written."""

    def power_on(self, vm: Vm, *, moved: bool = False) -> None:
        """Already on is fine. Refused admission raises `no_capacity` with `host` set.

        A VM that asks whether it was moved or copied is told so: `moved` keeps its uuid and generated MACs, which is
        right for one that was registered anew where it lay; a copy gets new ones. Any other question is an error with
        its text.
        """

    def shutdown_guest(self, vm: Vm) -> bool:
        """Ask the guest to shut down; it does so when it likes, if at all. False if it cannot be asked: VMware Tools
        do not run in it, or it is not on.
        """

    def power_off(self, vm: Vm) -> None:
        """Pull the plug and wait until it is off. Already off is fine."""

    def reset(self, vm: Vm) -> None:
        """Hard reset of a running VM; a VM that is off is powered on."""

    def disk(self, path: str) -> DiskInfo | None:
        """The descriptor of a vmdk, None if there is no such file."""

    def allocated_mb(self, disk_path: str) -> int | None:
        """What a disk (of a chain its own layer only) occupies on its datastore; None if nobody can tell, or there is
        no such disk.
        """

    def datastore(self, name: str) -> Datastore:
        """A datastore with its free space as it is now, not as it was when a host last looked."""

    def copy_disk(self, source: str, target: str, *, adapter: str, progress: Progress) -> None:
        """Copy a virtual disk (consolidating a chain) to a new, thin one. An existing target raises `image_exists`."""

    def move_disk(self, source: str, target: str) -> None:
        """Rename a virtual disk within its datastore."""

    def list_directory(self, path: str) -> list[FileEntry] | None:
        """The entries of a directory, None if it does not exist."""

    def make_directory(self, path: str) -> None:
        """With parents; existing is fine."""

    def move_directory(self, source: str, target: str) -> None:
        """Rename a directory; an existing target raises `image_exists`."""

    def delete(self, path: str) -> None:
        """Remove a file, disk or directory with all it holds; gone already is fine."""

    def read_file(self, path: str) -> bytes | None:
        """A small file's content, None if it does not exist."""

    def write_file(self, path: str, content: bytes) -> None:
        """Write a small file whole."""

    def health(self) -> Health:
        """What the endpoint says of itself. One login; changes nothing."""


class Hypervisors(Protocol):
    """All configured endpoints by name."""

    def endpoint(self, name: str) -> Hypervisor:
        """The endpoint's adapter for this thread (a vSphere session belongs to one worker)."""


class ClaimBook(Protocol):
    """Capacity held for computers."""

    def take(self, want: Want[D]) -> Taken[D]:
        """Decide and claim in one step; an event that holds a claim gets that one, a reservation for which one waits
        gets that, and there is no new decision.
        """

    def release(self, claim_id: str, evidence: str = "") -> None:
        """Give the capacity back. Released already is fine. `evidence` says how we know that it is free."""

    def mark(self, claim_id: str, state: ClaimState) -> None:
        """Change a claim's state; its capacity stays taken."""

    def of_computer(self, computer_id: int) -> list[Claim]:
        """All claims of a computer."""

    def of_pool(self, pool: str) -> list[Claim]:
        """All claims of a pool."""

    def all(self) -> list[Claim]:
        """The claims of all pools: two of them may share a host."""


class MachineBook(Protocol):
    """Where the VMs of claims lie and whether they were on, and which hosts there are: what a host that boots from the
    network does not remember.
    """

    def record(self, machine: Machine) -> None:
        """Write it down, over what was known of the same claim."""

    def switched(self, claim_id: str, *, is_on: bool) -> None:
        """The VM was switched on or off. Unknown is fine."""

    def armed(self, claim_id: str, at: float | None) -> None:
        """Since when its new address is waited for; None: not any more."""

    def of(self, claim_id: str) -> Machine | None:
        """What is known of the claim's VM."""

    def all(self) -> list[Machine]:
        """The VMs of all claims that are held."""

    def hosts(self) -> list[KnownHost]:
        """All hosts that were ever seen."""

    def seen(self, host: Host) -> None:
        """A host that is new, has another key, or has booted again: from now on it is one to recover."""

    def recovered(self, host: Host) -> None:
        """Nothing is left to be put right on it since this boot. One that has booted again meanwhile is not meant."""


class Quarantine(Protocol):
    """Hosts that failed to switch a VM on, and are not chosen for a while."""

    def put(self, host: HostKey, reason: str, image: str = "") -> None:
        """The host failed; with `image` it is kept from that image only."""

    def of(self, image: str) -> Mapping[HostKey, str]:
        """The hosts that are not to be chosen for an image now, and why."""

    def clear(self, host: HostKey, image: str) -> None:
        """The host has switched a VM of this image on."""


@dataclass(frozen=True, slots=True)
class Look:
    """What an endpoint said of its hosts and VMs; `problem` says why it did not, and for how long it has not.

    `seen_at` (time.monotonic) is when the endpoint last confirmed it: when a fresh look began, or when the last answer
    to the watch came. Some of what a watch holds (free space, figures of use) the endpoint tells late or never: that
    is as old as the last poll, at most its interval.
    """

    endpoint: str
    hosts: tuple[Host, ...] = ()
    vms: tuple[Vm, ...] = ()
    problem: str | None = None
    seen_at: float = 0.0

    def age_s(self, now: float) -> float:
        """How old it is at the monotonic time `now`."""
        return max(0.0, now - self.seen_at)


class Looks(Protocol):
    """Asking endpoints what they have."""

    def at(self, endpoints: Sequence[str], *, recent: bool = False, within_s: float | None = None) -> list[Look]:
        """What they have now, in the order of `endpoints`; each is asked, and what is watched is corrected by it. One
        that has not answered within `within_s` is a problem, too.

        `recent` makes do with what is known without asking: from the watch, or because somebody else was told just
        now. Of an endpoint that is known to be silent it says so at once. Who asks at the same time may get the same
        answer.
        """

    def ask(
        self, endpoints: Sequence[str], question: Callable[[Hypervisor], T]
    ) -> list[tuple[str, T | ProvisioningError]]:
        """Each endpoint's name and answer, or why it has none; the question goes to all of them side by side."""


class Watches(Protocol):
    """What is known of endpoints without asking them, kept current by what they tell."""

    def look(self, endpoint: str) -> Look | None:
        """What is known; a look with a problem if the endpoint is known to be silent; None if it must be asked."""


@dataclass(frozen=True, slots=True)
class Armed:
    """The moment (epoch seconds) after which leases are fresh, and what each place where they are seen notes of it."""

    at: float
    marks: tuple[Any, ...] = ()


GuestAddresses = Callable[[], Sequence[tuple[str, str]]]
"""Asks a guest for (MAC, IPv4 address) of its cards. Raises ProvisioningError if its host does not answer."""


class LeaseSource(Protocol):
    """Fresh DHCP leases."""

    def arm(self, mac: str | None) -> Armed:
        """Now, before power-on: only what is recorded later is fresh. The MAC, if known, is that of the VM."""

    def rearm(self, mac: str | None, at: float) -> Armed:
        """What an earlier process armed at that time: what its reader counted is gone, so times decide."""

    def end_old(self, mac: str) -> None:
        """End what leases a MAC has, if that can be done, so that the next one is new. Only for a VM that is off."""

    def wait(
        self,
        mac: str,
        armed: Armed,
        timeout_s: float,
        cancelled: Callable[[], bool],
        guest: GuestAddresses | None = None,
    ) -> Lease:
        """The fresh lease of a MAC, with the evidence for it. `guest` may be asked where nothing else tells.

        ProvisioningError `ip_not_seen` at the timeout, `cancelled` if `cancelled()` is true.
        """

    def look_again(self, lease: Lease, armed: Armed) -> Lease | None:
        """What `wait` has answered, as it is now: itself or a newer one, None if it was taken back. Right before the
        address is relied on, as a guest that finds it in use declines it shortly after it was given.
        """


@dataclass(frozen=True, slots=True)
class Busy:
    """Somebody else has an image. `has_ended`: but will never finish it, so that what it left may be removed.
    `is_abandoned`: it is to be finished by the next service, but nobody works on it now.
    """

    work: ImageWork
    is_abandoned: bool
    has_ended: bool


class ImageLocks(Protocol):
    """Who works on which image of a library: one event at a time for each datastore and image.

    The lock saves work; nothing but it would be lost without: everybody writes into a directory of its own.
    """

    def take(self, work: ImageWork, *, held_s: int | None = None, over: str | None = None) -> Busy | None:
        """None: the image is `work.event_id`'s, also if it was so already. Otherwise who has it.

        `over` takes it from that event, if it still has it and nobody works on it. `held_s` is for who has no event.
        """

    def done(self, work: ImageWork) -> None:
        """Give the image back, and no longer remember `work.path`. Not ours any more is fine."""

    def stale(self) -> list[ImageWork]:
        """What nobody will finish."""

    def of_datastore(self, datastore: str) -> list[ImageWork]:
        """All that is being written to the libraries on a datastore, in the order in which it was begun."""


class Inventory(Protocol):
    """VCL's own tables: what handlers read there, and the one thing that the service writes."""

    def vmhost_id(self, host_name: str, profile_id: int) -> int | None:
        """vmhost.id of the hypervisor whose computer row has this host name, None if VCL does not know it."""

    def profile(self, name: str) -> Profile | None:
        """VCL's VM host profile of that name."""

    def image_sizes(self) -> list[tuple[int, int, int]]:
        """(RAM in MB, vCPUs, how often it was asked for lately, and once more) of every image VCL could ask for."""

    def images(self) -> list[CatalogueImage]:
        """Every image VCL could ask for, by name."""

    def members(self, reservation_id: int, profile: str) -> list[Promised]:
        """What VCL gave to the request of a reservation, that one included, on computers of a VM host profile that the
        same engine provisions. Images go by the names of their revisions. Empty if VCL does not know the reservation.
        """

    def promised(self, profile: str) -> list[Promised]:
        """What VCL has promised on the computers of a VM host profile, now and later, the earliest first."""

    def revisions(self) -> list[Revision]:
        """Every revision of every image that VCL knows, deleted ones too, by the names of their directories."""

    def set_private_address(self, computer_id: int, address: str) -> bool:
        """Write a computer's private address, and take it from any other that the same engine provisions. False if
        it was known.
        """


class Pools(Protocol):
    """The configured pools."""

    def of(self, profile: Profile) -> Pool:
        """The pool with that VM host profile; ProvisioningError `invalid_event` naming the setting to write if there
        is none.
        """

    def all(self) -> Sequence[Pool]:
        """Every pool."""


@dataclass(frozen=True, slots=True)
class Tools:
    """Everything a handler may use of the world."""

    hypervisors: Hypervisors
    looks: Looks
    pools: Pools
    claims: ClaimBook
    quarantine: Quarantine
    leases: LeaseSource
    inventory: Inventory
    placers: Placers
    images: ImageLocks
    machines: MachineBook
