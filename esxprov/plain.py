"""Frozen dataclasses as plain JSON and back. Reading is strict: what is missing, unknown or of another kind is named.

`hosts[3].ram_mb is "big", expected a whole number` is worth more than a KeyError when somebody edits a file by hand.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")

_WORDS: dict[type, str] = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


class NotPlain(ValueError):
    """The data is not what was expected; one sentence that begins with the place."""


_AS_IT_IS = frozenset({str, int, float, bool, types.NoneType})


def to_plain(value: Any) -> Any:
    """What json.dumps takes, of dataclasses, tuples, mappings, enums, times and plain values, nested as they like."""
    kind: Any = type(value)
    if kind in _AS_IT_IS:
        return value
    names = _names(kind)
    if names is not None:
        # The world of a large pool has ten thousand fields, nearly all of which are plain.
        fields = [(name, getattr(value, name)) for name in names]
        return {name: one if type(one) in _AS_IT_IS else to_plain(one) for name, one in fields}
    if isinstance(value, tuple | list):
        return [to_plain(one) for one in value]
    if isinstance(value, Mapping):
        return {str(key): to_plain(one) for key, one in value.items()}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    return value


@cache
def _names(kind: type) -> tuple[str, ...] | None:
    """The fields of a dataclass, None if it is none."""
    return tuple(field.name for field in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else None


def from_plain(kind: type[T], data: Any, where: str = "") -> T:
    """The value that `to_plain` wrote. Fields that have a default may be missing; none may be unknown.

    Raises NotPlain naming the field.
    """
    value: T = _read(kind, data, where)
    return value


@cache
def _fields(kind: type) -> dict[str, tuple[Any, bool]]:
    """Field name -> its type, and whether it must be there."""
    hints = typing.get_type_hints(kind)
    missing = dataclasses.MISSING
    return {
        field.name: (hints[field.name], field.default is missing and field.default_factory is missing)
        for field in dataclasses.fields(kind)
    }


def _read(kind: Any, data: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _read_fields(kind, data, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if data is None and types.NoneType in arguments:
            return None
        (only,) = (one for one in arguments if one is not types.NoneType)
        return _read(only, data, where)
    if origin is tuple:
        return _read_tuple(arguments, data, where)
    if origin is dict or origin is Mapping:
        if not isinstance(data, dict):
            raise _wrong(where, data, "an object")
        return {key: _read(arguments[1], one, _within(where, key)) for key, one in data.items()}
    if isinstance(kind, type) and issubclass(kind, Enum):
        if data not in [one.value for one in kind]:
            raise _wrong(where, data, " or ".join(str(one.value) for one in kind))
        return kind(data)
    if kind is datetime:
        return _read_time(data, where)
    return _read_word(kind, data, where)


def _read_word(kind: type, data: Any, where: str) -> Any:
    fits = type(data) is kind or (kind is float and type(data) is int)
    if not fits or (kind is float and not math.isfinite(data)):
        raise _wrong(where, data, _WORDS[kind])
    return kind(data)


def _read_time(data: Any, where: str) -> datetime:
    try:
        time = datetime.fromisoformat(data)
    except (TypeError, ValueError):
        time = None
    if time is None or time.tzinfo is None:
        raise _wrong(where, data, "a time with its zone, like 2026-11-22T05:41:07+00:00")
    return time


def _read_tuple(arguments: tuple[Any, ...], data: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(data, list):
        raise _wrong(where, data, "a list")
    kinds = [arguments[0]] * len(data) if arguments[-1] is ... else list(arguments)
    if len(kinds) != len(data):
        raise _wrong(where, data, f"a list of {len(kinds)}")
    return tuple(
        _read(kind, one, f"{where}[{number}]") for number, (kind, one) in enumerate(zip(kinds, data, strict=True))
    )


def _read_fields(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise _wrong(where, data, "an object")
    fields = _fields(kind)
    for name in data:
        if name not in fields:
            raise NotPlain(f"{_within(where, name)} is unknown; there are: {', '.join(fields)}")
    for name, (_, needed) in fields.items():
        if needed and name not in data:
            raise NotPlain(f"{_within(where, name)} is missing")
    return kind(**{name: _read(fields[name][0], one, _within(where, name)) for name, one in data.items()})


def _within(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _wrong(where: str, data: Any, wanted: str) -> NotPlain:
    shown = json.dumps(data, default=str)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return NotPlain(f"{where or 'the whole'} is {shown}, expected {wanted}")
