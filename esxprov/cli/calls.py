"""Publishing events by hand: call, replay."""

from __future__ import annotations

import json
from itertools import count
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from bridge.contract import CALLS
from esxprov import tables
from esxprov.cli.setup import EX_FAILED, Failure, Setup, as_json, setup

if TYPE_CHECKING:
    from bridge.client import Client
    from bridge.envelope import Event
    from esxprov.replay import Row


@click.command()
@click.argument("name", metavar="CALL", type=click.Choice(list(CALLS)))
@click.option("--file", "file", type=click.File("rb"), help="The event, or just its data; - for stdin.")
@click.option("--follow/--no-follow", default=True, help="Wait for the reply and show progress (default).")
@as_json
@setup
def call(setup: Setup, name: str, file: BinaryIO | None, follow: bool, as_json: bool) -> None:
    """Publish a call as vcld would, and follow it to its reply.

    CALL is load, unload, capture, retrieve_image, post_maintenance_action, node_status, does_image_exist,
    get_image_size, power_status, power_on, power_off, power_reset, place, capacity, cancel or ping.

    The file holds a whole event, like bridge/examples/vcl.load.requested.v1.json, or only its "data"; it always gets a
    new id and a new deadline. Progress goes to stderr, the reply to stdout. Exit code 0 only if the outcome is ok.

    \b
    esxprov call ping                         # does the service answer?
    esxprov call load --file load.json
    echo '{"event": "ID"}' | esxprov call cancel --file -
    """
    from esxprov import replay as replaying

    if file is None and name != "ping":
        raise click.UsageError(f"{name} needs --file: see bridge/examples/vcl.{name}.requested.v1.json")
    event = replaying.event_of(name, file.read() if file else b"{}", setup.config.service.management_node)
    with setup.client() as client:
        if not follow:
            client.send(event)
            click.echo(json.dumps({"event": event.id}) if as_json else event.id)
            return
        reply = _follow(client, event, quiet=as_json)
    data = {"event": event.id, **reply.data}
    click.echo(json.dumps(data, indent=2) if as_json else _explain(data, name))
    if not _is_ok(reply):
        raise click.exceptions.Exit(EX_FAILED)


@click.command()
@click.argument("what", metavar="[EVENT|FILE|MESSAGE]", required=False)
@click.option("--dead", is_flag=True, help="Parked messages: all that can be read, or the one named.")
@click.option("--execute", is_flag=True, help="Publish it; without this only the plan is printed.")
@as_json
@setup
def replay(setup: Setup, what: str | None, dead: bool, execute: bool, as_json: bool) -> None:
    """Do an event again, or print what that would mean.

    It is given by its id in the journal, or by a file: one event, or the JSON lines of `esxprov events export`.
    Without --execute nothing is done: the plan is printed, and placement decides again on the world of that day.

    A replay is a new event with the original as its cause; its replies come here. A parked message leaves
    esxprov.dead when its replay was answered, whatever the answer.

    \b
    esxprov replay EVENT                      # what would it mean?
    esxprov replay EVENT --execute
    esxprov replay day.jsonl                  # today's rules on that day's world
    esxprov replay --dead --execute           # all parked messages that can be read
    """
    from esxprov import replay as replaying

    if not what and not dead:
        raise click.UsageError("name an event, a file, or --dead")
    rows = _parked(setup, what) if dead else replaying.find(what or "", lambda event: _in_journal(setup, event))
    plans = [replaying.plan(row) for row in rows]
    if not as_json:
        for plan in plans:
            click.echo(tables.printable(replaying.explain(plan)))
        if not plans:
            click.echo("nothing is parked")
    failed = bool(plans) and all(plan["problem"] for plan in plans)
    if execute:
        failed = _execute(setup, rows, plans, quiet=as_json)
    if as_json:
        click.echo(json.dumps(plans, indent=2))
    elif not execute and plans and not failed:
        click.echo("nothing was done; --execute does it", err=True)
    if failed:
        raise click.exceptions.Exit(EX_FAILED)


def _in_journal(setup: Setup, event_id: str) -> Row | None:
    from esxprov.history import History

    return History(setup.database).show(event_id)


def _parked(setup: Setup, message_id: str | None) -> list[Row]:
    from esxprov import replay as replaying

    with setup.client() as client:
        rows = replaying.parked(client.dead_letters())
    if message_id is None:
        return rows
    found = [row for row in rows if row["parked"] == message_id]
    if not found:
        raise Failure(f"there is no parked message {message_id}: see 'esxprov dead list'")
    return found


def _execute(setup: Setup, rows: list[Row], plans: list[dict[str, Any]], *, quiet: bool) -> bool:
    """Do all that can be done, one after the other; each reply is added to its plan. Whether anything failed."""
    from esxprov import replay as replaying

    failed = False
    with setup.client() as client:
        for row, plan in zip(rows, plans, strict=True):
            if plan["problem"]:
                failed = True
                continue
            event = replaying.again(row)
            reply = _follow(client, event, quiet=quiet)
            plan["reply"] = {"event": event.id, **reply.data}
            failed = failed or not _is_ok(reply)
            if row.get("parked"):
                client.drop_dead_letter(row["parked"])
            if not quiet:
                click.echo(_explain(plan["reply"], event.call))
    return failed


def _follow(client: Client, event: Event, *, quiet: bool) -> Event:
    notes = count()

    def progress(note: Event) -> None:
        if not quiet:
            if next(notes) == 0:
                click.echo(f"{event.call}, event {event.id}", err=True)
            data = note.data
            percent = f" {data['percent']} %" if "percent" in data else ""
            click.echo(tables.printable(f"  {data.get('step')}: {data.get('message')}{percent}"), err=True)

    try:
        return client.call(event, on_progress=progress)
    except KeyboardInterrupt as error:
        raise Failure(
            f"not waiting any more, but {event.call} {event.id} goes on: see 'esxprov events show {event.id}', or "
            "cancel it with 'esxprov call cancel'"
        ) from error


def _is_ok(reply: Event) -> bool:
    return bool(reply.data.get("outcome") == "ok")


def _explain(data: dict[str, Any], call: str) -> str:
    """A reply for people: how it ended, and what came of it."""
    attempts = data.get("attempts", 1)
    after = f" after {data.get('seconds', 0):g} s" + (f" and {attempts} attempts" if attempts > 1 else "")
    error = data.get("error")
    why = f": {error['code']}: {error['message']}" if error else ""
    lines = [f"{call} {data.get('outcome')}{after}{why}"]
    found = {
        name: value if isinstance(value, str | int | float | None) else json.dumps(value)
        for name, value in data.get("result", {}).items()
    }
    lines += [f"  {line}" for line in tables.facts(found).splitlines()]
    return tables.printable("\n".join(lines))
