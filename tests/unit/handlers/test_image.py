"""does_image_exist, get_image_size, retrieve_image."""

from __future__ import annotations

import pytest

from esxprov.errors import ProvisioningError
from tests.unit.world import Site


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


def test_retrieving_an_image_that_is_there_copies_nothing() -> None:
    site = Site()
    assert site.run(site.event("retrieve_image")) == {"copied_mb": 0}
    with pytest.raises(ProvisioningError, match="has no disk"):
        site.run(site.event("retrieve_image", image={"name": "other"}))
