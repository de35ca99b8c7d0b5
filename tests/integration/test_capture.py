"""capture on real servers: what a copy can meet while it is under way, and what it leaves behind."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from esxprov import config
from esxprov.library import manifest
from esxprov.library.manifest import Manifest
from esxprov.vsphere import VSphere
from tests.integration.calls import BASE, Following, Slot, call, client
from tests.testbed.audit import leftovers
from tests.testbed.bed import Bed, Plan
from tests.testbed.processes import Child

MB = 1024 * 1024
CAPACITY_MB = 300
STANDING_STILL = 0.0001


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(Plan(computers=40, capacity_mb=CAPACITY_MB), id="esxi, copied disks"),
        pytest.param(Plan(computers=40, capacity_mb=CAPACITY_MB, vcenter=True, disk="linked"), id="vcenter, linked"),
    ],
)
def bed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with Bed(tmp_path_factory.mktemp("bed"), request.param) as bed:
        bed.make_site()
        upgraded = bed.esxprov("db", "upgrade")
        assert upgraded.returncode == 0, upgraded.stderr
        yield bed


@pytest.fixture(scope="module")
def slots(bed: Bed) -> Iterator[Slot]:
    return (Slot(number, bed.site.computers[f"slot{number}"]) for number in range(1, bed.plan.computers + 1))


@pytest.fixture
def service(bed: Bed) -> Iterator[Child]:
    child = bed.service()
    yield child
    child.stop()


@pytest.fixture
def vm(bed: Bed, slots: Iterator[Slot], service: Child) -> Iterator[Slot]:
    """A computer whose VM is shut down, with 16 MB of its own on its disk. In the end nothing of it is left, nor of
    what was captured.
    """
    slot, before = next(slots), images(bed)
    yield shut_down(bed, slot)
    for name in images(bed) - before:
        shutil.rmtree(bed.store / "golden" / name)
    reply = call(bed, slot.request("unload", state="deleted"))
    assert reply["outcome"] == "ok", reply
    assert leftovers(bed) == []


def shut_down(bed: Bed, slot: Slot) -> Slot:
    for before in ("load", "power_off"):
        reply = call(bed, slot.request(before))
        assert reply["outcome"] == "ok", reply
    (content,) = [
        *(bed.store / "inuse" / slot.name).glob("*-flat.vmdk"),
        *(bed.store / "inuse" / slot.name).glob("*-delta.vmdk"),
    ]
    with content.open("r+b") as disk:
        disk.write(os.urandom(16 * MB))
    return slot


def capture(slot: Slot, name: str, state: str = "checkpoint", **changes: Any) -> Any:
    return slot.request("capture", image_name=name, state=state, **changes)


def captured(bed: Bed, name: str) -> Manifest:
    """The manifest of an image that is whole; with the content of its descriptor."""
    directory = bed.store / "golden" / name
    files = {path.name for path in directory.iterdir()}
    assert files == {f"{name}-flat.vmdk", f"{name}.vmdk", f"{name}.vmx", manifest.FILE}
    found = manifest.read((directory / manifest.FILE).read_bytes())
    assert found is not None
    assert found.descriptor_sha256 == hashlib.sha256((directory / f"{name}.vmdk").read_bytes()).hexdigest()
    assert (directory / f"{name}-flat.vmdk").stat().st_size == BASE.disk_mb * MB
    return found


def unfinished(bed: Bed) -> list[str]:
    return [line for line in leftovers(bed) if "unfinished" in line or "work on image" in line]


def images(bed: Bed) -> set[str]:
    return {path.name for path in (bed.store / "golden").iterdir()}


def copies(bed: Bed) -> int:
    """How often a disk was copied so far."""
    return sum(server.calls().get("CopyVirtualDisk_Task", 0) for server in bed.endpoints.values())


@contextmanager
def standing_still(bed: Bed) -> Iterator[None]:
    """Whatever is copied inside stays in the middle of it."""
    for server in bed.endpoints.values():
        server.set_pace(STANDING_STILL)
    try:
        yield
    finally:
        for server in bed.endpoints.values():
            server.set_pace(0)


@contextmanager
def filled(bed: Bed, but_mb: int) -> Iterator[None]:
    """The datastore has no more room than that."""
    used = sum(path.stat().st_blocks * 512 for path in bed.store.rglob("*") if path.is_file())
    filler = bed.store / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, CAPACITY_MB * MB - used - but_mb * MB)
    try:
        yield
    finally:
        filler.unlink()


# --- the ordinary way ------------------------------------------------------------------------------------------------


def test_the_image_is_whole_and_its_manifest_says_what_it_is(bed: Bed, vm: Slot) -> None:
    golden = bed.store / "golden" / BASE.name / f"{BASE.name}-flat.vmdk"
    before = golden.read_bytes()
    event = capture(vm, "whole-v7")
    reply = call(bed, event)
    assert reply["outcome"] == "ok", reply
    assert reply["result"] == {
        "image_path": "[nfs1] golden/whole-v7/whole-v7.vmdk", "size_mb": BASE.disk_mb + 1, "removed": False
    }  # fmt: skip
    found = captured(bed, "whole-v7")
    assert (found.made_for.event, found.source.image, found.source.revision) == (event.id, BASE.name, 3)
    assert (found.capacity_mb, found.adapter, found.create_type, found.thin) == (BASE.disk_mb, "lsilogic", "vmfs", True)
    assert found.allocated_mb is not None
    assert 16 <= found.allocated_mb <= 18
    assert golden.read_bytes() == before
    assert call(bed, vm.request("power_on"))["outcome"] == "ok", "a checkpoint goes on"


def test_a_capture_that_vcld_begins_anew_is_done(bed: Bed, vm: Slot) -> None:
    first = capture(vm, "again-v1")
    assert call(bed, first)["outcome"] == "ok"
    asked = vm.request("does_image_exist", image_name="again-v1", state="image")
    assert call(bed, asked)["result"] == {"exists": False}
    before = copies(bed)
    reply = call(bed, capture(vm, "again-v1", state="image"))
    assert (reply["outcome"], reply["result"]["removed"]) == ("ok", True)
    assert copies(bed) == before
    assert captured(bed, "again-v1").made_for.event == first.id


def test_answers_that_are_lost_after_their_effect_cost_no_second_image(bed: Bed, vm: Slot) -> None:
    methods = ("CopyVirtualDisk_Task", "MoveDatastoreFile_Task")
    for server in bed.endpoints.values():
        for method in methods:
            server.inject(method, "dropafter", count=1)
    try:
        reply = call(bed, capture(vm, "lost-v1"))
    finally:
        for server in bed.endpoints.values():
            server.clear_faults()
    assert reply["outcome"] == "ok", reply
    captured(bed, "lost-v1")
    assert unfinished(bed) == []


# --- in the middle of the copy ---------------------------------------------------------------------------------------


def test_a_capture_that_is_cancelled_in_mid_copy_leaves_nothing(bed: Bed, vm: Slot) -> None:
    before = images(bed)
    with standing_still(bed):
        capturing = Following(bed, capture(vm, "cancelled-v1"))
        capturing.wait_until_copying()
        with client(bed) as calling:
            calling.cancel(capturing.event, "not wanted any more")
        assert capturing.reply()["outcome"] == "cancelled"
        assert (images(bed), unfinished(bed)) == (before, [])


def test_a_service_killed_in_mid_copy_is_followed_by_one_that_ends_it_with_one_whole_image(
    bed: Bed, vm: Slot, service: Child
) -> None:
    with standing_still(bed):
        capturing = Following(bed, capture(vm, "killed-v1"))
        capturing.wait_until_copying()
        service.kill()
        second = bed.service()
        second.wait_for("trying again in")  # the copy that nobody waits for is still written
    assert capturing.reply()["outcome"] == "ok"
    assert captured(bed, "killed-v1").made_for.event == capturing.event.id
    assert unfinished(bed) == []


def test_a_datastore_that_runs_full_in_mid_copy_is_left_as_it_was_and_the_error_says_what_was_missing(
    bed: Bed, vm: Slot
) -> None:
    before = images(bed)
    with standing_still(bed):
        capturing = Following(bed, capture(vm, "full-v1"))
        capturing.wait_until_copying()
        with filled(bed, but_mb=8):
            for server in bed.endpoints.values():
                server.set_pace(0)
            error = capturing.reply()["error"]
    assert (error["code"], error["retryable"]) == ("datastore_full", False)
    assert 8 <= error["detail"]["missing_mb"] <= 10
    assert f"{error['detail']['missing_mb']} MB are missing" in error["message"]
    assert (images(bed), unfinished(bed)) == (before, [])


def test_a_datastore_without_room_is_not_written_to(bed: Bed, vm: Slot) -> None:
    before = copies(bed)
    with filled(bed, but_mb=8):
        error = call(bed, capture(vm, "no-room-v1"))["error"]
    assert error["code"] == "datastore_full"
    assert error["detail"]["needed_mb"] - error["detail"]["free_mb"] == error["detail"]["missing_mb"]
    assert (copies(bed), unfinished(bed)) == (before, [])


def test_what_cannot_be_removed_as_the_credentials_were_lost_in_mid_copy_is_removed_when_they_are_right(
    bed: Bed, vm: Slot, service: Child
) -> None:
    before, passwords = images(bed), {name: server.password for name, server in bed.endpoints.items()}
    with standing_still(bed):
        capturing = Following(bed, capture(vm, "locked-out-v1"))
        capturing.wait_until_copying()
        for server in bed.endpoints.values():
            server.set_password("changed")
            server.expire_sessions()
        reply = capturing.reply()
        assert (reply["outcome"], reply["error"]["code"]) == ("failed", "vsphere_auth")
        assert images(bed) != before
        service.stop()
        for name, server in bed.endpoints.items():
            server.set_password(passwords[name])
    second = bed.service()
    second.wait_for("removed .*locked-out-v1.*left")
    assert (images(bed), unfinished(bed)) == (before, [])


# --- bad sources, bad names ------------------------------------------------------------------------------------------


def test_an_image_that_two_capture_at_once_is_made_by_one_of_them(bed: Bed, vm: Slot, slots: Iterator[Slot]) -> None:
    other = shut_down(bed, next(slots))
    with standing_still(bed):
        first = Following(bed, capture(vm, "twice-v1"))
        first.wait_until_copying()
        error = call(bed, capture(other, "twice-v1"))["error"]
        assert (error["code"], error["retryable"]) == ("conflict", False)
        assert first.event.id in error["message"]
    assert first.reply()["outcome"] == "ok"
    assert captured(bed, "twice-v1").made_for.event == first.event.id
    assert call(bed, other.request("unload", state="deleted"))["outcome"] == "ok"


def snapshots(bed: Bed, slot: Slot) -> None:
    loaded = config.load({}, path=bed.conf)
    vsphere = VSphere(loaded.endpoints)
    try:
        for name in bed.endpoints:
            endpoint = vsphere.endpoint(name)
            found = endpoint.find_vm(f"[nfs1] inuse/{slot.name}/{slot.name}.vmx")
            if found is not None:
                for _ in range(2):
                    endpoint.snapshot_before_first_power_on(found)
    finally:
        vsphere.close()


def switched_on(bed: Bed, slot: Slot) -> None:
    assert call(bed, slot.request("power_on"))["outcome"] == "ok"


def question(bed: Bed, slot: Slot) -> None:
    for server in bed.endpoints.values():
        if any(vm["name"] == slot.name for vm in server.inventory()["vms"]):
            server.set_question(slot.name, "The CD is locked. Override?", ["Yes", "No"])


def no_disk(bed: Bed, slot: Slot) -> None:
    (bed.store / "golden" / "bad-no_disk-v1").mkdir()


@pytest.mark.parametrize(
    ("spoil", "code", "said"),
    [
        (switched_on, "vsphere_fault", "is switched on: shut it down, then capture it again"),
        (snapshots, "vsphere_fault", "has snapshots (esxprov-base, esxprov-base"),
        (question, "vsphere_fault", "waits for an answer: give it in the vSphere client (The CD is locked. Override?)"),
        (no_disk, "image_exists", "holds no disk bad-no_disk-v1.vmdk: look what it is, and remove it"),
    ],
)
def test_what_cannot_be_captured_is_refused_and_left_as_it_is(
    bed: Bed, vm: Slot, spoil: Any, code: str, said: str
) -> None:
    name = f"bad-{spoil.__name__}-v1"
    spoil(bed, vm)
    before, machines = images(bed), [server.inventory()["vms"] for server in bed.endpoints.values()]
    error = call(bed, capture(vm, name))["error"]
    assert (error["code"], error["retryable"]) == (code, False)
    assert said in error["message"]
    assert images(bed) == before
    assert [server.inventory()["vms"] for server in bed.endpoints.values()] == machines
    assert unfinished(bed) == []


def test_a_vm_that_cannot_be_removed_after_its_capture_is_removed_later(bed: Bed, vm: Slot, service: Child) -> None:
    for server in bed.endpoints.values():
        server.inject("UnregisterVM", "soap", fault="ResourceInUse")
    try:
        reply = call(bed, capture(vm, "stuck-v1", state="image"))
    finally:
        for server in bed.endpoints.values():
            server.clear_faults()
    assert reply["outcome"] == "ok", reply
    assert reply["result"]["removed"] is False
    captured(bed, "stuck-v1")
    service.stop()
    second = bed.service()
    second.wait_for("is removed")
    assert leftovers(bed) == []
