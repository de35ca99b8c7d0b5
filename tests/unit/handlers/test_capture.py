"""capture: which VMs become images, and what is left whatever happens meanwhile."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from bridge.envelope import Event
from esxprov.errors import Cancelled, ProvisioningError
from esxprov.handlers import capture
from esxprov.library import manifest
from esxprov.library.manifest import Manifest
from esxprov.model import AttachedDisk, ClaimState, DiskInfo, DiskMode, ImageWork, PowerState
from tests.unit.world import IMAGE, POOL, Died, Site, StoredSteps, loaded

NEW = "vmwarelinux-desk12-v0"
GOLDEN = "[nfs1] golden"
COPY = f"{GOLDEN}/{NEW}/{NEW}.vmdk"


def ready(**pool: Any) -> Site:
    """A site with one loaded computer, shut down."""
    site = loaded(**pool)
    site.run(site.event("power_off"))
    return site


def manifest_of(site: Site, image: str = NEW) -> Manifest:
    found = manifest.read(site.world.files[f"{GOLDEN}/{image}/{manifest.FILE}"])
    assert found is not None
    return found


def hidden(site: Site) -> list[str]:
    return [path for path in site.world.paths() if "/." in path]


def refused(site: Site, event: Event | None = None) -> ProvisioningError:
    """The error of a capture that must not have changed anything."""
    before = site.world.paths(), site.world.vms, site.claims.held
    event = event or site.event("capture")
    job = site.job(event)
    with pytest.raises(ProvisioningError) as caught:
        capture.capture(job, site.tools)
    capture.undo(job, site.tools)
    assert (site.world.paths(), site.world.vms, site.claims.held) == before
    assert [work for work in site.images.held.values() if work.event_id == event.id] == []
    return caught.value


# --- the ordinary way ------------------------------------------------------------------------------------------------


def test_a_capture_makes_an_image_that_can_be_loaded() -> None:
    site = ready()
    result = site.run(site.event("capture"))
    assert result == {"image_path": COPY, "size_mb": 2049, "removed": True}
    site.run(site.event("load", image={"name": NEW}))
    assert f"[nfs1] inuse/vclv1-27/{NEW}.vmdk" in site.world.disks


@pytest.mark.parametrize(("state", "left"), [("image", 0), ("checkpoint", 1)])
def test_only_an_imaged_computer_loses_its_vm(state: str, left: int) -> None:
    site = ready()
    result = site.run(site.event("capture", reservation={"state": state}))
    assert (len(site.world.vms), len(site.claims.held), result["removed"]) == (left, left, not left)


def test_the_manifest_says_what_the_image_is_and_where_it_is_from() -> None:
    site = ready()
    event = site.event("capture")
    site.run(event)
    found = manifest_of(site)
    assert (found.made_for.event, found.made_for.revision_id) == (event.id, 40)
    assert (found.source.image, found.source.revision) == (IMAGE, 3)
    assert found.source.path == f"[nfs1] inuse/vclv1-27/{IMAGE}.vmdk"
    assert (found.capacity_mb, found.allocated_mb, found.adapter, found.thin) == (2048, 2048, "lsilogic", True)
    assert found.descriptor_sha256 == hashlib.sha256(site.hypervisors["esx1"].read_file(COPY) or b"").hexdigest()
    assert found.made_at == site.world.now.isoformat()


def test_the_reference_vmx_has_the_hardware_and_nothing_that_tells_who_the_vm_was() -> None:
    site = ready()
    site.run(site.event("capture"))
    text = site.world.files[f"{GOLDEN}/{NEW}/{NEW}.vmx"].decode()
    assert 'scsi0.virtualDev = "lsilogic"' in text
    for secret in ("vclv1-27", "00:50:56", "annotation", "fileName", "uuid"):
        assert secret not in text


def test_the_lock_is_given_back_at_the_end() -> None:
    site = ready()
    site.run(site.event("capture"))
    assert site.images.held == {}


# --- linked VMs ------------------------------------------------------------------------------------------------------


def test_a_linked_vm_is_captured_as_a_whole_disk() -> None:
    site = ready(disk=DiskMode.LINKED)
    site.run(site.event("capture"))
    assert site.world.disks[COPY].parent is None


def test_a_linked_vm_is_captured_with_the_adapter_of_its_controller() -> None:
    site = Site(pool=replace(POOL, disk=DiskMode.LINKED))
    path = f"{GOLDEN}/{IMAGE}/{IMAGE}.vmdk"
    site.world.disks[path] = replace(site.world.disks[path], adapter="buslogic")
    site.run(site.event("load"))
    site.run(site.event("power_off"))
    site.run(site.event("capture"))
    assert site.world.disks[COPY].adapter == "buslogic"


@pytest.mark.parametrize(
    "hint",
    [
        f"/vmfs/volumes/nfs1/golden/{IMAGE}/{IMAGE}.vmdk",
        f"/vmfs/volumes/4f2a-99/golden/{IMAGE}/{IMAGE}.vmdk",
        f"../../golden/{IMAGE}/{IMAGE}.vmdk",
    ],
)
def test_the_base_of_a_linked_vm_is_found_by_what_its_redo_disk_calls_it(hint: str) -> None:
    site = ready(disk=DiskMode.LINKED)
    (redo,) = [disk for disk in site.world.disks.values() if disk.parent]
    site.world.disks[redo.path] = replace(redo, parent=hint)
    relative = f"{redo.path.rpartition('/')[0]}/{hint}"
    site.world.disks[relative] = site.world.disks[f"{GOLDEN}/{IMAGE}/{IMAGE}.vmdk"]
    site.run(site.event("capture"))
    assert COPY in site.world.disks


def test_a_linked_vm_whose_base_is_gone_is_refused() -> None:
    site = ready(disk=DiskMode.LINKED)
    del site.world.disks[f"{GOLDEN}/{IMAGE}/{IMAGE}.vmdk"]
    assert f"{IMAGE}-000001.vmdk is based on it, reload the computer" in refused(site).message


# --- what is refused -------------------------------------------------------------------------------------------------


def test_an_image_that_exists_is_never_overwritten() -> None:
    site = ready()
    site.world.golden(NEW)
    error = refused(site)
    assert (error.code, error.message) == ("image_exists", f"{GOLDEN}/{NEW} exists already and is not overwritten")


def test_a_directory_without_a_disk_is_not_called_an_image() -> None:
    site = ready()
    site.world.directories.add(f"{GOLDEN}/{NEW}")
    error = refused(site)
    assert error.code == "image_exists"
    assert f"holds no disk {NEW}.vmdk: look what it is, and remove it" in error.message


def test_a_capture_that_does_not_say_for_which_reservation_changes_nothing() -> None:
    site = ready()
    before = site.world.paths()
    with pytest.raises(ProvisioningError, match="has no 'reservation' section"):
        site.run(site.event("capture", reservation=None))
    assert site.world.paths() == before


TWO = tuple(AttachedDisk(f"[nfs1] inuse/vclv1-27/{name}.vmdk", "persistent", "lsilogic") for name in (IMAGE, "second"))


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ({"power": PowerState.ON}, "is switched on: shut it down, then capture it again"),
        ({"power": PowerState.SUSPENDED}, "is suspended: wake it up and shut it down"),
        ({"snapshots": ("before-update",)}, "has snapshots (before-update): delete them"),
        ({"snapshots": ("esxprov-base", "mine")}, "has snapshots (esxprov-base, mine): delete them"),
        ({"disks": TWO}, "has 2 disks, an image has exactly one: remove the others"),
        ({"disks": ()}, "has 0 disks, an image has exactly one"),
        ({"disks": (replace(TWO[0], mode="independent_nonpersistent"),)}, "of mode independent_nonpersistent: make it"),
        ({"question": "Was it moved?"}, "waits for an answer: give it in the vSphere client (Was it moved?)"),
    ],
)
def test_a_vm_that_is_not_fit_for_it_is_refused_with_what_to_do(condition: dict[str, Any], said: str) -> None:
    site = ready()
    (vm,) = site.world.vms
    site.world.conditions[vm.moid] = condition
    error = refused(site)
    assert (error.code, error.retryable) == ("vsphere_fault", False)
    assert said in error.message


def test_a_computer_without_a_vm_cannot_be_captured() -> None:
    assert refused(Site()).code == "vm_not_found"


def test_an_image_that_another_event_is_making_is_a_conflict_at_once() -> None:
    site = ready()
    other = ImageWork("nfs1", NEW, "other-event", "capture", "main", f"{GOLDEN}/.{NEW}.other")
    site.images.take(other)
    error = refused(site)
    assert (error.code, error.retryable) == ("conflict", False)
    assert "other-event" in error.message
    assert site.images.held == {("nfs1", NEW): other}


def test_what_an_event_that_has_ended_left_is_removed_before_the_image_is_made_anew() -> None:
    site = ready()
    left = ImageWork("nfs1", NEW, "dead-event", "capture", "main", f"{GOLDEN}/.{NEW}.dead")
    site.images.take(left)
    site.images.ended.add("dead-event")
    site.world.directories.add(left.path)
    site.world.files[f"{left.path}/half.vmdk"] = b""
    site.run(site.event("capture"))
    assert hidden(site) == []
    assert COPY in site.world.disks


# --- room ------------------------------------------------------------------------------------------------------------


def test_a_datastore_without_room_for_the_copy_is_told_with_the_figures() -> None:
    site = ready()
    site.world.free_mb = 2000
    error = refused(site)
    assert error.code == "datastore_full"
    assert "needs up to 2048 MB on [nfs1], where 2000 MB are free: 48 MB are missing" in error.message
    assert error.detail["missing_mb"] == 48


def test_a_thin_disk_needs_only_what_it_occupies() -> None:
    site = ready()
    site.world.free_mb = 2000
    site.world.allocated[f"[nfs1] inuse/vclv1-27/{IMAGE}.vmdk"] = 500
    site.run(site.event("capture"))
    assert COPY in site.world.disks


def test_of_a_chain_all_layers_are_needed_but_never_more_than_the_disk_can_hold() -> None:
    site = ready(disk=DiskMode.LINKED)
    site.world.free_mb = 1200
    (redo,) = [disk.path for disk in site.world.disks.values() if disk.parent]
    site.world.allocated = {redo: 300, f"{GOLDEN}/{IMAGE}/{IMAGE}.vmdk": 1000}
    assert refused(site).detail["needed_mb"] == 1300
    site.world.allocated[redo] = 1900
    assert refused(site).detail["needed_mb"] == 2048


def test_a_copy_of_a_thick_disk_may_become_as_large_as_it() -> None:
    site = ready()
    path = f"[nfs1] inuse/vclv1-27/{IMAGE}.vmdk"
    site.world.disks[path] = replace(site.world.disks[path], thin=False)
    site.world.allocated[path] = 10
    site.world.free_mb = 100
    assert refused(site).detail["needed_mb"] == 2048


def test_what_is_promised_to_others_is_not_free() -> None:
    site = ready()
    site.world.free_mb = 5000
    (vm,) = site.claims.held
    site.claims.held.append(
        replace(vm, id="on-its-way", computer_id=99, state=ClaimState.CLAIMED, disk_mb=1500, datastore="nfs1")
    )
    other = ImageWork("nfs1", "other-v1", "other", "stage", "main", f"{GOLDEN}/.other-v1.x", needed_mb=2000)
    site.images.take(other)
    error = refused(site)
    assert (error.detail["promised_mb"], error.detail["missing_mb"]) == (3500, 548)
    assert "(3500 of them promised to others)" in error.message
    # What it has written already is not free any more, and so not promised, either.
    written = f"{other.path}/other-v1.vmdk"
    site.world.disks[written] = DiskInfo(written, "lsilogic", "vmfs", 2000)
    site.world.allocated[written] = 1000
    site.run(site.event("capture"))
    assert COPY in site.world.disks


def test_of_two_captures_that_do_not_both_fit_the_first_one_is_made() -> None:
    site = ready()
    site.world.free_mb = 3000
    later = ImageWork("nfs1", "other-v1", "other", "capture", "main", f"{GOLDEN}/.other-v1.x", needed_mb=2000)

    def come_later(method: str) -> None:
        if method == "datastore":
            site.images.held.setdefault(("nfs1", "other-v1"), later)

    site.world.on_call = come_later
    site.run(site.event("capture"))
    assert list(site.images.held.values()) == [later]
    assert COPY in site.world.disks


def test_a_datastore_that_is_full_in_mid_copy_is_left_as_it_was_and_the_error_says_what_was_missing() -> None:
    site = ready()

    def fill(method: str) -> None:
        if method == "copy_disk":
            site.world.free_mb = 1500
            raise ProvisioningError("datastore_full", "the datastore is full")

    site.world.on_call = fill
    error = refused(site)
    assert (error.code, error.detail["missing_mb"]) == ("datastore_full", 548)


def test_a_datastore_that_has_room_again_after_it_was_full_is_not_said_to_lack_any() -> None:
    site = ready()

    def full(method: str) -> None:
        if method == "copy_disk":
            raise ProvisioningError("datastore_full", "the datastore is full")

    site.world.on_call = full
    error = refused(site)
    assert error.detail["missing_mb"] == 0
    assert "was full in the middle of the copy, and now has 500000 MB free" in error.message


def test_while_nobody_can_tell_what_is_free_the_hypervisor_s_own_error_stays() -> None:
    site = ready()

    def full(method: str) -> None:
        if method == "copy_disk":
            site.world.down = set(POOL.endpoints)
            raise ProvisioningError("datastore_full", "the hypervisor's own words")

    site.world.on_call = full
    with pytest.raises(ProvisioningError, match="the hypervisor's own words"):
        capture.capture(site.job(site.event("capture")), site.tools)


# --- the copy is looked at -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda disk: replace(disk, parent="x.vmdk"), "it is not whole, it needs x.vmdk"),
        (lambda disk: replace(disk, capacity_mb=1), "it has 1 MB instead of 2048"),
        (lambda disk: replace(disk, create_type="vmfsSparse"), "of type vmfsSparse, from which no VM runs"),
        (lambda disk: replace(disk, create_type="twoGbMaxExtentSparse"), "of type twoGbMaxExtentSparse"),
        (lambda disk: replace(disk, thin=False), "it is thick, and its source thin"),
        (lambda disk: replace(disk, adapter="buslogic"), "it is made for buslogic, and its source for lsilogic"),
        (lambda disk: replace(disk, extents=()), ""),
    ],
)
def test_a_copy_that_is_not_as_it_should_be_never_becomes_an_image(
    spoil: Callable[[DiskInfo], DiskInfo], said: str
) -> None:
    site = ready()

    def after_copy(method: str) -> None:
        if method == "disk":
            for path, disk in site.world.disks.items():
                if "/." in path:
                    site.world.disks[path] = spoil(disk)

    site.world.on_call = after_copy
    if not said:  # nothing wrong with it: the table would pass if nothing were ever accepted
        site.run(site.event("capture"))
        return
    error = refused(site)
    assert said in error.message
    assert error.retryable


def test_a_copy_that_is_wrong_twice_is_not_tried_a_third_time() -> None:
    site = ready()
    job = site.job(site.event("capture"))

    def after_copy(method: str) -> None:
        if method == "disk":
            for path, disk in site.world.disks.items():
                if "/." in path:
                    site.world.disks[path] = replace(disk, capacity_mb=1)

    site.world.on_call = after_copy
    tries = []
    for _ in range(2):
        with pytest.raises(ProvisioningError) as caught:
            capture.capture(job, site.tools)
        tries.append(caught.value.retryable)
    assert tries == [True, False]


def test_a_copy_whose_content_is_shorter_than_its_descriptor_says_never_becomes_an_image() -> None:
    site = ready()
    full = site.hypervisors["esx1"].list_directory

    def short(path: str) -> Any:
        divisor = 2 if "/." in path else 1
        entries = full(path)
        return entries and [replace(entry, size_bytes=entry.size_bytes // divisor) for entry in entries]

    for hypervisor in site.hypervisors.values():
        hypervisor.list_directory = short  # type: ignore[method-assign]
    assert "-flat.vmdk has 1073741824 of 2147483648 bytes" in refused(site).message


# --- the VM that cannot be removed -----------------------------------------------------------------------------------


def silence_at_unregister(site: Site) -> None:
    def refuse(method: str) -> None:
        if method == "unregister":
            raise ProvisioningError("vsphere_fault", "something holds it")

    site.world.on_call = refuse


def test_a_vm_that_cannot_be_removed_does_not_make_a_good_image_a_failure() -> None:
    site = ready()
    silence_at_unregister(site)
    result = site.run(site.event("capture"))
    assert result["removed"] is False
    assert COPY in site.world.disks
    assert [claim.state for claim in site.claims.held] == [ClaimState.TO_BE_DESTROYED]


def test_a_cancel_is_not_taken_for_a_vm_that_cannot_be_removed() -> None:
    site = ready()
    job = site.job(site.event("capture"))

    def cancel(method: str) -> None:
        if method == "move_directory":
            job.interrupt(Cancelled("enough"))

    site.world.on_call = cancel
    with pytest.raises(Cancelled):
        capture.capture(job, site.tools)
    assert len(site.world.vms) == 1


# --- done already ----------------------------------------------------------------------------------------------------


def test_a_capture_that_vcld_begins_anew_takes_the_image_that_it_made_before() -> None:
    site = ready()
    silence_at_unregister(site)
    first = site.event("capture")
    site.run(first)
    site.world.on_call = lambda method: None
    again = site.event("capture")
    assert again.id != first.id
    asked = {section: again.data[section] for section in ("image", "reservation")}
    assert site.run(site.event("does_image_exist", **asked)) == {"exists": False}
    assert site.run(again)["removed"] is True
    assert manifest_of(site).made_for.event == first.id
    assert site.world.vms == []


@pytest.mark.parametrize(
    "changed",
    [{"reservation": {"reservation_id": 1}}, {"reservation": {"request_id": 1}}, {"image": {"revision_id": 1}}],
)
def test_the_image_of_another_reservation_or_revision_is_a_name_that_is_taken(changed: dict[str, Any]) -> None:
    site = ready()
    site.run(site.event("capture", reservation={"state": "checkpoint"}))
    event = site.event("capture", **changed)
    asked = {section: event.data[section] for section in ("image", "reservation")}
    assert site.run(site.event("does_image_exist", **asked)) == {"exists": True}
    assert refused(site, event).code == "image_exists"


def test_an_image_that_was_only_brought_from_elsewhere_is_not_the_capture_s_own() -> None:
    site = ready()
    event = site.event("capture", reservation={"state": "checkpoint"})
    site.run(event)
    path = f"{GOLDEN}/{NEW}/{manifest.FILE}"
    site.world.files[path] = replace(manifest_of(site), purpose="stage").text()
    site.run(site.event("power_off"))
    assert refused(site, event).code == "image_exists"


def test_a_manifest_without_its_disk_is_no_image_that_was_made_before() -> None:
    site = ready()
    event = site.event("capture", reservation={"state": "checkpoint"})
    site.run(event)
    del site.world.disks[COPY]
    site.run(site.event("power_off"))
    assert "holds no disk" in refused(site, event).message


def test_an_image_that_was_made_before_is_found_although_a_host_is_silent() -> None:
    site = ready()
    event = site.event("capture", reservation={"state": "checkpoint"})
    site.run(event)
    site.world.down = {"esx1"}
    assert site.run(event)["image_path"] == COPY


def test_a_capture_needs_no_other_host_than_the_vm_s() -> None:
    site = ready()
    (machine,) = site.world.vms
    site.world.down = set(POOL.endpoints) - {machine.endpoint}
    result = site.run(site.event("capture"))
    assert result["removed"] is True
    assert COPY in site.world.disks


def test_a_vm_that_may_be_on_a_silent_host_is_not_said_to_be_gone() -> None:
    site = ready()
    (machine,) = site.world.vms
    site.world.down = {machine.endpoint}
    assert refused(site).code == "host_unavailable"


def test_a_foreign_image_of_the_name_is_seen_although_a_host_is_silent() -> None:
    site = ready()
    site.world.golden(NEW)
    event = site.event("capture")
    site.world.down = {"esx3"}
    asked = {section: event.data[section] for section in ("image", "reservation")}
    assert site.run(site.event("does_image_exist", **asked)) == {"exists": True}


# --- killed, failed --------------------------------------------------------------------------------------------------


def calls_of_one_capture() -> int:
    site = ready()
    before = site.world.calls_made
    site.run(site.event("capture"))
    return site.world.calls_made - before


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(1, calls_of_one_capture() + 1))
def test_killed_at_any_call_the_capture_resumes_with_one_whole_image(number: int, when: str) -> None:
    site = ready()
    event = site.event("capture")
    site.world.die_at = (site.world.calls_made + number, when)
    site.run_until_done(event)
    assert manifest_of(site).made_for.event == event.id
    assert sorted(site.world.directories) == [f"{GOLDEN}/{IMAGE}", f"{GOLDEN}/{NEW}"]
    assert (site.world.vms, site.claims.held, site.images.held) == ([], [], {})


@pytest.mark.parametrize("number", range(1, calls_of_one_capture() + 1))
def test_a_capture_that_failed_leaves_no_image_or_the_whole_one(number: int) -> None:
    site = ready()
    job = site.job(site.event("capture"))
    site.world.fail_at = site.world.calls_made + number
    try:
        capture.capture(job, site.tools)
    except ProvisioningError:
        capture.undo(job, site.tools)
    images = [d for d in site.world.directories if d.startswith(GOLDEN)]
    assert set(images) <= {f"{GOLDEN}/{IMAGE}", f"{GOLDEN}/{NEW}"}
    assert site.images.held == {}
    if f"{GOLDEN}/{NEW}" in images:
        assert COPY in site.world.disks


@pytest.mark.parametrize("number", range(1, calls_of_one_capture() + 1))
def test_a_capture_killed_and_then_cancelled_leaves_nothing_unfinished(number: int) -> None:
    site = ready()
    event = site.event("capture")
    site.world.die_at = (site.world.calls_made + number, "after")
    book = StoredSteps()
    with pytest.raises(Died):
        capture.capture(site.job(event, book), site.tools)
    site.world.die_at = None
    capture.undo(site.job(event, book, epoch=2), site.tools)
    assert hidden(site) == []
    assert site.images.held == {}


@pytest.mark.parametrize("wakes_at", ["take", "make_directory", "copy_disk", "write_file", "move_directory", "done"])
def test_a_service_that_was_overtaken_never_moves_what_the_next_one_has_begun(wakes_at: str) -> None:
    site = ready()
    event = site.event("capture")
    book = StoredSteps()

    def sleep(method: str) -> None:
        if method == "move_directory":
            raise Died

    site.world.on_call = sleep
    with pytest.raises(Died):
        capture.capture(site.job(event, book), site.tools)
    (prepared,) = [path for path in site.world.directories if "/." in path]
    awake: list[bool] = []

    def wake(method: str) -> None:
        if method == wakes_at and not awake:
            awake.append(True)
            with suppress(ProvisioningError):  # what comes of it is nobody's business any more
                site.hypervisors["esx1"].move_directory(prepared, f"{GOLDEN}/{NEW}")
            assert (COPY in site.world.disks) == (f"{GOLDEN}/{NEW}" in site.world.directories), "half an image"

    site.world.on_call = wake
    capture.capture(site.job(event, book, epoch=2), site.tools)
    assert awake
    assert manifest_of(site).made_for.event == event.id
    assert hidden(site) == []
    assert site.images.held == {}


def test_of_two_services_that_both_made_the_image_nothing_is_left_although_the_second_died_as_well() -> None:
    site = ready()
    event = site.event("capture")
    book = StoredSteps()

    def sleep(method: str) -> None:
        if method == "move_directory":
            raise Died

    site.world.on_call = sleep
    with pytest.raises(Died):
        capture.capture(site.job(event, book), site.tools)
    (prepared,) = [path for path in site.world.directories if "/." in path]

    def wake_and_die(method: str) -> None:
        if method == "take":
            site.hypervisors["esx1"].move_directory(prepared, f"{GOLDEN}/{NEW}")
        elif method == "copy_disk":
            raise Died

    site.world.on_call = lambda method: None if method == "move_directory" else wake_and_die(method)
    with pytest.raises(Died):
        capture.capture(site.job(event, book, epoch=2), site.tools)
    assert hidden(site) != []
    site.world.on_call = lambda method: None
    capture.capture(site.job(event, book, epoch=3), site.tools)
    assert (hidden(site), site.images.held) == ([], {})
    assert COPY in site.world.disks


def test_what_cannot_be_removed_after_a_failure_is_remembered() -> None:
    site = ready()
    event = site.event("capture")
    job = site.job(event)

    def fall_silent(method: str) -> None:
        if method == "copy_disk":
            site.world.down = set(POOL.endpoints)

    site.world.on_call = fall_silent
    with pytest.raises(ProvisioningError):
        capture.capture(job, site.tools)
    with pytest.raises(ProvisioningError):
        capture.undo(job, site.tools)
    (work,) = site.images.held.values()
    assert (work.event_id, [work.path]) == (event.id, hidden(site))


def test_undo_of_a_capture_that_never_had_its_turn_asks_nobody() -> None:
    site = ready()
    site.world.down = set(POOL.endpoints)
    capture.undo(site.job(site.event("capture")), site.tools)
