"""The envelope: round trips, the golden messages, and everything that is not one of ours."""

from __future__ import annotations

import json
import string
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bridge
from bridge.contract import CALLS, Kind, Lane, Outcome, Phase, message_type
from bridge.envelope import (
    MAX_BYTES,
    MAX_DEPTH,
    EnvelopeError,
    Event,
    again,
    decode,
    encode,
    finished,
    progressed,
    request,
)

EXAMPLES = sorted((Path(bridge.__file__).parent / "examples").glob("*.json"))
NOW = datetime(2026, 11, 22, 5, 41, 7, tzinfo=UTC)

text = st.text(max_size=30)
words = st.text(min_size=1, max_size=30)
finite = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**53 - 1)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64) + 1, 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(text, children, max_size=4),
    max_leaves=20,
)
moments = st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(9000, 1, 1), timezones=st.just(UTC))
taken = set(Event.__dataclass_fields__) | {"specversion", "type", "datacontenttype", "replays"}
events = st.builds(
    Event,
    id=st.text(string.ascii_letters + string.digits + "_.:-", min_size=1, max_size=64),
    call=st.sampled_from(sorted(CALLS)),
    phase=st.sampled_from(Phase),
    source=words,
    time=moments,
    data=st.dictionaries(text, plain, max_size=4),
    subject=st.none() | words,
    correlationid=st.none() | words,
    partitionkey=st.none() | words,
    expirytime=st.none() | moments,
    traceparent=st.none() | words,
    causationid=st.none() | words,
    sequence=st.none() | counts,
    extensions=st.dictionaries(
        text.filter(lambda name: name not in taken), plain.filter(lambda v: v is not None), max_size=3
    ),
)


def body(**changes: Any) -> bytes:
    """A good request, with fields replaced, or removed where the value is `...`."""
    fields: dict[str, Any] = {
        "specversion": "1.0",
        "id": "1",
        "source": "urn:vcl:mn:mn1",
        "type": "vcl.load.requested.v1",
        "time": "2026-11-22T05:41:07Z",
        "data": {},
    } | changes
    return json.dumps({name: value for name, value in fields.items() if value is not ...}).encode()


def refusal(content: bytes) -> EnvelopeError:
    with pytest.raises(EnvelopeError) as caught:
        decode(content)
    return caught.value


# --- round trip ------------------------------------------------------------------------------------------------------


@given(events)
def test_decoding_an_encoded_event_gives_the_same_event(event: Event) -> None:
    assert decode(encode(event)) == event


@given(st.binary(max_size=300))
def test_any_octets_are_refused_with_an_envelope_error(content: bytes) -> None:
    assert refusal(content).code in ("invalid_event", "unsupported_version")


@given(plain)
def test_any_other_json_is_refused_with_an_envelope_error(value: Any) -> None:
    assert refusal(json.dumps(value).encode()).code in ("invalid_event", "unsupported_version")


@given(
    st.sampled_from(["specversion", "id", "source", "type", "time", "data", "expirytime", "sequence", "subject"]), plain
)
def test_a_message_with_any_value_in_any_field_is_an_event_or_an_envelope_error(name: str, value: Any) -> None:
    try:
        event = decode(body(**{name: value}))
    except EnvelopeError:
        return
    assert decode(encode(event)) == event


def test_a_time_of_another_zone_is_the_same_moment() -> None:
    moment = NOW.astimezone(timezone(timedelta(hours=2)))
    event = decode(body(time=moment.isoformat()))
    assert event.time == NOW
    assert event.time.tzinfo is UTC


# --- golden messages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_a_golden_message_survives_a_round_trip(path: Path) -> None:
    content = path.read_bytes()
    event = decode(content)
    assert f"{event.type}.json" == path.name
    assert json.loads(encode(event)) == json.loads(content)


