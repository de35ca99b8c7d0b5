"""retrieve_image: an image that lies elsewhere comes to the library once, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from bridge.envelope import Event
from esxprov.errors import Cancelled, ProvisioningError
from esxprov.handlers import load, staging
from esxprov.handlers.reap import reap
from esxprov.job import cancelled
from esxprov.library import manifest, reference
from esxprov.library.manifest import Maker, Manifest, Source
from esxprov.model import DiskInfo, FileEntry, ImageWork, Profile
from tests.unit.world import IMAGE, POOL, Died, FakeHypervisor, FakePools, Site, StoredSteps

OLD = "vmwarelinux-old7-v2"
THERE = f"[repo] images/{OLD}"
HERE = f"[nfs1] golden/{OLD}"
DISK = f"{HERE}/{OLD}.vmdk"


def with_repository(**image: Any) -> Site:
    """A site whose repository has one image more; `image` changes what its descriptor says."""
    site = Site()
    site.world.datastores = ("nfs1", "repo")
    site.world.golden(OLD, datastore="repo", library="images")
    path = f"{THERE}/{OLD}.vmdk"
    site.world.disks[path] = replace(site.world.disks[path], **image)
    return site


def asked(site: Site, call: str = "retrieve_image", *, path: str = "[repo] images", **sections: Any) -> Event:
    image = {"name": OLD, **sections.pop("image", {})}
    return site.event(call, image=image, profile={"repository_path": path}, **sections)


def hidden(site: Site) -> list[str]:
    return [path for path in site.world.paths() if "/." in path]


def copies(site: Site) -> int:
    return sum(line.startswith("copy_disk") for line in site.world.log)


def refused(site: Site, event: Event) -> ProvisioningError:
    """The error of a staging that must not have left anything."""
    before = site.world.paths()
    job = site.job(event)
    with pytest.raises(ProvisioningError) as caught:
        staging.retrieve_image(job, site.tools)
    staging.undo(job, site.tools)
    assert (site.world.paths(), site.images.held) == (before, {})
    return caught.value


# --- the ordinary way ------------------------------------------------------------------------------------------------


def test_an_image_that_is_in_the_library_is_not_copied() -> None:
    site = Site()
    assert site.run(site.event("retrieve_image")) == {"copied_mb": 0, "source": ""}
    assert copies(site) == 0


def test_an_image_in_the_repository_is_brought_to_the_library() -> None:
    site = with_repository()
    assert site.run(asked(site)) == {"copied_mb": 2048, "source": f"{THERE}/{OLD}.vmdk"}
    assert site.run(site.event("does_image_exist", image={"name": OLD})) == {"exists": True}
    assert (hidden(site), site.images.held) == ([], {})


@pytest.mark.parametrize("path", ["[repo] images", "[repo] images/", "/vmfs/volumes/repo/images"])
def test_the_repository_may_be_written_as_admins_write_datastores(path: str) -> None:
    site = with_repository()
    assert site.run(asked(site, path=path))["copied_mb"] == 2048


def test_a_repository_may_be_a_whole_datastore() -> None:
    site = Site()
    site.world.datastores = ("nfs1", "repo")
    disk = f"[repo] {OLD}/{OLD}.vmdk"
    site.world.directories.add(f"[repo] {OLD}")
    site.world.disks[disk] = DiskInfo(disk, "lsilogic", "vmfs", 64, thin=True)
    assert site.run(asked(site, path="repo"))["source"] == disk


def test_a_load_brings_the_image_itself_if_nobody_has() -> None:
    site = with_repository()
    assert site.run(asked(site, "load"))["private_ip"]
    assert DISK in site.world.disks


def test_an_image_of_another_pool_is_brought_if_a_host_sees_its_datastore() -> None:
    site = Site()
    site.world.datastores = ("nfs1", "nfs2")
    site.world.golden(OLD, datastore="nfs2", library="gold")
    other = replace(POOL, name="other", profile="others", golden="gold")
    site.tools = replace(site.tools, pools=FakePools(POOL, (other,)))
    site.inventory.profiles["others"] = Profile(5, "others", "[nfs2]")
    assert site.run(asked(site, path=""))["source"] == f"[nfs2] gold/{OLD}/{OLD}.vmdk"


def test_other_pools_that_vcl_does_not_know_or_that_have_no_datastore_are_passed_over() -> None:
    site = with_repository()
    others = (replace(POOL, name="a", profile="unknown"), replace(POOL, name="b", profile="nameless"))
    site.tools = replace(site.tools, pools=FakePools(POOL, others))
    site.inventory.profiles["nameless"] = Profile(5, "nameless", "")
    assert site.run(asked(site))["copied_mb"] == 2048


def test_the_manifest_says_where_the_image_was_and_keeps_what_was_known_of_it() -> None:
    site = with_repository()
    first = Manifest(OLD, Maker("e1"), Source("[nfs9] inuse/x/x.vmdk", "base-v3", 3), computer="vm9")
    site.world.files[f"{THERE}/{manifest.FILE}"] = first.text()
    event = asked(site)
    site.run(event)
    found = manifest.read(site.world.files[f"{HERE}/{manifest.FILE}"])
    assert found is not None
    assert (found.purpose, found.made_for.event) == ("stage", event.id)
    assert found.source == Source(f"{THERE}/{OLD}.vmdk", "base-v3", 3)
    assert (found.computer, found.capacity_mb) == ("vm9", 2048)


@pytest.mark.parametrize("name", [f"{OLD}.vmx", f"{OLD}.vmx.reference"])
def test_the_hardware_that_the_guest_knows_comes_along_without_who_the_vm_was(name: str) -> None:
    site = with_repository()
    site.world.files[f"{THERE}/{name}"] = b'guestOS = "rhel7-64"\nuuid.bios = "56 4d"\nfirmware = "efi"\n'
    site.run(asked(site))
    text = site.world.files[f"{HERE}/{OLD}.vmx"]
    assert reference.parse(text).firmware == "efi"
    assert b"uuid" not in text


# --- formats ---------------------------------------------------------------------------------------------------------


def test_a_disk_of_workstation_becomes_one_that_vms_run_from() -> None:
    site = with_repository(create_type="twoGbMaxExtentSparse", thin=False)
    site.world.reads_workstations = True
    site.run(asked(site))
    assert (site.world.disks[DISK].create_type, site.world.disks[DISK].thin) == ("vmfs", True)


def test_a_disk_of_workstation_is_refused_with_what_to_do_where_hosts_cannot_read_it() -> None:
    error = refused(site := with_repository(create_type="twoGbMaxExtentSparse"), asked(site))
    assert (error.code, error.retryable) == ("vsphere_fault", False)
    assert f"{THERE}/{OLD}.vmdk is of type twoGbMaxExtentSparse, which this host cannot read" in error.message
    assert "qemu-img convert" in error.message


def test_a_vcenter_that_keeps_workstation_s_format_makes_no_image() -> None:
    site = with_repository(create_type="twoGbMaxExtentSparse")
    site.world.reads_workstations = site.world.is_vcenter = True
    error = refused(site, asked(site))
    assert "it is of type twoGbMaxExtentSparse, from which no VM runs; convert it" in error.message
    assert not error.retryable


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"create_type": "streamOptimized"}, "is of type streamOptimized, which no host copies"),
        ({"parent": "base.vmdk"}, "is not a whole disk, it needs base.vmdk"),
    ],
)
def test_what_cannot_become_an_image_is_refused_before_anything_is_copied(change: dict[str, Any], said: str) -> None:
    site = with_repository(**change)
    assert said in refused(site, asked(site)).message
    assert copies(site) == 0


@pytest.mark.parametrize(
    ("create_type", "there_mb", "complete"),
    [
        ("vmfs", 2047, False),
        ("vmfs", 2048, True),
        ("twoGbMaxExtentSparse", 1, True),
        ("twoGbMaxExtentSparse", None, False),
    ],
)
def test_an_image_that_is_still_being_put_into_the_repository_is_not_copied(
    create_type: str, there_mb: int | None, complete: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = with_repository(create_type=create_type)
    site.world.reads_workstations = True
    listed = FakeHypervisor.list_directory

    def unfinished(self: FakeHypervisor, path: str) -> list[FileEntry] | None:
        if path != THERE:
            return listed(self, path)
        return [FileEntry(f"{OLD}-flat.vmdk", there_mb * 2**20, is_directory=False)] if there_mb else []

    monkeypatch.setattr(FakeHypervisor, "list_directory", unfinished)
    if complete:
        site.run(asked(site))
    else:
        assert f"its {OLD}-flat.vmdk is missing or too short" in refused(site, asked(site)).message
    assert copies(site) == complete


@pytest.mark.parametrize(("architecture", "adapter"), [("x86", "buslogic"), ("x86_64", "lsilogic")])
def test_a_buslogic_disk_is_changed_only_for_guests_that_would_not_be_switched_on_with_it(
    architecture: str, adapter: str
) -> None:
    site = with_repository(adapter="buslogic")
    site.run(asked(site, image={"architecture": architecture}))
    assert site.world.disks[DISK].adapter == adapter


def test_a_vcenter_that_keeps_buslogic_makes_no_image_for_a_64_bit_guest() -> None:
    site = with_repository(adapter="buslogic")
    site.world.is_vcenter = True
    assert "copy it by an ESXi host" in refused(site, asked(site, image={"architecture": "x86_64"})).message


# --- what cannot be had ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("[repo] images", r"nor is it in the repository \(\[repo\] images\)"),
        ("/install/vmware_images", "'/install/vmware_images' is no datastore's directory: mount it on the hosts"),
        ("[repo] ../images", "is no datastore's directory"),
        ("", "has no disk"),
    ],
)
def test_an_image_that_is_nowhere_is_told_with_where_was_looked(path: str, said: str) -> None:
    site = with_repository()
    with pytest.raises(ProvisioningError, match=said) as caught:
        site.run(asked(site, path=path, image={"name": "nobody"}))
    assert (caught.value.code, caught.value.retryable) == ("image_not_found", False)


def test_an_image_is_not_called_missing_while_a_host_is_silent_that_may_see_it() -> None:
    site = with_repository()
    site.looks.remembered = [
        replace(look, problem="silent") if look.endpoint == "esx2" else replace(look, hosts=())
        for look in site.looks.at(POOL.endpoints)
    ]
    with pytest.raises(ProvisioningError, match="esx2 cannot be asked") as caught:
        site.run(asked(site))
    assert caught.value.retryable


def test_a_datastore_without_room_is_told_before_anything_is_copied() -> None:
    site = with_repository()
    site.world.free_mb = 2000
    error = refused(site, asked(site))
    assert (error.code, error.detail["missing_mb"], copies(site)) == ("datastore_full", 48, 0)


def test_a_cancel_in_the_middle_of_the_copy_leaves_nothing() -> None:
    site = with_repository()
    before = site.world.paths()
    job = site.job(asked(site))
    site.world.on_call = lambda method: job.interrupt(cancelled("deleted")) if method == "copy_disk" else None
    with pytest.raises(Cancelled):
        staging.retrieve_image(job, site.tools)
    staging.undo(job, site.tools)
    assert (site.world.paths(), site.images.held) == (before, {})


def test_a_load_that_is_cancelled_while_it_brings_the_image_leaves_nothing() -> None:
    site = with_repository()
    before = site.world.paths()
    job = site.job(asked(site, "load"))
    site.world.on_call = lambda method: job.interrupt(cancelled("deleted")) if method == "copy_disk" else None
    with pytest.raises(Cancelled):
        load.load(job, site.tools)
    load.undo(job, site.tools)
    assert (site.world.paths(), site.images.held) == (before, {})


def test_what_cannot_be_removed_after_a_failure_is_remembered() -> None:
    site = with_repository()
    event = asked(site)
    job = site.job(event)
    site.world.on_call = lambda method: site.world.down.update(POOL.endpoints) if method == "move_directory" else None
    with pytest.raises(ProvisioningError):
        staging.retrieve_image(job, site.tools)
    with pytest.raises(ProvisioningError):
        staging.undo(job, site.tools)
    site.images.ended.add(event.id)
    site.world.on_call = lambda method: None
    site.world.down = set()
    assert (reap(site.tools), hidden(site), site.images.held) == (1, [], {})


# --- several who want it ---------------------------------------------------------------------------------------------


def being_brought(site: Site, event_id: str = "other-event") -> ImageWork:
    """Another event has begun to bring the image."""
    other = ImageWork("nfs1", OLD, event_id, "stage", "main", f"[nfs1] golden/.{OLD}.{event_id}")
    site.images.held["nfs1", OLD] = other
    return other


def while_waiting(monkeypatch: pytest.MonkeyPatch, *happens: Callable[[], object]) -> None:
    """What happens during the first waits for the other event."""
    left = list(happens)
    monkeypatch.setattr("esxprov.job.Job.pause", lambda self, seconds: left.pop(0)())


def test_who_comes_while_the_image_is_on_its_way_waits_and_copies_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    site = with_repository()
    other = being_brought(site)

    def arrives() -> None:
        site.world.golden(OLD)
        site.images.done(other)

    while_waiting(monkeypatch, lambda: None, arrives)
    assert site.run(asked(site)) == {"copied_mb": 0, "source": ""}
    assert (copies(site), site.images.held) == (0, {})


def test_who_waits_uses_the_image_as_soon_as_it_is_there_and_leaves_the_lock_to_its_owner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = with_repository()
    other = being_brought(site)
    while_waiting(monkeypatch, lambda: site.world.golden(OLD))
    assert site.run(asked(site))["copied_mb"] == 0
    assert site.images.held == {("nfs1", OLD): other}


def test_who_waits_copies_the_image_if_the_other_gave_up(monkeypatch: pytest.MonkeyPatch) -> None:
    site = with_repository()
    other = being_brought(site)
    while_waiting(monkeypatch, lambda: site.images.done(other))
    assert (site.run(asked(site))["copied_mb"], copies(site)) == (2048, 1)


def test_what_an_event_that_has_ended_left_is_removed_and_the_image_brought_anew() -> None:
    site = with_repository()
    left = being_brought(site)
    site.images.ended.add(left.event_id)
    site.world.directories.add(left.path)
    site.world.files[f"{left.path}/half"] = b""
    site.run(asked(site))
    assert (hidden(site), DISK in site.world.disks) == ([], True)


def test_who_waits_for_an_event_whose_service_is_dead_does_its_work() -> None:
    """Or its next service might wait for a worker that waits for it."""
    site = with_repository()
    being_brought(site)
    site.images.abandoned.add("other-event")
    assert site.run(asked(site))["copied_mb"] == 2048
    assert site.images.held == {}


def test_an_event_whose_work_was_done_by_another_meanwhile_removes_what_it_had_begun() -> None:
    site, book = with_repository(), StoredSteps()
    event = asked(site)
    site.world.on_call = die_at_the("copy_disk")
    with pytest.raises(Died):
        staging.retrieve_image(site.job(event, book), site.tools)
    site.world.on_call = lambda method: None
    site.images.abandoned.add(event.id)
    assert site.run(asked(site))["copied_mb"] == 2048
    assert hidden(site) != []
    assert staging.retrieve_image(site.job(event, book), site.tools)["copied_mb"] == 0
    assert (hidden(site), site.images.held) == ([], {})


def test_an_event_whose_work_another_does_waits_for_it_and_removes_what_it_had_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site, book = with_repository(), StoredSteps()
    event = asked(site)
    site.world.on_call = die_at_the("copy_disk")
    with pytest.raises(Died):
        staging.retrieve_image(site.job(event, book), site.tools)
    site.world.on_call = lambda method: None
    assert hidden(site) != []
    other = being_brought(site)
    while_waiting(monkeypatch, lambda: site.world.golden(OLD))
    assert staging.retrieve_image(site.job(event, book), site.tools)["copied_mb"] == 0
    assert (hidden(site), site.images.held) == ([], {("nfs1", OLD): other})


def test_who_was_taken_for_dead_but_is_not_takes_the_image_of_who_was_faster() -> None:
    site = with_repository()

    def faster(method: str) -> None:
        if method == "move_directory" and DISK not in site.world.disks:
            site.world.golden(OLD)

    site.world.on_call = faster
    assert site.run(asked(site)) == {"copied_mb": 0, "source": ""}
    assert (hidden(site), site.images.held) == ([], {})


def test_a_directory_of_that_name_without_a_disk_is_not_taken_for_the_image() -> None:
    site = with_repository()
    site.world.directories.add(HERE)
    assert "but holds no disk" in refused(site, asked(site)).message


def die_at_the(method: str) -> Callable[[str], None]:
    def die(called: str) -> None:
        if called == method:
            raise Died(method)

    return die


# --- crashes ---------------------------------------------------------------------------------------------------------


def calls_of_one_staging() -> int:
    site = with_repository()
    site.run(asked(site))
    return site.world.calls_made


CALLS = calls_of_one_staging()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(1, CALLS + 1))
def test_killed_at_any_call_the_image_is_whole_in_the_end_and_nothing_else_is_left(number: int, when: str) -> None:
    site = with_repository()
    site.world.die_at = (number, when)
    assert site.run_until_done(asked(site))["copied_mb"] == 2048
    assert site.world.disks[DISK].capacity_mb == 2048
    assert manifest.read(site.world.files[f"{HERE}/{manifest.FILE}"]) is not None
    assert (hidden(site), site.images.held) == ([], {})


@pytest.mark.parametrize("number", range(1, CALLS + 1))
def test_failed_at_any_call_there_is_no_image_or_the_whole_one(number: int) -> None:
    site = with_repository()
    before = site.world.paths()
    job = site.job(asked(site))
    site.world.fail_at = number
    try:
        staging.retrieve_image(job, site.tools)
    except ProvisioningError:
        staging.undo(job, site.tools)
    assert (hidden(site), site.images.held) == ([], {})
    if DISK in site.world.disks:
        assert manifest.read(site.world.files[f"{HERE}/{manifest.FILE}"]) is not None
    else:
        assert site.world.paths() == before


@pytest.mark.parametrize("number", range(1, CALLS + 1))
def test_killed_at_any_call_and_then_cancelled_nothing_unfinished_is_left(number: int) -> None:
    site, book = with_repository(), StoredSteps()
    event = asked(site)
    site.world.die_at = (number, "after")
    with pytest.raises(Died):
        staging.retrieve_image(site.job(event, book), site.tools)
    site.world.die_at = None
    staging.undo(site.job(event, book), site.tools)
    assert (hidden(site), site.images.held) == ([], {})
    assert f"[nfs1] golden/{IMAGE}/{IMAGE}.vmdk" in site.world.disks
