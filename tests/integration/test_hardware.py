"""What a VM is made of, as the running service writes it on a real datastore."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.calls import BASE, Slot, call
from tests.testbed.audit import leftovers
from tests.testbed.bed import Bed
from tests.testbed.processes import Child


@pytest.fixture
def service(bed: Bed) -> Iterator[Child]:
    child = bed.service()
    yield child
    child.stop()


@pytest.mark.parametrize("name", [f"{BASE.name}.vmx", f"{BASE.name}.vmx.reference"])
def test_a_vm_gets_the_hardware_that_its_image_was_made_on(bed: Bed, slot: Slot, service: Child, name: str) -> None:
    reference = bed.store / "golden" / BASE.name / name
    reference.write_text('guestOS = "rhel7-64"\nscsi0.virtualDev = "pvscsi"\nethernet0.address = "00:50:56:0e:0e:0e"\n')
    try:
        reply = call(bed, slot.request("load"))
        assert reply["outcome"] == "ok", reply
        written = (bed.store / "inuse" / slot.name / f"{slot.name}.vmx").read_text()
    finally:
        reference.unlink()
    assert 'guestOS = "rhel7-64"' in written
    assert 'scsi0.virtualDev = "pvscsi"' in written
    assert "00:50:56:0e:0e:0e" not in written
    assert call(bed, slot.request("unload"))["outcome"] == "ok"
    assert leftovers(bed) == []
