"""Each hypervisor endpoint: login, certificate, clock, licence, and what its hosts have of what their pools need."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from esxprov import layout
from esxprov.doctor.finding import Finding, Section, Sign, ok, warn, wrong
from esxprov.doctor.patient import Patient
from esxprov.errors import ProvisioningError
from esxprov.layout import Layout
from esxprov.model import EndpointConfig, Health, Host, Pool, Profile
from esxprov.ports import Hypervisor
from esxprov.vsphere import Endpoint

WITHIN_S = 8.0
"""How long an endpoint may take to answer."""

_CLOCK_S = 30
_RENEW_DAYS = 14
_KINDS = ("certificate", "login", "clock", "hosts", "networks", "datastore", "licence", "golden")
"""In the order they are looked at."""

_OF_CERTIFICATES = ("SSLCertVerificationError", "FingerprintMismatch", "UnusableAuthority")


def sections(patient: Patient) -> list[Section]:
    """One for each endpoint: it is logged in to once, because a wrong password counts against the account."""
    return [
        Section(tuple(f"endpoint.{name}.{kind}" for kind in _KINDS), partial(_look, patient, endpoint))
        for name, endpoint in patient.config.endpoints.items()
    ]


def _look(patient: Patient, config: EndpointConfig) -> Iterator[Finding]:
    endpoint = Endpoint(replace(config, timeout_s=WITHIN_S))
    try:
        yield from _of_endpoint(patient, config, endpoint)
    finally:
        with suppress(ProvisioningError):  # that it does not answer was said already
            endpoint.close()


def _of_endpoint(patient: Patient, config: EndpointConfig, endpoint: Hypervisor) -> Iterator[Finding]:
    name = f"endpoint.{config.name}"
    try:
        health = endpoint.health()
    except ProvisioningError as error:
        of_certificate = error.detail.get("fault") in _OF_CERTIFICATES
        kind = "certificate" if of_certificate else "login"
        yield wrong(f"{name}.{kind}", error.message, f"correct [endpoint {config.name}] in esxprov.conf, or the host")
        return
    yield ok(f"{name}.login", f"user {config.user} gets in; version {health.version}, build {health.build}")
    yield _certificate(f"{name}.certificate", config, health)
    yield _clock(f"{name}.clock", health)
    hosts = endpoint.hosts()
    pools = [pool for pool in patient.config.pools.values() if config.name in pool.endpoints]
    for pool in pools:
        members = [host for host in hosts if pool.has(host)]
        yield _hosts(f"{name}.hosts", pool, members)
        profile = patient.profile(pool)
        try:
            paths = layout.of(pool, profile) if profile else None
        except ProvisioningError:
            paths = None  # vcl.profile says so
        connected = [host for host in members if host.state == "connected"]
        if profile is None or paths is None or not connected:
            continue
        yield _networks(f"{name}.networks", profile, connected)
        stores = _datastores(f"{name}.datastore", paths, connected)
        yield stores
        if stores.sign is Sign.OK:
            yield from _library(name, endpoint, pool, paths, health)
    if not pools:
        cure = f"name {config.name} in endpoints of a [pool NAME], or remove [endpoint {config.name}]"
        yield warn(f"{name}.hosts", "no pool uses this endpoint", cure)


def _certificate(check: str, config: EndpointConfig, health: Health) -> Finding:
    if health.not_after is None:
        return ok(check, "it is the pinned one")
    days = (health.not_after - datetime.now(UTC)).days
    if days < _RENEW_DAYS:
        return warn(check, f"it ends in {days} day(s), {health.not_after:%Y-%m-%d}", f"renew it on {config.name}")
    return ok(check, f"it is trusted, and good until {health.not_after:%Y-%m-%d}")


def _clock(check: str, health: Health) -> Finding:
    ahead = health.clock_ahead_s
    if abs(ahead) > _CLOCK_S:
        text = f"its clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
        return wrong(check, text, "switch NTP on, on both (the host's: Manage > System > Time & date)")
    return ok(check, f"it differs by {abs(ahead):.1f} s")


def _hosts(check: str, pool: Pool, hosts: list[Host]) -> Finding:
    if not hosts:
        cure = f"correct datacenter or cluster in [pool {pool.name}]"
        return wrong(check, f"no host of it is in pool {pool.name}", cure)
    away = [host.name for host in hosts if host.state != "connected"]
    if away:
        return wrong(check, f"vCenter has lost {', '.join(away)}", "reconnect it in the vSphere client")
    resting = [host.name for host in hosts if host.maintenance]
    if resting:
        return warn(check, f"{', '.join(resting)} is in maintenance mode: no VM goes there", "end the maintenance mode")
    return ok(check, f"{len(hosts)} host(s) in pool {pool.name}")


def _datastores(check: str, paths: Layout, hosts: list[Host]) -> Finding:
    for wanted in dict.fromkeys((paths.image_datastore, paths.vm_datastore)):
        without = [
            host.name
            for host in hosts
            if not any(store.name == wanted and store.accessible for store in host.datastores)
        ]
        if without:
            return wrong(
                check,
                f"{', '.join(without)} cannot use the datastore {wanted}",
                f"mount {wanted} on {', '.join(without)}",
            )
    return ok(check, f"every host has {paths.vm_datastore}")


def _networks(check: str, profile: Profile, hosts: list[Host]) -> Finding:
    for wanted in filter(None, profile.networks):
        without = [host.name for host in hosts if wanted not in host.networks]
        if without:
            cure = f"make the port group {wanted} on {', '.join(without)}, or correct VM host profile {profile.name!r}"
            return wrong(check, f"{', '.join(without)} has no network {wanted}", cure)
    return ok(check, f"every host has {', '.join(filter(None, profile.networks))}")


def _library(name: str, endpoint: Hypervisor, pool: Pool, paths: Layout, health: Health) -> Iterator[Finding]:
    """May we write, and are the golden images there. What a licence says is words, so it is tried."""
    refused = _refused(endpoint, f"[{paths.vm_datastore}] {paths.inuse}/.esxprov-doctor-{uuid.uuid4().hex}")
    if refused is not None and refused.detail.get("fault") == "RestrictedVersion":
        yield wrong(f"{name}.licence", refused.message, "license the host, or take it out of the pool")
        return
    if refused is not None:
        cure = f"let our user of [endpoint {endpoint.name}] write to {paths.vm_datastore}"
        yield wrong(f"{name}.golden", refused.message, cure)
        return
    yield ok(f"{name}.licence", f"it lets us write{f' ({health.licence})' if health.licence else ''}")
    golden = paths.library
    entries = endpoint.list_directory(golden)
    if entries is None:
        cure = f"make the directory {golden} and put images there, or correct golden in [pool {pool.name}]"
        yield wrong(f"{name}.golden", f"there is no directory {golden}", cure)
    else:
        images = [entry for entry in entries if entry.is_directory and not entry.name.startswith(".")]
        yield ok(f"{name}.golden", f"{golden} holds {len(images)} image(s)")


def _refused(endpoint: Hypervisor, scratch: str) -> ProvisioningError | None:
    """Why a directory with a file in it cannot be made and removed again."""
    refused = None
    try:
        endpoint.make_directory(scratch)
        endpoint.write_file(f"{scratch}/written", b"by esxprov doctor\n")
    except ProvisioningError as error:
        refused = error
    try:
        endpoint.delete(scratch)
    except ProvisioningError as error:
        refused = refused or error
    return refused
