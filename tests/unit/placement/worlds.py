"""Worlds to decide on: one host as we like it, and Hypothesis strategies for whole pools of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from esxprov.annotation import Annotation
from esxprov.model import Claim, ClaimState, Datastore, Host, HostKey, Pool, PowerState, Vm
from esxprov.placement.filters import PlacementRequest, Policy
from esxprov.placement.snapshot import HostState, Snapshot

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

REQUEST = PlacementRequest("event-1", ram_mb=4096, cpus=2, disk_mb=20_000, datastore="nfs1", networks=NETWORKS)


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


names = st.sampled_from([f"esx{number}" for number in range(8)])
sizes = st.tuples(st.sampled_from([512, 1000, 2048, 4096, 8192, 16384]), st.integers(1, 8))


@st.composite
def host_states(draw: st.DrawFn, name: str) -> HostState:
    ram_mb = draw(st.sampled_from([4096, 8192, 16384, 65536]))
    return HostState(
        key=HostKey(name, "ha-host"),
        name=draw(st.sampled_from([name, "localhost.localdomain"])),
        state=draw(st.sampled_from(["connected"] * 8 + ["notResponding"])),
        maintenance=draw(st.integers(0, 8)) == 8,
        ram_mb=ram_mb,
        ram_used_mb=draw(st.integers(0, ram_mb)),
        reserved_ram_mb=draw(st.sampled_from([0, 1024])),
        ram_ratio=draw(st.sampled_from([0.5, 1.0, 1.0, 1.5])),
        cpu_threads=draw(st.integers(1, 32)),
        cpu_ratio=draw(st.sampled_from([0.29, 1.0, 4.0])),
        promised_ram_mb=draw(st.integers(0, ram_mb)),
        promised_cpus=draw(st.integers(0, 40)),
        datastores=(Datastore("nfs1", draw(st.integers(0, 60_000)), 100_000, draw(st.integers(0, 8)) != 8),),
        networks=draw(st.sampled_from([NETWORKS, NETWORKS, NETWORKS, NETWORKS[:1]])),
        warming_ram_mb=draw(st.integers(0, 2048)),
        excluded=draw(st.sampled_from([None] * 8 + ["power-on failed"])),
    )


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    hosts = tuple(draw(host_states(name)) for name in draw(st.lists(names, unique=True, max_size=6)))
    catalogue = draw(st.dictionaries(sizes, st.integers(1, 9), max_size=4))
    return Snapshot(hosts, tuple((ram, cpus, images) for (ram, cpus), images in sorted(catalogue.items())))


@st.composite
def requests(draw: st.DrawFn) -> PlacementRequest:
    ram_mb, cpus = draw(sizes)
    return PlacementRequest(
        draw(st.uuids().map(str)),
        ram_mb,
        cpus,
        draw(st.integers(0, 50_000)),
        "nfs1",
        NETWORKS,
        draw(st.sampled_from(Policy)),
    )


@st.composite
def promises(draw: st.DrawFn, hosts: Sequence[str]) -> tuple[list[Claim], list[Vm]]:
    """Claims and VMs on some hosts; VMs of claims may have been moved, cloned, resized or forgotten."""
    where = st.sampled_from(list(hosts))
    claims = [
        Claim(f"claim-{number}", HostKey(draw(where), "ha-host"), number, *draw(sizes), "event", state)
        for number, state in enumerate(draw(st.lists(st.sampled_from(ClaimState), max_size=5)))
    ]
    marks = st.sampled_from([None, "released", *(claim.id for claim in claims)])
    vms = [vm(draw(where), f"vm-{number}", draw(marks), *draw(sizes)) for number in range(draw(st.integers(0, 6)))]
    return claims, vms


pools = st.builds(
    Pool,
    st.just("main"),
    st.just(()),
    st.just("profile"),
    cpu_ratio=st.sampled_from([0.5, 1.0, 4.0]),
    ram_ratio=st.sampled_from([0.8, 1.0, 1.5]),
    reserved_ram_mb=st.sampled_from([0, 1024]),
)
