"""Doing an event again: from the journal, a file or the parked messages; first as a plan, then as a new event."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bridge import envelope
from bridge.contract import CALLS, Kind, Phase
from bridge.dead import DeadLetter
from bridge.envelope import EnvelopeError, Event
from esxprov.errors import ProvisioningError

MOST_REPLAYS = 5
"""A replay of a replay of a replay is a loop somebody built."""

Row = Mapping[str, Any]
"""A row of the journal as `esxprov events export` writes it; or only its `id` and `envelope`. A parked message has
`parked` (its message id), `reason`, and instead of an envelope the `problem` if it cannot be read.
"""


# --- what is to be done again ----------------------------------------------------------------------------------------


def find(what: str, show: Callable[[str], Row | None]) -> list[Row]:
    """The events that `what` names: a file with one event or with exported JSON lines, or an id that `show` knows.

    Raises ProvisioningError `invalid_event` if it is neither.
    """
    path = Path(what)
    if path.is_file():
        return [_row(line, path) for line in _lines(path)]
    row = show(what)
    if row is None:
        raise ProvisioningError(
            "invalid_event", f"{what} is neither a file nor an event in the journal: see 'esxprov events list'"
        )
    return [row]


def parked(letters: Iterable[DeadLetter]) -> list[Row]:
    """Rows for parked messages, each message once: who got no reply has sent the same one again."""
    rows: dict[str, Row] = {}
    for letter in letters:
        row: dict[str, Any] = {"id": letter.id, "parked": letter.id, "reason": letter.reason}
        try:
            if letter.size_bytes > len(letter.body):
                raise EnvelopeError("invalid_event", f"of its {letter.size_bytes} bytes only the first are kept")
            row["id"] = envelope.decode(letter.body).id
            row["envelope"] = json.loads(letter.body)
        except EnvelopeError as error:
            row["problem"] = str(error)
        rows.setdefault(letter.id, row)
    return list(rows.values())


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ProvisioningError("invalid_event", f"{path} cannot be read as text: {error}") from error
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise ProvisioningError("invalid_event", f"{path} is empty: write it with 'esxprov events export'")
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return lines
    return [text]


def _row(text: str, path: Path) -> Row:
    """A row of the journal's export; a bare event counts as one without a past."""
    shown = text.strip()[:60]
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProvisioningError("invalid_event", f"{path}: a line is not JSON ({error}): {shown!r}") from error
    if isinstance(found, dict) and "specversion" in found:
        return {"id": found.get("id"), "envelope": found}
    if isinstance(found, dict) and "envelope" in found:
        return found
    raise ProvisioningError("invalid_event", f"{path}: a line is neither an event nor a row of the journal: {shown!r}")


# --- what that means -------------------------------------------------------------------------------------------------


def request_in(row: Row) -> Event:
    """The request of a row. Raises ProvisioningError `invalid_event` for one that cannot be done again."""
    name = f"event {row.get('id')}"
    if row.get("problem"):
        raise ProvisioningError("invalid_event", f"{name} cannot be read: {row['problem']}")
    if row.get("envelope") is None:
        raise ProvisioningError("invalid_event", f"{name} was cancelled before it came, so nobody knows what it was")
    try:
        event = envelope.decode(json.dumps(row["envelope"]).encode())
    except (EnvelopeError, RecursionError) as error:
        raise ProvisioningError("invalid_event", f"{name} cannot be read: {error}") from error
    if event.phase is not Phase.REQUESTED:
        raise ProvisioningError("invalid_event", f"{name} is no request but a {event.type}, an answer to one")
    if event.extensions.get("replays", 0) >= MOST_REPLAYS:
        raise ProvisioningError("invalid_event", f"{name} was replayed {MOST_REPLAYS} times in a row: that is a loop")
    return event


def again(row: Row) -> Event:
    """The new event that does a row's request again. Raises `invalid_event` as `request_in`."""
    event = request_in(row)
    return envelope.again(event, now=datetime.now(UTC), timeout_s=CALLS[event.call].deadline_s)


def plan(row: Row) -> dict[str, Any]:
    """What doing it again would mean; `problem` says why it cannot be done again, None if it can.

    Its placement is decided again with the world of that day.
    """
    found: dict[str, Any] = {"event": row.get("id"), "problem": None}
    if row.get("parked"):
        found |= {"parked": row["parked"], "reason": row.get("reason")}
    try:
        event = request_in(row)
        placements = _placements(row)
    except ProvisioningError as error:
        return {**found, "problem": error.message}
    return {
        **found,
        "call": event.call,
        "changes_something": CALLS[event.call].kind is Kind.COMMAND,
        "computer": _name(event, "computer"),
        "image": _name(event, "image"),
        "outcome_then": row.get("outcome"),
        "steps_then": list((row.get("steps") or {}).keys()),
        **placements,
    }


def _name(event: Event, section: str) -> Any:
    part = event.data.get(section)
    return part.get("name") if isinstance(part, dict) else None


def _placements(row: Row) -> dict[str, Any]:
    from esxprov.placement import choose

    if not row.get("decision"):
        return {}
    try:
        then, now = choose.decide_again(row["decision"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProvisioningError(
            "invalid_event", f"the placement recorded with event {row.get('id')} cannot be read: {error!r}"
        ) from error
    return {"placement_then": then, "placement_now": now, "same": then == now}


def explain(plan: dict[str, Any]) -> str:
    """A plan for people: a few lines."""
    lines = []
    if plan.get("parked"):
        lines.append(f"  parked as {plan['parked']}, because {plan['reason']}")
    if plan["problem"]:
        return "\n".join([f"not to be done again: {plan['problem']}", *lines])
    what = f"{plan['call']} of {plan['computer'] or '-'}, image {plan['image'] or '-'}"
    lines.insert(0, f"{plan['event']}: {what}; then: {plan['outcome_then'] or 'no outcome'}")
    if plan["steps_then"]:
        lines.append(f"  steps then: {' > '.join(plan['steps_then'])}")
    if "same" in plan:
        then, now = plan["placement_then"] or "no host", plan["placement_now"] or "no host"
        change = "the same today" if plan["same"] else f"today {now}"
        lines.append(f"  placement then: {then}; with the world of that day {change}")
    return "\n".join(lines)


# --- a call by hand --------------------------------------------------------------------------------------------------


def event_of(call: str, body: bytes, node: str) -> Event:
    """A request from what a person wrote: a whole event, or only its data. Raises `invalid_event`.

    A whole event gets a new id and deadline, as golden messages and exported events are long past theirs.
    """
    if call not in CALLS:
        raise ProvisioningError("invalid_event", f"there is no call {call!r}; there are: {', '.join(CALLS)}")
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProvisioningError("invalid_event", f"the file is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ProvisioningError("invalid_event", "the file holds no JSON object")
    data = fields
    if "specversion" in fields:
        event = request_in({"id": fields.get("id"), "envelope": fields})
        if event.call != call:
            raise ProvisioningError("invalid_event", f"the file holds a {event.call} event, not a {call}")
        data = event.data
    subject = f"computer/{data['computer'].get('id')}" if isinstance(data.get("computer"), dict) else None
    return envelope.request(
        call, source=f"urn:vcl:mn:{node}", data=data, now=datetime.now(UTC), subject=subject, partitionkey=subject
    )
