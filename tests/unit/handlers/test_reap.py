"""Unfinished images that nobody will finish."""

from __future__ import annotations

import pytest

from esxprov.errors import ProvisioningError
from esxprov.handlers.reap import clear, hold, reap
from esxprov.model import ImageWork
from tests.unit.world import IMAGE, POOL, Site

PATH = "[nfs1] golden/.new-v0.dead"


def left(site: Site, path: str = PATH, pool: str = "main") -> ImageWork:
    """What an event that has ended has left."""
    work = ImageWork("nfs1", "new-v0", "dead", "capture", pool, path)
    site.images.take(work)
    site.images.ended.add("dead")
    site.world.directories.add(path)
    site.world.files[f"{path}/new-v0.vmdk"] = b"half"
    return work


def test_what_an_event_has_left_is_removed_with_its_lock() -> None:
    site = Site()
    before = site.world.paths()
    left(site)
    assert reap(site.tools) == 1
    assert (site.world.paths(), site.images.held) == (before, {})


def test_what_is_still_worked_on_stays() -> None:
    site = Site()
    left(site)
    site.images.ended.clear()
    assert reap(site.tools) == 0
    assert PATH in site.world.directories


def test_one_host_that_answers_is_enough() -> None:
    site = Site()
    left(site)
    site.world.down = {"esx1", "esx2"}
    assert reap(site.tools) == 1


def test_while_no_host_answers_it_is_not_forgotten() -> None:
    site = Site()
    work = left(site)
    site.world.down = set(POOL.endpoints)
    assert reap(site.tools) == 0
    assert list(site.images.held.values()) == [work]
    site.world.down = set()
    assert reap(site.tools) == 1


def test_what_an_orphaned_copy_still_writes_is_tried_again() -> None:
    site = Site()
    left(site)

    def locked(method: str) -> None:
        if method == "delete":
            raise ProvisioningError("vsphere_fault", "a file is locked", retryable=True)

    site.world.on_call = locked
    assert reap(site.tools) == 0
    site.world.on_call = lambda method: None
    assert reap(site.tools) == 1


def test_what_a_pool_left_that_is_not_configured_any_more_does_not_stop_the_rest() -> None:
    site = Site()
    left(site, pool="gone")
    assert reap(site.tools) == 0
    assert PATH in site.world.directories


@pytest.mark.parametrize(
    "path", [f"[nfs1] golden/{IMAGE}", "[nfs1] golden", "[nfs1] .golden", f"[nfs1] golden/.x/{IMAGE}", "[nfs1] a/../.b"]
)
def test_a_row_never_costs_what_is_not_marked_as_unfinished(path: str) -> None:
    site = Site()
    before = site.world.paths()
    site.images.take(ImageWork("nfs1", "new-v0", "dead", "capture", "main", path))
    site.images.ended.add("dead")
    assert reap(site.tools) == 0
    with pytest.raises(ProvisioningError, match="is no unfinished image"):
        hold(site.tools, site.hypervisors["esx1"], ImageWork("nfs1", "new-v0", "mine", "capture", "main", "x"))
    assert site.world.paths() == before


def test_of_an_event_all_is_removed_that_its_services_prepared_one_after_the_other_and_nothing_else() -> None:
    site = Site()
    stem = "[nfs1] golden/.new-v0.dead.0123abcd"
    left(site, f"{stem}-2")
    others = ["[nfs1] golden/.new-v0.dead2.0123abcd-1", f"{stem}0-1", f"{stem}-1x", "[nfs1] golden/x.0123abcd-1"]
    site.world.directories |= {f"{stem}-1", f"{stem}-3", *others}
    assert reap(site.tools) == 1
    assert [path for path in site.world.paths() if IMAGE not in path] == sorted(others)


def test_who_may_have_been_overtaken_leaves_what_came_after_it() -> None:
    site = Site()
    stem = "[nfs1] golden/.new-v0.mine.0123abcd"
    site.world.directories |= {f"{stem}-{epoch}" for epoch in (1, 2, 3)}
    clear(site.hypervisors["esx1"], ImageWork("nfs1", "new-v0", "mine", "capture", "main", f"{stem}-2"))
    assert [path for path in site.world.paths() if IMAGE not in path] == [f"{stem}-3"]


def test_an_abandoned_event_still_has_its_image() -> None:
    site = Site()
    work = left(site)
    site.images.ended.clear()
    site.images.abandoned.add("dead")
    busy = hold(site.tools, site.hypervisors["esx1"], ImageWork("nfs1", "new-v0", "mine", "stage", "main", "x"))
    assert busy is not None
    assert (busy.work, busy.is_abandoned) == (work, True)
