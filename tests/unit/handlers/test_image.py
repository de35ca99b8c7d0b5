"""does_image_exist, get_image_size."""

from __future__ import annotations

from dataclasses import replace

import pytest

from esxprov.errors import ProvisioningError
from tests.unit.world import IMAGE, Site

REPOSITORY = {"repository_path": "[repo] images"}


def with_repository() -> Site:
    site = Site()
    site.world.datastores = ("nfs1", "repo")
    site.world.golden("old", datastore="repo", library="images")
    return site


def test_an_image_exists_if_its_disk_does() -> None:
    site = Site()
    assert site.run(site.event("does_image_exist")) == {"exists": True}
    assert site.run(site.event("does_image_exist", image={"name": "other"})) == {"exists": False}


def test_an_image_is_found_although_a_host_is_silent_but_its_absence_is_not_claimed_then() -> None:
    site = Site()
    site.world.down = {"esx1"}
    assert site.run(site.event("does_image_exist")) == {"exists": True}
    with pytest.raises(ProvisioningError) as caught:
        site.run(site.event("does_image_exist", image={"name": "other"}))
    assert caught.value.code == "host_unavailable"


def test_the_size_of_an_image_is_that_of_its_files() -> None:
    site = Site()
    assert site.run(site.event("get_image_size")) == {"size_mb": 2049}
    with pytest.raises(ProvisioningError, match="has no disk"):
        site.run(site.event("get_image_size", image={"name": "other"}))


# --- the repository --------------------------------------------------------------------------------------------------


def test_an_image_that_is_only_in_the_repository_does_not_exist_so_that_vcld_has_it_brought() -> None:
    site = with_repository()
    event = site.event("does_image_exist", image={"name": "old"}, profile=REPOSITORY)
    assert site.run(event) == {"exists": False}


@pytest.mark.parametrize("state", ["image", "checkpoint"])
def test_a_name_in_the_repository_is_taken_for_a_capture(state: str) -> None:
    site = with_repository()
    event = site.event("does_image_exist", reservation={"state": state}, image={"name": "old"}, profile=REPOSITORY)
    assert site.run(event) == {"exists": True}


def test_a_capture_is_not_told_that_a_name_is_free_while_the_repository_cannot_be_asked() -> None:
    site = with_repository()
    event = site.event(
        "does_image_exist", reservation={"state": "image"}, image={"name": "brand-new"}, profile=REPOSITORY
    )
    site.looks.remembered = [replace(look, problem="it does not answer") for look in site.looks.at(site.pool.endpoints)]
    with pytest.raises(ProvisioningError) as caught:
        site.run(event)
    assert (caught.value.code, caught.value.retryable) == ("host_unavailable", True)


@pytest.mark.parametrize("path", ["", "/install/vmware_images", "[nowhere] images", "[repo] ../golden"])
def test_a_repository_that_no_host_can_read_takes_no_names(path: str) -> None:
    site = with_repository()
    event = site.event(
        "does_image_exist", reservation={"state": "image"}, image={"name": "old"}, profile={"repository_path": path}
    )
    assert site.run(event) == {"exists": False}


def test_the_size_of_an_image_is_the_larger_one_of_library_and_repository() -> None:
    site = with_repository()

    def size_mb(image: str) -> int:
        told: int = site.run(site.event("get_image_size", image={"name": image}, profile=REPOSITORY))["size_mb"]
        return told

    assert (size_mb("old"), size_mb(IMAGE)) == (2049, 2049)
    site.world.golden(IMAGE, 4096, datastore="repo", library="images")
    assert size_mb(IMAGE) == 4097


@pytest.mark.parametrize("image", [IMAGE, "old"])
def test_a_repository_that_cannot_be_asked_hides_only_the_size_of_what_the_library_has_not(image: str) -> None:
    site = with_repository()
    event = site.event("get_image_size", image={"name": image}, profile=REPOSITORY)
    site.looks.remembered = [replace(look, problem="silent") for look in site.looks.at(site.pool.endpoints)]
    if image == IMAGE:
        assert site.run(event) == {"size_mb": 2049}
    else:
        with pytest.raises(ProvisioningError, match="cannot be asked"):
            site.run(event)


def test_the_size_of_a_huge_image_fits_into_vcl_s_column() -> None:
    site = with_repository()
    site.world.golden("huge", 90_000, datastore="repo", library="images")
    assert site.run(site.event("get_image_size", image={"name": "huge"}, profile=REPOSITORY)) == {"size_mb": 65535}