@pytest.mark.parametrize("call", CALLS)
def test_every_type_has_its_golden_message(call: str) -> None:
    names = {path.stem for path in EXAMPLES}
    phases = {Phase.REQUESTED, Phase.FINISHED} | ({Phase.PROGRESSED} if CALLS[call].kind is Kind.COMMAND else set())
    assert {message_type(call, phase) for phase in phases} <= names


def test_every_golden_message_is_of_a_type_of_the_contract() -> None:
    known = {message_type(call, phase) for call in CALLS for phase in Phase}
    assert {path.stem for path in EXAMPLES} <= known


def test_the_slow_lane_carries_commands_only() -> None:
    assert {call.kind for call in CALLS.values() if call.lane is Lane.SLOW} == {Kind.COMMAND}


# --- size and form ---------------------------------------------------------------------------------------------------


def test_a_body_of_the_largest_size_is_read() -> None:
    content = body(source="s" * (MAX_BYTES - len(body(source=""))))
    assert len(content) == MAX_BYTES
    assert decode(content).source.startswith("sss")


def test_an_oversized_body_is_refused_before_it_is_parsed() -> None:
    assert "bytes" in str(refusal(b"x" * (MAX_BYTES + 1)))


def test_an_oversized_event_is_not_encoded() -> None:
    with pytest.raises(EnvelopeError, match="bytes"):
        encode(replace(decode(body()), data={"x": "y" * MAX_BYTES}))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1" * 5000, str(2**64)])
def test_a_number_that_others_could_not_read_is_refused(number: str) -> None:
    assert refusal(body().replace(b"{}", b'{"x":' + number.encode() + b"}")).code == "invalid_event"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**64, {1: 2}, (1, 2), "\ud800", b"x", {"x": {1, 2}}])
def test_what_is_not_json_is_not_encoded(value: Any) -> None:
    with pytest.raises(EnvelopeError):
        encode(replace(decode(body()), data={"x": value}))


@pytest.mark.parametrize("levels", [MAX_DEPTH, 1000, 100_000])
def test_deep_nesting_is_refused(levels: int) -> None:
    assert refusal(body().replace(b"{}", b'{"x":' + b"[" * levels + b"]" * levels + b"}")).code == "invalid_event"


def test_nesting_within_the_limit_is_read() -> None:
    levels = MAX_DEPTH - 2
    assert decode(body().replace(b"{}", b'{"x":' + b"[" * levels + b"]" * levels + b"}")).data["x"]


@pytest.mark.parametrize("content", [b'{"id":"1",' + body()[1:], body().replace(b"{}", b'{"a":{"b":1,"b":1}}')])
def test_a_key_that_stands_twice_is_refused(content: bytes) -> None:
    assert "twice" in str(refusal(content))


@pytest.mark.parametrize("where", [b'{"x":"\\ud800"}', b'{"\\udfff":1}', b'{"x":["a\\udC00b"]}'])
def test_half_a_surrogate_pair_is_refused(where: bytes) -> None:
    assert "surrogate" in str(refusal(body().replace(b"{}", where)))


def test_a_whole_surrogate_pair_is_one_letter() -> None:
    assert decode(body().replace(b"{}", b'{"x":"\\ud83d\\ude00"}')).data == {"x": "\U0001f600"}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig", "latin-1"])
def test_json_that_is_not_utf_8_is_refused(encoding: str) -> None:
    assert refusal(body().replace(b"urn:vcl", "ü".encode("latin-1")).decode("latin-1").encode(encoding)).code


def test_a_refusal_does_not_repeat_a_huge_field() -> None:
    for field in ("type", "specversion", "time"):
        assert len(str(refusal(body(**{field: "x" * 100_000})))) < 300


# --- fields ----------------------------------------------------------------------------------------------------------


def test_unknown_fields_are_kept() -> None:
    event = decode(body(dataschema="urn:x", replays=3))
    assert event.extensions == {"dataschema": "urn:x", "replays": 3}
    assert json.loads(encode(event))["dataschema"] == "urn:x"


