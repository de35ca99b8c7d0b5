"""The harness of test_bad_input: a bed in which much is wrong, a service, and what a call could leave behind."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import pika
from inotify_simple import INotify, flags

from bridge.client import Client
from bridge.envelope import Event
from bridge.topology import DEAD, EXCHANGE
from esxprov import config
from esxprov.broker import broker_parameters
from tests.integration.calls import Slot
from tests.testbed import vsphere
from tests.testbed.bed import DATASTORE, IMAGES, NODE, Bed, Plan, Site
from tests.testbed.certificates import ServerCertificate
from tests.testbed.ports import free_ports
from tests.testbed.processes import Child
from tests.testbed.vcl_rows import VclRows
from tests.testbed.vsphere import VSphere

IMAGE = IMAGES[0].name
DEADLINE_S = 30.0
PARKED_S = 10.0


@dataclass(frozen=True)
class Refusal:
    """The error in a reply."""

    code: str
    message: str
    retryable: bool
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass
class Trouble:
    """Ways to ask the service for something bad. `slow` are commands that give up only after many seconds."""

    bed: Bed
    site: Site
    rows: VclRows
    client: Client
    service: Child
    slow: dict[str, subprocess.Popen[str]]

    # --- requests, as vcld makes them --------------------------------------------------------------------------------

    def event(self, call: str = "load", *, deadline_s: float = DEADLINE_S, **changes: dict[str, Any]) -> Event:
        """What vcld would ask for slot1, but for the `changes` of its sections."""
        return Slot(1, self.site.computers["slot1"]).request(call, timeout_s=deadline_s, **changes)

    def call(self, call: str = "load", *, deadline_s: float = DEADLINE_S, **changes: dict[str, Any]) -> dict[str, Any]:
        """Publish as esxprov-cli, and return what the reply says."""
        return self.client.call(self.event(call, deadline_s=deadline_s, **changes)).data

    def refused(self, call: str = "load", *, deadline_s: float = DEADLINE_S, **changes: dict[str, Any]) -> Refusal:
        """The error of a call that must fail."""
        reply = self.call(call, deadline_s=deadline_s, **changes)
        assert reply["outcome"] == "failed", reply
        return Refusal(**reply["error"])

    def unloaded(self) -> None:
        """slot1 has no VM any more."""
        reply = self.call("unload")
        assert reply["result"]["removed"], reply

    def reservation(self, computer: str) -> int:
        """A reservation of IMAGE, as VCL's web pages make it."""
        rows = self.rows.reservation(self.site.computers[computer], self.site.images[IMAGE], self.site.node_id)
        return rows.reservation_id

    # --- the wire, without our own client's care ---------------------------------------------------------------------

    @contextmanager
    def channel(self, user: str) -> Iterator[Any]:
        broker = self.bed.rabbitmq
        credentials = pika.PlainCredentials(user, broker.password(user))
        connection = pika.BlockingConnection(
            pika.ConnectionParameters(broker.host, broker.port, credentials=credentials)
        )
        try:
            yield connection.channel()
        finally:
            connection.close()

    def publish(self, body: bytes, *, user: str = "esxprov-cli", **properties: Any) -> str:
        """Any bytes as a load; returns the message's id."""
        identifier = str(uuid.uuid4())
        described = pika.BasicProperties(**{"message_id": identifier, "user_id": user, **properties})
        with self.channel(user) as channel:
            channel.basic_publish(EXCHANGE, f"{NODE}.load", body, described)
        return identifier

    def wait_until_in(self, queue: str, identifier: str) -> None:
        """Until the message is in the queue; it stays there."""
        with self.channel("onlooker") as channel:
            for _, properties, _ in channel.consume(queue, inactivity_timeout=PARKED_S):
                assert properties is not None, f"{identifier} did not come into {queue} within {PARKED_S:g} s"
                if properties.message_id == identifier:
                    return

    def parked(self, body: bytes, *, user: str = "esxprov-cli", **properties: Any) -> dict[str, Any]:
        """What `esxprov dead list` shows of such a message, which is then dropped."""
        identifier = self.publish(body, user=user, **properties)
        self.wait_until_in(DEAD, identifier)
        listed = self.bed.esxprov("dead", "list", "--json")
        (row,) = [row for row in json.loads(listed.stdout) if row["id"] == identifier]
        assert (row["routing_key"], row["bytes"]) == (f"{NODE}.load", len(body))
        assert self.bed.esxprov("dead", "drop", identifier).returncode == 0
        found: dict[str, Any] = row
        return found

    @contextmanager
    def no_dead_queue(self) -> Iterator[None]:
        """Somebody has deleted it, until the end."""
        with self.channel("onlooker") as channel:
            channel.queue_delete(DEAD)
        try:
            yield
        finally:
            with self.channel("esxprov") as channel:
                channel.queue_declare(DEAD, durable=True, arguments={"x-queue-type": "classic"})

    @contextmanager
    def logging(self, wanted: str) -> Iterator[None]:
        """What is done inside makes the service log this line; returns when it has."""
        log = self.bed.directory / "service.log"
        with log.open() as lines, INotify() as changes:
            changes.add_watch(log, flags.MODIFY)
            lines.seek(0, 2)
            yield
            _wait_for_line(lines, wanted, lambda left_s: changes.read(timeout=int(left_s * 1000)))


