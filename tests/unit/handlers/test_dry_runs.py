"""place and capacity: answers about a world that claim nothing in it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from esxprov.errors import ProvisioningError
from esxprov.model import Claim, Promised
from tests.unit.world import IMAGE, IMAGES, POOL, Site

NAMED = {"name": IMAGES[1].name}


def ask(site: Site, call: str, *without: str, **data: Any) -> dict[str, Any]:
    """The answer to the golden request with other data, and without some."""
    event = site.event(call)
    changed = {name: value for name, value in {**event.data, **data}.items() if name not in without}
    return site.run(replace(event, data=changed))


def place(site: Site, *without: str, **data: Any) -> dict[str, Any]:
    return ask(site, "place", "max_per_host", *without, **data)


def capacity(site: Site, **data: Any) -> dict[str, Any]:
    return ask(site, "capacity", "at", **data) if "at" not in data else ask(site, "capacity", **data)


def promise(site: Site, number: int, minutes: tuple[int, int | None], computer: int = 90, image: int = 1) -> Promised:
    now = int(site.world.now.timestamp())
    starts, ends = minutes
    ends_at = None if ends is None else now + ends * 60
    return Promised(number, f"request-{number}", computer, IMAGES[image], now + starts * 60, ends_at)


def fits(answer: dict[str, Any], image: int = 1) -> int:
    (count,) = [row["fits"] for row in answer["images"] if IMAGES[image].name in row["images"]]
    assert isinstance(count, int)
    return count


# --- place -----------------------------------------------------------------------------------------------------------


def test_an_image_that_is_only_named_is_as_large_as_vcl_says() -> None:
    answer = place(Site(), image=NAMED, count=9)
    assert Counter(one["host"] for one in answer["placements"]) == {"esx1": 3, "esx2": 3, "esx3": 3}
    assert place(Site(), image=NAMED, count=10)["placements"] == []


def test_an_image_that_vcl_does_not_have_is_answered_with_those_called_alike() -> None:
    with pytest.raises(ProvisioningError) as caught:
        place(Site(), image={"name": "vmwarelinux-base9-v2"})
    assert (caught.value.code, caught.value.message) == (
        "image_not_found",
        "VCL has no image 'vmwarelinux-base9-v2', did you mean 'vmwarelinux-base9-v3'?",
    )


def test_the_profile_may_be_left_out_or_only_named() -> None:
    for profile in (None, {"name": POOL.profile}, {"name": POOL.name}):
        assert place(Site(), profile=profile, image=NAMED)["placements"]


def test_a_profile_of_no_pool_is_answered_with_those_called_alike() -> None:
    with pytest.raises(ProvisioningError, match="no pool has the VM host profile 'blade', did you mean 'blades'"):
        place(Site(), profile={"name": "blade"}, image=NAMED)


def test_no_host_gets_more_than_it_may() -> None:
    asked: dict[str, Any] = {"image": {"name": IMAGE, "min_ram_mb": 512}, "count": 6}
    placements = ask(Site(), "place", max_per_host=2, **asked)["placements"]
    assert Counter(one["host"] for one in placements) == {"esx1": 2, "esx2": 2, "esx3": 2}
    refused = ask(Site(), "place", max_per_host=1, **asked)
    assert refused["help"] == ["with 2 per host", "if only 3 of the 6 were asked for"]
    assert refused["refused"]["esx1"]["rule"] == "max_per_host"


@pytest.mark.parametrize("name", ["count", "max_per_host"])
@pytest.mark.parametrize("value", [0, -1, "two", True, 10**6])
def test_a_number_of_vms_that_is_none_is_refused(name: str, value: object) -> None:
    with pytest.raises(ProvisioningError, match=f"{name} is .*, expected a whole number from 1 to 1000"):
        ask(Site(), "place", **{name: value})


def test_a_refusal_says_by_how_much_each_host_misses_and_when_there_is_room() -> None:
    site = Site(pool=replace(POOL, endpoints=("esx1",)))
    site.run(site.event("load", image={"min_ram_mb": 12_000}))
    (claim,) = site.claims.held
    site.inventory.promises = [promise(site, 812, (-60, 30), claim.computer_id)]
    answer = place(site, image=NAMED)
    assert answer["refused"]["esx1"]["rule"] == "ram"
    assert answer["refused"]["esx1"]["missing"] > 0
    assert answer["help"][-1].endswith("Z when reservation 812 ends")


def test_a_reason_that_all_hosts_share_is_the_reason() -> None:
    site = Site()
    for hypervisor in site.hypervisors.values():
        hypervisor.maintenance = True
    assert place(site)["reason"] == "no host takes it: the host is in maintenance mode"


def test_a_silent_endpoint_is_named_beside_the_hosts() -> None:
    site = Site()
    site.world.down = {"esx2"}
    answer = place(site)
    assert (answer["silent"], answer["refused"]["esx2"]["rule"]) == (["esx2"], "silent")


def test_a_dry_run_claims_nothing() -> None:
    site = Site()
    place(site, image=NAMED, count=9)
    assert site.claims.held == []


# --- capacity --------------------------------------------------------------------------------------------------------


def test_capacity_is_how_many_can_be_placed() -> None:
    site = Site()
    count = fits(capacity(site))
    assert place(site, image=NAMED, count=count)["placements"]
    assert not place(site, image=NAMED, count=count + 1)["placements"]


def test_with_n_plus_one_the_room_of_a_host_is_kept() -> None:
    assert (fits(capacity(Site())), fits(capacity(Site(), n_plus_one=True))) == (9, 6)


def test_the_largest_vm_is_told_for_each_host_and_in_all() -> None:
    site = Site()
    site.hypervisors["esx3"].ram_mb = 32768
    answer = capacity(site)
    largest = {row["host"]: row["largest_ram_mb"] for row in answer["hosts"]}
    assert (largest["esx1"], largest["esx3"]) == (15164, 31384)
    assert answer["largest"] == {"ram_mb": 31384, "cpus": 16}


def test_capacity_at_a_time_knows_what_has_ended_and_what_has_begun() -> None:
    site = Site()
    site.run(site.event("load", image={"min_ram_mb": 12_000}))
    (claim,) = site.claims.held
    site.inventory.promises = [
        promise(site, 812, (-60, 30), claim.computer_id),
        *(promise(site, number, (60, 120), number) for number in range(100, 103)),
    ]
    counts = [fits(capacity(site))]
    for hour, at in ((6, 31), (7, 0), (8, 0)):
        counts.append(fits(capacity(site, at=f"2026-11-22T{hour:02d}:{at:02d}:00Z")))
    assert counts == [6, 9, 6, 9]


def test_a_booking_that_finds_no_host_is_overbooked() -> None:
    site = Site()
    site.inventory.promises = [promise(site, number, (60, None), number) for number in range(100, 110)]
    answer = capacity(site, at="2026-11-22T07:00:00Z")
    assert [row["image"] for row in answer["overbooked"]] == [IMAGES[1].name]
    assert answer["at"] == "2026-11-22T07:00Z"


def test_a_reservation_that_has_its_claim_is_not_booked_twice() -> None:
    site = Site()
    site.run(site.event("load"))
    (claim,) = site.claims.held
    site.inventory.promises = [promise(site, 812, (-60, 600), claim.computer_id)]
    assert fits(capacity(site, at="2026-11-22T07:00:00Z")) == fits(capacity(site))


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ("soon", "at is 'soon', expected a time with its offset"),
        ("2026-11-22T09:00:00", "expected a time with its offset"),
        (1700000000, "expected a time with its offset"),
        ("2026-11-21T09:00:00Z", "which is over: it is 2026-11-22T05:41Z"),
    ],
)
def test_a_time_that_is_none_is_refused(at: object, said: str) -> None:
    with pytest.raises(ProvisioningError, match=said):
        capacity(Site(), at=at)


def test_images_that_ask_for_the_same_are_one_row() -> None:
    rows = {tuple(row["images"]): (row["ram_mb"], row["cpus"]) for row in capacity(Site())["images"]}
    assert rows == {(IMAGES[0].name,): (1024, 1), (IMAGES[1].name,): (4096, 2)}


def test_what_another_pool_has_claimed_on_a_host_is_not_free() -> None:
    site = Site(pool=replace(POOL, endpoints=("esx1",)))
    before = fits(capacity(site))
    host = site.hypervisors["esx1"].hosts()[0].key
    site.claims.held = [Claim("other", host, 99, 8192, 2, "e9", pool="other")]
    assert fits(capacity(site)) < before
