"""place and capacity on real servers: by command, over the bus and over HTTP; and what VCL's tables promise."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from esxprov.database import Database, DatabaseConfig, VclInventory
from esxprov.model import Promised
from tests.integration.calls import Slot
from tests.testbed.bed import DATASTORE, IMAGES, PROFILE, Bed
from tests.testbed.mariadb import PASSWORD
from tests.testbed.ports import free_ports
from tests.testbed.processes import Child
from tests.testbed.vcl_rows import ReservationRows
from tests.testbed.vsphere import TestbedError

LINUX, WINDOWS = (image.name for image in IMAGES)
TOKEN = "a-token-of-the-test-bed"


@pytest.fixture(scope="module")
def port() -> int:
    return free_ports(1)[0]


@pytest.fixture(scope="module")
def service(bed: Bed, port: int) -> Iterator[Child]:
    child = bed.service(ESXPROV_HTTP_LISTEN=f"127.0.0.1:{port}")
    yield child
    child.stop()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    path.chmod(0o600)
    return path


_SOON_S = 15.0
"""Half of what a silent endpoint is waited for by those who must have its answer."""


def get(port: int, path: str, *, within_s: float = 30, **headers: str) -> tuple[int, dict[str, Any]]:
    """(status, JSON) of an answer over HTTP."""
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(asked, timeout=within_s) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def ask(bed: Bed, *arguments: str, code: int = 0, text: str = "") -> Any:
    done = bed.esxprov(*arguments, text=text)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def fits(pool: dict[str, Any], image: str) -> int:
    (count,) = [row["fits"] for row in pool["images"] if image in row["images"]]
    assert isinstance(count, int)
    return count


# --- what VCL has promised -------------------------------------------------------------------------------------------


@pytest.fixture
def inventory(bed: Bed) -> Iterator[VclInventory]:
    config = DatabaseConfig(unix_socket=str(bed.mariadb.socket), user="esxprov", password=PASSWORD, name="vcl")
    database = Database(config)
    yield VclInventory(database)
    database.close()


class Reserved:
    """Reservations and blocks in VCL's tables, from some minutes from now until some others."""

    def __init__(self, bed: Bed) -> None:
        self._bed = bed
        self.rows = bed.rows()
        self.requests: list[int] = []
        self.blocks: list[int] = []

    def reservation(
        self, slot: Slot, minutes: tuple[int, int], state: str = "new", last: str = "new", image: str = WINDOWS
    ) -> int:
        made = self.rows.reservation(slot.computer_id, self._bed.site.images[image], self._bed.site.node_id)
        self.requests.append(made.request_id)
        starts, ends = minutes
        self._bed.mariadb.execute(
            f"UPDATE request SET stateid = {self.rows.state(state)}, laststateid = {self.rows.state(last)}, "
            f"start = NOW() + INTERVAL {starts} MINUTE, end = NOW() + INTERVAL {ends} MINUTE "
            f"WHERE id = {made.request_id}",
            "vcl",
        )
        return made.reservation_id

    def cluster(self, computer_ids: list[int]) -> list[ReservationRows]:
        made = self.rows.cluster(computer_ids, self._bed.site.images[WINDOWS], self._bed.site.node_id)
        self.requests.append(made[0].request_id)
        return made

    def endless(self) -> None:
        self._bed.mariadb.execute(f"UPDATE request SET end = '2038-01-01' WHERE id = {self.requests[-1]}", "vcl")

    def seat(self, slot: Slot, minutes: tuple[int, int]) -> int:
        image = self._bed.site.images[WINDOWS].image_id
        now = self.rows.value("SELECT NOW()")
        block = self.rows.insert(
            "blockRequest", name="class", imageid=image, numMachines=1, ownerid=1, expireTime=now, processing=0
        )
        self.blocks.append(block)
        starts, ends = (self.rows.value(f"SELECT NOW() + INTERVAL {one} MINUTE") for one in minutes)
        when = self.rows.insert("blockTimes", blockRequestid=block, start=starts, end=ends, processed=1)
        self.rows.insert("blockComputers", blockTimeid=when, computerid=slot.computer_id, imageid=image)
        return when

    def remove(self) -> None:
        for table, column, numbers in (
            ("reservation", "requestid", self.requests),
            ("request", "id", self.requests),
            ("blockRequest", "id", self.blocks),
        ):
            for number in numbers:
                self._bed.mariadb.execute(f"DELETE FROM {table} WHERE {column} = {number}", "vcl")


@pytest.fixture
def reserved(bed: Bed) -> Iterator[Reserved]:
    made = Reserved(bed)
    yield made
    made.remove()


def promised(inventory: VclInventory, slot: Slot) -> list[Promised]:
    return [one for one in inventory.promised(PROFILE) if one.computer_id == slot.computer_id]


