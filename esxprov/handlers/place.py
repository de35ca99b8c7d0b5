"""Asking the hypervisors what they can take, and claiming a place: for one VM, or for all of a request together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from esxprov import vmx
from esxprov.errors import ProvisioningError
from esxprov.handlers import vm
from esxprov.handlers.survey import Survey, survey
from esxprov.handlers.world import common_of, with_promises
from esxprov.job import Job
from esxprov.model import CatalogueImage, HostKey, Promised
from esxprov.placement.choose import Decision, record
from esxprov.placement.placer import Decided, Member, Seen
from esxprov.placement.request import Common
from esxprov.placement.snapshot import Rules, Snapshot, catalogue
from esxprov.placement.wants import Taken, Want
from esxprov.ports import Tools


@dataclass(frozen=True, slots=True)
class Placed:
    """A host chosen and its capacity claimed."""

    claim_id: str
    host: HostKey
    host_name: str


def place(job: Job, tools: Tools, site: vm.Site, disk_mb: int) -> Placed:
    """Choose a host and claim it, in one transaction. Raises `no_capacity` with every host's reason.

    If VCL gave the request several machines, all of them are placed, or none: whoever comes first claims for all, and
    the others find their place.
    """
    with job.step("place", f"asking {len(site.pool.endpoints)} endpoint(s) for room") as step:
        if step.result is not None:
            key = HostKey(step.result["endpoint"], step.result["moid"])
            return Placed(step.result["claim"], key, step.result["host"])
        members = _members(job, tools, site, disk_mb)
        seen = survey(tools, site.pool, recent=True)
        taken = _claim(job, tools, site, members, seen)
        if taken.claim is None:
            # A no must not rest on what was so before we asked: the VM in the way may be gone since.
            seen = survey(tools, site.pool)
            taken = _claim(job, tools, site, members, seen)
        if taken.claim is None:
            assert taken.decision is not None, "no claim without a decision against it"
            raise _no_capacity(taken.decision, seen)
        key, name = taken.claim.host, seen.name(taken.claim.host)
        reason = _reason(taken, members)
        step.keep(claim=taken.claim.id, endpoint=key.endpoint, moid=key.moid, host=name, reason=reason)
        job.notify("place", f"chose {name}: {reason}", "info", None)
        return Placed(taken.claim.id, key, name)


def _members(job: Job, tools: Tools, site: vm.Site, disk_mb: int) -> list[Member]:
    """The VMs of the request that have a place in this pool, or shall have one. Of this one the event is to be
    believed, of the others what VCL's tables say.
    """
    request = job.request
    # The others of the request are servers, too, if this one is.
    common = common_of(site.pool, request.profile, vm.disk_mode(site.pool, request.reservation))
    image = CatalogueImage(request.image.name, "", vmx.ram_mb(request.image), request.image.min_cpus, disk_mb)
    reservation_id = request.reservation.reservation_id
    known = tools.inventory.members(reservation_id, site.pool.profile) if reservation_id else []
    own = next((one for one in known if one.reservation_id == reservation_id), None)
    asked = common.request(f"reservation-{reservation_id}" if reservation_id else job.event.id, image)
    member = Member(replace(asked, ends_at=own.ends_at if own else None), request.computer.id, reservation_id)
    others = [
        _other(common, one)
        for one in known
        if one.reservation_id != reservation_id and one.computer_id != member.computer_id
    ]
    if own is None or not others:
        return [member]
    # In one order whoever asks, so that all of them would decide alike.
    members = sorted([member, *others], key=lambda one: one.reservation_id)
    requests = Rules.of(site.pool).cluster([one.request for one in members], own.group)
    return [replace(one, request=request) for one, request in zip(members, requests, strict=True)]


def _other(common: Common, one: Promised) -> Member:
    asked = common.request(f"reservation-{one.reservation_id}", one.image)
    return Member(replace(asked, ends_at=one.ends_at), one.computer_id, one.reservation_id)


def _claim(job: Job, tools: Tools, site: vm.Site, members: list[Member], seen: Survey) -> Taken[Decided]:
    """Decide on what was seen, and on the claims as they are when it is this decision's turn."""
    request = job.request
    tried = {host: f"the host was tried: {why}" for host, why in job.steps.get("excluded", {}).items()}
    unfit = dict(tools.quarantine.of(request.image.name))
    unfit |= {host.key: tried[str(host.key)] for host in seen.hosts if str(host.key) in tried}
    sizes = tools.inventory.image_sizes() or [(one.request.ram_mb, one.request.cpus, 1) for one in members]
    want = Want(
        job.event.id,
        request.computer.id,
        request.reservation.reservation_id,
        partial(
            tools.placers.of(site.pool).decide,
            computer_id=request.computer.id,
            members=members,
            seen=Seen(seen.sights, catalogue(sizes), unfit, int(job.now().timestamp())),
            foresight=partial(_foresee, tools, site, common_of(site.pool, request.profile, site.pool.disk), members),
        ),
    )
    taken = tools.claims.take(want)
    if taken.decision is not None:
        job.decided(record(taken.decision.requests, taken.decision.snapshot, taken.decision.decision))
    return taken


def _foresee(tools: Tools, site: vm.Site, common: Common, members: list[Member], snapshot: Snapshot) -> Snapshot:
    """With what VCL has promised to others."""
    ours = {member.reservation_id for member in members}
    promised = [one for one in tools.inventory.promised(site.pool.profile) if one.reservation_id not in ours]
    return with_promises(snapshot, promised, common)


def _reason(taken: Taken[Decided], members: list[Member]) -> str:
    if taken.decision is not None:
        return taken.decision.decision.reason
    return "claimed before an interruption" if len(members) == 1 else "claimed with the others of its request"


def _no_capacity(decided: Decided, seen: Survey) -> ProvisioningError:
    decision, count = decided.decision, len(decided.requests)
    refused = {label: why.reason for label, why in decision.refused.items()}
    refused |= {name: f"the endpoint does not answer: {why}" for name, why in seen.silent.items()}
    reasons = "; ".join(f"{host}: {reason}" for host, reason in refused.items()) or "the pool has no host"
    what = "no host takes the VM" if count == 1 else f"the hosts do not take all {count} VMs of the request together"
    if not decision.proved:
        what = f"{what}, as far as could be found out in time ({decision.reason})"
    nearest = _nearest(decision)
    return ProvisioningError(
        "no_capacity", f"{what}: {nearest or reasons}", detail={"refused": refused, "nearest": nearest}
    )


def _nearest(decision: Decision) -> str | None:
    return f"it would fit {decision.help[0]}" if decision.help else None
