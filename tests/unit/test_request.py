from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge import envelope
from bridge.contract import CALLS
from esxprov import request
from esxprov.errors import ProvisioningError

EXAMPLES = Path(envelope.__file__).parent / "examples"
NOW = datetime(2026, 11, 22, tzinfo=UTC)


def event(**sections: Any) -> envelope.Event:
    return envelope.request("load", source="urn:vcl:mn:mn1", data=sections, now=NOW)


@pytest.mark.parametrize("call", [c for c in CALLS if c not in ("cancel", "ping")])
def test_every_golden_request_reads(call: str) -> None:
    example = envelope.decode((EXAMPLES / f"vcl.{call}.requested.v1.json").read_bytes())
    assert request.read(example).profile.name == "blades"


def test_a_request_without_a_section_that_its_call_needs_says_which() -> None:
    with pytest.raises(ProvisioningError, match="the load request has no 'image' section"):
        _ = request.read(event()).image


@pytest.mark.parametrize(
    ("section", "fields", "named"),
    [
        ("computer", {"id": "27", "name": "vclv1"}, "computer.id"),
        ("computer", {"id": 27}, "computer.name"),
        ("computer", {"id": 27, "name": "../etc"}, "computer.name"),
        ("computer", {"id": 27, "name": "vclv1", "private_mac": "zz"}, "computer.private_mac"),
        ("image", {"id": 1, "name": "a/b"}, "image.name"),
        ("image", {"id": 1, "name": "a", "min_ram_mb": -1}, "image.min_ram_mb"),
        ("image", {"id": 1, "name": "a", "min_cpus": 10**9}, "image.min_cpus"),
        ("image", {"id": 1, "name": "a", "os": "x\ny"}, "image.os"),
        ("profile", {"id": 1, "name": "p", "networks": "Private"}, "profile.networks"),
        ("reservation", {"request_id": 1}, "reservation.reservation_id"),
        ("reservation", {"request_id": 1, "reservation_id": 1, "server": 1}, "reservation.server"),
        ("reservation", [], "reservation"),
    ],
)
def test_a_bad_field_is_named(section: str, fields: Any, named: str) -> None:
    with pytest.raises(ProvisioningError, match=named) as caught:
        request.read(event(**{section: fields}))
    assert caught.value.code == "invalid_event"


def test_an_image_without_cpus_or_ram_gets_the_least_that_runs() -> None:
    image = request.read(event(image={"id": 1, "name": "a", "min_cpus": 0, "min_ram_mb": 0})).image
    assert (image.min_cpus, image.min_ram_mb) == (1, 4)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["reservation", "computer", "image", "profile"]), json_values))
def test_whatever_the_sections_hold_the_only_error_is_a_provisioning_error(sections: dict[str, Any]) -> None:
    with contextlib.suppress(ProvisioningError):
        request.read(event(**sections))
    request.computer_id(event(**sections))
    request.reservation_id(event(**sections))
