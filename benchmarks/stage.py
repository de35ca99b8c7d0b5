"""A test bed with its site, and the calls that vcld would make there."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bridge.client import Client
from bridge.envelope import Event, request
from bridge.parameters import BrokerParameters
from tests.testbed.bed import DATASTORE, IMAGES, NODE, PROFILE, Bed, Plan, Site
from tests.testbed.processes import Child

_ASK = Path(__file__).resolve().parents[1] / "tests/perl/ask"

SLOTS = 16
PLAN = Plan(computers=SLOTS)
IMAGE = IMAGES[0]


@dataclass(frozen=True, slots=True)
class Slot:
    """A computer of VCL's."""

    id: int
    name: str
    private_mac: str
    public_mac: str


@dataclass(frozen=True, slots=True)
class Stage:
    """A running bed, whose tables are there and whose site is entered."""

    bed: Bed
    site: Site
    slots: tuple[Slot, ...]

    @contextmanager
    def service(self, **environment: str) -> Iterator[Child]:
        """The real service, in a process of its own."""
        child = self.bed.service(None, **environment)
        try:
            yield child
        finally:
            child.stop()

    def client(self) -> Client:
        """A caller in Python, as user `esxprov-cli`."""
        user = "esxprov-cli"
        broker = self.bed.rabbitmq
        return Client(BrokerParameters.from_url(broker.url(user), broker.password(user), None), NODE)

    def ask(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """The shim's conversation in a Perl process, which begins when it has read `data` to its end."""
        return subprocess.Popen(
            ["perl", str(_ASK), *arguments],
            env=self.bed.environment(**environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def data(self, slot: Slot) -> dict[str, Any]:
        """What vcld knows about the reservation of a slot."""
        rows = self.site.images[IMAGE.name]
        return {
            "reservation": {
                "request_id": slot.id,
                "reservation_id": slot.id,
                "state": "new",
                "cluster": [slot.id],
                "server": False,
            },
            "computer": {
                "id": slot.id,
                "name": slot.name,
                "private_mac": slot.private_mac,
                "public_mac": slot.public_mac,
            },
            "image": {
                "id": rows.image_id,
                "name": IMAGE.name,
                "revision_id": rows.revision_id,
                "os": IMAGE.os,
                "os_type": "linux",
                "architecture": "x86_64",
                "size_mb": IMAGE.disk_mb,
                "min_cpus": IMAGE.cpus,
                "min_ram_mb": IMAGE.ram_mb,
                "project": "vcl",
            },
            "profile": {
                "id": self.site.profile_id,
                "name": PROFILE,
                "datastore_path": DATASTORE,
                "vm_path": DATASTORE,
                "repository_path": "",
                "disk": "shared",
                "networks": ["Private", "Public"],
                "generated_macs": [False, False],
            },
        }

    def request(self, call: str, slot: Slot, **changes: dict[str, Any]) -> Event:
        """A new event for a slot; `changes` are merged into the sections of its data."""
        data = self.data(slot)
        for section, fields in changes.items():
            data[section] |= fields
        return request(
            call,
            source=f"urn:vcl:mn:{NODE}",
            data=data,
            now=datetime.now(UTC),
            partitionkey=f"computer/{slot.id}",
        )

    def vsphere_calls(self) -> Counter[str]:
        """How often each vSphere method was called so far, over all endpoints."""
        return sum((Counter(endpoint.calls()) for endpoint in self.bed.endpoints.values()), Counter())


@contextmanager
def opened(directory: Path) -> Iterator[Stage]:
    """A bed in `directory`, ready for a service."""
    with Bed(directory, PLAN) as bed:
        site = bed.make_site()
        upgraded = bed.esxprov("db", "upgrade")
        if upgraded.returncode:
            raise RuntimeError(f"esxprov db upgrade failed: {upgraded.stderr}")
        slots = []
        with bed.mariadb.connect() as connection, connection.cursor() as cursor:
            for name, identifier in site.computers.items():
                cursor.execute("SELECT eth0macaddress, eth1macaddress FROM computer WHERE id = %s", (identifier,))
                row = cursor.fetchone()
                assert row is not None
                slots.append(Slot(identifier, name, row["eth0macaddress"], row["eth1macaddress"]))
        yield Stage(bed, site, tuple(slots))


def finished(asked: subprocess.Popen[str], data: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """The lines of an `ask` that gets `data` now, at its end. RuntimeError if it does not end well."""
    output, errors = asked.communicate(json.dumps(data), timeout=120)
    if asked.returncode:
        raise RuntimeError(f"{asked.args!r} failed: {output}{errors}")
    return [json.loads(line) for line in output.splitlines()]


def succeeded(reply: Event) -> Event:
    """The reply, which must say that it was done."""
    if reply.data["outcome"] != "ok":
        raise RuntimeError(f"{reply.call} failed: {reply.data['error']}")
    return reply
