"""A reservation carried through the shim as vcld's child carries it: real broker, real database, scripted service."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pika
import pymysql
import pytest
from pymysql.cursors import DictCursor

from bridge.envelope import Event
from tests.integration.shim_broker import Shim, ShimBroker
from tests.integration.shim_peer import Peer, done, note, refused
from tests.testbed.mariadb import PASSWORD, MariaDb

CHILD = Path(__file__).parents[1] / "perl" / "vcld-child"
IMAGE = "vmwarelinux-perlbase-v3"


@dataclass
class Reservation:
    """A computer with a reservation, as VCL's web pages write them."""

    connection: pymysql.connections.Connection[DictCursor]
    request: int
    id: int
    computer: int
    image: int
    revision: int
    other_vmhost: int

    def value(self, sql: str, *arguments: Any) -> Any:
        with self.connection.cursor() as cursor:
            cursor.execute(sql, arguments)
            row = cursor.fetchone()
        return next(iter(row.values())) if row else None

    def computer_row(self, column: str) -> Any:
        return self.value(f"SELECT {column} FROM computer WHERE id = %s", self.computer)

    def history(self) -> list[str]:
        with self.connection.cursor() as cursor:
            cursor.execute(
                "SELECT s.loadstatename FROM computerloadlog l JOIN computerloadstate s ON s.id = l.loadstateid"
                " WHERE l.reservationid = %s ORDER BY l.id",
                (self.id,),
            )
            return [row["loadstatename"] for row in cursor.fetchall()]

    def set_state(self, state: str) -> None:
        state_id = self.value("SELECT id FROM state WHERE name = %s", state)
        self.value("UPDATE request SET stateid = %s WHERE id = %s", state_id, self.request)


@dataclass
class Child:
    """Runs `vcld-child` for one reservation."""

    shim: Shim
    database: MariaDb
    reservation: Reservation

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        log = self.shim.directory / "vcld.log"
        guests = self.shim.directory / "guests"
        guests.mkdir(exist_ok=True)
        command = ["perl", str(CHILD), "--reservation", str(self.reservation.id), "--log", str(log), *arguments]
        environment = {
            **self.shim.child_environment(),
            "VCL_DB_SOCKET": str(self.database.socket),
            "VCL_DB_PASSWORD": PASSWORD,
            "VCL_GUESTS": str(guests),
        }
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)

    def run(self, *arguments: str) -> list[dict[str, Any]]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        return [json.loads(line) for line in out.splitlines()]

    def results(self, *arguments: str) -> list[Any]:
        return [line["result"] for line in self.run(*arguments)]

    def warnings(self) -> list[str]:
        log = self.shim.directory / "vcld.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line for line in lines if line.startswith(("WARNING", "CRITICAL"))]


