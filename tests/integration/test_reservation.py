"""Reservations from end to end: Perl processes with the shim, the running service, all servers real."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.demo.story import BASE, Story
from tests.integration.calls import Slot, call
from tests.testbed.audit import leftovers
from tests.testbed.bed import IMAGES, Bed, Plan
from tests.testbed.processes import Child
from tests.testbed.vcl_rows import ReservationRows


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(Plan(), id="esxi-hosts, copied disks, strict sql"),
        pytest.param(Plan(vcenter=True, disk="linked", strict=False), id="vcenter, linked disks, sql not strict"),
    ],
)
def test_a_reservation_is_loaded_captured_and_removed_and_its_image_loaded_again(tmp_path: Path, plan: Plan) -> None:
    with Bed(tmp_path, plan) as bed:
        bed.make_site()
        assert bed.esxprov("db", "upgrade").returncode == 0
        service = bed.service()
        Story(bed, lambda who, what: None).tell()
        service.stop()


@pytest.fixture
def service(bed: Bed) -> Iterator[Child]:
    child = bed.service()
    yield child
    child.stop()


def reservation(bed: Bed, slot: Slot) -> int:
    site = bed.site
    return bed.rows().reservation(slot.computer_id, site.images[BASE], site.node_id).reservation_id


def test_a_killed_vcld_process_is_followed_by_one_that_takes_up_its_load(bed: Bed, slot: Slot, service: Child) -> None:
    """As vcld does it to a reload that is in the way: SIGKILL, and a new process for the same reservation."""
    number = reservation(bed, slot)
    first = bed.vcld_child(number, "load")
    service.wait_for(r"copy_disk: copying")
    first.kill()
    first.communicate()
    assert len(list(bed.spool.iterdir())) == 1
    second = bed.vcld_child(number, "load", "power_status", "unload")
    out, err = second.communicate(timeout=60)
    said = {line["call"]: line["result"] for line in map(json.loads, out.splitlines())}
    assert (said, err) == ({"load": 1, "power_status": "on", "unload": 1}, "")
    loads = bed.rows().value(
        "SELECT COUNT(*) FROM esxprov_event WHERE computer_id = %s AND call_name = 'load'", slot.computer_id
    )
    assert loads == 1
    assert leftovers(bed) == []


RequestFor = Callable[[list[Slot], str], list[ReservationRows]]


@pytest.fixture
def request_for(bed: Bed) -> Iterator[RequestFor]:
    """Makes one request for several machines with an image."""
    rows, made = bed.rows(), []

    def make(machines: list[Slot], image: str) -> list[ReservationRows]:
        made.append(rows.cluster([slot.computer_id for slot in machines], bed.site.images[image], bed.site.node_id))
        return made[-1]

    yield make
    for one in made:
        rows.execute("DELETE FROM reservation WHERE requestid = %s", one[0].request_id)
        rows.execute("DELETE FROM request WHERE id = %s", one[0].request_id)


def claims_of_group(bed: Bed, request_id: int) -> dict[int, str]:
    """The host by computer of all claims of a request."""
    connection = bed.mariadb.connect()
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT computer_id, endpoint FROM esxprov_claim WHERE claim_group = %s AND state <> 'released'",
            (f"request-{request_id}",),
        )
        return {row["computer_id"]: row["endpoint"] for row in cursor.fetchall()}


def test_the_machines_of_one_request_are_placed_together_by_whoever_comes_first(
    bed: Bed, slots: Iterator[Slot], service: Child, request_for: RequestFor
) -> None:
    machines = [next(slots) for _ in range(3)]
    made = request_for(machines, BASE)
    children = [bed.vcld_child(one.reservation_id, "load") for one in made]
    for child in children:
        out, err = child.communicate(timeout=60)
        assert (json.loads(out.splitlines()[0])["result"], err) == (1, "")
    claims = claims_of_group(bed, made[0].request_id)
    assert claims.keys() == {slot.computer_id for slot in machines}
    decisions = bed.rows().value(
        "SELECT GROUP_CONCAT(JSON_LENGTH(decision, '$.requests')) FROM esxprov_event "
        "WHERE call_name = 'load' AND decision IS NOT NULL AND reservation_id IN (%s, %s, %s)",
        *(one.reservation_id for one in made),
    )
    assert decisions == "3", "one decision, for all three"
    children = [bed.vcld_child(one.reservation_id, "unload") for one in made]
    assert [json.loads(child.communicate(timeout=60)[0])["result"] for child in children] == [1, 1, 1]
    assert leftovers(bed) == []


def test_a_request_that_does_not_fit_as_a_whole_gets_nothing(
    bed: Bed, slots: Iterator[Slot], service: Child, request_for: RequestFor
) -> None:
    windows = IMAGES[1]
    room = sum((host.memory_mb - 2048) // (windows.ram_mb + 100) for host in bed.plan.hosts)
    machines = [next(slots) for _ in range(room + 1)]
    made = request_for(machines, windows.name)
    for slot, one in list(zip(machines, made, strict=True))[:2]:
        image = {"name": windows.name, "min_ram_mb": windows.ram_mb, "min_cpus": windows.cpus}
        reservation = {"request_id": one.request_id, "reservation_id": one.reservation_id}
        reply = call(bed, slot.request("load", image=image, reservation=reservation))
        assert reply["error"]["code"] == "no_capacity", reply
        assert f"do not take all {room + 1} VMs of the request together" in reply["error"]["message"]
        assert claims_of_group(bed, one.request_id) == {}


def test_a_machine_that_becomes_a_server_is_loaded_anew_with_a_disk_of_its_own_where_vms_are_linked(
    bed: Bed, slot: Slot
) -> None:
    service = bed.service(ESXPROV_POOL_MAIN_DISK="linked")
    made = bed.rows().reservation(slot.computer_id, bed.site.images[BASE], bed.site.node_id)

    def said(*calls: str) -> list[object]:
        out, err = bed.vcld_child(made.reservation_id, *calls).communicate(timeout=60)
        assert err == ""
        return [json.loads(line)["result"] for line in out.splitlines()]

    def disks() -> set[str]:
        return {path.name for path in (bed.store / "inuse" / slot.name).glob("*.vmdk")}

    assert said("load", "node_status") == [1, "READY"]
    assert disks() == {f"{BASE}-000001.vmdk", f"{BASE}-000001-delta.vmdk"}
    server = bed.rows().server_request(made.request_id)
    assert said("node_status", "load", "node_status") == ["RELOAD", 1, "READY"]
    assert disks() == {f"{BASE}.vmdk", f"{BASE}-flat.vmdk"}
    assert said("unload") == [1]
    assert leftovers(bed) == []
    bed.rows().execute("DELETE FROM serverrequest WHERE id = %s", server)
    service.stop()
