"""What the product talks about: frozen values that cross the seams. No behaviour that needs the world."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path


class PowerState(StrEnum):
    ON = "on"
    OFF = "off"
    SUSPENDED = "suspended"


class DiskMode(StrEnum):
    """How a VM gets its disk: an own full copy, or a redo disk in its own directory over the golden one."""

    COPY = "copy"
    LINKED = "linked"


class ClusterAffinity(StrEnum):
    """How the VMs of one request shall stand to each other. A preference is given up before the request is."""

    NONE = "none"
    PREFER_APART = "prefer-apart"
    PREFER_TOGETHER = "prefer-together"
    APART = "apart"
    TOGETHER = "together"


class Recover(StrEnum):
    """What becomes of the VMs of a host that booted and has forgotten them: registered again and those that were on
    switched on, only registered, or nothing.
    """

    POWER_ON = "power-on"
    REGISTER = "register"
    NO = "no"


class ClaimState(StrEnum):
    """A claim holds capacity in every state but `released`.

    `claimed`: its VM is on its way, under a lease. `running`: its VM was delivered. `to_be_destroyed`: its VM must go,
    but its host did not answer. `foreign`: a VM that nobody claimed, found on a host. `lost`: its VM was not seen any
    more, twice. `released`: the claim is no more; its row stays for an hour, so that who reads changes learns of it.
    """

    CLAIMED = "claimed"
    RUNNING = "running"
    TO_BE_DESTROYED = "to_be_destroyed"
    FOREIGN = "foreign"
    LOST = "lost"
    RELEASED = "released"


# --- what an event says about a request -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reservation:
    """VCL's ids; `cluster` lists the reservation ids of the whole request, this one included; `state` is the
    request's state name; `server` is true for a machine that its user keeps as a server.
    """

    request_id: int
    reservation_id: int
    state: str = ""
    cluster: tuple[int, ...] = ()
    server: bool = False


@dataclass(frozen=True, slots=True)
class Computer:
    """A row of VCL's computer table: the slot. `name` is the short host name. MACs are lower case, or None if the row
    has none.
    """

    id: int
    name: str
    private_mac: str | None = None
    public_mac: str | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """An image revision as the reservation wants it.

    `name` is imagerevision.imagename, and so the name of its directory.
    """

    id: int
    name: str
    revision_id: int = 0
    os: str = ""
    os_type: str = ""
    architecture: str = "x86"
    size_mb: int = 0
    min_cpus: int = 1
    min_ram_mb: int = 512
    project: str = "vcl"


@dataclass(frozen=True, slots=True)
class CatalogueImage:
    """An image that VCL could ask for, with what its VM needs.

    `name` is VCL's image.name, `title` what its users see. `ram_mb` is the greater of image's and OS's minimum,
    `disk_mb` the size of its disk as VCL knows it.
    """

    name: str
    title: str
    ram_mb: int
    cpus: int
    disk_mb: int = 0


@dataclass(frozen=True, slots=True)
class Revision:
    """What VCL's tables say of an image's name (imagerevision.imagename), which is that of its directory.

    `title` is what users see. `deleted` alone marks a revision that is still to be captured; with `deleted_at` (ISO
    8601) somebody has deleted it. `reservations` counts those that have it, and block allocations of its image;
    `computers` those that it is loaded on, or next.
    """

    imagename: str
    title: str
    revision: int
    production: bool
    deleted: bool
    deleted_at: str | None
    size_mb: int
    reservations: int = 0
    computers: int = 0


@dataclass(frozen=True, slots=True)
class Promised:
    """A machine that VCL has promised to somebody: a reservation that runs or will, or a seat of a block.

    `reservation_id` is 0 for a seat; `group` names what starts together. Times are epoch seconds, `ends_at` None if it
    has no end.
    """

    reservation_id: int
    group: str
    computer_id: int
    image: CatalogueImage
    starts_at: int
    ends_at: int | None


@dataclass(frozen=True, slots=True)
class Profile:
    """VCL's vmprofile: where images and VMs live and what the VM is plugged into.

    `networks[0]` is the private network, `networks[1]` the public one, "" one that is left out.
    `generated_macs[i]` asks for a MAC made by the hypervisor.
    """

    id: int
    name: str
    datastore_path: str = ""
    vm_path: str = ""
    repository_path: str = ""
    disk: str = "dedicated"
    networks: tuple[str, ...] = ()
    generated_macs: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True)
class SlotRules:
    """How a pool's computer rows are made, as `[slots POOL]` says.

    `names` has one run of `#`, which stands for the slot's number; the MACs of slot 1 are `first_mac` (a number) and
    the next one, and so on; `most` is the highest number. `groups` are VCL's computer groups for slots, `host_groups`
    those for hypervisors. `owner` is a unityid, or unityid@affiliation.
    """

    names: str
    first_mac: int
    most: int = 500
    groups: tuple[str, ...] = ("All VM Computers", "newvmimages")
    host_groups: tuple[str, ...] = ("allComputers",)
    pool_host: str = ""
    schedule: str = "VCL 24x7"
    owner: str = "admin"
    procspeed: int = 10_000
    network: int = 10_000


@dataclass(frozen=True, slots=True)
class Pool:
    """Hosts that are interchangeable for one VCL profile, as esxprov.conf describes them.

    `golden` and `inuse` are the directories of images and of VMs on the profile's datastore. The ratios say how much
    more than the hardware may be promised; `reserved_ram_mb` is kept for the hypervisor itself on every host. What
    follows it is for placement; see placement.snapshot.Rules. `slots` is None if its computer rows are made by hand.
    """

    name: str
    endpoints: tuple[str, ...]
    profile: str
    datacenter: str | None = None
    cluster: str | None = None
    golden: str = "golden"
    inuse: str = "inuse"
    disk: DiskMode = DiskMode.COPY
    cpu_ratio: float = 4.0
    ram_ratio: float = 1.0
    reserved_ram_mb: int = 1024
    policy: str = "pack"
    n_plus_one: bool = False
    cluster_max_per_host: int | None = None
    cluster_affinity: ClusterAffinity = ClusterAffinity.NONE
    image_hosts: tuple[tuple[str, tuple[str, ...]], ...] = ()
    recover: Recover = Recover.POWER_ON
    slots: SlotRules | None = None

    def has(self, host: Host) -> bool:
        """Whether a host is one of the pool's."""
        there = self.datacenter in (None, host.datacenter) and self.cluster in (None, host.cluster)
        return there and host.key.endpoint in self.endpoints


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """How to reach one ESXi host or vCenter.

    The server's certificate is always verified: against `ca_file`, or by its SHA-256 `thumbprint`, or against the
    system's authorities if neither is given.
    """

    name: str
    url: str
    user: str
    password: str = field(repr=False)
    ca_file: Path | None = None
    thumbprint: str | None = None
    timeout_s: float = 30


