"""vmdk descriptors as ESXi, Workstation and bad luck write them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from esxprov.model import Extent
from esxprov.vsphere.descriptor import Descriptor, parse

MB = 1024 * 1024

FLAT = b"""# Disk DescriptorFile
version=1
encoding="UTF-8"
CID=fffffffe
parentCID=ffffffff
createType="vmfs"

# Extent description
RW 41943040 VMFS "img-flat.vmdk"

# The Disk Data Base
#DDB
ddb.adapterType = "lsilogic"
ddb.geometry.cylinders = "2610"
ddb.thinProvisioned = "1"
"""

REDO = (
    FLAT.replace(b"parentCID=ffffffff", b"parentCID=fffffffe")
    .replace(b'createType="vmfs"', b'createType="vmfsSparse"\nparentFileNameHint="/vmfs/volumes/nfs1/golden/img.vmdk"')
    .replace(b"VMFS", b"VMFSSPARSE")
)


def test_a_disk_that_stands_alone() -> None:
    content = Extent("img-flat.vmdk", 20480 * MB)
    assert parse(FLAT) == Descriptor("lsilogic", "vmfs", 20480, (content,), None, thin=True)


def test_a_disk_that_does_not_call_itself_thin_is_thick() -> None:
    found = parse(FLAT.replace(b"thinProvisioned", b"x"))
    assert found is not None
    assert not found.thin


def test_a_redo_disk_names_its_parent() -> None:
    found = parse(REDO)
    assert found is not None
    assert found.parent == "/vmfs/volumes/nfs1/golden/img.vmdk"
    assert found.create_type == "vmfsSparse"


def test_a_redo_disk_without_a_hint_is_still_a_redo_disk() -> None:
    found = parse(REDO.replace(b"parentFileNameHint", b"x"))
    assert found is not None
    assert found.parent is not None


def test_extents_are_summed() -> None:
    found = parse(FLAT + b'RW 2048 FLAT "b f001.vmdk" 0\nRW 1 ZERO\n')
    assert found is not None
    assert found.capacity_mb == 20482
    assert found.extents == (Extent("img-flat.vmdk", 20480 * MB), Extent("b f001.vmdk", MB), Extent("", 512))


def test_the_descriptor_inside_a_workstation_disk_is_found() -> None:
    inner = FLAT.replace(b'"vmfs"', b'"monolithicSparse"').replace(b" VMFS ", b" SPARSE ")
    found = parse(b"KDMV\x01\0\0\0" + b"\0" * 504 + inner + b"\0" * 512 + b'\xff\xfeRW 9 VMFS "x"')
    assert found is not None
    assert (found.create_type, found.capacity_mb) == ("monolithicSparse", 20480)


def test_windows_line_ends_do_not_matter() -> None:
    assert parse(FLAT.replace(b"\n", b"\r\n")) == parse(FLAT)


def test_an_empty_file_is_no_descriptor() -> None:
    assert parse(b"") is None


def test_a_descriptor_without_extents_is_none() -> None:
    assert parse(FLAT.replace(b"RW 41943040", b"# 41943040")) is None


def test_a_capacity_beyond_reason_is_none() -> None:
    assert parse(FLAT.replace(b"41943040", b"9" * 18)) is None


@given(st.binary(max_size=400))
def test_any_bytes_after_the_first_line_are_read_or_refused(tail: bytes) -> None:
    found = parse(b"# Disk DescriptorFile\n" + tail)
    assert found is None or (found.capacity_mb >= 0 and len(found.extents) > 0)


@given(st.integers(0, len(REDO)), st.binary(min_size=1, max_size=8))
def test_a_damaged_descriptor_never_raises(at: int, damage: bytes) -> None:
    found = parse(REDO[:at] + damage + REDO[at + len(damage) :])
    assert found is None or found.capacity_mb >= 0
