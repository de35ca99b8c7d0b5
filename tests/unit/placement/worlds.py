"""Worlds to decide on: one host as we like it, and Hypothesis strategies for whole pools of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC
from typing import Any

from hypothesis import strategies as st

from esxprov.annotation import Annotation
from esxprov.model import Claim, ClaimState, Datastore, Host, HostKey, PowerState, Vm
from esxprov.placement.farm import Farm
from esxprov.placement.host import HostState
from esxprov.placement.promises import foreign_claim_id
from esxprov.placement.request import Affinity, PlacementRequest, overhead_mb
from esxprov.placement.snapshot import Policy, Rules, Size, Snapshot

NETWORKS = ("Private", "Public")

HOST = HostState(
    key=HostKey("esx1", "ha-host"),
    name="esx1",
    state="connected",
    maintenance=False,
    ram_mb=16384,
    ram_used_mb=2000,
    reserved_ram_mb=1024,
    ram_ratio=1.0,
    cpu_threads=16,
    cpu_ratio=4.0,
    promised_ram_mb=0,
    promised_cpus=0,
    datastores=(Datastore("nfs1", 100_000, 200_000),),
    networks=NETWORKS,
)

REQUEST = PlacementRequest("event-1", 4096, 2, overhead_mb(4096, 2), 20_000, "nfs1", NETWORKS)


def host(endpoint: str, /, **changes: Any) -> HostState:
    """HOST on another endpoint, and called like that unless `name` says otherwise."""
    return replace(HOST, **{"key": HostKey(endpoint, "ha-host"), "name": endpoint, **changes})


def machine(name: str, ram_mb: int = 16384, threads: int = 16) -> Host:
    """What a hypervisor says of a host like HOST."""
    key = HostKey(name, "ha-host")
    return Host(key, name, "connected", False, ram_mb, 0, threads, HOST.datastores, NETWORKS)


def vm(on: Host | str, moid: str, claim: str | None, ram_mb: int = 4096, cpus: int = 2) -> Vm:
    """A VM on a host; `claim` is the id in its annotation."""
    endpoint = on if isinstance(on, str) else on.key.endpoint
    text = str(Annotation("event", claim, 7, None, "image")) if claim else ""
    return Vm(endpoint, moid, moid, "ha-host", f"[nfs1] {moid}/x.vmx", PowerState.ON, ram_mb, cpus, text)


def farm(*states: HostState, rules: Rules | None = None, catalogue: Sequence[Size] = ()) -> Farm:
    return Farm(states, rules or Rules(), catalogue)


names = [f"esx{number}" for number in range(8)]
sizes = st.tuples(st.sampled_from([512, 1000, 2048, 4096, 8192, 16384]), st.integers(1, 8))
groups = st.sampled_from(["", "class", "web"])

AT = 1_700_000_000
ends = st.one_of(st.none(), st.integers(-600, 30_000).map(lambda later: AT + later))


@st.composite
def machines(draw: st.DrawFn, name: str) -> Host:
    ram_mb = draw(st.sampled_from([4096, 8192, 16384, 65536]))
    shared = draw(st.booleans())
    free_mb = 40_000 if shared else draw(st.integers(0, 60_000))
    store = Datastore("nfs1", free_mb, 100_000, draw(st.integers(0, 8)) != 8, "nfs://a" if shared else "")
    return Host(
        key=HostKey(name, "ha-host"),
        name=draw(st.sampled_from([name, "localhost.localdomain"])),
        state=draw(st.sampled_from(["connected"] * 8 + ["notResponding"])),
        maintenance=draw(st.integers(0, 8)) == 8,
        ram_mb=ram_mb,
        ram_used_mb=draw(st.integers(0, ram_mb // 2)),
        cpu_threads=draw(st.integers(1, 32)),
        datastores=(store,),
        networks=draw(st.sampled_from([NETWORKS, NETWORKS, NETWORKS, NETWORKS[:1]])),
        uuid=f"uuid-of-{name}",
        booted_at=draw(st.one_of(st.none(), st.datetimes(timezones=st.just(UTC)))),
    )


rules = st.builds(
    Rules,
    st.sampled_from(Policy),
    cpu_ratio=st.sampled_from([0.29, 1.0, 4.0]),
    ram_ratio=st.sampled_from([0.8, 1.0, 1.0, 1.5]),
    reserved_ram_mb=st.sampled_from([0, 1024]),
    image_hosts=st.sampled_from([{}, {}, {"mac*": ("esx1", "esx2")}]),
)


@st.composite
def promises(draw: st.DrawFn, hosts: Sequence[str]) -> tuple[list[Claim], list[Vm]]:
    """Claims and VMs on some hosts; VMs of claims may have been moved, cloned, resized or forgotten."""
    if not hosts:
        return [], []
    where = st.sampled_from(list(hosts))
    claims = [
        Claim(
            f"claim-{number}",
            HostKey(draw(where), "ha-host"),
            number,
            *draw(sizes),
            "event",
            state,
            group=draw(groups),
            disk_mb=draw(st.sampled_from([0, 10_000])),
            datastore="nfs1",
            ends_at=draw(ends),
        )
        for number, state in enumerate(draw(st.lists(st.sampled_from(ClaimState), max_size=5)))
    ]
    marks = st.sampled_from([None, "released", *(claim.id for claim in claims)])
    vms = [vm(draw(where), f"vm-{number}", draw(marks), *draw(sizes)) for number in range(draw(st.integers(0, 6)))]
    key = st.builds(HostKey, where, st.just("ha-host"))
    found = [
        Claim(foreign_claim_id(one.endpoint, one.moid), draw(key), 0, *draw(sizes), "", ClaimState.FOREIGN)
        for one in vms
        if draw(st.integers(0, 3)) == 0
    ]
    return claims + found, vms


@st.composite
def snapshots(draw: st.DrawFn, some_rules: st.SearchStrategy[Rules] = rules) -> Snapshot:
    chosen = draw(st.lists(st.sampled_from(names), unique=True, max_size=6))
    claims, vms = draw(promises(chosen))
    catalogue = draw(st.dictionaries(sizes, st.integers(1, 9), max_size=4))
    return Snapshot(
        hosts=tuple(draw(machines(name)) for name in chosen),
        claims=tuple(claims),
        vms=tuple(vms),
        catalogue=tuple(Size(ram, cpus, images) for (ram, cpus), images in sorted(catalogue.items())),
        rules=draw(some_rules),
        unfit={f"{name}/ha-host": "power-on failed" for name in chosen if draw(st.integers(0, 9)) == 9},
        at=AT,
    )


affinities = st.builds(Affinity, st.sampled_from(["class", "web", "new"]), st.booleans(), st.booleans())


@st.composite
def requests(draw: st.DrawFn) -> PlacementRequest:
    ram_mb, cpus = draw(sizes)
    return PlacementRequest(
        draw(st.uuids().map(str)),
        ram_mb,
        cpus,
        overhead_mb(ram_mb, cpus),
        draw(st.integers(0, 50_000)),
        "nfs1",
        NETWORKS,
        draw(st.sampled_from(["linux", "mac-os"])),
        draw(st.sampled_from(["class", "new"])),
        draw(st.sampled_from([None, None, 1, 2])),
        tuple(draw(st.lists(affinities, max_size=2))),
        draw(ends),
    )


@st.composite
def clusters(draw: st.DrawFn, most: int = 5) -> tuple[PlacementRequest, ...]:
    """Some VMs of one group, with one bound for all of them."""
    limit = draw(st.sampled_from([None, 1, 2]))
    kinds = [draw(requests()) for _ in range(draw(st.integers(1, 2)))]
    return tuple(
        replace(draw(st.sampled_from(kinds)), id=f"vm-{number}", group="new", max_per_host=limit, affinities=())
        for number in range(draw(st.integers(1, most)))
    )
