"""Each rule: who passes, and what is said of who does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from esxprov.model import Datastore
from esxprov.placement.choose import farm_of
from esxprov.placement.filters import Refusal, refusal
from esxprov.placement.host import HostState
from esxprov.placement.request import Affinity, PlacementRequest
from esxprov.placement.snapshot import Rules, Snapshot
from tests.unit.placement.worlds import HOST, REQUEST, host, requests, snapshots


def refused_by(host: HostState, request: PlacementRequest = REQUEST, rules: Rules | None = None) -> Refusal | None:
    return refusal(request, host, rules or Rules())


def test_a_host_with_room_is_not_refused() -> None:
    assert refused_by(HOST) is None


@pytest.mark.parametrize(
    ("changes", "rule", "reason", "change"),
    [
        ({"state": "notResponding"}, "connected", "the host is notResponding", None),
        (
            {"maintenance": True},
            "maintenance",
            "the host is in maintenance mode",
            "{host} were not in maintenance mode",
        ),
        ({"unfit": "power-on failed"}, "unfit", "power-on failed", None),
        ({"datastores": ()}, "datastore", "the host has no datastore nfs1", None),
        (
            {"datastores": (Datastore("nfs1", 10**6, 10**6, accessible=False),)},
            "datastore",
            "the host cannot access datastore nfs1",
            None,
        ),
        ({"networks": ("Public",)}, "networks", "the host has no network Private", None),
        ({"cpu_threads": 1}, "machine", "2 vCPUs asked, the host has 1 threads", None),
        (
            {"ram_mb": 4096},
            "machine",
            "4192 MB of RAM asked (4096 and 96 overhead), the host takes 3072 MB when it is empty "
            "(4096 total, 1024 reserved)",
            "{host} had 1120 MB more RAM",
        ),
        (
            {"datastores": (Datastore("nfs1", 5000, 10_000),)},
            "disk",
            "20000 MB of disk asked, 5000 MB free on nfs1",
            "15000 MB more were free on datastore nfs1",
        ),
        (
            {"promised_cpus": 63},
            "cpus",
            "2 vCPUs asked, 1 free (16 threads x 4, 63 claimed)",
            "1 more vCPUs were free on {host}",
        ),
        (
            {"promised_ram_mb": 14336},
            "ram",
            "4192 MB of RAM asked (4096 and 96 overhead), 1024 MB free (16384 total, 1024 reserved, 14336 claimed)",
            "3168 MB more RAM were free on {host}",
        ),
        (
            {"ram_ratio": 2.0, "ram_used_mb": 14000, "warming_ram_mb": 500},
            "ram",
            "4192 MB of RAM asked (4096 and 96 overhead), 1228 MB free (16384 total x 2, 1024 reserved, 0 claimed, "
            "14000 used now, 500 on its way)",
            "2964 MB more RAM were free on {host}",
        ),
    ],
)
def test_a_refusal_says_what_is_wrong_by_how_much_and_what_would_help(
    changes: dict[str, Any], rule: str, reason: str, change: str | None
) -> None:
    refused = refused_by(replace(HOST, **changes))
    assert refused is not None
    assert (refused.rule, refused.reason) == (rule, reason)
    assert (refused.cure.change if refused.cure else None) == change


def test_a_vm_that_fits_exactly_is_taken() -> None:
    assert refused_by(host("esx1", promised_ram_mb=16384 - 1024 - REQUEST.ram_needed_mb)) is None


def test_a_ratio_does_not_make_one_vm_larger_than_the_machine() -> None:
    refused = refused_by(host("esx1", ram_ratio=4.0, ram_used_mb=0), replace(REQUEST, ram_mb=20_000))
    assert refused is not None
    assert refused.rule == "machine"


@pytest.mark.parametrize(
    ("request_", "rule", "reason"),
    [
        (replace(REQUEST, image="mac-10"), "image", "image mac-10 may only run on mac1, mac2"),
        (
            replace(REQUEST, group="web", max_per_host=2),
            "max_per_host",
            "2 VM(s) of web are here, 2 may be",
        ),
        (
            replace(REQUEST, affinities=(Affinity("web", together=False, hard=True),)),
            "apart",
            "2 VM(s) of web are here, it must stay apart from them",
        ),
        (
            replace(REQUEST, affinities=(Affinity("db", together=True, hard=True),)),
            "together",
            "no VM of db is here, it must be with them",
        ),
    ],
)
def test_a_rule_about_others_says_who_they_are(request_: PlacementRequest, rule: str, reason: str) -> None:
    refused = refused_by(host("esx1", groups={"web": 2}), request_, Rules(image_hosts={"mac-*": ("mac1", "mac2")}))
    assert refused is not None
    assert (refused.rule, refused.reason) == (rule, reason)


def test_soft_wishes_refuse_no_host() -> None:
    wishes = (Affinity("web", together=False, hard=False), Affinity("db", together=True, hard=False))
    assert refused_by(host("esx1", groups={"web": 2}), replace(REQUEST, affinities=wishes)) is None


@given(requests(), snapshots())
def test_a_cure_makes_its_rule_content_and_a_little_less_does_not(request: PlacementRequest, world: Snapshot) -> None:
    farm = farm_of(world)
    for number in range(len(farm)):
        state = farm.state(number)
        refused = refusal(request, state, world.rules)
        if refused is None or refused.cure is None:
            continue
        cured = refused.cure.apply(state)
        after = refusal(request, cured, world.rules)
        assert after is None or after.rule != refused.rule
        if refused.rule == "ram":
            less = replace(cured, promised_ram_mb=cured.promised_ram_mb + 1, ram_used_mb=cured.ram_used_mb + 1)
            again = refusal(request, less, world.rules)
            assert again is not None
            assert again.rule == "ram"
