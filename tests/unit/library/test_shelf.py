"""Which images may go, and what is wrong with those that stay."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from esxprov.library.manifest import Maker, Manifest, Source
from esxprov.library.shelf import Shelf, Shelved, State, User, flaws, keepers, lineage, revision_of
from esxprov.model import DiskInfo, Extent, FileEntry, ImageWork, Revision

NAME = "vmwarelinux-base9-v3"
PATH = f"[nfs1] golden/{NAME}"
DISK = DiskInfo(f"{PATH}/{NAME}.vmdk", "lsilogic", "vmfs", 2048, (Extent(f"{NAME}-flat.vmdk", 2**31),), thin=True)
FILES = (
    FileEntry(f"{NAME}.vmdk", 500, is_directory=False),
    FileEntry(f"{NAME}-flat.vmdk", 2**31, is_directory=False),
    FileEntry(f"{NAME}.vmx", 100, is_directory=False),
)
MANIFEST = Manifest(NAME, Maker("e1"), Source("x", "vmwarelinux-base9-v2"), descriptor_sha256="abc")
DELETED = Revision(NAME, "Base", 3, production=False, deleted=True, deleted_at="2026-11-01T10:00:00", size_mb=900)
KEPT = replace(DELETED, deleted=False, deleted_at=None)
NEW = replace(DELETED, deleted_at=None)
WORK = ImageWork("nfs1", NAME, "e2", "capture", "main", f"[nfs1] golden/.{NAME}.e2.01234567")
WHOLE = Shelved(NAME, PATH, FILES, DISK, manifest=MANIFEST, descriptor_sha256="abc", revision=KEPT)
ORPHAN = replace(WHOLE, revision=DELETED)


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"revision": None}, State.UNKNOWN),
        ({"revision": KEPT}, State.KEPT),
        ({"revision": replace(KEPT, production=True)}, State.PRODUCTION),
        ({"revision": DELETED}, State.DELETED),
        ({"revision": NEW}, State.NEW),
        ({"revision": None, "name": f".{NAME}.e2.01234567"}, State.UNFINISHED),
    ],
)
def test_what_an_image_is_to_vcl(changes: dict[str, Any], state: State) -> None:
    assert replace(WHOLE, **changes).state is state


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"revision": None},
        {"disk": None, "files": ()},
        {"work": WORK, "is_live": False},
        {"name": f".{NAME}.e2.01234567", "revision": None, "work": WORK},
        {"name": f".{NAME}.deleted-01234567", "revision": None},
    ],
)
def test_what_nobody_needs_is_an_orphan(changes: dict[str, Any]) -> None:
    assert keepers(replace(ORPHAN, **changes)) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"revision": KEPT}, "VCL has it"),
        ({"revision": replace(KEPT, production=True)}, "VCL has it"),
        ({"revision": NEW}, "VCL waits for it to be captured"),
        ({"revision": replace(DELETED, reservations=2)}, "2 reservation(s) have it"),
        ({"revision": replace(DELETED, computers=1)}, "it is loaded on 1 computer(s), or next"),
        ({"work": WORK, "is_live": True}, "event e2 works on it (capture)"),
        ({"name": f".{NAME}.e2.01234567", "work": WORK, "is_live": True}, "event e2 works on it (capture)"),
        ({"users": (User("vclv1-27", "esx1", NAME, 1),)}, "1 VM(s) need it: vclv1-27"),
        ({"name": "ISO files", "revision": None}, "no image can have such a name: look yourself what it is"),
    ],
)
def test_what_somebody_needs_stays(changes: dict[str, Any], reason: str) -> None:
    assert keepers(replace(ORPHAN, **changes)) == [reason]


def test_as_long_as_a_host_is_silent_nobody_can_tell_who_needs_an_image() -> None:
    assert keepers(ORPHAN, ["esx2 cannot be asked"]) == ["cannot tell who needs it: esx2 cannot be asked"]


@pytest.mark.parametrize("order", [(DELETED, KEPT), (KEPT, DELETED)])
def test_of_two_rows_with_one_name_the_one_that_is_not_deleted_counts(order: tuple[Revision, ...]) -> None:
    assert revision_of(order) == KEPT


def test_a_row_that_waits_for_its_capture_counts_before_one_that_somebody_deleted() -> None:
    assert revision_of([DELETED, NEW]) == NEW


def test_of_no_row_there_is_no_revision() -> None:
    assert revision_of([]) is None


def test_a_whole_image_has_no_flaws() -> None:
    assert flaws(WHOLE) == []


def test_an_image_that_was_copied_there_by_hand_needs_neither_manifest_nor_vmx() -> None:
    assert flaws(replace(WHOLE, manifest=None, files=FILES[:2])) == []


def test_an_image_that_was_brought_from_where_it_had_no_vmx_needs_none() -> None:
    assert flaws(replace(WHOLE, manifest=replace(MANIFEST, purpose="stage"), files=FILES[:2])) == []


@pytest.mark.parametrize(
    ("changes", "flaw"),
    [
        ({"disk": None}, "there is no disk"),
        ({"disk": None, "damage": "it is no descriptor"}, "it is no descriptor"),
        ({"revision": None}, "VCL has no revision of this name"),
        ({"disk": replace(DISK, parent="x.vmdk")}, "its disk is not whole, it needs x.vmdk"),
        ({"disk": replace(DISK, create_type="twoGbMaxExtentSparse")}, "its disk is of type twoGbMaxExtentSparse"),
        ({"files": (FILES[0], FILES[2])}, f"{NAME}-flat.vmdk, where its disk's content is, is not there"),
        (
            {"files": (FILES[0], replace(FILES[1], size_bytes=512), FILES[2])},
            f"{NAME}-flat.vmdk has 512 of 2147483648 bytes",
        ),
        ({"descriptor_sha256": "abd"}, "its descriptor was changed since it was made"),
        ({"files": FILES[:2]}, "its reference VMX is not there"),
        ({"manifest": replace(MANIFEST, image="other")}, "its manifest is that of other"),
    ],
)
def test_every_flaw_is_one_sentence(changes: dict[str, Any], flaw: str) -> None:
    (found,) = flaws(replace(WHOLE, **changes))
    assert found.startswith(flaw)


def test_an_image_s_lineage_goes_back_to_the_first_of_which_nobody_knows() -> None:
    child = replace(WHOLE, name="child", manifest=replace(MANIFEST, source=Source("x", NAME)))
    shelf = Shelf("main", "[nfs1] golden", (child, WHOLE))
    assert lineage(child, shelf) == [NAME, "vmwarelinux-base9-v2"]


def test_images_that_claim_to_come_from_each_other_have_an_end() -> None:
    one = replace(WHOLE, name="one", manifest=replace(MANIFEST, source=Source("x", "two")))
    two = replace(WHOLE, name="two", manifest=replace(MANIFEST, source=Source("x", "one")))
    assert lineage(one, Shelf("main", "[nfs1] golden", (one, two))) == ["two"]
