from __future__ import annotations

import pytest

from esxprov import layout
from esxprov.errors import ProvisioningError
from esxprov.model import Pool, Profile

POOL = Pool("main", ("esx1",), "blades", golden="golden", inuse="inuse")


@pytest.mark.parametrize(
    "path",
    [
        "nfs1",
        " nfs1 ",
        "[nfs1]",
        "[nfs1] vcl/golden",
        "/vmfs/volumes/nfs1",
        "/vmfs/volumes/nfs1/vcl",
        "/vmfs/volumes/nfs1/",
    ],
)
def test_a_datastore_is_found_in_all_the_ways_admins_write_it(path: str) -> None:
    assert layout.datastore_name(path, "blades") == "nfs1"


@pytest.mark.parametrize("path", ["", "  ", "/", "/vmfs/volumes/", "[]", "..", "/vmfs/volumes/..", "a\nb"])
def test_a_profile_without_a_datastore_is_an_error_that_names_the_profile(path: str) -> None:
    with pytest.raises(ProvisioningError, match="VM profile 'blades' has the datastore path") as caught:
        layout.datastore_name(path, "blades")
    assert caught.value.code == "invalid_event"


def test_images_and_vms_have_their_own_directories_on_the_profile_s_datastores() -> None:
    paths = layout.of(POOL, Profile(4, "blades", datastore_path="nfs1", vm_path="local2"))
    assert paths.image_disk("win7-v3") == "[nfs1] golden/win7-v3/win7-v3.vmdk"
    assert paths.vmx("vclv1-27") == "[local2] inuse/vclv1-27/vclv1-27.vmx"
    assert paths.vm_disk("vclv1-27", "win7-v3") == "[local2] inuse/vclv1-27/win7-v3.vmdk"


def test_vms_are_beside_the_images_if_the_profile_names_no_vm_path() -> None:
    assert layout.of(POOL, Profile(4, "blades", datastore_path="nfs1")).vm_directory("vclv1") == "[nfs1] inuse/vclv1"


def test_an_unfinished_copy_never_has_the_name_of_a_finished_one() -> None:
    paths = layout.of(POOL, Profile(4, "blades", datastore_path="nfs1"))
    assert paths.unfinished_vm_disk("vclv1", "win7") == "[nfs1] inuse/vclv1/win7.unfinished.vmdk"
    hidden = paths.unfinished_image_directory("win7", "0b6c2a51-7f0e", 2)
    assert hidden.startswith("[nfs1] golden/.win7.0b6c2a51-7f0e.")
    assert hidden.endswith("-2")


def test_each_event_prepares_an_image_in_a_directory_of_its_own_whatever_its_id() -> None:
    paths = layout.of(POOL, Profile(4, "blades", datastore_path="nfs1"))
    ids = ["a" * 64, "a" * 63 + "b", "../../golden/x", "..-..-golden-x", "a/b", "a\\b", "a b"]
    hidden = [paths.unfinished_image_directory("i" * 75, event_id) for event_id in ids]
    assert len(set(hidden)) == len(ids)
    for path in hidden:
        name = path.removeprefix("[nfs1] golden/")
        assert name.startswith("." + "i" * 75)
        assert not set(name) & set("/\\ ")
        assert len(name) < 255


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "a\\b", ".hidden", "a\x00b", "", "a b", "x" * 76, "a..b", "-v", "naïve"]
)
def test_a_name_that_could_leave_its_directory_never_reaches_a_path(name: str) -> None:
    paths = layout.of(POOL, Profile(4, "blades", datastore_path="nfs1"))
    for make in (paths.image_directory, paths.vm_directory):
        with pytest.raises(ProvisioningError, match="cannot be used in a datastore path"):
            make(name)


@pytest.mark.parametrize(
    ("written", "directory"),
    [
        ("[repo] images", "[repo] images"),
        ("[repo]images/old/", "[repo] images/old"),
        ("[repo]", "[repo]"),
        ("repo", "[repo]"),
        (" /vmfs/volumes/repo/images ", "[repo] images"),
        ("/vmfs/volumes/repo", "[repo]"),
        ("", None),
        ("/install/vmware_images", None),
        ("repo/images", None),
        ("[repo", None),
        ("[] images", None),
        ("[..] images", None),
        ("[repo] ../golden", None),
        ("[repo] images/../../etc", None),
        ("[repo] images//old", None),
        ("[repo] images/./old", None),
        ("[repo] images\\..\\etc", None),
        ("[repo] ima\x00ges", None),
    ],
)
def test_a_repository_is_a_directory_that_hosts_can_read_or_none(written: str, directory: str | None) -> None:
    assert layout.datastore_directory(written) == directory
