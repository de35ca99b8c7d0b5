"""retrieve_image on real servers: from the repository into the library, once, and what can happen on the way."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from bridge.envelope import Event
from esxprov.library import manifest
from tests.integration.calls import BASE, Following, Slot, call, client
from tests.testbed.audit import leftovers
from tests.testbed.bed import DATASTORE, REPOSITORY_PATH, Bed, Plan
from tests.testbed.processes import Child
from tests.testbed.vsphere import golden_disk

MB = 1024 * 1024
SIZE_MB = 32
STANDING_STILL = 0.0001
AT_ONCE = 16


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(Plan(computers=60, repository=True, multiextent=True), id="esxi"),
        pytest.param(Plan(computers=60, repository=True, vcenter=True), id="vcenter"),
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
def image(bed: Bed, service: Child, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of an image that only the repository has. In the end nothing of it is left, nor of anything else."""
    name = f"vmwarelinux-{request.function.__name__[5:60]}-v4"
    stored(bed, name)
    yield name
    shutil.rmtree(bed.repository / name)
    shutil.rmtree(bed.store / "golden" / name, ignore_errors=True)
    assert leftovers(bed) == []


def stored(bed: Bed, name: str, **options: Any) -> None:
    golden_disk(bed.repository, name, SIZE_MB, payload=os.urandom(2 * MB), **options)
    (bed.repository / name / f"{name}.vmx").write_text('guestOS = "rhel7-64"\nfirmware = "efi"\nuuid.bios = "56 4d"\n')


def retrieve(slot: Slot, image: str, call: str = "retrieve_image", path: str = REPOSITORY_PATH, **data: Any) -> Event:
    return slot.request(call, image_name=image, profile={"repository_path": path}, **data)


def content(directory: Any, name: str) -> bytes:
    """What is on an image's disk, whatever its format: all there is in its extents, in order."""
    return b"".join(path.read_bytes() for path in sorted(directory.glob(f"{name}-*.vmdk"))).rstrip(b"\0")


def is_whole(bed: Bed, name: str) -> None:
    """The library has the image with the content of the repository's, its hardware and a manifest."""
    directory = bed.store / "golden" / name
    files = {path.name for path in directory.iterdir()}
    assert files == {f"{name}-flat.vmdk", f"{name}.vmdk", f"{name}.vmx", manifest.FILE}
    assert (directory / f"{name}-flat.vmdk").stat().st_size == SIZE_MB * MB
    assert content(directory, name) == content(bed.repository / name, name)
    assert (directory / f"{name}.vmx").read_text() == 'guestOS = "rhel7-64"\nfirmware = "efi"\n'
    found = manifest.read((directory / manifest.FILE).read_bytes())
    assert found is not None
    assert (found.purpose, found.source.path) == ("stage", f"{REPOSITORY_PATH}/{name}/{name}.vmdk")
    assert found.descriptor_sha256 == hashlib.sha256((directory / f"{name}.vmdk").read_bytes()).hexdigest()


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


def library(bed: Bed) -> set[str]:
    return {path.name for path in (bed.store / "golden").iterdir()}


# --- the ordinary way ------------------------------------------------------------------------------------------------


def test_vcld_is_told_that_the_image_is_missing_has_it_brought_and_loads_it(
    bed: Bed, image: str, slots: Iterator[Slot]
) -> None:
    slot = next(slots)
    assert call(bed, retrieve(slot, image, "does_image_exist"))["result"] == {"exists": False}
    reply = call(bed, retrieve(slot, image))
    assert reply["outcome"] == "ok", reply
    assert reply["result"]["source"] == f"{REPOSITORY_PATH}/{image}/{image}.vmdk"
    assert 2 <= reply["result"]["copied_mb"] <= SIZE_MB
    assert call(bed, retrieve(slot, image, "does_image_exist"))["result"] == {"exists": True}
    is_whole(bed, image)
    assert call(bed, retrieve(slot, image, "load"))["outcome"] == "ok"
    assert 'firmware = "efi"' in (bed.store / "inuse" / slot.name / f"{slot.name}.vmx").read_text()
    assert call(bed, slot.request("unload", state="deleted"))["outcome"] == "ok"


def test_a_load_brings_the_image_by_itself(bed: Bed, image: str, slots: Iterator[Slot]) -> None:
    slot = next(slots)
    assert call(bed, retrieve(slot, image, "load"))["outcome"] == "ok"
    is_whole(bed, image)
    assert call(bed, slot.request("unload", state="deleted"))["outcome"] == "ok"


def test_the_name_of_an_image_in_the_repository_is_taken_for_a_capture(
    bed: Bed, image: str, slots: Iterator[Slot]
) -> None:
    asked = retrieve(next(slots), image, "does_image_exist", state="image")
    assert call(bed, asked)["result"] == {"exists": True}


def test_the_size_of_an_image_in_the_repository_is_told(bed: Bed, image: str, slots: Iterator[Slot]) -> None:
    assert call(bed, retrieve(next(slots), image, "get_image_size"))["result"] == {"size_mb": SIZE_MB + 1}


def test_answers_that_are_lost_after_their_effect_cost_nothing(bed: Bed, image: str, slots: Iterator[Slot]) -> None:
    for server in bed.endpoints.values():
        for method in ("CopyVirtualDisk_Task", "MoveDatastoreFile_Task", "MakeDirectory"):
            server.inject(method, "dropafter", count=1)
    try:
        reply = call(bed, retrieve(next(slots), image))
    finally:
        for server in bed.endpoints.values():
            server.clear_faults()
    assert reply["outcome"] == "ok", reply
    is_whole(bed, image)


