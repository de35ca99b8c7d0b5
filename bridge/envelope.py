"""Event <-> CloudEvents 1.0 structured JSON, with the rules on version, size and form.

An event is fat with what the request is about and thin on the state of the world; it never carries a secret.
The rules of form hold both ways, so that nothing is accepted that could not be sent on, stored or replayed: UTF-8,
no key twice (parsers differ on which one counts), no NaN or infinity, no lone surrogates, at most MAX_DEPTH levels.
"""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Container
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from bridge.contract import CALLS, VERSION, Outcome, Phase, message_type

CONTENT_TYPE = "application/cloudevents+json"
MAX_BYTES = 256 * 1024
MAX_DEPTH = 32

_TYPE = re.compile(r"vcl\.([a-z_]+)\.(requested|progressed|finished)\.v([1-9][0-9]{0,3})\Z")
_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}\Z")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)\Z", re.ASCII)
_OPTIONAL = ("subject", "correlationid", "partitionkey", "traceparent", "causationid")
_KNOWN = frozenset(
    {"specversion", "id", "type", "source", "time", "datacontenttype", "expirytime", "sequence", "data", *_OPTIONAL}
)
_COUNTS = ("sequence", "replays")
_LARGEST_COUNT = 2**53 - 1
"""The largest whole number that every JSON parser keeps exactly."""


