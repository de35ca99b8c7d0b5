"""Asking the hypervisors what they can take, and claiming a place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from esxprov import annotation, vmx
from esxprov.errors import ProvisioningError
from esxprov.handlers import vm
from esxprov.job import Job
from esxprov.model import Claim, DiskMode, Host, HostKey, Image, Pool, Vm
from esxprov.placement import search
from esxprov.placement.choose import Decision, accept, choose, farm_of, record
from esxprov.placement.ledger import Ledger
from esxprov.placement.promises import foreign_claim_id
from esxprov.placement.request import PlacementRequest, overhead_mb
from esxprov.placement.snapshot import Rules, Snapshot, catalogue
from esxprov.placement.wants import Later, Proposal, Room, Want
from esxprov.ports import Tools

LINKED_DISK_SHARE = 4
"""A redo disk is taken for a quarter of its image: what a guest writes in a session, on the safe side."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A host chosen and its capacity claimed."""

    claim_id: str
    host: HostKey
    host_name: str


@dataclass(frozen=True, slots=True)
class Survey:
    """What the endpoints of a pool said just now. `silent` maps those that did not answer to why."""

    hosts: tuple[Host, ...]
    vms: tuple[Vm, ...]
    silent: Mapping[str, str]

    def snapshot(self, pool: Pool, claims: Sequence[Claim], tools: Tools, excluded: Mapping[str, str]) -> Snapshot:
        sizes = catalogue(tools.inventory.image_sizes())
        return Snapshot(self.hosts, tuple(claims), self.vms, sizes, Rules.of(pool), excluded)

    def refused(self, decision: Decision) -> dict[str, str]:
        """Why not each of the others: hosts that were refused, and endpoints that did not answer."""
        silent = {name: f"the endpoint does not answer: {why}" for name, why in self.silent.items()}
        return {**{label: why.reason for label, why in decision.refused.items()}, **silent}

    def name(self, key: HostKey) -> str:
        """The host's name, its key if it does not answer."""
        return next((host.name for host in self.hosts if host.key == key), str(key))


def survey(tools: Tools, pool: Pool, *, recent: bool = False, within_s: float | None = None) -> Survey:
    """Ask every endpoint of a pool for its hosts and VMs. One that does not answer (in time) has no hosts to offer."""
    looks = tools.looks.at(pool.endpoints, recent=recent, within_s=within_s)
    return Survey(
        tuple(host for look in looks for host in look.hosts if _in_pool(pool, host)),
        tuple(vm for look in looks for vm in look.vms),
        {look.endpoint: look.problem for look in looks if look.problem is not None},
    )


def _in_pool(pool: Pool, host: Host) -> bool:
    return pool.datacenter in (None, host.datacenter) and pool.cluster in (None, host.cluster)


def place(job: Job, tools: Tools, site: vm.Site, disk_mb: int) -> Placed:
    """Choose a host and claim it, in one transaction. Raises `no_capacity` with every host's reason."""
    request = job.request
    wanted = _wanted(job.event.id, request.image, site, disk_mb, request.profile.networks)
    with job.step("place", f"asking {len(site.pool.endpoints)} endpoint(s) for room") as step:
        if step.result is not None:
            key = HostKey(step.result["endpoint"], step.result["moid"])
            return Placed(step.result["claim"], key, step.result["host"])
        seen = survey(tools, site.pool, recent=True)
        decision, claim = _claim(job, tools, site, wanted, seen)
        if claim is None:
            # A no must not rest on what was so before we asked: the VM in the way may be gone since.
            seen = survey(tools, site.pool)
            decision, claim = _claim(job, tools, site, wanted, seen)
        if claim is None:
            assert decision is not None, "no claim without a decision against it"
            raise _no_capacity(decision, seen)
        reason = decision.reason if decision and decision.placements else "claimed before an interruption"
        name = seen.name(claim.host)
        step.keep(claim=claim.id, endpoint=claim.host.endpoint, moid=claim.host.moid, host=name, reason=reason)
        job.notify("place", f"chose {name}: {reason}", "info", None)
        return Placed(claim.id, claim.host, name)


