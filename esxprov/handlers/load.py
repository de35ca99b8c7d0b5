"""load: a fresh VM for a computer, from placement to its private address.

Reads like the runbook. Every step first looks whether it is already true, so that the handler may be run again by a
service that took the event over, and ends with the same VM.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from esxprov import vmx
from esxprov.annotation import Annotation
from esxprov.errors import ProvisioningError
from esxprov.handlers import space, staging, vm
from esxprov.handlers.address import look_again, wait_for_address
from esxprov.handlers.place import Placed, place
from esxprov.job import Job
from esxprov.library import reference
from esxprov.library.reference import Reference
from esxprov.model import ClaimState, DiskInfo, DiskMode, Host, Lease, Machine, Profile, Vm
from esxprov.ports import Armed, Hypervisor, Tools

log = logging.getLogger(__name__)

MOST_HOSTS = 3
"""After this many hosts refused a VM that should fit, trying more of them is no help."""

_OF_ONE_HOST = ("place", "configure", "register", "arm", "power_on")
"""The steps whose results are void when the VM goes to another host; the copied disk is on the shared datastore."""


def load(job: Job, tools: Tools) -> dict[str, Any]:
    """Returns vmhost_id, host, datastore, vm_uuid, mac, private_ip, evidence (see model.Lease).

    Raises `image_not_found`, `no_capacity`, `datastore_full`, `ip_not_seen`, `host_unavailable`, `vsphere_fault`.
    """
    site = vm.Site.of(job.request, tools)
    job.steps["begun"] = True
    # Once for all its runs: by another service's configuration a VM could be given a disk in the one way, and be
    # switched on as if it had got it in the other.
    disk = DiskMode(job.steps.setdefault("disk", vm.disk_mode(site.pool, job.request.reservation).value))
    golden = _golden(job, tools, site)
    for attempt in range(1, MOST_HOSTS + 1):
        placed = place(job, tools, site, golden.capacity_mb)
        try:
            return _Deployment(job, tools, site, golden, placed, disk).run()
        except ProvisioningError as error:
            if error.host is None or attempt == MOST_HOSTS:
                raise
            _leave_host(job, tools, site, placed, error)
    raise AssertionError("the last attempt returns or raises")


def undo(job: Job, tools: Tools) -> None:
    """Leave nothing of a failed load: VM, directory, claim; nor an earlier VM, which VCL has given up for this load:
    it would run unknown, and hold the room that the next load may want.

    A load that never had its turn changes nothing: another event works on this computer. What cannot be removed now is
    recorded as to be destroyed.
    """
    if "begun" not in job.steps:
        return
    computer = job.request.computer
    try:
        vm.destroy(tools, vm.Site.of(job.request, tools), computer)
    except ProvisioningError:
        for claim in tools.claims.of_computer(computer.id):
            tools.claims.mark(claim.id, ClaimState.TO_BE_DESTROYED)
        raise
    finally:
        staging.undo(job, tools)


def _golden(job: Job, tools: Tools, site: vm.Site) -> DiskInfo:
    """The image's disk, checked before anything is changed, and brought from elsewhere if it is not in the library."""
    image = job.request.image.name
    if not any(job.request.profile.networks[:1]):
        raise ProvisioningError(
            "invalid_event",
            f"VM profile {job.request.profile.name!r} names no private network: set its virtual switch 0 in VCL",
        )
    disk = staging.stage(job, tools, site, "startload").disk
    if disk.parent is not None:
        raise ProvisioningError(
            "image_not_found", f"image {image} is not a whole disk, it needs {disk.parent}: capture it again"
        )
    return disk


def _leave_host(job: Job, tools: Tools, site: vm.Site, placed: Placed, error: ProvisioningError) -> None:
    """The host refused what it had room for: remember that, take the VM back, and let placement choose another."""
    log.warning("%s does not take %s: %s", placed.host_name, job.request.computer.name, error)
    hypervisor = tools.hypervisors.endpoint(placed.host.endpoint)
    try:
        registered = hypervisor.find_vm(site.layout.vmx(job.request.computer.name))
        if registered is not None:
            hypervisor.power_off(registered)
            hypervisor.unregister(registered)
    except ProvisioningError as gone:
        # Its VM may come back to life with the host, so the directory cannot be used for another one.
        log.warning("%s does not answer any more: %s", placed.host_name, gone)
        raise error from gone
    job.forget(*_OF_ONE_HOST)
    job.steps.setdefault("excluded", {})[str(placed.host)] = error.message
    # Entering the step writes down that the place is left, before its claim is given back: a service that dies in
    # between leaves a claim too many, which the next one gets again, and never a place without a claim.
    with job.step("leave_host", f"{placed.host_name} refused the VM ({error}), trying another host", "info"):
        tools.claims.release(placed.claim_id, f"{placed.host_name} refused its VM")
    tools.quarantine.put(placed.host, f"{placed.host_name} refused {job.request.computer.name}: {error.message}")


