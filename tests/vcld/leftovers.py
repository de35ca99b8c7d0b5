"""Whether anything is left when vcld and the service have ended: `python -m tests.vcld.leftovers CONF`.

Every VM has to be the one of a computer that VCL believes to be loaded with its image, at its address, on its host, and
to have the one claim on that host; everything else on the hypervisors, on the datastore and in our tables is left over.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge.client import Client
from esxprov import annotation, config, service
from esxprov.broker import broker_parameters
from esxprov.config import Config
from esxprov.database import Cursor, Database, rows
from esxprov.handlers.library import shelve
from esxprov.handlers.survey import Survey, survey
from esxprov.leases.sources import watching
from esxprov.library.shelf import State, flaws
from esxprov.model import Claim, ClaimState, Pool, PowerState, Vm
from tests.testbed.bed import DATASTORE, IMAGES

_IN_USE = (State.PRODUCTION, State.KEPT)
_COMPUTERS = """
SELECT c.id, SUBSTRING_INDEX(c.hostname, '.', 1) AS name, c.privateIPaddress AS address, c.eth0macaddress AS mac,
  r.imagename AS image, SUBSTRING_INDEX(h.hostname, '.', 1) AS host
FROM computer c JOIN provisioning p ON p.id = c.provisioningid JOIN imagerevision r ON r.id = c.imagerevisionid
LEFT JOIN vmhost v ON v.id = c.vmhostid LEFT JOIN computer h ON h.id = v.computerid
WHERE p.name = 'esxprov' AND c.deleted = 0 ORDER BY c.id
"""
_IMAGES = "SELECT imagename FROM imagerevision WHERE imagename <> 'noimage'"
_EVENTS = """
SELECT id, call_name, state, outcome, reply_state FROM esxprov_event WHERE state = 'running' OR reply_state <> 'sent'
"""
_IMAGE_WORK = "SELECT image, event_id, purpose, path FROM esxprov_image_work"
_PROMISED = """
SELECT h.endpoint, h.moid, h.used_ram_mb, h.used_cpus, COALESCE(SUM(c.ram_mb), 0) AS ram_mb,
  COALESCE(SUM(c.cpus), 0) AS cpus
FROM esxprov_host h LEFT JOIN esxprov_claim c ON c.endpoint = h.endpoint AND c.moid = h.moid
  AND c.state <> 'released'
GROUP BY h.endpoint, h.moid HAVING h.used_ram_mb <> ram_mb OR h.used_cpus <> cpus
"""


@dataclass(frozen=True, slots=True)
class Believed:
    """A computer as VCL's tables have it."""

    id: int
    name: str
    address: str | None
    mac: str
    image: str
    host: str | None

    def __str__(self) -> str:
        return f"{self.name} {self.image} {self.address or '-'} on {self.host or '-'}"


@dataclass(frozen=True, slots=True)
class Seen:
    """The other side: what hypervisors, claims and dhcpd say."""

    world: Survey
    claims: list[Claim]
    addresses: dict[str, str]

    def vms(self, computer: int) -> list[Vm]:
        owners = [(vm, annotation.read(vm.annotation)) for vm in self.world.vms]
        return [vm for vm, owner in owners if owner is not None and owner.computer_id == computer]


def of_computer(computer: Believed, seen: Seen) -> Iterator[str]:
    """What VCL believes of a computer and is not so."""
    vms = seen.vms(computer.id)
    claims = [claim for claim in seen.claims if claim.computer_id == computer.id]
    if computer.image == "noimage":
        if vms or claims or computer.address:
            yield f"{computer.name} is empty, but has VMs {vms}, claims {claims}, the address {computer.address}"
        return
    if len(vms) != 1 or len(claims) != 1:
        yield f"{computer.name} is loaded and has VMs {vms} and claims {claims}, expected one of each"
        return
    (vm,), (claim,) = vms, claims
    owner = annotation.read(vm.annotation)
    assert owner is not None, "it was found by its annotation"
    host = next(host for host in seen.world.hosts if (host.key.endpoint, host.key.moid) == (vm.endpoint, vm.host_moid))
    facts = {
        "is": (vm.power, PowerState.ON),
        "is named": (vm.name, computer.name),
        "has the image": (owner.image, computer.image),
        "runs on": (host.name.split(".")[0], computer.host),
        "has the claim": (owner.claim_id, claim.id),
        "has a claim on": (claim.host, host.key),
        "has a claim that is": (claim.state, ClaimState.RUNNING),
        "has a claim over MB": (claim.ram_mb >= vm.ram_mb, True),
        "has the address": (seen.addresses.get(computer.mac), computer.address),
    }
    for what, (actual, expected) in facts.items():
        if actual != expected:
            yield f"the VM of {computer.name} {what} {actual}, expected {expected}"


