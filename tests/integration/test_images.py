"""`esxprov images` on a real library, real tables and linked VMs; on ESXi hosts and in a vCenter."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.calls import BASE, Slot, call
from tests.integration.vsim.rig import until
from tests.testbed.audit import leftovers
from tests.testbed.bed import Bed, Plan
from tests.testbed.processes import Child
from tests.testbed.vsphere import golden_disk


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(Plan(computers=30, disk="linked"), id="esxi"),
        pytest.param(Plan(computers=30, disk="linked", vcenter=True), id="vcenter"),
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
def slot(slots: Iterator[Slot]) -> Slot:
    return next(slots)


@pytest.fixture
def orphan(bed: Bed, slot: Slot) -> Iterator[str]:
    """An image that was deleted in VCL."""
    name = f"vmwarelinux-old{slot.number}-v0"
    golden_disk(bed.store / "golden", name, 8)
    revision = bed.rows().image(name)
    bed.rows().execute("UPDATE imagerevision SET deleted = 1, datedeleted = NOW() WHERE id = %s", revision.revision_id)
    yield name
    shutil.rmtree(bed.store / "golden" / name, ignore_errors=True)
    bed.rows().execute("DELETE FROM imagerevision WHERE id = %s", revision.revision_id)


def answer(bed: Bed, *arguments: str, code: int = 0) -> Any:
    """What `esxprov images ... --json` says."""
    done = bed.esxprov("images", *arguments, "--json")
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def in_the_library(bed: Bed) -> set[str]:
    return {path.name for path in (bed.store / "golden").iterdir()}


def locked(bed: Bed) -> int:
    return int(bed.rows().value("SELECT COUNT(*) FROM esxprov_image_work"))


def loaded(bed: Bed, slot: Slot, image: str) -> None:
    reply = call(bed, slot.request("load", image_name=image))
    assert reply["outcome"] == "ok", reply


def unloaded(bed: Bed, slot: Slot) -> None:
    assert call(bed, slot.request("unload"))["outcome"] == "ok"


def test_the_library_is_listed_with_what_vcl_knows_and_who_needs_it(bed: Bed, slot: Slot, service: Child) -> None:
    loaded(bed, slot, BASE.name)
    rows = {row["image"]: row for row in answer(bed, "list")}
    base = rows[BASE.name]
    assert (base["state"], base["disk_mb"], base["users"], base["problem"]) == ("production", BASE.disk_mb, 1, None)
    (user,) = answer(bed, "show", BASE.name)["users"]
    assert (user["vm"], user["chain_depth"]) == (slot.name, 1)
    unloaded(bed, slot)
    assert answer(bed, "show", BASE.name)["users"] == []


def test_a_captured_image_is_as_its_manifest_says_and_knows_where_it_came_from(
    bed: Bed, slot: Slot, service: Child
) -> None:
    name = f"vmwarelinux-captured{slot.number}-v0"
    bed.rows().image(name)
    loaded(bed, slot, BASE.name)
    assert call(bed, slot.request("power_off"))["outcome"] == "ok"
    reply = call(bed, slot.request("capture", image_name=name, state="image"))
    assert reply["outcome"] == "ok", reply
    assert answer(bed, "verify", name) == []
    shown = answer(bed, "show", name)
    assert (shown["made_from"], shown["manifest"]["computer"]) == ([BASE.name], slot.name)
    content = bed.store / "golden" / name / f"{name}-flat.vmdk"
    os.truncate(content, 512)
    (found,) = answer(bed, "verify", name, code=1)
    assert found["problem"].startswith(f"{content.name} has 512 of ")
    shutil.rmtree(content.parent)


def test_a_descriptor_that_was_written_to_does_not_match_its_manifest(bed: Bed, slot: Slot, service: Child) -> None:
    name = f"vmwarelinux-captured{slot.number}-v0"
    bed.rows().image(name)
    loaded(bed, slot, BASE.name)
    assert call(bed, slot.request("power_off"))["outcome"] == "ok"
    assert call(bed, slot.request("capture", image_name=name, state="image"))["outcome"] == "ok"
    descriptor = bed.store / "golden" / name / f"{name}.vmdk"
    descriptor.write_text(descriptor.read_text() + "# opened\n")
    (found,) = answer(bed, "verify", name, code=1)
    assert "its descriptor was changed" in found["problem"]
    shutil.rmtree(descriptor.parent)


def test_an_image_that_is_not_there_cannot_be_shown_or_verified(bed: Bed) -> None:
    for command in ("show", "verify"):
        done = bed.esxprov("images", command, "never-was-v0")
        assert done.returncode == 1
        assert "there is no image never-was-v0" in done.stderr


def test_an_orphan_is_shown_and_deleted_by_its_name(bed: Bed, orphan: str) -> None:
    before = in_the_library(bed)
    assert [row["image"] for row in answer(bed, "orphans")] == [orphan]
    assert answer(bed, "orphans", "--delete", "--yes", orphan) == [{"image": orphan, "deleted": True, "problem": None}]
    assert (in_the_library(bed), locked(bed)) == (before - {orphan}, 0)


@pytest.mark.parametrize(("typed", "goes"), [(True, True), (False, False)])
def test_an_orphan_is_deleted_only_by_who_types_its_name(bed: Bed, orphan: str, typed: bool, goes: bool) -> None:
    done = bed.esxprov("images", "orphans", "--delete", text=f"{orphan if typed else 'yes'}\n")
    assert done.returncode == 0, done.stderr
    assert (orphan not in in_the_library(bed)) is goes


def test_the_parent_of_a_linked_vm_is_not_deleted_though_vcl_has_deleted_it(
    bed: Bed, slots: Iterator[Slot], service: Child, orphan: str
) -> None:
    slot = next(slots)
    loaded(bed, slot, orphan)
    assert answer(bed, "orphans") == []
    (done,) = answer(bed, "orphans", "--delete", "--yes", orphan, code=1)
    assert (done["deleted"], done["problem"]) == (False, f"1 VM(s) need it: {slot.name}")
    assert orphan in in_the_library(bed)
    unloaded(bed, slot)
    assert [row["image"] for row in answer(bed, "orphans")] == [orphan]


def test_an_image_that_vcl_waits_for_or_that_is_loaded_next_is_no_orphan(bed: Bed, slot: Slot, orphan: str) -> None:
    rows = bed.rows()
    rows.execute("UPDATE imagerevision SET datedeleted = NULL WHERE imagename = %s", orphan)
    assert answer(bed, "orphans") == []
    rows.execute("UPDATE imagerevision SET datedeleted = NOW() WHERE imagename = %s", orphan)
    image = rows.value("SELECT imageid FROM imagerevision WHERE imagename = %s", orphan)
    rows.execute("UPDATE computer SET nextimageid = %s WHERE id = %s", image, slot.computer_id)
    assert answer(bed, "orphans") == []
    rows.execute("UPDATE computer SET nextimageid = 1 WHERE id = %s", slot.computer_id)


def test_an_image_that_is_unknown_to_vcl_is_an_orphan(bed: Bed) -> None:
    golden_disk(bed.store / "golden", "neighbours-image-v0", 1)
    (row,) = answer(bed, "orphans")
    assert (row["image"], row["state"]) == ("neighbours-image-v0", "unknown")
    shutil.rmtree(bed.store / "golden" / "neighbours-image-v0")


def test_a_deletion_that_was_killed_behind_the_renaming_is_finished_by_the_service(bed: Bed, orphan: str) -> None:
    for one in bed.endpoints.values():
        one.inject("DeleteDatastoreFile_Task", "delay", ms=20_000)
    command = [sys.executable, "-m", "esxprov.cli", "images", "orphans", "--delete", "--yes", orphan]
    with subprocess.Popen(command, env=bed.environment(), stdout=subprocess.DEVNULL) as child:
        until(lambda: any(name.startswith(f".{orphan}.deleted-") for name in in_the_library(bed)), timeout_s=20)
        child.send_signal(signal.SIGKILL)
    for one in bed.endpoints.values():
        one.clear_faults()
    assert (orphan in in_the_library(bed), locked(bed)) == (False, 1)
    bed.rows().execute("UPDATE esxprov_image_work SET held_until = UTC_TIMESTAMP(6) - INTERVAL 1 SECOND")
    service = bed.service()
    until(lambda: locked(bed) == 0, timeout_s=20)
    service.stop()
    assert [name for name in in_the_library(bed) if orphan in name] == []
    assert leftovers(bed) == []


def test_while_a_host_is_silent_nothing_is_an_orphan(bed: Bed, orphan: str) -> None:
    name, server = next(iter(bed.endpoints.items()))
    server.inject("*", "http", status=503)
    done = bed.esxprov("images", "orphans", "--delete", "--yes", orphan, "--json")
    server.clear_faults()
    assert orphan in in_the_library(bed)
    if len(bed.endpoints) > 1:
        assert done.returncode == 1
        assert f"{name} cannot be asked" in done.stdout
    else:
        assert done.returncode == 69
        assert f"{name}" in done.stderr