# --- what the hypervisors say ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Health:
    """An endpoint itself. `licence` is its name, "" if our user may not see it; `clock_ahead_s` how far its clock is
    before ours; `not_after` the end of its certificate, None if that is pinned and so its date means nothing.
    """

    version: str
    build: str
    licence: str
    clock_ahead_s: float
    not_after: datetime | None


@dataclass(frozen=True, slots=True)
class HostKey:
    """Identity of a host.

    Two ESXi hosts may both call themselves `ha-host`, so a moid means nothing without its endpoint.
    """

    endpoint: str
    moid: str

    def __str__(self) -> str:
        return f"{self.endpoint}/{self.moid}"


@dataclass(frozen=True, slots=True)
class Datastore:
    """A datastore as one host sees it. `url` is the same for all hosts that share it, "" if that is not known."""

    name: str
    free_mb: int
    capacity_mb: int
    accessible: bool = True
    url: str = ""


@dataclass(frozen=True, slots=True)
class Host:
    """An ESX machine, now.

    `ram_used_mb` is the live figure of quickStats; `state` is vSphere's connectionState; `cluster` is None for a
    host that is in none. `uuid` is the hardware's, the same whatever ids vSphere gives the host ("" if it does not
    say; cheap boards may share one), `booted_at` is aware, None if unknown, and `nested` whether it can lend its
    hardware virtualisation to VMs.
    """

    key: HostKey
    name: str
    state: str
    maintenance: bool
    ram_mb: int
    ram_used_mb: int
    cpu_threads: int
    datastores: tuple[Datastore, ...] = ()
    networks: tuple[str, ...] = ()
    datacenter: str | None = None
    cluster: str | None = None
    uuid: str = ""
    booted_at: datetime | None = None
    nested: bool = False


@dataclass(frozen=True, slots=True)
class Vm:
    """A VM as its hypervisor sees it.

    `vmx_path` is `[datastore] directory/name.vmx`; `annotation` is the text our VMX wrote.
    """

    endpoint: str
    moid: str
    name: str
    host_moid: str
    vmx_path: str
    power: PowerState
    ram_mb: int
    cpus: int
    annotation: str = ""
    uuid: str = ""


@dataclass(frozen=True, slots=True)
class Nic:
    """A network card in the order of its slot.

    `connected_to` is None for a card whose network does not exist on the host.
    """

    mac: str
    connected_to: str | None