def test_images_have_the_size_that_their_vms_get(inventory: VclInventory) -> None:
    found = {image.name: (image.ram_mb, image.cpus, image.disk_mb) for image in inventory.images()}
    assert {image.name: (image.ram_mb, image.cpus, image.disk_mb) for image in IMAGES}.items() <= found.items()
    assert "noimage" not in found


def test_an_image_weighs_as_often_as_it_was_asked_for_in_the_last_four_weeks(
    bed: Bed, inventory: VclInventory, slot: Slot
) -> None:
    windows, made = next(image for image in IMAGES if image.name == WINDOWS), []
    before = {(ram_mb, cpus): often for ram_mb, cpus, often in inventory.image_sizes()}
    rows, image = bed.rows(), bed.site.images[WINDOWS]
    for days in (1, 20, 40):
        start = rows.value("SELECT NOW() - INTERVAL %s DAY", days)
        made.append(rows.insert("log", userid=1, start=start, initialend=start, finalend=start, imageid=image.image_id))
        where = {"computerid": slot.computer_id, "managementnodeid": bed.site.node_id}
        rows.insert("sublog", logid=made[-1], imageid=image.image_id, imagerevisionid=image.revision_id, **where)
    config = DatabaseConfig(unix_socket=str(bed.mariadb.socket), user="esxprov", password=PASSWORD, name="vcl")
    after = {(ram_mb, cpus): often for ram_mb, cpus, often in VclInventory(Database(config)).image_sizes()}
    assert after[windows.ram_mb, windows.cpus] == before[windows.ram_mb, windows.cpus] + 2
    for number in made:
        rows.execute("DELETE FROM sublog WHERE logid = %s", number)
        rows.execute("DELETE FROM log WHERE id = %s", number)


def test_a_reservation_is_promised_from_its_start_until_its_end(
    inventory: VclInventory, reserved: Reserved, slot: Slot
) -> None:
    number = reserved.reservation(slot, (60, 240))
    (one,) = promised(inventory, slot)
    assert (one.reservation_id, one.group, one.image.name) == (number, f"request-{reserved.requests[0]}", WINDOWS)
    assert one.ends_at is not None
    assert one.ends_at - one.starts_at == 180 * 60
    assert abs(one.starts_at - time.time() - 3600) < 60


@pytest.mark.parametrize(
    ("state", "last", "counts"),
    [
        ("new", "new", True),
        ("pending", "reserved", True),
        ("inuse", "inuse", True),
        ("serverinuse", "reserved", True),
        ("pending", "deleted", False),
        ("complete", "inuse", False),
        ("failed", "new", False),
        ("reload", "reload", False),
        ("maintenance", "new", False),
    ],
)
def test_only_requests_that_hold_a_machine_count(
    inventory: VclInventory, reserved: Reserved, slot: Slot, state: str, last: str, counts: bool
) -> None:
    reserved.reservation(slot, (-10, 60), state, last)
    assert bool(promised(inventory, slot)) is counts


def test_what_is_over_or_on_another_profile_is_not_promised(
    inventory: VclInventory, reserved: Reserved, slot: Slot
) -> None:
    reserved.reservation(slot, (-60, -10), "inuse", "inuse")
    assert promised(inventory, slot) == []
    reserved.reservation(slot, (-60, 10), "inuse", "inuse")
    assert inventory.promised("another") == []


def test_a_server_without_an_end_has_none(inventory: VclInventory, reserved: Reserved, slot: Slot) -> None:
    reserved.reservation(slot, (-10, 60), "serverinuse", "serverinuse")
    reserved.endless()
    assert [one.ends_at for one in promised(inventory, slot)] == [None]


def test_a_seat_of_a_block_is_promised_until_somebody_takes_it(
    inventory: VclInventory, reserved: Reserved, slot: Slot
) -> None:
    block = reserved.seat(slot, (60, 240))
    assert [(one.reservation_id, one.group) for one in promised(inventory, slot)] == [(0, f"block-{block}")]
    number = reserved.reservation(slot, (90, 120))
    assert [one.reservation_id for one in promised(inventory, slot)] == [number]