def _claim(
    job: Job, tools: Tools, site: vm.Site, wanted: PlacementRequest, seen: Survey
) -> tuple[Decision | None, Claim | None]:
    """Decide on what was seen, and on the claims as they are when it is this decision's turn."""
    computer_id = job.request.computer.id
    reservation_id = job.request.reservation.reservation_id
    sizes = catalogue(tools.inventory.image_sizes())
    quarantined = {str(host): why for host, why in tools.quarantine.of(job.request.image.name).items()}
    tried = {host: f"the host was tried: {why}" for host, why in job.steps.get("excluded", {}).items()}
    # What this computer has already is given back before its new VM is switched on.
    own = [one for one in seen.vms if _is_of(one, computer_id)]
    foreign = tuple(one for one in seen.vms if one not in own)
    made_for_own = {foreign_claim_id(one.endpoint, one.moid) for one in own}
    decided: list[tuple[Snapshot, Decision]] = []

    def decide(ledger: Ledger, refusal: Decision | None) -> Proposal[Decision] | Later:
        others = tuple(claim for claim in ledger if claim.computer_id != computer_id and claim.id not in made_for_own)
        snapshot = Snapshot(seen.hosts, others, foreign, sizes, Rules.of(site.pool), {**quarantined, **tried})
        farm = farm_of(snapshot)
        found = search.place(farm, (wanted,))
        if found.hosts is None:
            # Why not, and what would help, is worked out while others take their turn.
            if refusal is None:
                return Later(lambda: choose(wanted, snapshot))
            decided.append((snapshot, refusal))
            return Proposal(refusal)
        decision = accept(farm, (wanted,), found.hosts)
        decided.append((snapshot, decision))
        (number,) = found.hosts
        host = farm.hosts[number].key
        claim = Claim(
            "",
            host,
            computer_id,
            wanted.ram_needed_mb,
            wanted.cpus,
            job.event.id,
            pool=site.pool.name,
            reservation_id=reservation_id,
            disk_mb=wanted.disk_mb,
            datastore=wanted.datastore,
        )
        # The most that its claims may add up to: its capacity less what VMs take that no claim counts.
        claimed = [*ledger.of_host(host), claim]
        most_ram_mb = sum(one.ram_mb for one in claimed) + int(farm.ram_free[number])
        most_cpus = sum(one.cpus for one in claimed) + int(farm.cpus_free[number])
        return Proposal(decision, (Room(claim, most_ram_mb, most_cpus),))

    taken = tools.claims.take(Want(job.event.id, computer_id, reservation_id, decide))
    if decided:
        job.decided(record((wanted,), *decided[-1]))
    return taken.decision, taken.claim


def _is_of(machine: Vm, computer_id: int) -> bool:
    owner = annotation.read(machine.annotation)
    return owner is not None and owner.computer_id == computer_id


def _wanted(request_id: str, image: Image, site: vm.Site, disk_mb: int, networks: tuple[str, ...]) -> PlacementRequest:
    linked = site.pool.disk is DiskMode.LINKED
    ram_mb, cpus = vmx.ram_mb(image), image.min_cpus
    return PlacementRequest(
        id=request_id,
        ram_mb=ram_mb,
        cpus=cpus,
        overhead_mb=overhead_mb(ram_mb, cpus),
        disk_mb=disk_mb // LINKED_DISK_SHARE if linked else disk_mb,
        datastore=site.layout.vm_datastore,
        networks=tuple(filter(None, networks)),
    )


def _no_capacity(decision: Decision, seen: Survey) -> ProvisioningError:
    refused = seen.refused(decision)
    reasons = "; ".join(f"{host}: {reason}" for host, reason in refused.items()) or "the pool has no host"
    return ProvisioningError(
        "no_capacity",
        f"no host takes the VM: {_nearest(decision) or reasons}",
        detail={"refused": refused, "nearest": _nearest(decision)},
    )


def _nearest(decision: Decision) -> str | None:
    return f"it would fit {decision.help[0]}" if decision.help else None