@dataclass(frozen=True, slots=True)
class _Deployment:
    """One attempt to bring the VM up on one host."""

    job: Job
    tools: Tools
    site: vm.Site
    golden: DiskInfo
    placed: Placed
    disk: DiskMode

    @property
    def hypervisor(self) -> Hypervisor:
        return self.tools.hypervisors.endpoint(self.placed.host.endpoint)

    def run(self) -> dict[str, Any]:
        self._clear()
        # Before anything is there: should its host go silent, this says what of it is to be removed.
        computer = self.job.request.computer
        self.tools.machines.record(
            Machine(self.placed.claim_id, computer.id, self.site.layout.vmx(computer.name), is_on=True)
        )
        self._provide_disk()
        self._configure()
        machine = self._register()
        armed = self._power_on(machine)
        lease = self._wait_for_address(machine, armed)
        self.tools.claims.mark(self.placed.claim_id, ClaimState.RUNNING)
        vmhost_id = self.tools.inventory.vmhost_id(self.placed.host_name, self.job.request.profile.id)
        guest = partial(self.hypervisor.guest_addresses, machine)
        lease = look_again(self.job, self.tools, lease, armed, guest)
        return {
            "vmhost_id": vmhost_id,
            "host": self.placed.host_name,
            "datastore": self.site.layout.vm_datastore,
            "vm_uuid": machine.uuid,
            "mac": lease.mac,
            "private_ip": lease.ip,
            "evidence": lease.evidence,
        }

    def _clear(self) -> None:
        """Whatever is left from this computer's earlier life would hold its name, its MAC and its directory."""
        computer = self.job.request.computer
        with self.job.step("clear", f"removing what is left of {computer.name}") as step:
            if step.result != {"done": True}:
                step.keep(done=False)
                silent = vm.destroy(self.tools, self.site, computer, keep=self.placed.claim_id)
                if silent:
                    raise ProvisioningError(
                        "host_unavailable",
                        f"an earlier VM of {computer.name} may still run on {', '.join(silent)}, which is silent: "
                        "bring that host back, or reserve another computer",
                    )
                step.keep(done=True)

    def _provide_disk(self) -> None:
        """A whole disk under its own name, or none: a copy under way has another name until it is complete."""
        image, computer = self.job.request.image.name, self.job.request.computer.name
        layout = self.site.layout
        if self.disk is DiskMode.LINKED:
            return
        target = layout.vm_disk(computer, image)
        message = f"copying {image} for {computer} on {layout.vm_datastore}"
        with self.job.step("copy_disk", message, "transfervm") as step:
            if self.hypervisor.disk(target) is None:
                unfinished = layout.unfinished_vm_disk(computer, image)
                self.hypervisor.delete(unfinished)
                self.hypervisor.make_directory(layout.vm_directory(computer))
                needed_mb = self.golden.capacity_mb
                with space.told(self.hypervisor, layout.vm_datastore, unfinished, needed_mb, computer):
                    self.hypervisor.copy_disk(
                        self.golden.path, unfinished, adapter=self.golden.adapter, progress=step.progress
                    )
                self.hypervisor.move_disk(unfinished, target)

    def _configure(self) -> None:
        request, layout = self.job.request, self.site.layout
        linked = self.disk is DiskMode.LINKED
        owner = Annotation(
            self.job.event.id,
            self.placed.claim_id,
            request.computer.id,
            request.reservation.reservation_id,
            request.image.name,
        )
        with self.job.step("configure", f"writing {layout.vmx(request.computer.name)}", "vmsetupconfig") as step:
            # Never again once it is registered: by then the file is the hypervisor's, and may name a redo disk instead
            # of the image's.
            if step.result is None:
                host = self._host()
                macs = (request.computer.private_mac, request.computer.public_mac)
                plan = vmx.VmPlan(
                    name=request.computer.name,
                    image=request.image,
                    disk=_volume_path(self.golden.path) if linked else f"{request.image.name}.vmdk",
                    adapter=self.golden.adapter,
                    nics=_nics(request.profile, macs, project_networks(request.image.project, host.networks)),
                    annotation=str(owner),
                    reference=self._reference(),
                    nested=host.nested,
                )
                self.hypervisor.make_directory(layout.vm_directory(request.computer.name))
                self.hypervisor.write_file(layout.vmx(request.computer.name), vmx.author(plan))
                step.keep(written=True)

    def _host(self) -> Host:
        """The host that was chosen, as it was seen last."""
        problem = None
        for recent in (True, False):
            (look,) = self.tools.looks.at([self.placed.host.endpoint], recent=recent)
            problem = look.problem or "its endpoint does not name it"
            for host in look.hosts:
                if host.key == self.placed.host:
                    return host
        raise ProvisioningError(
            "host_unavailable",
            f"{self.placed.host_name} cannot be seen any more: {problem}",
            retryable=True,
            host=self.placed.host_name,
        )

    def _reference(self) -> Reference:
        """What the image was made on; nothing if it came without a VMX."""
        for path in self.site.layout.references(self.job.request.image.name):
            content = self.hypervisor.read_file(path)
            if content is not None:
                return reference.parse(content)
        return Reference()

    def _register(self) -> Vm:
        computer = self.job.request.computer.name
        path = self.site.layout.vmx(computer)
        with self.job.step("register", f"registering {computer} on {self.placed.host_name}"):
            machine = self.hypervisor.register(path, computer, self.placed.host.moid)
            if self.disk is DiskMode.LINKED and self._disks_elsewhere(machine):
                self.hypervisor.snapshot_before_first_power_on(machine)
                elsewhere = self._disks_elsewhere(machine)
                if elsewhere:
                    raise ProvisioningError(
                        "vsphere_fault",
                        f"{computer} would write to {', '.join(elsewhere)}, so it is not switched on: its redo disk is "
                        f"not in its own directory; see what snapshots do on {self.placed.host_name}",
                    )
        return machine

    def _disks_elsewhere(self, machine: Vm) -> list[str]:
        """What the VM would write outside its own directory. Asked so, and not for the image's path, which the
        hypervisor may call by another of its names.
        """
        own = f"{self.site.layout.vm_directory(machine.name)}/"
        return [disk for disk in self.hypervisor.disks(machine) if not disk.startswith(own)]

    def _power_on(self, machine: Vm) -> Armed:
        """The moment is written down before the VM is switched on, so that a lease seen meanwhile still counts as
        fresh.
        """
        mac = self.job.request.computer.private_mac
        before = self.job.steps.get("arm")
        if before is None:
            armed = self.tools.leases.arm(mac)
            # Not once it is armed: the VM may be on by now, and the lease its new one.
            if mac:
                self.tools.leases.end_old(mac)
        else:
            armed = self.tools.leases.rearm(mac, before["at"])
        self.job.keep("arm", at=armed.at)
        with self.job.step("power_on", f"switching {machine.name} on", "startvm"):
            self.hypervisor.power_on(machine)
        self.tools.quarantine.clear(self.placed.host, self.job.request.image.name)
        return armed

    def _wait_for_address(self, machine: Vm, armed: Armed) -> Lease:
        nics = self.hypervisor.nics(machine)
        if not nics:
            raise ProvisioningError("vsphere_fault", f"{machine.name} has no network card on {self.placed.host_name}")
        with self.job.step("wait_for_address", f"waiting for a lease of {nics[0].mac}"):
            guest = partial(self.hypervisor.guest_addresses, machine)
            return wait_for_address(self.job, self.tools, nics[0].mac, armed, guest)