def test_the_members_of_a_request_are_those_on_the_same_profile_that_the_same_engine_provisions(
    bed: Bed, inventory: VclInventory, reserved: Reserved, slots: Iterator[Slot]
) -> None:
    machines = [next(slots) for _ in range(4)]
    first, second, elsewhere, other_engine = (
        made.reservation_id for made in reserved.cluster([slot.computer_id for slot in machines])
    )
    no_engine = reserved.rows.value("SELECT id FROM provisioning WHERE name = 'none'")
    update = "UPDATE computer SET {} WHERE id = {}"
    bed.mariadb.execute(update.format("vmhostid = NULL", machines[2].computer_id), "vcl")
    bed.mariadb.execute(update.format(f"provisioningid = {no_engine}", machines[3].computer_id), "vcl")
    found = inventory.members(first, PROFILE)
    assert [(one.reservation_id, one.computer_id) for one in found] == [
        (first, machines[0].computer_id),
        (second, machines[1].computer_id),
    ]
    assert {(one.group, one.image.name) for one in found} == {(f"request-{reserved.requests[-1]}", WINDOWS)}
    assert found[0].ends_at is not None
    assert elsewhere not in [one.reservation_id for one in inventory.members(elsewhere, PROFILE)]
    assert inventory.members(first, "another") == []
    assert [one.reservation_id for one in inventory.members(other_engine, PROFILE)] == [other_engine]


# --- command line ----------------------------------------------------------------------------------------------------


def test_an_image_can_be_placed_by_its_name(bed: Bed, service: Child) -> None:
    answer = ask(bed, "place", "--image", WINDOWS, "--count", "3", "--max-per-host", "1", "--json")
    assert {one["host"] for one in answer["placements"]} == {"esx1", "esx2", "esx3"}
    assert {one["datastore"] for one in answer["placements"]} == {DATASTORE}


def test_an_unknown_image_or_profile_is_answered_with_the_nearest(bed: Bed, service: Child) -> None:
    wrong = bed.esxprov("place", "--image", LINUX + "x")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr.startswith(f"esxprov: VCL has no image '{LINUX}x', did you mean '{LINUX}'")
    wrong = bed.esxprov("place", "--image", LINUX, "--profile", PROFILE + "x")
    assert wrong.returncode == 1
    assert wrong.stderr == f"esxprov: no pool has the VM host profile '{PROFILE}x', did you mean '{PROFILE}'?\n"


def test_with_several_pools_one_must_be_named(bed: Bed, service: Child) -> None:
    second = ["--set", "pool two.endpoints=esx1", "--set", "pool two.profile=second"]
    wrong = bed.esxprov(*second, "place", "--image", LINUX)
    assert (wrong.returncode, wrong.stderr) == (
        1,
        "esxprov: there are several pools, so name one by its profile: "
        f"main (profile '{PROFILE}'), two (profile 'second')\n",
    )
    assert bed.esxprov(*second, "place", "--image", LINUX, "--profile", PROFILE).returncode == 0


def test_as_many_fit_as_capacity_says(bed: Bed, service: Child) -> None:
    (pool,) = ask(bed, "capacity", "--json")["pools"]
    count = fits(pool, WINDOWS)
    assert bed.esxprov("place", "--image", WINDOWS, "--count", str(count)).returncode == 0
    assert bed.esxprov("place", "--image", WINDOWS, "--count", str(count + 1)).returncode == 1
    (safe,) = ask(bed, "capacity", "--n-plus-1", "--json")["pools"]
    assert 0 < fits(safe, WINDOWS) < count


def test_what_is_reserved_for_later_does_not_fit_then(
    bed: Bed, service: Child, reserved: Reserved, slots: Iterator[Slot]
) -> None:
    (now,) = ask(bed, "capacity", "--json")["pools"]
    for _ in range(2):
        reserved.reservation(next(slots), (60, 240))
    at = (datetime.now(UTC) + timedelta(minutes=90)).isoformat()
    (then,) = ask(bed, "capacity", "--at", at, "--json")["pools"]
    assert fits(then, WINDOWS) == fits(now, WINDOWS) - 2


def test_a_saved_world_gives_the_same_answers_without_asking(bed: Bed, service: Child, tmp_path: Path) -> None:
    path = tmp_path / "world.json"
    path.write_text(bed.esxprov("placement", "snapshot").stdout)
    away = ["--set", "endpoint esx1.url=https://127.0.0.1:1/sdk", "--set", "database.unix_socket=/none"]
    live, saved = ask(bed, "capacity", "--json"), ask(bed, *away, "capacity", "--snapshot", str(path), "--json")
    assert [row["fits"] for row in saved["pools"][0]["images"]] == [row["fits"] for row in live["pools"][0]["images"]]
    placed = ask(bed, *away, "place", "--snapshot", str(path), "--image", LINUX, "--json")
    assert placed["placements"]


