"""Which disks from elsewhere become images, and what they hang on then."""

from __future__ import annotations

import pytest

from esxprov.library import conversion
from esxprov.model import DiskInfo


def disk(create_type: str = "vmfs", adapter: str = "lsilogic", parent: str | None = None) -> DiskInfo:
    return DiskInfo("[repo] images/x/x.vmdk", adapter, create_type, 2048, parent=parent)


@pytest.mark.parametrize(
    ("create_type", "said"),
    [
        ("vmfs", ""),
        ("vmfsThin", ""),
        ("twoGbMaxExtentSparse", ""),
        ("twoGbMaxExtentFlat", ""),
        ("monolithicSparse", ""),
        ("monolithicFlat", ""),
        ("streamOptimized", "is of type streamOptimized, which no host copies: convert it with 'qemu-img convert'"),
        ("fullDevice", "which no host copies"),
        ("vmfsRawDeviceMap", "which no host copies"),
        ("vmfsPassthroughRawDeviceMap", "which no host copies"),
        ("custom", "which no host copies"),
    ],
)
def test_a_type_of_disk_can_be_tried_or_is_refused_with_what_to_do(create_type: str, said: str) -> None:
    refused = conversion.refusal(disk(create_type))
    assert said in refused
    assert bool(refused) == bool(said)


def test_a_disk_that_needs_another_is_no_image() -> None:
    assert "is not a whole disk, it needs base.vmdk" in conversion.refusal(disk(parent="base.vmdk"))


@pytest.mark.parametrize(
    ("adapter", "architecture", "wanted"),
    [
        ("ide", "x86", "ide"),
        ("ide", "x86_64", "ide"),
        ("buslogic", "x86", "buslogic"),
        ("busLogic", "x86_64", "lsilogic"),
        ("lsilogic", "x86", "lsilogic"),
        ("lsisas1068", "x86_64", "lsilogic"),
        ("pvscsi", "x86_64", "lsilogic"),
        ("legacyESX", "x86", "lsilogic"),
    ],
)
def test_a_guest_keeps_the_controller_it_knows_unless_esxi_refuses_it(
    adapter: str, architecture: str, wanted: str
) -> None:
    assert conversion.adapter_for(disk(adapter=adapter), architecture) == wanted