@dataclass(frozen=True, slots=True)
class AttachedDisk:
    """A disk of a VM.

    `path` is what the VM writes now. `mode` is vSphere's diskMode (`persistent`, `nonpersistent`,
    `independent_persistent`, ...). `adapter` is that of the controller it hangs on, in the words of a descriptor:
    `ide`, `buslogic`, or `lsilogic` for all others.
    """

    path: str
    mode: str
    adapter: str


@dataclass(frozen=True, slots=True)
class Condition:
    """What decides whether a VM's disk can be captured.

    `disks` by controller and unit, `snapshots` their names, parents first; `question` is the text of what the VM waits
    to be told, None if it does not.
    """

    power: PowerState
    disks: tuple[AttachedDisk, ...] = ()
    snapshots: tuple[str, ...] = ()
    question: str | None = None


@dataclass(frozen=True, slots=True)
class Extent:
    """A part of a disk's content. `name` is a file, relative to the descriptor's directory; "" for a part that is all
    zeros and has no file. `size_bytes` is how much of the disk it is: what its file has, too, unless that is sparse.
    """

    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class DiskInfo:
    """What a vmdk descriptor says.

    `parent` is the hint to the disk below a redo disk, None for a disk that stands alone. `thin` is true if the disk
    occupies only what was written to it.
    """

    path: str
    adapter: str
    create_type: str
    capacity_mb: int
    extents: tuple[Extent, ...] = ()
    parent: str | None = None
    thin: bool = False


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One entry of a datastore directory."""

    name: str
    size_bytes: int
    is_directory: bool


BASE_SNAPSHOT = "esxprov-base"
"""The snapshot that gives a linked VM its redo disk."""


@dataclass(frozen=True, slots=True)
class ImageWork:
    """An event's work on an image of a datastore's library.

    `purpose` is `capture`, `stage` or `delete`. `path` is the hidden directory it writes, into which it still has to
    write up to `needed_mb`.
    """

    datastore: str
    image: str
    event_id: str
    purpose: str
    pool: str
    path: str
    needed_mb: int = 0


# --- what we decide -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Claim:
    """Capacity held on a host for one computer.

    `id` is written into the VM's annotation, so the VM identifies itself; `ram_mb` includes the hypervisor's overhead.
    `group` names what is placed together (VCL's request), so that its VMs can be counted on a host. `disk_mb` is still
    to be written to `datastore`; it counts while the claim is `claimed`. `ends_at` (epoch seconds) is when VCL will
    give the machine back, None if nobody knows. `event_id` is the load that holds it, "" while a reservation of a
    cluster was given its place but has not asked for it yet.
    """

    id: str
    host: HostKey
    computer_id: int
    ram_mb: int
    cpus: int
    event_id: str
    state: ClaimState = ClaimState.CLAIMED
    pool: str = ""
    reservation_id: int = 0
    group: str = ""
    disk_mb: int = 0
    datastore: str = ""
    ends_at: int | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """What is written down of a claim's VM for the day on which its host has forgotten it.

    `is_on` is what it was when last seen or switched. `armed_at` (epoch seconds) is when it was switched on after its
    host had come back, as long as its address is waited for.
    """

    claim_id: str
    computer_id: int
    vmx_path: str
    is_on: bool
    armed_at: float | None = None

    @property
    def name(self) -> str:
        """What its VM is called."""
        return self.vmx_path.rpartition("/")[2].removesuffix(".vmx")

    @property
    def directory(self) -> str:
        return self.vmx_path.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class KnownHost:
    """A host as it was seen last, by the uuid of its hardware.

    `booted_at` is its last boot that was seen, `noticed_s` how long ago that was noticed; `is_recovered` says whether
    its VMs have been put right since.
    """

    uuid: str
    key: HostKey
    booted_at: datetime
    noticed_s: int
    is_recovered: bool


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a VM goes, and why there."""

    host: HostKey
    host_name: str
    datastore: str
    reason: str


@dataclass(frozen=True, slots=True)
class Lease:
    """A DHCP lease. Times are epoch seconds UTC; `ends` None means never; `mac` is lower case with colons.

    `sequence` counts records in the order they were read; `evidence` says how we know: `lease-file`,
    `host-declaration`, `omapi-cltt`, `neighbour` or `vmware-tools`.
    """

    ip: str
    mac: str
    state: str
    starts: int | None
    ends: int | None
    cltt: int | None = None
    hostname: str | None = None
    fixed: bool = False
    sequence: int = 0
    evidence: str = "lease-file"
