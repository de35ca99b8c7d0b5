"""How many fit is what placing one by one gives; the largest fits, and what is a little larger does not."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st

from esxprov.model import CatalogueImage
from esxprov.placement.capacity import Fits, Largest, how_many, largest, largest_by_host
from esxprov.placement.choose import farm_of
from esxprov.placement.farm import Farm
from esxprov.placement.request import Affinity, PlacementRequest, overhead_mb
from esxprov.placement.search import place, would_fit
from esxprov.placement.snapshot import Rules, Snapshot
from esxprov.placement.world import World
from tests.unit.placement.worlds import REQUEST, farm, host, requests, rules, snapshots

safe = rules.map(lambda some: replace(some, n_plus_one=True))
plain = requests().map(lambda one: replace(one, affinities=()))


def one_by_one(made: Farm, request: PlacementRequest) -> int:
    count = 0
    while place(made, (replace(request, id=f"vm-{count}"),)).hosts is not None:
        count += 1
    return count


@given(snapshots(), plain)
def test_in_closed_form_as_many_fit_as_can_be_placed_one_by_one(world: Snapshot, request: PlacementRequest) -> None:
    assert how_many(farm_of(world), request).count == one_by_one(farm_of(world), request)


@given(snapshots(safe), plain)
def test_with_n_plus_one_as_many_fit_as_can_be_placed_one_by_one(world: Snapshot, request: PlacementRequest) -> None:
    assert how_many(farm_of(world), request).count == one_by_one(farm_of(world), request)


@given(snapshots(), plain)
def test_each_host_has_as_many_as_if_it_were_alone(world: Snapshot, request: PlacementRequest) -> None:
    assume(not any(claim.disk_mb for claim in world.claims))
    made = farm_of(world)
    alone = {
        label: how_many(farm_of(replace(world, hosts=(one,))), request).count
        for label, one in zip(made.labels(), sorted(world.hosts, key=lambda one: one.key.endpoint), strict=True)
    }
    assert how_many(made, request).hosts == alone


@given(snapshots(rules | safe), requests())
def test_counting_leaves_the_farm_as_it_was(world: Snapshot, request: PlacementRequest) -> None:
    made = farm_of(world)
    before = [made.raw(number) for number in range(len(made))]
    how_many(made, request)
    largest(made, request)
    assert [made.raw(number) for number in range(len(made))] == before


def test_a_datastore_that_hosts_share_bounds_their_sum() -> None:
    fits = how_many(farm(host("esx1"), host("esx2")), replace(REQUEST, ram_mb=1024, disk_mb=40_000))
    assert fits == Fits(4, {"esx1": 2, "esx2": 2})
    shared = tuple(replace(store, url="nfs://a") for store in host("esx1").datastores)
    fits = how_many(
        farm(host("esx1", datastores=shared), host("esx2", datastores=shared)),
        replace(REQUEST, ram_mb=1024, disk_mb=40_000),
    )
    assert fits == Fits(2, {"esx1": 2, "esx2": 2})


def test_at_most_so_many_per_host_counts_those_that_are_there() -> None:
    made = farm(host("esx1", groups={"web": 1}), host("esx2"))
    assert how_many(made, replace(REQUEST, ram_mb=512, disk_mb=0, group="web", max_per_host=2)).count == 3


def test_hosts_that_are_coupled_are_tried() -> None:
    apart = (Affinity("web", together=False, hard=True),)
    made = farm(host("esx1"), host("esx2"))
    assert how_many(made, replace(REQUEST, group="web", affinities=apart)).count == 2


def test_what_is_not_worth_trying_further_is_said_to_be_at_least_that() -> None:
    made = farm(host("esx1"), host("esx2"), rules=Rules(n_plus_one=True))
    assert how_many(made, replace(REQUEST, ram_mb=512, disk_mb=0), most=2).exact is False


def test_nothing_fits_on_no_host() -> None:
    assert (how_many(farm(), REQUEST), largest(farm(), REQUEST)) == (Fits(0, {}), Largest(0, 0))


def sized(ram_mb: int, cpus: int) -> PlacementRequest:
    return replace(REQUEST, ram_mb=ram_mb, cpus=cpus, overhead_mb=overhead_mb(ram_mb, cpus), disk_mb=0)


@given(snapshots(rules | safe), st.sampled_from(["linux", "mac-os"]))
def test_the_largest_fits_and_a_larger_one_does_not(world: Snapshot, image: str) -> None:
    made = farm_of(world)
    found = largest(made, replace(REQUEST, disk_mb=0, image=image))

    def fits(ram_mb: int, cpus: int) -> bool:
        return would_fit(made, (replace(sized(ram_mb, cpus), image=image),)).hosts is not None

    assert found.ram_mb == 0 or fits(found.ram_mb, 1)
    assert found.cpus == 0 or fits(4, found.cpus)
    assert not fits(found.ram_mb + 4, 1)
    assert not fits(4, found.cpus + 1)


def test_each_host_has_its_own_largest() -> None:
    made = farm(host("esx1", promised_ram_mb=8000), host("esx2", cpu_threads=2), host("esx3", maintenance=True))
    assert largest_by_host(made, replace(REQUEST, disk_mb=0)) == {
        "esx1": Largest(7244, 16),
        "esx2": Largest(15164, 2),
        "esx3": Largest(0, 0),
    }


def test_an_image_asks_for_what_its_vm_will_have() -> None:
    world = World("main", "blades", "nfs1", ("Private",), 4, (), Snapshot(()))
    image = CatalogueImage("vmwarelinux-a-v0", "A", 1026, 2, 20_000)
    assert world.request("r", image) == PlacementRequest(
        "r", 1024, 2, overhead_mb(1024, 2), 5000, "nfs1", ("Private",), "vmwarelinux-a-v0"
    )