def test_unknown_fields_of_data_are_kept() -> None:
    assert decode(body(data={"new": {"field": 1}})).data == {"new": {"field": 1}}


def test_an_extension_cannot_replace_a_field() -> None:
    with pytest.raises(EnvelopeError, match="id"):
        encode(replace(decode(body()), extensions={"id": "2"}))


def test_a_null_attribute_is_an_absent_one() -> None:
    assert decode(body(subject=None, expirytime=None, other=None)) == decode(body())


@pytest.mark.parametrize("name", ["id", "source", "type", "time", "data"])
@pytest.mark.parametrize("value", [..., None, 7, [], ""])
def test_a_required_field_must_be_there_and_of_its_kind(name: str, value: Any) -> None:
    assert refusal(body(**{name: value})).code == "invalid_event"


@pytest.mark.parametrize("identifier", ["a" * 65, "a b", "a\n", "ä", "a/b"])
def test_an_id_that_is_no_plain_word_is_refused(identifier: str) -> None:
    assert "id must be" in str(refusal(body(id=identifier)))


@pytest.mark.parametrize("name", ["sequence", "replays"])
@pytest.mark.parametrize("value", [True, 1.5, -1, "1", 2**53])
def test_a_count_must_be_a_whole_number(name: str, value: Any) -> None:
    assert name in str(refusal(body(**{name: value})))


@pytest.mark.parametrize(
    "moment",
    [
        "2026-11-22",
        "2026-11-22T05:41:07",
        "2026-11-22 05:41:07Z",
        "2026-13-22T05:41:07Z",
        "2026-11-22T25:41:07Z",
        "0001-01-01T00:00:00+23:59",
        "٢٠٢٦-11-22T05:41:07Z",
    ],
)
def test_what_is_no_moment_is_refused(moment: str) -> None:
    assert "is not a time" in str(refusal(body(time=moment)))


# --- versions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{"type": "vcl.load.requested.v2"}, {"specversion": "0.3"}, {"specversion": ...}])
def test_another_version_is_told_apart_from_nonsense(changes: dict[str, Any]) -> None:
    assert refusal(body(**changes)).code == "unsupported_version"


@pytest.mark.parametrize(
    "type_",
    [
        "vcl.load.requested",
        "vcl.load.requested.v0",
        "vcl.load.requested.v01",
        "vcl.load.requested.v" + "9" * 5000,
        "vcl.load.started.v1",
        "vcl.reboot.requested.v1",
        "vcl.load.requested.v1\n",
    ],
)
def test_a_type_outside_the_contract_is_refused(type_: str) -> None:
    assert refusal(body(type=type_)).code == "invalid_event"


# --- making them -----------------------------------------------------------------------------------------------------


def test_a_request_expires_after_its_calls_own_deadline() -> None:
    event = request("ping", source="urn:test", data={}, now=NOW)
    assert event.remaining_s(NOW) == CALLS["ping"].deadline_s


def test_an_answer_is_tied_to_its_cause() -> None:
    cause = request("load", source="urn:test", data={}, now=NOW, correlationid="c", partitionkey="p", traceparent="t")
    note = progressed(
        cause, now=NOW, sequence=1, step="copy_disk", message="copying", loadstate="transfervm", percent=3
    )
    reply = finished(cause, now=NOW, outcome=Outcome.OK, result={"host": "esx1"})
    for answer in (note, reply):
        assert (answer.causationid, answer.correlationid, answer.partitionkey, answer.traceparent) == (
            cause.id,
            "c",
            "p",
            "t",
        )
        assert decode(encode(answer)) == answer


def test_a_replay_is_a_new_event_that_counts() -> None:
    event = decode(body(expirytime="2026-11-22T06:41:07Z"))
    twice = again(again(event, now=NOW, timeout_s=60), now=NOW, timeout_s=60)
    assert twice.extensions["replays"] == 2
    assert twice.id != event.id
    assert twice.expirytime == NOW + timedelta(seconds=60)
