"""The journal of commands: list, show, export."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import click

from esxprov import tables
from esxprov.cli.setup import Failure, Setup, as_json, setup


@click.group()
def events() -> None:
    """The journal of commands: every load, unload, capture, ...

    Queries like node_status are answered and not kept.
    """


@events.command("list")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="How many, newest first.")
@click.option("--state", type=click.Choice(["running", "done", "cancelled"]), help="Only events in this state.")
@click.option("--outcome", type=click.Choice(["ok", "failed", "cancelled"]), help="Only events that ended so.")
@click.option("--computer", type=int, metavar="ID", help="Only events of this computer (VCL's computer.id).")
@click.option("--reservation", type=int, metavar="ID", help="Only events of this reservation (VCL's reservation.id).")
@as_json
@setup
def list_(setup: Setup, /, as_json: bool, **wanted: Any) -> None:
    """Show the newest events, one line each.

    \b
    esxprov events list --state running          # what is being worked on
    esxprov events list --outcome failed --limit 10
    """
    from esxprov.history import History

    rows = History(setup.database).newest(**wanted)
    if as_json:
        tables.show(rows, [], as_json=True)
        return
    shown = [
        {
            "id": row["id"],
            "call": row["call_name"],
            "computer": row["computer"],
            "computer_id": row["computer_id"],
            "reservation": row["reservation_id"],
            "received": row["received_at"],
            "state": row["outcome"] or row["state"],
            "step": row["step"] if row["outcome"] != "ok" else None,
            "error": row["error"],
        }
        for row in rows
    ]
    tables.show(shown, list(shown[0]) if shown else [], as_json=False, empty="no events")


@events.command()
@click.argument("event_id", metavar="EVENT")
@as_json
@setup
def show(setup: Setup, event_id: str, as_json: bool) -> None:
    """Show what the journal knows of one event.

    Its request, the step it is at, what its steps found out, the placement with the reason for every refused host, and
    the reply. With --json everything, also the world that placement decided on.
    """
    from esxprov.history import History

    row = History(setup.database).show(event_id)
    if row is None:
        raise Failure(f"there is no event {event_id}: see 'esxprov events list'")
    click.echo(json.dumps(row, indent=2) if as_json else _explain(row))


@events.command()
@click.option("--since", type=click.DateTime(), help="Only events received at or after this time (UTC).")
@setup
def export(setup: Setup, since: datetime | None) -> None:
    """Print all events as JSON lines, the oldest first.

    `esxprov replay FILE` reads them, also on another machine:

    \b
    esxprov events export --since 2026-11-22 > day.jsonl
    """
    from esxprov.history import History

    for row in History(setup.database).export(since=since):
        click.echo(json.dumps(row))


def _explain(row: dict[str, Any]) -> str:
    """An event for people."""
    data = (row["envelope"] or {}).get("data", {})
    reply = (row["reply"] or {}).get("data", {})
    error = reply.get("error")
    ending = f", {row['outcome']}" if row["outcome"] else ""
    parts = [
        tables.facts(
            {
                "event": row["id"],
                "call": row["call_name"] or "(cancelled before it came)",
                "computer": _named(data.get("computer"), row["computer_id"]),
                "image": _named(data.get("image"), None),
                "profile": _named(data.get("profile"), None),
                "reservation": row["reservation_id"],
                "state": f"{row['state']}{ending}",
                "step": row["step"],
                "attempts": row["attempts"],
                "taken over": f"{row['takeovers']} times" if row["takeovers"] else None,
                "received": row["received_at"],
                "finished": row["finished_at"],
                "owner": f"{row['owner']} until {row['owned_until']}" if row["state"] == "running" else None,
                "cancelled": row["cancel_reason"],
                "reply": f"{row['reply_state']}, to {row['reply_to']}" if row["reply_to"] else None,
                "error": f"{error['code']}: {error['message']}" if error else None,
            }
        )
    ]
    for title, values in (
        ("what its steps found out", {name: _inline(value) for name, value in (row["steps"] or {}).items()}),
        ("placement", _placement(row["decision"])),
        ("result", {name: _inline(value) for name, value in reply.get("result", {}).items()}),
    ):
        if values:
            parts.append(f"{title}:\n" + "\n".join(f"  {line}" for line in tables.facts(values).splitlines()))
    return "\n\n".join(parts)


def _named(section: Any, number: int | None) -> str | None:
    name = section.get("name") if isinstance(section, dict) else None
    found = [str(part) for part in (name, f"id {number}" if number is not None else None) if part]
    return ", ".join(found) or None


def _placement(recorded: dict[str, Any] | None) -> dict[str, str]:
    if not recorded:
        return {}
    decision = recorded["decision"]
    found = {one["host_name"]: f"chosen, {one['reason']}" for one in decision["placements"]}
    if not found:
        found["nowhere"] = "; ".join([decision["reason"], *(f"it would fit {cure}" for cure in decision["help"])])
    return found | {host: f"refused, {why['reason']}" for host, why in decision["refused"].items()}


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_inline(one)}" for name, one in value.items())
    if isinstance(value, str):
        return value
    return json.dumps(value)