def _nics(profile: Profile, macs: tuple[str | None, ...], more: Sequence[str]) -> tuple[vmx.NicPlan, ...]:
    """One card per network of the profile, and then one for each of `more` that is none of those.

    The profile's first two have the computer's MACs, unless it asks for generated ones; VCL knows of no other's.
    """
    plans = []
    for index, network in enumerate(profile.networks):
        if not network:
            continue
        generated = profile.generated_macs[index] if index < len(profile.generated_macs) else False
        mac = macs[index] if index < len(macs) and not generated else None
        plans.append(vmx.NicPlan(network, mac))
    plans += [vmx.NicPlan(network, None) for network in more if network not in profile.networks]
    return tuple(plans[: vmx.MOST_NICS])


def project_networks(project: str, networks: Sequence[str]) -> list[str]:
    """The networks that an image's project is connected to beside the usual ones: those whose name contains the
    project's, or is a part of it. VCL's own project has none.
    """
    wanted = project.casefold()
    if wanted in ("", "vcl"):
        return []
    return [name for name in networks if name and (name.casefold() in wanted or wanted in name.casefold())]


def _volume_path(path: str) -> str:
    """`/vmfs/volumes/nfs1/golden/x/x.vmdk` for `[nfs1] golden/x/x.vmdk`: how a VMX names a disk elsewhere."""
    datastore, _, rest = path.removeprefix("[").partition("] ")
    return f"/vmfs/volumes/{datastore}/{rest}"
