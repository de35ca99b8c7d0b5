"""Values as plain JSON and back: nothing lost, and whatever is wrong is named by its place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import pytest

from esxprov.plain import NotPlain, from_plain, to_plain


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Wheel:
    spokes: int
    colour: Colour = Colour.RED


@dataclass(frozen=True)
class Cart:
    name: str
    wheels: tuple[Wheel, ...]
    size: tuple[int, float]
    owner: str | None = None
    load: Mapping[str, int] = field(default_factory=dict)
    open: bool = False
    built_at: datetime | None = None


BUILT = datetime(2026, 11, 22, 5, 41, 7, 250_000, tzinfo=UTC)
CART = Cart("a", (Wheel(8), Wheel(9, Colour.BLUE)), (1, 2.5), None, {"hay": 3}, open=True, built_at=BUILT)
PLAIN: dict[str, Any] = to_plain(CART)


def test_a_value_survives_json() -> None:
    assert from_plain(Cart, json.loads(json.dumps(PLAIN))) == CART


def test_what_has_a_default_may_be_missing() -> None:
    assert from_plain(Cart, {"name": "a", "wheels": [], "size": [1, 2]}) == Cart("a", (), (1, 2.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wheels": [{"colour": "red"}]}, "cart.wheels[0].spokes is missing"),
        (
            {"brakes": 1},
            "cart.brakes is unknown; there are: name, wheels, size, owner, load, open, built_at",
        ),
        ({"wheels": [{"spokes": "many"}]}, 'cart.wheels[0].spokes is "many", expected a whole number'),
        ({"wheels": [{"spokes": True}]}, "cart.wheels[0].spokes is true, expected a whole number"),
        ({"wheels": [{"spokes": 1, "colour": "green"}]}, 'cart.wheels[0].colour is "green", expected red or blue'),
        ({"wheels": {}}, "cart.wheels is {}, expected a list"),
        ({"size": [1]}, "cart.size is [1], expected a list of 2"),
        ({"size": [1, "x"]}, 'cart.size[1] is "x", expected a number'),
        ({"size": [1, float("nan")]}, "cart.size[1] is NaN, expected a number"),
        ({"size": [1, float("inf")]}, "cart.size[1] is Infinity, expected a number"),
        ({"load": {"hay": None}}, "cart.load.hay is null, expected a whole number"),
        ({"load": []}, "cart.load is [], expected an object"),
        ({"name": 7}, "cart.name is 7, expected a text"),
        ({"open": 1}, "cart.open is 1, expected true or false"),
        ({"owner": 5}, "cart.owner is 5, expected a text"),
        ({"built_at": 5}, "cart.built_at is 5, expected a time with its zone, like 2026-11-22T05:41:07+00:00"),
        (
            {"built_at": "2026-11-22T05:41:07"},
            'cart.built_at is "2026-11-22T05:41:07", expected a time with its zone, like 2026-11-22T05:41:07+00:00',
        ),
    ],
)
def test_what_is_wrong_is_named_by_its_place(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(NotPlain) as caught:
        from_plain(Cart, {**PLAIN, **changes}, "cart")
    assert str(caught.value) == message


def test_something_else_altogether_is_refused() -> None:
    with pytest.raises(NotPlain, match="the whole is 5, expected an object"):
        from_plain(Cart, 5)