@pytest.fixture
def reservation(mariadb: MariaDb) -> Iterator[Reservation]:
    connection = mariadb.connect()
    rows: list[tuple[str, int]] = []

    def insert(table: str, **columns: Any) -> int:
        names = ", ".join(f"`{name}`" for name in columns)
        with connection.cursor() as cursor:
            marks = ", ".join(["%s"] * len(columns))
            cursor.execute(f"INSERT INTO `{table}` ({names}) VALUES ({marks})", tuple(columns.values()))
            rows.append((table, cursor.lastrowid))
            return int(cursor.lastrowid)

    def known(table: str, name: str) -> int:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT id FROM `{table}` WHERE name = %s", (name,))
            row = cursor.fetchone()
        assert row is not None, f"the schema has no {table} {name!r}"
        return int(row["id"])

    now = "2026-11-24 08:59:00"
    package = "VCL::Module::Provisioning::esxprov"
    module = insert("module", name="provisioning_perl", prettyname="perl", description="", perlpackage=package)
    engine = insert("provisioning", name="perl", prettyname="perl", moduleid=module)
    node = insert(
        "managementnode", IPaddress="127.0.0.1", hostname="mn1.perl.test", stateid=known("state", "available"),
        ownerid=1, installpath="/install", publicIPconfiguration="dynamicDHCP", availablenetworks="",
    )  # fmt: skip
    image = insert(
        "image", name=IMAGE, prettyname=IMAGE, ownerid=1, imagetypeid=known("imagetype", "vmdk"), size=20480,
        OSid=known("OS", "vmwarelinux"), minram=1024, minprocnumber=2, architecture="x86_64", lastupdate=now,
    )  # fmt: skip
    revision = insert(
        "imagerevision", imageid=image, revision=3, userid=1, datecreated=now, deleted=0, production=1, imagename=IMAGE
    )
    profile = insert(
        "vmprofile", profilename="perl", imageid=1, datastorepath="nfs1", vmpath="nfs1", repositorypath="",
        virtualswitch0="Private", virtualswitch1="Réseau public", vmdisk="shared",
    )  # fmt: skip
    none = known("provisioning", "none")
    vmhosts = []
    for number in (1, 2):
        host = insert("computer", stateid=known("state", "vmhostinuse"), hostname=f"esx{number}.perl.test",
                      type="blade", provisioningid=none, RAM=65536, procnumber=32)  # fmt: skip
        vmhosts.append(insert("vmhost", computerid=host, vmprofileid=profile))
    computer = insert(
        "computer", stateid=known("state", "available"), hostname="perl1.perl.test", type="virtualmachine",
        provisioningid=engine, vmhostid=vmhosts[0], RAM=2048, procnumber=1, eth0macaddress="00:50:56:0a:01:01",
        eth1macaddress="00:50:56:0a:02:01",
    )  # fmt: skip
    request = insert(
        "request", stateid=known("state", "pending"), laststateid=known("state", "new"), userid=1, start=now,
        end="2026-11-24 23:59:00", daterequested=now,
    )  # fmt: skip
    one = insert("reservation", requestid=request, computerid=computer, imageid=image, imagerevisionid=revision,
                 managementnodeid=node, lastcheck=now)  # fmt: skip
    yield Reservation(connection, request, one, computer, image, revision, vmhosts[1])
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM computerloadlog WHERE computerid = %s", (computer,))
        cursor.execute("UPDATE computer SET currentimageid = 1, imagerevisionid = 1, vmhostid = NULL")
        for table, row in reversed(rows):
            cursor.execute(f"DELETE FROM `{table}` WHERE id = %s", (row,))
    connection.close()


@pytest.fixture
def child(shim_broker: ShimBroker, mariadb: MariaDb, reservation: Reservation, tmp_path: Path) -> Child:
    return Child(Shim(tmp_path / "shim", shim_broker), mariadb, reservation)


@pytest.fixture
def peer(peer_parameters: pika.ConnectionParameters, reservation: Reservation) -> Iterator[Peer]:
    result = {"vmhost_id": reservation.other_vmhost, "private_ip": "10.77.1.41"}
    facts = {"present": True, "on_known_host": True, "sized_right": True, "disk_right": True}
    with Peer(peer_parameters) as serving:
        serving.answers = {
            "node_status": lambda event: [done(event, **facts)],
            "does_image_exist": lambda event: [done(event, exists=event.data["image"]["name"] == IMAGE)],
            "load": lambda event: [
                note(event, 1, "startload", "begin"),
                note(event, 2, "transfervm", "to esx2/nfs1 €"),
                done(event, **result),
            ],
            "power_status": lambda event: [done(event, state="on")],
            "power_off": lambda event: [done(event, state="off")],
            "unload": lambda event: [done(event, removed=True)],
            "post_maintenance_action": lambda event: [done(event, removed=True)],
            "get_image_size": lambda event: [done(event, size_mb=70000)],
        }
        yield serving


def test_a_new_reservation_is_loaded_and_found_ready_afterwards(
    child: Child, peer: Peer, reservation: Reservation
) -> None:
    assert child.results("node_status", "does_image_exist", "load", "power_status") == ["RELOAD", 1, 1, "on"]
    assert reservation.computer_row("privateIPaddress") == "10.77.1.41"
    assert reservation.computer_row("vmhostid") == reservation.other_vmhost
    assert reservation.computer_row("imagerevisionid") == reservation.revision
    assert reservation.history() == ["startload", "transfervm", "loadimagecomplete"]
    assert child.results("node_status") == ["READY"]
    assert child.results("taint", "node_status") == ["RELOAD"]
    assert child.warnings() == []


