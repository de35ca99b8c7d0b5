"""The rows a VCL site has: node, hypervisors, profile, images, computers, reservations. Valid in any SQL mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pymysql
from pymysql.cursors import DictCursor

from esxprov.cli import shared_file

Connection = pymysql.connections.Connection


@dataclass(frozen=True, slots=True)
class ImageRows:
    """image.id and imagerevision.id of one image."""

    image_id: int
    revision_id: int
    name: str


@dataclass(frozen=True, slots=True)
class ReservationRows:
    """request.id and reservation.id."""

    request_id: int
    reservation_id: int


class VclRows:
    """Adds rows to VCL's tables; every method returns the new id."""

    def __init__(self, connection: Connection[DictCursor]) -> None:
        self._connection = connection

    def insert(self, table: str, **values: Any) -> int:
        columns = ", ".join(f"`{column}`" for column in values)
        places = ", ".join(["%s"] * len(values))
        with self._connection.cursor() as cursor:
            cursor.execute(f"INSERT INTO `{table}` ({columns}) VALUES ({places})", list(values.values()))
            return int(cursor.lastrowid)

    def value(self, sql: str, *arguments: Any) -> Any:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, arguments)
            row = cursor.fetchone()
        assert row is not None, sql
        return next(iter(row.values()))

    def execute(self, sql: str, *arguments: Any) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, arguments)

    def esxprov_module(self) -> int:
        """The module, as the installation registers it; returns provisioning.id."""
        for statement in shared_file("vcl_rows.sql").split(";\n"):
            if "INSERT" in statement:
                self.execute(statement)
        return int(self.value("SELECT id FROM provisioning WHERE name = 'esxprov'"))

    def management_node(self, hostname: str) -> int:
        node = self.insert(
            "managementnode",
            IPaddress="127.0.0.1",
            hostname=hostname,
            stateid=self.state("available"),
            checkininterval=1,
            availablenetworks="",
            sysadminEmailAddress="admin@vcl.test",
        )
        self._resource("managementnode", node, 3)
        return node

    def profile(
        self, name: str, datastore: str, networks: Sequence[str] = ("Private", "Public"), *, repository: str = ""
    ) -> int:
        """A VM host profile with two to four networks: private, public, others."""
        switches = {f"virtualswitch{number}": network for number, network in enumerate(networks)}
        return self.insert(
            "vmprofile",
            profilename=name,
            imageid=1,
            datastorepath=datastore,
            repositorypath=repository,
            vmdisk="shared",
            **switches,
        )

    def hypervisor(self, hostname: str, ram_mb: int, cores: int, profile_id: int) -> int:
        """A host in state vmhostinuse; returns vmhost.id."""
        computer = self.insert(
            "computer",
            stateid=self.state("vmhostinuse"),
            hostname=hostname,
            type="blade",
            provisioningid=self.value("SELECT id FROM provisioning WHERE name = 'none'"),
            scheduleid=1,
            RAM=ram_mb,
            procnumber=cores,
            procspeed=2600,
        )
        return self.insert("vmhost", computerid=computer, vmprofileid=profile_id)

    def image(
        self, name: str, *, os: str = "vmwarelinux", ram_mb: int = 1024, cpus: int = 1, size_mb: int = 0
    ) -> ImageRows:
        image = self.insert(
            "image",
            name=name,
            prettyname=f"{name} of the test bed",
            ownerid=1,
            imagetypeid=6,
            OSid=self.value("SELECT id FROM OS WHERE name = %s", os),
            imagemetaid=self.insert("imagemeta", checkuser=1),
            minram=ram_mb,
            minprocnumber=cpus,
            size=size_mb,
            architecture="x86_64",
            lastupdate="2026-01-01 00:00:00",
        )
        self._resource("image", image, 10)
        return self.revision(image, name, 0)

    def revision(
        self, image_id: int, name: str, number: int, *, production: int = 1, deleted: bool = False
    ) -> ImageRows:
        """A revision of an image; one that is being captured is `deleted` until vcld is done with it."""
        revision = self.insert(
            "imagerevision",
            imageid=image_id,
            revision=number,
            userid=1,
            datecreated="2026-01-01 00:00:00",
            deleted=int(deleted),
            production=production,
            imagename=name,
        )
        return ImageRows(image_id, revision, name)

    def computer(self, hostname: str, vmhost_id: int, provisioning_id: int, private_mac: str, public_mac: str) -> int:
        computer = self.insert(
            "computer",
            stateid=self.state("available"),
            hostname=hostname,
            type="virtualmachine",
            provisioningid=provisioning_id,
            scheduleid=1,
            vmhostid=vmhost_id,
            RAM=65536,
            procnumber=16,
            procspeed=2600,
            network=1000,
            eth0macaddress=private_mac,
            eth1macaddress=public_mac,
            predictivemoduleid=31,
        )
        self._resource("computer", computer, 5)
        return computer

    def reservation(self, computer_id: int, image: ImageRows, node_id: int, *, state: str = "new") -> ReservationRows:
        """A request for one machine."""
        return self.cluster([computer_id], image, node_id, state=state)[0]

    def server_request(self, request_id: int, name: str = "server") -> int:
        """Make a request one for a server, whose users keep it; returns serverrequest.id."""
        return self.insert("serverrequest", name=name, requestid=request_id)

    def cluster(
        self, computer_ids: Sequence[int], image: ImageRows, node_id: int, *, state: str = "new"
    ) -> list[ReservationRows]:
        """One request for several machines."""
        start, end = self.value("SELECT NOW()"), self.value("SELECT NOW() + INTERVAL 4 HOUR")
        whose = {"userid": 1, "computerid": computer_ids[0], "imageid": image.image_id}
        log = self.insert("log", start=start, initialend=end, finalend=end, **whose)
        request = self.insert(
            "request",
            stateid=self.state(state),
            laststateid=self.state(state),
            userid=1,
            logid=log,
            start=start,
            end=end,
            daterequested=start,
        )
        return [
            ReservationRows(
                request,
                self.insert(
                    "reservation",
                    requestid=request,
                    computerid=computer_id,
                    imageid=image.image_id,
                    imagerevisionid=image.revision_id,
                    managementnodeid=node_id,
                    lastcheck=start,
                ),
            )
            for computer_id in computer_ids
        ]

    def state(self, name: str) -> int:
        return int(self.value("SELECT id FROM state WHERE name = %s", name))

    def _resource(self, kind: str, identifier: int, group_id: int) -> None:
        kind_id = self.value("SELECT id FROM resourcetype WHERE name = %s", kind)
        resource = self.insert("resource", resourcetypeid=kind_id, subid=identifier)
        self.insert("resourcegroupmembers", resourceid=resource, resourcegroupid=group_id)