def of_pool(conf: Config, pool: Pool, store: Path, database: Database) -> Iterator[str]:
    """What is left of one pool, after saying what each computer has."""
    with service.tools(conf) as tools:
        world = survey(tools, pool)
        claims = list(tools.claims.of_pool(pool.name))
        library = shelve(tools, pool)
    with watching(conf.leases) as watchers:
        addresses = {lease.mac: lease.ip for watcher in watchers for lease in watcher.active()}
    seen = Seen(world, claims, addresses)
    computers = [Believed(**row) for row in asked(database, _COMPUTERS)]
    loaded = {computer.name for computer in computers if computer.image != "noimage"}
    known = {computer.id for computer in computers}
    yield from (f"endpoint {name} is silent: {why}" for name, why in world.silent.items())
    for computer in computers:
        print(f"  {computer}")
        yield from of_computer(computer, seen)
    for vm in world.vms:
        if vm.name not in loaded:
            yield f"VM {vm.name} on {vm.endpoint} belongs to no loaded computer: {vm.annotation}"
    yield from (f"{claim} is of no computer" for claim in claims if claim.computer_id not in known)
    yield from unexpected("VM directory", store / pool.inuse, loaded)
    images = {str(row["imagename"]) for row in asked(database, _IMAGES)} | {image.name for image in IMAGES}
    yield from unexpected("image directory", store / pool.golden, images)
    made = [image for image in library.images if image.manifest is not None]
    print(f"  {len(made)} images were made")
    yield from (f"image {image.name}: {flaw}" for image in made for flaw in flaws(image))
    yield from (f"image {image.name} is {image.state}" for image in made if image.state not in _IN_USE)


def unexpected(what: str, directory: Path, expected: set[str]) -> Iterator[str]:
    """Entries of a directory that should not be there."""
    found = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
    yield from (f"{what} {name} is left" for name in sorted(found - expected))


def of_the_wire(conf: Config, database: Database) -> Iterator[str]:
    """Events without an end, replies nobody got, messages that were parked."""
    yield from (f"event {row}" for row in asked(database, _EVENTS))
    yield from (f"work on an image {row}" for row in asked(database, _IMAGE_WORK))
    yield from (f"esxprov_host is not the sum of its claims: {row}" for row in asked(database, _PROMISED))
    with Client(broker_parameters(conf.cli), conf.service.management_node) as client:
        yield from (f"parked message {letter.summary()}" for letter in client.dead_letters())


def asked(database: Database, sql: str) -> list[dict[str, Any]]:
    """The rows of a query."""

    def ask(cursor: Cursor) -> list[dict[str, Any]]:
        cursor.execute(sql)
        return rows(cursor)

    return database.run(ask)


def main() -> None:
    path = Path(sys.argv[1])
    conf = config.load(dict(os.environ), path=path)
    print("computers, as VCL has them:")
    with closing(Database(conf.database)) as database:
        left = [line for pool in conf.pools.values() for line in of_pool(conf, pool, path.parent / DATASTORE, database)]
        left += of_the_wire(conf, database)
    for line in left:
        print(f"FAIL: {line}")
    if not left:
        print("nothing is left over: VMs, claims, directories, addresses and events match VCL's tables")
    sys.exit(1 if left else 0)


if __name__ == "__main__":
    main()
