"""Looking through the library, and deleting from it: never what somebody needs, wherever it is interrupted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from esxprov.errors import ProvisioningError
from esxprov.handlers import library
from esxprov.handlers.reap import reap
from esxprov.library.shelf import Shelved, State, User, keepers
from esxprov.model import DiskMode, ImageWork, Revision
from tests.unit.world import IMAGE, POOL, Died, Site

OLD = "vmwarelinux-old7-v0"
DELETED = Revision(OLD, "Old", 0, production=False, deleted=True, deleted_at="2026-11-01T10:00:00", size_mb=900)
EVENT = "cli-1"


def a_site(disk: DiskMode = DiskMode.COPY) -> Site:
    """One image that VCL has, and one that was deleted there."""
    site = Site(pool=replace(POOL, disk=disk))
    site.world.golden(OLD)
    used = replace(DELETED, imagename=IMAGE, production=True, deleted=False, deleted_at=None)
    site.inventory.revised = [used, DELETED]
    return site


def shelved(site: Site, name: str) -> Shelved:
    image = library.shelve(site.tools, site.pool).named(name)
    assert image is not None
    return image


def remove(site: Site, name: str = OLD) -> None:
    library.remove(site.tools, site.pool, name, EVENT)


def golden_paths(site: Site) -> list[str]:
    return [path for path in site.world.paths() if path.startswith("[nfs1] golden")]


def test_the_library_is_what_lies_there_and_what_vcl_knows_of_it() -> None:
    shelf = library.shelve(a_site().tools, POOL)
    assert [(image.name, image.state) for image in shelf.images] == [
        (IMAGE, State.PRODUCTION),
        (OLD, State.DELETED),
    ]
    assert shelf.blind == ()


def test_a_library_that_nobody_has_made_yet_is_empty() -> None:
    site = Site()
    site.world.disks.clear()
    site.world.directories.clear()
    assert library.shelve(site.tools, POOL).images == ()


def test_what_is_no_descriptor_is_damage_and_no_error() -> None:
    site = a_site()

    def damaged(path: str) -> None:
        raise ProvisioningError("vsphere_fault", f"{path} is not the descriptor of a virtual disk")

    for hypervisor in site.hypervisors.values():
        hypervisor.disk = damaged  # type: ignore[method-assign]
    assert "is not the descriptor" in shelved(site, OLD).damage


def test_a_linked_vm_needs_its_image_with_the_depth_of_its_chain() -> None:
    site = a_site(DiskMode.LINKED)
    endpoint = site.run(site.event("load"))["host"]
    assert shelved(site, IMAGE).users == (User("vclv1-27", endpoint, IMAGE, 1, 2048),)


def test_a_vm_with_a_copy_of_its_own_is_known_by_its_annotation() -> None:
    site = a_site()
    endpoint = site.run(site.event("load"))["host"]
    assert shelved(site, IMAGE).users == (User("vclv1-27", endpoint, IMAGE, 0, 0),)


def test_a_snapshot_more_is_a_layer_more() -> None:
    site = a_site(DiskMode.LINKED)
    site.run(site.event("load"))
    ((moid, (redo,)),) = site.world.vm_disks.items()
    second = redo.replace("-000001", "-000002")
    site.world.disks[second] = replace(site.world.disks[redo], path=second, parent=redo.rpartition("/")[2])
    site.world.vm_disks[moid] = [second]
    assert [user.chain_depth for user in shelved(site, IMAGE).users] == [2]


@pytest.mark.parametrize(
    "hint", ["[nfs1] {}", "/vmfs/volumes/nfs1/{}", "/vmfs/volumes/5f0c-1/{}", "ds:///vmfs/volumes/5f0c-1/{}"]
)
def test_a_vm_that_was_made_by_hand_over_an_image_needs_it_whatever_its_volume_is_called(hint: str) -> None:
    site = a_site(DiskMode.LINKED)
    site.run(site.event("load"))
    (redo,) = site.world.vm_disks.popitem()[1]
    (vm,) = site.world.vms
    site.world.vm_disks[vm.moid] = [redo]
    parent = hint.format(f"golden/{OLD}/{OLD}.vmdk")
    site.world.disks[redo] = replace(site.world.disks[redo], parent=parent)
    site.world.vms = [replace(vm, annotation="made by hand")]
    assert [user.vm for user in shelved(site, OLD).users] == ["vclv1-27"]


def test_a_vm_that_lost_its_registration_still_needs_its_image() -> None:
    site = a_site(DiskMode.LINKED)
    site.run(site.event("load"))
    site.world.vms = []
    vmx = "[nfs1] inuse/vclv1-27/vclv1-27.vmx"
    site.world.files[vmx] = site.world.files[vmx].replace(
        f"/vmfs/volumes/nfs1/golden/{IMAGE}/{IMAGE}.vmdk".encode(), f"{IMAGE}-000001.vmdk".encode()
    )
    assert shelved(site, IMAGE).users == (User("vclv1-27", library.NOT_REGISTERED, IMAGE, 1, 2048),)


def test_a_half_made_vm_whose_vmx_names_the_image_needs_it() -> None:
    site = a_site()
    site.world.directories.add("[nfs1] inuse/x")
    line = f'SCSI0:0.fileName = "/vmfs/volumes/nfs1/golden/{OLD}/{OLD}.vmdk"\n'
    site.world.files["[nfs1] inuse/x/x.vmx"] = line.encode()
    assert shelved(site, OLD).users == (User("x", library.NOT_REGISTERED, OLD, 0, 0),)


def test_as_long_as_an_endpoint_is_silent_nothing_is_an_orphan() -> None:
    site = a_site()
    site.world.down = {"esx2"}
    shelf = library.shelve(site.tools, POOL)
    assert shelf.blind == ("esx2 cannot be asked (esx2 does not answer)",)
    with pytest.raises(ProvisioningError, match="esx2 cannot be asked"):
        remove(site)


def test_a_vm_that_cannot_be_read_may_need_anything() -> None:
    site = a_site()
    site.run(site.event("load"))
    site.world.vms = [replace(site.world.vms[0], vmx_path="")]
    assert len(library.shelve(site.tools, POOL).blind) == 1


def test_an_orphan_is_deleted_and_nothing_else() -> None:
    site = a_site()
    expected = [path for path in golden_paths(site) if OLD not in path]
    remove(site)
    assert golden_paths(site) == expected
    assert site.images.held == {}


def test_an_image_that_vcl_has_is_not_deleted() -> None:
    site = a_site()
    before = golden_paths(site)
    with pytest.raises(ProvisioningError, match="VCL has it") as caught:
        remove(site, IMAGE)
    assert (caught.value.code, golden_paths(site)) == ("conflict", before)


def test_an_image_with_a_linked_vm_is_not_deleted_though_vcl_has_deleted_it() -> None:
    site = a_site(DiskMode.LINKED)
    site.run(site.event("load"))
    site.inventory.revised = [replace(DELETED, imagename=IMAGE)]
    before = golden_paths(site)
    with pytest.raises(ProvisioningError, match="1 VM\\(s\\) need it: vclv1-27"):
        remove(site, IMAGE)
    assert golden_paths(site) == before


def test_what_somebody_begins_to_need_just_before_it_goes_stays_and_is_given_back() -> None:
    site = a_site()
    before = golden_paths(site)

    def reserved(method: str) -> None:
        if method == "take":
            site.inventory.revised = [replace(DELETED, reservations=1)]

    site.world.on_call = reserved
    with pytest.raises(ProvisioningError, match="1 reservation\\(s\\) have it"):
        remove(site)
    assert (golden_paths(site), site.images.held) == (before, {})


def test_an_image_that_an_event_works_on_is_not_deleted() -> None:
    site = a_site()
    site.images.held["nfs1", OLD] = ImageWork("nfs1", OLD, "e2", "stage", "main", f"[nfs1] golden/.{OLD}.e2.01234567")
    with pytest.raises(ProvisioningError, match="event e2 works on it"):
        remove(site)


def test_an_image_that_is_not_there_is_not_deleted() -> None:
    with pytest.raises(ProvisioningError, match="there is no"):
        remove(a_site(), "never-was-v0")


def calls_of_one_removal() -> tuple[int, int]:
    """(calls of looking, calls of all) until an orphan is gone."""
    site = a_site()
    library.shelve(site.tools, POOL)
    looking = site.world.calls_made
    remove(site)
    return looking, site.world.calls_made - looking


LOOKING, REMOVING = calls_of_one_removal()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(1, REMOVING + 1))
def test_killed_at_any_call_an_orphan_is_whole_or_its_rest_is_removed(number: int, when: str) -> None:
    site = a_site()
    whole = golden_paths(site)
    site.world.die_at = (number, when)
    with pytest.raises(Died):
        remove(site)
    site.world.die_at = None
    site.images.ended.add(EVENT)
    reap(site.tools)
    left = [path for path in golden_paths(site) if OLD in path]
    assert left in ([], [path for path in whole if OLD in path])
    assert site.images.held == {}


@pytest.mark.parametrize("number", range(1, REMOVING + 1))
def test_failed_at_any_call_what_is_left_is_remembered(number: int) -> None:
    site = a_site()
    whole = [path for path in golden_paths(site) if OLD in path]
    site.world.fail_at = number
    try:
        remove(site)
    except ProvisioningError:
        hidden = [path for path in golden_paths(site) if f"/.{OLD}" in path]
        assert not hidden or ("nfs1", OLD) in site.images.held
    site.world.fail_at = None
    site.images.ended.add(EVENT)
    reap(site.tools)
    assert [path for path in golden_paths(site) if OLD in path] in ([], whole)


@pytest.mark.parametrize("remembered", [True, False])
def test_what_an_event_that_has_ended_left_unfinished_is_an_orphan_and_can_be_deleted(remembered: bool) -> None:
    site = a_site()
    name = f".{OLD}.e2.01234567"
    site.world.directories.add(f"[nfs1] golden/{name}")
    if remembered:
        site.images.held["nfs1", OLD] = ImageWork("nfs1", OLD, "e2", "capture", "main", f"[nfs1] golden/{name}")
        site.images.ended.add("e2")
    assert keepers(shelved(site, name)) == []
    remove(site, name)
    assert not any("/." in path for path in golden_paths(site))


def test_what_an_event_still_writes_is_not_deleted() -> None:
    site = a_site()
    name = f".{OLD}.e2.01234567"
    site.world.directories.add(f"[nfs1] golden/{name}")
    site.images.held["nfs1", OLD] = ImageWork("nfs1", OLD, "e2", "capture", "main", f"[nfs1] golden/{name}")
    with pytest.raises(ProvisioningError, match="event e2 works on it"):
        remove(site, name)