class EnvelopeError(ValueError):
    """A message that is not one of ours.

    `code` is `invalid_event` or `unsupported_version`; the text says which rule it broke.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Event:
    """One message.

    Times are aware UTC datetimes; `data` is plain JSON. `extensions` keeps unknown attributes, so that a round trip
    is identity.
    """

    id: str
    call: str
    phase: Phase
    source: str
    time: datetime
    data: dict[str, Any]
    subject: str | None = None
    correlationid: str | None = None
    partitionkey: str | None = None
    expirytime: datetime | None = None
    traceparent: str | None = None
    causationid: str | None = None
    sequence: int | None = None
    version: int = VERSION
    extensions: dict[str, Any] = field(default_factory=dict)

    @property
    def type(self) -> str:
        return f"vcl.{self.call}.{self.phase.value}.v{self.version}"

    def remaining_s(self, now: datetime) -> float:
        """Seconds until the deadline, infinite without one."""
        return (self.expirytime - now).total_seconds() if self.expirytime else float("inf")


def request(
    call: str, *, source: str, data: dict[str, Any], now: datetime, timeout_s: float | None = None, **attributes: Any
) -> Event:
    """A new request with a new id.

    `timeout_s` defaults to the call's own deadline; `attributes` are further fields of Event.
    """
    deadline_s = CALLS[call].deadline_s if timeout_s is None else timeout_s
    return Event(
        id=str(uuid.uuid4()),
        call=call,
        phase=Phase.REQUESTED,
        source=source,
        time=now,
        data=data,
        expirytime=now + timedelta(seconds=deadline_s),
        **attributes,
    )


def progressed(
    cause: Event,
    *,
    now: datetime,
    sequence: int,
    step: str,
    message: str,
    loadstate: str | None = None,
    percent: int | None = None,
) -> Event:
    """A progress note on `cause`."""
    data: dict[str, Any] = {"step": step, "message": message}
    if loadstate is not None:
        data["loadstate"] = loadstate
    if percent is not None:
        data["percent"] = percent
    return _answer(cause, Phase.PROGRESSED, now, data, sequence=sequence)


def finished(
    cause: Event,
    *,
    now: datetime,
    outcome: Outcome,
    result: dict[str, Any] | None = None,
    error: dict[str, Any] | None = None,
    attempts: int = 1,
    seconds: float = 0.0,
) -> Event:
    """The one reply to `cause`. `error` has code, message, retryable, detail."""
    data: dict[str, Any] = {"outcome": outcome.value, "attempts": attempts, "seconds": round(seconds, 3)}
    if result is not None:
        data["result"] = result
    if error is not None:
        data["error"] = error
    return _answer(cause, Phase.FINISHED, now, data)


def _answer(cause: Event, phase: Phase, now: datetime, data: dict[str, Any], sequence: int | None = None) -> Event:
    return Event(
        id=str(uuid.uuid4()),
        call=cause.call,
        phase=phase,
        source="urn:esxprov",
        time=now,
        data=data,
        subject=cause.subject,
        correlationid=cause.correlationid,
        partitionkey=cause.partitionkey,
        traceparent=cause.traceparent,
        causationid=cause.id,
        sequence=sequence,
    )


def encode(event: Event) -> bytes:
    """The JSON body. Raises EnvelopeError if the event breaks a rule that decode() would refuse it for."""
    if not _KNOWN.isdisjoint(event.extensions):
        raise EnvelopeError("invalid_event", f"an extension is called {min(_KNOWN & event.extensions.keys())!r}")
    body: dict[str, Any] = {
        "specversion": "1.0",
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "time": format_time(event.time),
        "datacontenttype": "application/json",
    }
    for name in _OPTIONAL:
        value = getattr(event, name)
        if value is not None:
            body[name] = value
    if event.expirytime is not None:
        body["expirytime"] = format_time(event.expirytime)
    if event.sequence is not None:
        body["sequence"] = event.sequence
    body.update(event.extensions)
    body["data"] = event.data
    _check_form(body)
    encoded = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    _check_size(encoded)
    return encoded


def decode(body: bytes, calls: Container[str] = CALLS.keys()) -> Event:
    """The event in a body, of one of the `calls`. Raises EnvelopeError, never anything else, for a body without one."""
    _check_size(body)
    try:
        fields = json.loads(body.decode(), object_pairs_hook=_object, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise EnvelopeError("invalid_event", f"the body is not JSON: {_short(str(error))}") from error
    if not isinstance(fields, dict):
        raise EnvelopeError("invalid_event", "the body is not a JSON object")
    _check_form(fields)
    # CloudEvents, JSON format 2.2: a null attribute counts as absent.
    return _from_fields({name: value for name, value in fields.items() if value is not None}, calls)


def _from_fields(fields: dict[str, Any], calls: Container[str]) -> Event:
    if fields.get("specversion") != "1.0":
        raise EnvelopeError(
            "unsupported_version", f"specversion is {_short(repr(fields.get('specversion')))}, expected '1.0'"
        )
    type_ = _text(fields, "type")
    matched = _TYPE.match(type_)
    if matched is None:
        raise EnvelopeError("invalid_event", f"type {_short(type_)!r} is not of the form vcl.<call>.<phase>.v<n>")
    call, phase, version = matched[1], Phase(matched[2]), int(matched[3])
    if call not in calls:
        raise EnvelopeError("invalid_event", f"there is no call {_short(call)!r}: is its sender newer than we are?")
    if version != VERSION:
        raise EnvelopeError(
            "unsupported_version",
            f"type {_short(type_)!r}: version {version} is not spoken here, only {VERSION}: bring shim and service "
            "to the same release",
        )
    identifier = _text(fields, "id")
    if not _ID.match(identifier):
        raise EnvelopeError("invalid_event", "id must be 1 to 64 of A-Z a-z 0-9 _ . : -")
    data = fields.get("data")
    if not isinstance(data, dict):
        raise EnvelopeError("invalid_event", "data is missing or not an object")
    for name in _COUNTS:
        _check_count(fields, name)
    return Event(
        id=identifier,
        call=call,
        phase=phase,
        version=version,
        source=_text(fields, "source"),
        time=_time(fields, "time"),
        data=data,
        expirytime=_time(fields, "expirytime") if "expirytime" in fields else None,
        sequence=fields.get("sequence"),
        extensions={name: value for name, value in fields.items() if name not in _KNOWN},
        **{name: _text(fields, name) for name in _OPTIONAL if name in fields},
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("an object has the same key twice")
    return fields


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _check_size(body: bytes) -> None:
    if len(body) > MAX_BYTES:
        raise EnvelopeError("invalid_event", f"the message has {len(body)} bytes, {MAX_BYTES} are allowed")


def _check_form(value: Any, depth: int = 0) -> None:
    """Raises EnvelopeError unless `value` is plain JSON that survives a round trip unchanged."""
    if depth > MAX_DEPTH:
        raise EnvelopeError("invalid_event", f"the message is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise EnvelopeError("invalid_event", "the message holds half of a surrogate pair, which is no Unicode")
    elif isinstance(value, dict):
        for name, member in value.items():
            if not isinstance(name, str):
                raise EnvelopeError("invalid_event", f"the key {_short(repr(name))} is not a string")
            _check_form(name, depth + 1)
            _check_form(member, depth + 1)
    elif isinstance(value, list):
        for member in value:
            _check_form(member, depth + 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise EnvelopeError("invalid_event", "the message holds a number that is too large or not a number")
    elif isinstance(value, int):
        # Python neither reads nor writes more than 4300 digits, and no other parser keeps as many.
        if abs(value) >= 2**64:
            raise EnvelopeError("invalid_event", "the message holds a whole number of more than 64 bits")
    elif value is not None:
        raise EnvelopeError("invalid_event", f"a {type(value).__name__} is not JSON")


def _check_count(fields: dict[str, Any], name: str) -> None:
    value = fields.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST_COUNT:
        raise EnvelopeError("invalid_event", f"{name} is not a whole number from 0 to {_LARGEST_COUNT}")


def _short(text: str) -> str:
    """Fit for a message: the sender must not be able to fill our log and headers."""
    return text if len(text) <= 80 else f"{text[:80]}..."


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise EnvelopeError("invalid_event", f"{name} is missing or not a string")
    return value


def _time(fields: dict[str, Any], name: str) -> datetime:
    text = _text(fields, name)
    if _TIME.match(text):
        try:
            return datetime.fromisoformat(text).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise EnvelopeError("invalid_event", f"{name} {_short(text)!r} is not a time like 2026-11-22T05:41:07Z")


def format_time(moment: datetime) -> str:
    """`2026-11-22T05:41:07Z`, with microseconds only if there are any."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def again(event: Event, *, now: datetime, timeout_s: float) -> Event:
    """A replay: the same request with a new id, a new deadline and the original as its cause; `replays` counts how
    deep.
    """
    replays = event.extensions.get("replays", 0)
    return replace(
        event,
        id=str(uuid.uuid4()),
        time=now,
        expirytime=now + timedelta(seconds=timeout_s),
        causationid=event.id,
        extensions={**event.extensions, "replays": replays + 1},
    )


__all__ = [
    "CONTENT_TYPE",
    "MAX_BYTES",
    "EnvelopeError",
    "Event",
    "again",
    "decode",
    "encode",
    "finished",
    "format_time",
    "message_type",
    "progressed",
    "request",
]
