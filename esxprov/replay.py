"""Doing an event again: from the journal or a file, first as a plan, then as a new event."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bridge import envelope
from bridge.contract import CALLS, Kind
from bridge.envelope import EnvelopeError, Event
from esxprov.database import Database
from esxprov.errors import ProvisioningError
from esxprov.history import History

MOST_REPLAYS = 5
"""A replay of a replay of a replay is a loop somebody built."""

Row = Mapping[str, Any]


def find(what: str, database: Database) -> list[Row]:
    """The events that `what` names: an id in the journal, or a file with one event or with exported JSON lines.

    Raises ProvisioningError `invalid_event` if it is neither.
    """
    path = Path(what)
    if path.is_file():
        return [_row(line) for line in _lines(path)]
    row = History(database).show(what)
    if row is None:
        raise ProvisioningError(
            "invalid_event", f"{what} is neither a file nor an event in the journal: see 'esxprov events list'"
        )
    return [row]


def _lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    try:
        json.loads(text)
    except ValueError:
        return [line for line in text.splitlines() if line.strip()]
    return [text]


def _row(text: str) -> Row:
    """A row of the journal's export; a bare event counts as one without a past."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ProvisioningError("invalid_event", f"a line is not JSON ({error}): {text[:60]!r}") from error
    if isinstance(found, dict) and "specversion" in found:
        return {"id": found.get("id"), "envelope": found}
    if isinstance(found, dict) and isinstance(found.get("envelope"), dict):
        return found
    raise ProvisioningError("invalid_event", f"a line is neither an event nor a row of the journal: {text[:60]!r}")


def event_in(row: Row) -> Event:
    """The request of a row. Raises ProvisioningError `invalid_event`."""
    try:
        return envelope.decode(json.dumps(row["envelope"]).encode())
    except EnvelopeError as error:
        raise ProvisioningError(error.code, f"event {row.get('id')}: {error}") from error


def again(row: Row) -> Event:
    """The new event that does a row's request again. Raises `invalid_event` for one that was replayed too often."""
    event = event_in(row)
    if event.extensions.get("replays", 0) >= MOST_REPLAYS:
        raise ProvisioningError("invalid_event", f"event {event.id} was replayed {MOST_REPLAYS} times in a row")
    return envelope.again(event, now=datetime.now(UTC), timeout_s=CALLS[event.call].deadline_s)


def plan(row: Row) -> dict[str, Any]:
    """What doing it again would mean. Its placement is decided again with the world of that day."""
    from esxprov.placement import choose

    event = event_in(row)
    computer, image = event.data.get("computer", {}), event.data.get("image", {})
    found: dict[str, Any] = {
        "event": event.id,
        "call": event.call,
        "changes_something": CALLS[event.call].kind is Kind.COMMAND,
        "computer": computer.get("name"),
        "image": image.get("name"),
        "outcome_then": row.get("outcome"),
        "steps_then": list((row.get("steps") or {}).keys()),
    }
    if row.get("decision"):
        then, now = choose.decide_again(row["decision"])
        found |= {"placement_then": then, "placement_now": now, "same": then == now}
    return found


def explain(plan: dict[str, Any]) -> str:
    """A plan for people: a few lines."""
    what = f"{plan['call']} of {plan['computer'] or '-'}, image {plan['image'] or '-'}"
    lines = [f"{plan['event']}: {what}; then: {plan['outcome_then'] or 'no outcome'}"]
    if plan["steps_then"]:
        lines.append(f"  steps then: {' > '.join(plan['steps_then'])}")
    if "same" in plan:
        change = "the same today" if plan["same"] else f"today {plan['placement_now']}"
        lines.append(f"  placement then: {plan['placement_then']}; with the world of that day {change}")
    return "\n".join(lines)


def event_of(call: str, body: bytes, node: str) -> Event:
    """A request from what a person wrote: a whole event, or only its data. Raises `invalid_event`.

    A whole event gets a new id and deadline, as golden messages and exported events are long past theirs.
    """
    if call not in CALLS:
        raise ProvisioningError("invalid_event", f"there is no call {call!r}; there are: {', '.join(CALLS)}")
    try:
        fields = json.loads(body)
    except ValueError as error:
        raise ProvisioningError("invalid_event", f"the file is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ProvisioningError("invalid_event", "the file holds no JSON object")
    data = fields
    if "specversion" in fields:
        event = event_in({"id": fields.get("id"), "envelope": fields})
        if event.call != call:
            raise ProvisioningError("invalid_event", f"the file holds a {event.call} event, not a {call}")
        data = event.data
    subject = f"computer/{data['computer'].get('id')}" if isinstance(data.get("computer"), dict) else None
    return envelope.request(
        call, source=f"urn:vcl:mn:{node}", data=data, now=datetime.now(UTC), subject=subject, partitionkey=subject
    )
