from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bridge import envelope
from bridge.dead import DeadLetter
from esxprov import replay
from esxprov.errors import ProvisioningError
from esxprov.placement.choose import choose, record
from esxprov.placement.snapshot import Snapshot
from tests.unit.placement.worlds import REQUEST, machine

EXAMPLES = Path(__file__).parents[2] / "bridge" / "examples"


def example(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((EXAMPLES / f"vcl.{name}.v1.json").read_text())
    return found


def row(name: str = "load.requested", **more: Any) -> dict[str, Any]:
    return {"id": "e1", "envelope": example(name), **more}


def letter(body: bytes, identifier: str = "m1", size: int | None = None) -> DeadLetter:
    return DeadLetter(identifier, None, "mn1.load", "why", "onlooker", size or len(body), body)


def nothing(_: str) -> None:
    return None


def test_a_replay_is_a_new_event_with_the_original_as_its_cause() -> None:
    original = envelope.decode(json.dumps(example("load.requested")).encode())
    again = replay.again(row())
    assert again.id != original.id
    assert (again.causationid, again.data, again.call) == (original.id, original.data, "load")
    assert again.remaining_s(datetime.now(UTC)) > 3000


def test_a_replay_of_replays_ends() -> None:
    event = envelope.decode(json.dumps(example("load.requested")).encode())
    for _ in range(replay.MOST_REPLAYS):
        event = replay.again({"id": event.id, "envelope": json.loads(envelope.encode(event))})
    problem = replay.plan({"id": event.id, "envelope": json.loads(envelope.encode(event))})["problem"]
    assert "replayed 5 times in a row" in problem


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (row("load.finished"), "is no request but a vcl.load.finished.v1"),
        ({"id": "e1", "envelope": None}, "cancelled before it came"),
        ({"id": "e1", "envelope": {"specversion": "0.3"}}, "specversion is '0.3'"),
        (row(decision={"snapshot": 3}), "placement recorded with event e1 cannot be read"),
    ],
)
def test_what_cannot_be_done_again_is_planned_with_the_reason(found: dict[str, Any], problem: str) -> None:
    plan = replay.plan(found)
    assert problem in plan["problem"]
    assert f"not to be done again: {plan['problem']}" in replay.explain(plan)


def test_an_export_with_an_event_that_never_came_is_readable(tmp_path: Path) -> None:
    file = tmp_path / "day.jsonl"
    file.write_text(json.dumps(row()) + "\n" + json.dumps({"id": "e2", "envelope": None}) + "\n")
    problems = [replay.plan(found)["problem"] for found in replay.find(str(file), nothing)]
    assert problems[0] is None
    assert problems[1] is not None


def test_a_file_may_be_one_pretty_event(tmp_path: Path) -> None:
    file = tmp_path / "event.json"
    file.write_text(json.dumps(example("load.requested"), indent=2))
    (found,) = replay.find(str(file), nothing)
    plan = replay.plan(found)
    assert (plan["call"], plan["computer"], plan["changes_something"]) == ("load", "vclv1-27", True)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty: write it with 'esxprov events export'"),
        (b"\xff\xfe", "cannot be read as text"),
        (b"load it again", "a line is not JSON"),
        (b"[1, 2]", "neither an event nor a row of the journal"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    file = tmp_path / "bad"
    file.write_bytes(content)
    with pytest.raises(ProvisioningError, match=sentence):
        replay.find(str(file), nothing)


def test_what_is_neither_file_nor_event_is_refused() -> None:
    with pytest.raises(ProvisioningError, match="e9 is neither a file nor an event in the journal"):
        replay.find("e9", nothing)


def test_a_message_parked_twice_is_done_once() -> None:
    body = json.dumps(example("load.requested")).encode()
    rows = replay.parked([letter(body), letter(body), letter(b"nonsense", "m2")])
    assert [found["parked"] for found in rows] == ["m1", "m2"]
    plans = [replay.plan(found) for found in rows]
    assert (plans[0]["call"], plans[0]["reason"], plans[0]["problem"]) == ("load", "why", None)
    assert "not JSON" in plans[1]["problem"]


def test_a_parked_message_of_which_only_the_head_was_kept_is_not_done() -> None:
    (found,) = replay.parked([letter(b"{", size=300_000)])
    assert "of its 300000 bytes only the first are kept" in replay.plan(found)["problem"]


def test_a_call_by_hand_gets_a_new_id_and_a_new_deadline() -> None:
    event = replay.event_of("load", json.dumps(example("load.requested")).encode(), "mn9")
    assert event.id != example("load.requested")["id"]
    assert (event.source, event.subject) == ("urn:vcl:mn:mn9", "computer/27")
    assert event.remaining_s(datetime.now(UTC)) > 3000


def test_a_call_by_hand_may_be_only_its_data() -> None:
    data = example("load.requested")["data"]
    assert replay.event_of("load", json.dumps(data).encode(), "mn1").data == data


@pytest.mark.parametrize(
    ("call", "body", "sentence"),
    [
        ("dance", b"{}", "there is no call 'dance'"),
        ("load", b"{", "the file is not JSON"),
        ("load", b"[]", "the file holds no JSON object"),
        ("load", b"[" * 100_000, "the file is not JSON"),
        ("unload", json.dumps(example("load.requested")).encode(), "holds a load event, not a unload"),
        ("load", json.dumps(example("load.finished")).encode(), "is no request"),
    ],
)
def test_a_call_by_hand_that_is_none_is_refused(call: str, body: bytes, sentence: str) -> None:
    with pytest.raises(ProvisioningError, match=sentence):
        replay.event_of(call, body, "mn1")


def test_placement_decides_again_on_the_world_of_that_day() -> None:
    world = Snapshot((machine("esx1"), replace(machine("esx2"), maintenance=True)))
    decision = record((REQUEST,), world, choose(REQUEST, world))
    assert replay.plan(row(decision=decision))["same"] is True
    decision["snapshot"]["hosts"][0]["maintenance"] = True
    changed = replay.plan(row(decision=decision))
    assert (changed["placement_then"], changed["placement_now"], changed["same"]) == ("esx1", None, False)
    assert "placement then: esx1; with the world of that day today no host" in replay.explain(changed)
