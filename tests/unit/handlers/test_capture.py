"""capture: which VMs become images, and what is left whatever happens meanwhile."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from esxprov.errors import ProvisioningError
from esxprov.handlers import capture
from esxprov.model import DiskMode
from tests.unit.world import IMAGE, POOL, Site, loaded

NEW = "vmwarelinux-desk12-v0"
GOLDEN = "[nfs1] golden"


def calls_of_one_capture() -> int:
    site = loaded()
    before = site.world.calls_made
    site.run(site.event("capture"))
    return site.world.calls_made - before


def test_a_capture_makes_an_image_that_can_be_loaded() -> None:
    site = loaded()
    result = site.run(site.event("capture"))
    assert result["image_path"] == f"{GOLDEN}/{NEW}/{NEW}.vmdk"
    assert result["size_mb"] >= 1
    site.run(site.event("load", image={"name": NEW}))
    assert f"[nfs1] inuse/vclv1-27/{NEW}.vmdk" in site.world.disks


@pytest.mark.parametrize(("state", "left"), [("image", 0), ("checkpoint", 1)])
def test_only_an_imaged_computer_loses_its_vm(state: str, left: int) -> None:
    site = loaded()
    site.run(site.event("capture", reservation={"state": state}))
    assert len(site.world.vms) == left


def test_a_linked_vm_is_captured_as_a_whole_disk() -> None:
    site = loaded(disk=DiskMode.LINKED)
    site.run(site.event("capture"))
    assert site.world.disks[f"{GOLDEN}/{NEW}/{NEW}.vmdk"].parent is None


def test_a_linked_vm_is_captured_with_the_adapter_of_its_image() -> None:
    site = Site(pool=replace(POOL, disk=DiskMode.LINKED))
    path = f"{GOLDEN}/{IMAGE}/{IMAGE}.vmdk"
    site.world.disks[path] = replace(site.world.disks[path], adapter="buslogic")
    site.run(site.event("load"))
    site.run(site.event("capture"))
    assert site.world.disks[f"{GOLDEN}/{NEW}/{NEW}.vmdk"].adapter == "buslogic"


def test_an_image_that_exists_is_never_overwritten() -> None:
    site = loaded()
    site.world.golden(NEW)
    before = site.world.paths()
    with pytest.raises(ProvisioningError, match="exists already and is not overwritten") as caught:
        site.run(site.event("capture"))
    assert caught.value.code == "image_exists"
    assert site.world.paths() == before


def test_a_capture_that_does_not_say_for_which_reservation_changes_nothing() -> None:
    site = loaded()
    before = site.world.paths()
    with pytest.raises(ProvisioningError, match="has no 'reservation' section"):
        site.run(site.event("capture", reservation=None))
    assert site.world.paths() == before


def test_a_vm_with_two_disks_is_refused() -> None:
    site = loaded()
    (vm,) = site.world.vms
    site.world.vm_disks[vm.moid].append("[nfs1] inuse/vclv1-27/second.vmdk")
    with pytest.raises(ProvisioningError, match="has 2 disks, an image has exactly one"):
        site.run(site.event("capture"))


def test_a_computer_without_a_vm_cannot_be_captured() -> None:
    site = Site()
    with pytest.raises(ProvisioningError) as caught:
        site.run(site.event("capture"))
    assert caught.value.code == "vm_not_found"


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(1, calls_of_one_capture() + 1))
def test_killed_at_any_call_the_capture_resumes_with_one_whole_image(number: int, when: str) -> None:
    site = loaded()
    site.world.die_at = (site.world.calls_made + number, when)
    site.run_until_done(site.event("capture"))
    manifest = json.loads(site.world.files[f"{GOLDEN}/{NEW}/{capture.MANIFEST}"])
    assert manifest["image"] == NEW
    assert sorted(site.world.directories) == [f"{GOLDEN}/{IMAGE}", f"{GOLDEN}/{NEW}"]
    assert (site.world.vms, site.claims.held) == ([], [])


@pytest.mark.parametrize("number", range(1, calls_of_one_capture() + 1))
def test_a_capture_that_failed_leaves_no_image_or_the_whole_one(number: int) -> None:
    site = loaded()
    job = site.job(site.event("capture"))
    site.world.fail_at = site.world.calls_made + number
    try:
        capture.capture(job, site.tools)
    except ProvisioningError:
        capture.undo(job, site.tools)
    images = [d for d in site.world.directories if d.startswith(GOLDEN)]
    assert set(images) <= {f"{GOLDEN}/{IMAGE}", f"{GOLDEN}/{NEW}"}
    if f"{GOLDEN}/{NEW}" in images:
        assert f"{GOLDEN}/{NEW}/{NEW}.vmdk" in site.world.disks
