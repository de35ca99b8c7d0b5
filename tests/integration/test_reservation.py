"""Reservations from end to end: Perl processes with the shim, the running service, all servers real."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.demo.story import BASE, Story
from tests.integration.calls import Slot
from tests.testbed.audit import leftovers
from tests.testbed.bed import Bed, Plan
from tests.testbed.processes import Child


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(Plan(), id="esxi-hosts, copied disks, strict sql"),
        pytest.param(Plan(vcenter=True, disk="linked", strict=False), id="vcenter, linked disks, sql not strict"),
    ],
)
def test_a_reservation_is_loaded_captured_and_removed_and_its_image_loaded_again(tmp_path: Path, plan: Plan) -> None:
    with Bed(tmp_path, plan) as bed:
        bed.make_site()
        assert bed.esxprov("db", "upgrade").returncode == 0
        service = bed.service()
        Story(bed, lambda who, what: None).tell()
        service.stop()


@pytest.fixture
def service(bed: Bed) -> Iterator[Child]:
    child = bed.service()
    yield child
    child.stop()


def reservation(bed: Bed, slot: Slot) -> int:
    site = bed.site
    return bed.rows().reservation(slot.computer_id, site.images[BASE], site.node_id).reservation_id


def test_a_killed_vcld_process_is_followed_by_one_that_takes_up_its_load(bed: Bed, slot: Slot, service: Child) -> None:
    """As vcld does it to a reload that is in the way: SIGKILL, and a new process for the same reservation."""
    number = reservation(bed, slot)
    first = bed.vcld_child(number, "load")
    service.wait_for(r"copy_disk: copying")
    first.kill()
    first.communicate()
    assert len(list(bed.spool.iterdir())) == 1
    second = bed.vcld_child(number, "load", "power_status", "unload")
    out, err = second.communicate(timeout=60)
    said = {line["call"]: line["result"] for line in map(json.loads, out.splitlines())}
    assert (said, err) == ({"load": 1, "power_status": "on", "unload": 1}, "")
    loads = bed.rows().value(
        "SELECT COUNT(*) FROM esxprov_event WHERE computer_id = %s AND call_name = 'load'", slot.computer_id
    )
    assert loads == 1
    assert leftovers(bed) == []
