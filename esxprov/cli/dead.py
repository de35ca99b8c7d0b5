"""Messages that were parked instead of obeyed."""

from __future__ import annotations

import json

import click

from bridge.dead import DeadLetter
from esxprov import tables
from esxprov.cli.setup import Failure, Setup, as_json, setup


@click.group()
def dead() -> None:
    """Messages that were parked instead of obeyed.

    What cannot be read, is too large, has an unknown type or version, or comes from a broker user who may not give
    commands, is kept in the queue esxprov.dead with the reason. What became readable meanwhile can be done with
    `esxprov replay --dead`.
    """


@dead.command("list")
@as_json
@setup
def list_(setup: Setup, as_json: bool) -> None:
    """Show what is parked, and why; the oldest first."""
    with setup.client() as client:
        rows = [letter.summary() for letter in client.dead_letters()]
    columns = ["id", "type", "publisher", "routing_key", "bytes", "reason"]
    tables.show(rows, columns, as_json=as_json, empty="nothing is parked")


@dead.command()
@click.argument("message_id", metavar="MESSAGE")
@as_json
@setup
def show(setup: Setup, message_id: str, as_json: bool) -> None:
    """Show one parked message with its body."""
    with setup.client() as client:
        letter = next((one for one in client.dead_letters() if one.id == message_id), None)
    if letter is None:
        raise Failure(f"there is no parked message {message_id}: see 'esxprov dead list'")
    if as_json:
        click.echo(json.dumps({**letter.summary(), "body": _text(letter)}, indent=2))
    else:
        click.echo(tables.facts(letter.summary()))
        click.echo()
        click.echo(tables.printable(_text(letter), lines=True))


@dead.command()
@click.argument("message_id", metavar="MESSAGE")
@setup
def drop(setup: Setup, message_id: str) -> None:
    """Throw one parked message away."""
    with setup.client() as client:
        try:
            client.drop_dead_letter(message_id)
        except LookupError as error:
            raise Failure(str(error)) from error
    click.echo(f"dropped {message_id}")


def _text(letter: DeadLetter) -> str:
    return letter.body.decode(errors="backslashreplace")