# --- several who want it ---------------------------------------------------------------------------------------------


def test_however_many_wait_for_an_image_it_is_copied_once(bed: Bed, image: str, slots: Iterator[Slot]) -> None:
    before = copies(bed)
    with standing_still(bed):
        first = Following(bed, retrieve(next(slots), image))
        first.wait_until_copying()
        others = [Following(bed, retrieve(next(slots), image)) for _ in range(AT_ONCE - 1)]
        others[0].wait_for_message(f"event {first.event.id} brings {image} already")
    replies = [one.reply() for one in (first, *others)]
    assert [reply["outcome"] for reply in replies] == ["ok"] * AT_ONCE
    assert [bool(reply["result"]["copied_mb"]) for reply in replies] == [True] + [False] * (AT_ONCE - 1)
    assert copies(bed) - before == 1
    is_whole(bed, image)


def test_who_waits_brings_the_image_if_the_first_is_cancelled(bed: Bed, image: str, slots: Iterator[Slot]) -> None:
    with standing_still(bed):
        first = Following(bed, retrieve(next(slots), image))
        first.wait_until_copying()
        second = Following(bed, retrieve(next(slots), image))
        second.wait_for_message(f"event {first.event.id} brings {image} already")
        with client(bed) as calling:
            calling.cancel(first.event, "the user does not want it any more")
        assert first.reply()["outcome"] == "cancelled"
    assert second.reply()["result"]["copied_mb"] > 0
    is_whole(bed, image)


# --- in the middle of the copy ---------------------------------------------------------------------------------------


def test_a_service_killed_in_mid_copy_is_followed_by_one_that_brings_the_whole_image(
    bed: Bed, image: str, slots: Iterator[Slot], service: Child
) -> None:
    with standing_still(bed):
        first = Following(bed, retrieve(next(slots), image))
        first.wait_until_copying()
        second = Following(bed, retrieve(next(slots), image))
        second.wait_for_message(f"event {first.event.id} brings {image} already")
        service.kill()
        following = bed.service()
        following.wait_for("trying again in")  # the copy that nobody waits for is still written
        assert image not in library(bed)
    assert [one.reply()["outcome"] for one in (first, second)] == ["ok", "ok"]
    is_whole(bed, image)
    following.stop()


@pytest.mark.parametrize("step", ["find_image", "stage", "verify", "describe", "move"])
def test_a_service_killed_at_any_step_is_followed_by_one_that_leaves_one_whole_image(
    bed: Bed, image: str, slots: Iterator[Slot], service: Child, step: str
) -> None:
    bringing = Following(bed, retrieve(next(slots), image))
    bringing.wait_for_step(step)
    service.kill()
    following = bed.service()
    assert bringing.reply()["outcome"] == "ok"
    is_whole(bed, image)
    following.stop()


def test_a_cancel_in_mid_copy_leaves_nothing(bed: Bed, image: str, slots: Iterator[Slot]) -> None:
    before = library(bed)
    with standing_still(bed):
        first = Following(bed, retrieve(next(slots), image))
        first.wait_until_copying()
        with client(bed) as calling:
            calling.cancel(first.event, "the user does not want it any more")
        assert first.reply()["outcome"] == "cancelled"
        assert library(bed) == before


# --- what cannot be brought ------------------------------------------------------------------------------------------


def test_a_disk_of_older_vcl_is_converted_by_hosts_that_can_read_it_and_refused_with_what_to_do_by_others(
    bed: Bed, image: str, slots: Iterator[Slot]
) -> None:
    shutil.rmtree(bed.repository / image)
    stored(bed, image, create_type="twoGbMaxExtentSparse", extents=2)
    before = library(bed)
    reply = call(bed, retrieve(next(slots), image))
    if bed.plan.multiextent:
        assert reply["outcome"] == "ok", reply
        is_whole(bed, image)
        return
    assert (reply["error"]["code"], reply["error"]["retryable"]) == ("vsphere_fault", False)
    assert "is of type twoGbMaxExtentSparse, which this host cannot read" in reply["error"]["message"]
    assert "qemu-img convert" in reply["error"]["message"]
    assert library(bed) == before


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (f"{REPOSITORY_PATH}/../../{DATASTORE}/inuse", "is no datastore's directory"),
        ("/install/vmware_images", "is no datastore's directory: mount it on the hosts"),
        ("[nowhere] images", "nor is it in the repository ([nowhere] images)"),
        ("", "has no disk"),
    ],
)
def test_without_a_repository_that_hosts_can_read_the_image_is_not_found(
    bed: Bed, image: str, slots: Iterator[Slot], path: str, said: str
) -> None:
    error = call(bed, retrieve(next(slots), image, path=path))["error"]
    assert (error["code"], error["retryable"]) == ("image_not_found", False)
    assert said in error["message"]


def test_an_image_that_is_still_being_put_into_the_repository_is_refused(
    bed: Bed, image: str, slots: Iterator[Slot]
) -> None:
    with (bed.repository / image / f"{image}-flat.vmdk").open("r+b") as growing:
        growing.truncate(MB)
    before = copies(bed)
    error = call(bed, retrieve(next(slots), image))["error"]
    assert f"its {image}-flat.vmdk is missing or too short" in error["message"]
    assert copies(bed) == before


def test_the_library_s_other_images_are_as_they_were(bed: Bed, service: Child, slots: Iterator[Slot]) -> None:
    reply = call(bed, retrieve(next(slots), BASE.name))
    assert reply["result"] == {"copied_mb": 0, "source": ""}