def test_a_request_carries_the_facts_of_the_rows(child: Child, peer: Peer, reservation: Reservation) -> None:
    child.run("load")
    event = peer.wait_for(1)[0].event
    assert event.data["reservation"]["state"] == "new"
    assert event.data["image"] == {
        "id": reservation.image,
        "name": IMAGE,
        "revision_id": reservation.revision,
        "os": "vmwarelinux",
        "os_type": "linux",
        "architecture": "x86_64",
        "size_mb": 20480,
        "min_cpus": 2,
        "min_ram_mb": 1024,
        "project": "vcl",
    }
    assert event.data["profile"]["networks"] == ["Private", "Réseau public"]


def test_a_capture_switches_the_guest_off_first_and_forgets_it(
    child: Child, peer: Peer, reservation: Reservation
) -> None:
    child.run("load")
    power = {"state": "on"}
    peer.answers["power_status"] = lambda event: [done(event, **power)]

    def power_off(event: Event) -> list[Event]:
        power["state"] = "off"
        return [done(event, state="off")]

    peer.answers["power_off"] = power_off
    peer.answers["capture"] = lambda event: [done(event, image_path="[nfs1] golden/new", size_mb=70000)]
    # What the web page does: the reservation now points at the image to make.
    rename = "UPDATE imagerevision SET imagename = 'vmwarelinux-perlbase-v4' WHERE id = %s"
    reservation.value(rename, reservation.revision)
    assert child.results("--state", "image", "does_image_exist", "capture", "get_image_size") == [0, 1, 65535]
    assert [call for call in peer.calls() if call in ("power_off", "capture")] == ["power_off", "capture"]
    assert reservation.computer_row("privateIPaddress") is None


def test_unload_leaves_no_address_and_no_image(child: Child, peer: Peer, reservation: Reservation) -> None:
    child.run("load")
    assert child.results("--state", "deleted", "unload") == [1]
    assert reservation.computer_row("privateIPaddress") is None
    assert reservation.computer_row("currentimageid") == 1


def test_maintenance_takes_the_computer_off_its_host(child: Child, peer: Peer, reservation: Reservation) -> None:
    child.run("load")
    assert child.results("--state", "tomaintenance", "post_maintenance_action") == [1]
    assert reservation.computer_row("vmhostid") is None
    assert reservation.computer_row("privateIPaddress") is None


def test_a_refused_load_fails_the_computer_and_tells_the_reason_once(
    child: Child, peer: Peer, reservation: Reservation
) -> None:
    peer.answers["load"] = lambda event: [refused(event, "no_capacity", "esx1 has 512 MB free")]
    assert child.results("load") == [None]
    assert child.warnings() == ["WARNING|load of perl1 failed: no_capacity: esx1 has 512 MB free"]
    assert reservation.history() == ["info", "loadimagefailed"]


def test_a_deleted_request_cancels_its_load(child: Child, peer: Peer, reservation: Reservation) -> None:
    del peer.answers["load"]
    process = child.start("load")
    load = peer.wait_for(1)[0]
    reservation.set_state("deleted")
    cancel = peer.wait_for(2, timeout_s=20)[1]
    assert cancel.event.data["event"] == load.event.id
    peer.send(load, refused(load.event, "cancelled", "the user deleted the reservation"))
    out, _ = process.communicate(timeout=30)
    assert json.loads(out)["result"] is None


def test_a_dead_service_costs_one_sentence_a_call(child: Child, peer_parameters: pika.ConnectionParameters) -> None:
    with pika.BlockingConnection(peer_parameters) as connection:
        connection.channel().exchange_delete("esxprov")
    assert child.results("node_status", "does_image_exist", "load", "unload") == ["RELOAD", None, None, 1]
    assert len(child.warnings()) == 3  # node_status knows without asking that nothing is loaded
    assert all("systemctl start esxprov" in line for line in child.warnings())
