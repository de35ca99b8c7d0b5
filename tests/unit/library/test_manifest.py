from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esxprov.library import manifest
from esxprov.library.manifest import Maker, Manifest, Source

WHOLE = Manifest(
    image="vmwarelinux-desk12-v1",
    made_for=Maker("event-1", 1234, 5678, 40),
    source=Source("[nfs1] inuse/vclv1-27/x.vmdk", "vmwarelinux-desk12-v0", 0),
    computer="vclv1-27",
    capacity_mb=20480,
    allocated_mb=None,
    adapter="lsilogic",
    create_type="vmfs",
    thin=True,
    descriptor_sha256="0" * 64,
    made_at="2026-11-22T05:41:07+00:00",
)


def test_a_manifest_is_read_as_it_was_written() -> None:
    assert manifest.read(WHOLE.text()) == WHOLE


def test_the_manifest_of_an_image_from_before_there_were_versions_is_understood() -> None:
    first = {
        "image": "x-v0",
        "event": "e",
        "source": "[nfs1] inuse/a/x.vmdk",
        "computer": "a",
        "capacity_mb": 64,
        "adapter": "ide",
        "captured_at": "2026-11-22T05:41:07+00:00",
    }
    assert manifest.read(json.dumps(first).encode()) == Manifest(
        image="x-v0",
        made_for=Maker("e"),
        source=Source("[nfs1] inuse/a/x.vmdk"),
        computer="a",
        capacity_mb=64,
        adapter="ide",
        made_at="2026-11-22T05:41:07+00:00",
    )


def test_what_a_later_version_says_besides_is_passed_over() -> None:
    later = json.loads(WHOLE.text()) | {"version": 3, "signature": "x"}
    later["source"] |= {"site": "b"}
    assert manifest.read(json.dumps(later).encode()) == WHOLE


def without(*path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(WHOLE.text())
    part = found
    for name in path[:-1]:
        part = part[name]
    del part[path[-1]]
    return found


@pytest.mark.parametrize("missing", [("image",), ("made_for",), ("made_for", "event"), ("source",)])
def test_a_manifest_that_leaves_out_what_matters_is_none(missing: tuple[str, ...]) -> None:
    assert manifest.read(json.dumps(without(*missing)).encode()) is None


def test_no_file_is_no_manifest() -> None:
    assert manifest.read(None) is None


@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(
    lambda value: json.dumps(value).encode()
))  # fmt: skip
def test_no_content_whatever_is_more_than_no_manifest(content: bytes) -> None:
    assert manifest.read(content) is None


def test_a_capture_is_the_same_by_its_event_or_by_its_revision() -> None:
    maker = Maker("e", 1, 2, 3)
    assert maker.is_that_of(Maker("e", 0, 0, 0))
    assert maker.is_that_of(Maker("f", 1, 2, 3))
    for other in (Maker("f", 9, 2, 3), Maker("f", 1, 9, 3), Maker("f", 1, 2, 9)):
        assert not maker.is_that_of(other)


def test_nobody_s_capture_is_not_that_of_another_nobody() -> None:
    assert not Maker("e").is_that_of(Maker("f"))
    assert not Maker("e", 1, 2, 0).is_that_of(Maker("f", 1, 2, 0))