def _wait_for_line(lines: TextIO, wanted: str, wait: Callable[[float], object]) -> None:
    until = time.monotonic() + DEADLINE_S
    seen = ""
    while (left_s := until - time.monotonic()) > 0:
        seen += lines.read()
        if wanted in seen:
            return
        wait(left_s)
    raise AssertionError(f"{wanted!r} was not logged, but: {seen}")


# --- what a call could leave behind ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """All of it: `spool` is that of slot1, `parked` how many messages are in the dead queue."""

    files: frozenset[str]
    vms: frozenset[str]
    claims: int
    used_ram_mb: int
    running: int
    spool: frozenset[str]
    parked: int

    @classmethod
    def of(cls, trouble: Trouble) -> World:
        bed, rows = trouble.bed, trouble.rows
        stores = (bed.store, bed.directory / "small")
        with trouble.channel("onlooker") as channel:
            parked = channel.queue_declare(DEAD, passive=True).method.message_count
        return cls(
            # inuse/ itself is made with the first VM, and stays
            files=frozenset(str(path) for store in stores for path in store.rglob("*") if path != store / "inuse"),
            vms=frozenset(vm["path"] for host in bed.endpoints.values() for vm in host.inventory()["vms"]),
            claims=rows.value("SELECT COUNT(*) FROM esxprov_claim WHERE state <> 'released'"),
            used_ram_mb=int(rows.value("SELECT COALESCE(SUM(used_ram_mb), 0) FROM esxprov_host")),
            running=rows.value("SELECT COUNT(*) FROM esxprov_event WHERE state = 'running'"),
            # the slow load in the background has a file of its own there, for slot2
            spool=frozenset(path.name for path in bed.spool.glob(f"computer-{trouble.site.computers['slot1']}.*")),
            parked=parked,
        )


# --- the bed ---------------------------------------------------------------------------------------------------------


@contextmanager
def a_troubled_bed(directory: Path) -> Iterator[Trouble]:
    """A good pool, and one each, named after what is wrong with its endpoint: gone, stranger, expired, full.

    The pool `half` has one endpoint that is gone and a good one. All of them have a profile of their name.
    """
    with Bed(directory, Plan(computers=2)) as bed, ExitStack() as ends:
        site = bed.make_site()
        certificates, closed = bed.certificates, free_ports(1)[0]
        vsphere.golden_disk(bed.directory / "small" / "golden", IMAGE, 64)
        urls = {
            "gone": f"https://127.0.0.1:{closed}/sdk",
            "stranger": bed.endpoints["esx1"].url,
            "expired": _host(bed, ends, "expired", certificates.server("expired", days=-1)),
            "full": _host(bed, ends, "full", certificates.server("full"), store="small", capacity_mb=50),
        }
        wrong = bed.directory / "secrets" / "endpoint-stranger"
        wrong.write_text("not the password\n")
        wrong.chmod(0o600)
        with bed.conf.open("a") as conf:
            for name, url in urls.items():
                secret = wrong if name == "stranger" else bed.directory / "secrets" / "endpoint-esx1"
                conf.write(f"[endpoint {name}]\nurl = {url}\nuser = svc\npassword_file = {secret}\n")
                conf.write(f"ca_file = {certificates.ca}\n[pool {name}]\nendpoints = {name}\nprofile = {name}\n")
            conf.write("[pool half]\nendpoints = gone, esx1\nprofile = half\n")
        upgraded = bed.esxprov("db", "upgrade")
        assert upgraded.returncode == 0, upgraded.stderr
        service = bed.service()
        with Client(broker_parameters(config.load({}, path=bed.conf).cli), NODE) as client:
            trouble = Trouble(bed, site, bed.rows(), client, service, {})
            trouble.slow |= _slow(trouble, closed)
            for process in trouble.slow.values():
                ends.callback(process.kill)
            yield trouble


def _host(
    bed: Bed,
    ends: ExitStack,
    name: str,
    certificate: ServerCertificate,
    *,
    store: str = DATASTORE,
    capacity_mb: int | None = None,
) -> str:
    server = VSphere.start_esxi(
        bed.directory / name,
        name,
        datastores={DATASTORE: bed.directory / store},
        certificate=certificate.certificate,
        key=certificate.key,
        ca=bed.certificates.ca,
        capacity_mb=capacity_mb,
    )
    ends.callback(server.stop)
    return server.url


def _slow(trouble: Trouble, closed: int) -> dict[str, subprocess.Popen[str]]:
    """What gives up on a broker, started at once, so that it has given up when its test looks."""
    bed = trouble.bed
    serve = subprocess.Popen(
        [sys.executable, "-m", "esxprov.cli", "serve"],
        env=bed.environment(ESXPROV_BROKER_URL=f"amqp://esxprov@127.0.0.1:{closed}/"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    url = f"amqp://vcld@127.0.0.1:{closed}/"
    load = bed.vcld_child(trouble.reservation("slot2"), "load", ESXPROV_VCLD_URL=url)
    return {"serve": serve, "load": load}
