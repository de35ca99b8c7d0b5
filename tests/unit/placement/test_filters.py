"""Each rule: who passes, and what is said of who does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given

from esxprov.model import Datastore
from esxprov.placement.filters import PlacementRequest, refusal
from esxprov.placement.snapshot import Snapshot
from tests.unit.placement.worlds import HOST, REQUEST, host, requests, snapshots


def test_a_host_with_room_is_not_refused() -> None:
    assert refusal(REQUEST, HOST) is None


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
        ({"excluded": "power-on failed"}, "excluded", "the host was tried: power-on failed", None),
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
    refused = refusal(REQUEST, replace(HOST, **changes))
    assert refused is not None
    assert (refused.rule, refused.reason) == (rule, reason)
    assert (refused.cure.change if refused.cure else None) == change


def test_a_vm_that_fits_exactly_is_taken() -> None:
    assert refusal(REQUEST, host("esx1", promised_ram_mb=16384 - 1024 - REQUEST.ram_needed_mb)) is None


def test_a_ratio_does_not_make_one_vm_larger_than_the_machine() -> None:
    refused = refusal(replace(REQUEST, ram_mb=20_000), host("esx1", ram_ratio=4.0, ram_used_mb=0))
    assert refused is not None
    assert refused.rule == "machine"


@given(requests(), snapshots())
def test_a_cure_makes_its_rule_content_and_a_little_less_does_not(request: PlacementRequest, world: Snapshot) -> None:
    assume(world.hosts)
    for state in world.hosts:
        refused = refusal(request, state)
        if refused is None or refused.cure is None:
            continue
        cured = refused.cure.host
        after = refusal(request, cured)
        assert after is None or after.rule != refused.rule
        if refused.rule == "ram":
            less = replace(cured, promised_ram_mb=cured.promised_ram_mb + 1, ram_used_mb=cured.ram_used_mb + 1)
            again = refusal(request, less)
            assert again is not None
            assert again.rule == "ram"