def test_a_decision_of_the_journal_is_made_again(bed: Bed, service: Child, slot: Slot) -> None:
    data = json.dumps(slot.data())
    loaded = ask(bed, "call", "load", "--file", "-", "--json", text=data)
    found = ask(bed, "placement", "replay-decision", loaded["event"], "--json")
    assert (found["same"], found["refused"]) == (True, [])
    assert found["vms"][0]["host_now"] == loaded["result"]["host"]
    said = bed.esxprov("placement", "replay-decision", loaded["event"])
    assert said.stdout.endswith(", and the same today\n")
    unloaded = ask(bed, "call", "unload", "--file", "-", "--json", text=data)
    wrong = bed.esxprov("placement", "replay-decision", unloaded["event"])
    assert (wrong.returncode, "has no placement decision" in wrong.stderr) == (1, True)
    assert bed.esxprov("placement", "replay-decision", "nobody").returncode == 1


# --- the bus ---------------------------------------------------------------------------------------------------------


def test_a_name_and_a_number_are_enough_for_the_bus(bed: Bed, service: Child) -> None:
    text = json.dumps({"image": {"name": WINDOWS}, "count": 3, "max_per_host": 1, "explain": True})
    result = ask(bed, "call", "place", "--file", "-", "--json", text=text)["result"]
    assert {one["host"] for one in result["placements"]} == {"esx1", "esx2", "esx3"}


def test_the_bus_tells_the_capacity(bed: Bed, service: Child) -> None:
    result = ask(bed, "call", "capacity", "--file", "-", "--json", text='{"n_plus_one": true}')["result"]
    assert {row["host"] for row in result["hosts"]} == {"esx1", "esx2", "esx3"}
    assert fits(result, WINDOWS) > 0


# --- HTTP ------------------------------------------------------------------------------------------------------------


def test_capacity_over_http_is_that_of_the_command(bed: Bed, service: Child, port: int) -> None:
    status, found = get(port, "/v1/capacity")
    assert status == 200
    assert fits(found["pools"][0], WINDOWS) == fits(ask(bed, "capacity", "--json")["pools"][0], WINDOWS)


def test_place_over_http(service: Child, port: int) -> None:
    status, found = get(port, f"/v1/place?image={LINUX}&count=2")
    assert (status, len(found["placements"])) == (200, 2)
    assert get(port, "/v1/place?image=nobody")[0] == 404
    assert get(port, "/v1/places")[0] == 404


def test_a_silent_endpoint_is_left_out_and_holds_nobody_up_for_long(bed: Bed, service: Child, port: int) -> None:
    bed.endpoints["esx2"].pause()
    try:
        status, found = get(port, "/v1/capacity", within_s=_SOON_S)
    finally:
        bed.endpoints["esx2"].resume()
    assert (status, found["pools"][0]["silent"]) == (200, ["esx2"])


def test_with_a_token_only_who_has_it_is_answered(bed: Bed, token_file: Path, tmp_path: Path) -> None:
    (other,) = free_ports(1)
    child = bed.service(
        tmp_path / "service.log", ESXPROV_HTTP_LISTEN=f"0.0.0.0:{other}", ESXPROV_HTTP_TOKEN_FILE=str(token_file)
    )
    try:
        assert get(other, "/v1/capacity")[0] == 401
        assert get(other, "/v1/capacity", Authorization=f"Bearer {TOKEN}x")[0] == 401
        assert get(other, "/v1/capacity", Authorization=f"Bearer {TOKEN}")[0] == 200
    finally:
        child.stop()
    log = (tmp_path / "service.log").read_text()
    assert "GET '/v1/capacity': 401 in " in log
    assert TOKEN not in log


def test_without_a_token_the_service_serves_this_machine_only(bed: Bed, tmp_path: Path) -> None:
    with pytest.raises(TestbedError):
        bed.service(tmp_path / "service.log", ESXPROV_HTTP_LISTEN="0.0.0.0:8787")
    log = (tmp_path / "service.log").read_text()
    assert "[http] token_file is missing: 0.0.0.0 can be reached from elsewhere" in log


def test_a_port_that_somebody_has_is_told_at_the_start(bed: Bed, service: Child, port: int, tmp_path: Path) -> None:
    with pytest.raises(TestbedError):
        bed.service(tmp_path / "service.log", ESXPROV_HTTP_LISTEN=f"127.0.0.1:{port}")
    assert f"127.0.0.1 port {port} cannot be listened on" in (tmp_path / "service.log").read_text()


def test_the_service_ends_while_somebody_keeps_a_connection_open(bed: Bed, tmp_path: Path) -> None:
    (other,) = free_ports(1)
    child = bed.service(tmp_path / "service.log", ESXPROV_HTTP_LISTEN=f"127.0.0.1:{other}")
    command = ["bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{other}; echo open; read"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as idle:
        assert idle.stdout is not None
        assert idle.stdout.readline() == b"open\n"
        child.stop()
        idle.kill()
    assert (tmp_path / "service.log").read_text().splitlines()[-1].endswith("ended")
