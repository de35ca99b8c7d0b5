"""Looking at everything the service needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from esxprov import tables
from esxprov.cli.setup import EX_FAILED, Setup, as_json, setup
from esxprov.errors import ConfigurationError

if TYPE_CHECKING:
    from esxprov.doctor.finding import Finding


@click.command()
@click.option(
    "--vcl",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("/usr/local/vcl"),
    show_default=True,
    help="Where VCL's management node code is.",
)
@as_json
@setup
def doctor(setup: Setup, vcl: Path, as_json: bool) -> None:
    """Find what is wrong, and say what repairs it.

    Looks at everything the service needs: one line for each check, with ok, warn, wrong or skipped, and under it the
    command to run or the line to change. Asks the broker as each of its users, the database, every endpoint, and the
    lease sources; writes a file to each pool's datastore and removes it. Can be run beside a running service. Exit
    code 1 if anything is wrong.
    """
    from esxprov.doctor.checkup import checkup
    from esxprov.doctor.finding import Sign, ok, wrong

    try:
        config = setup.config
    except ConfigurationError as error:
        found = [wrong("config", str(error), "correct that line; 'esxprov sample-config' has them all, with comments")]
    else:
        found = [ok("config", f"{config.path} is good"), *checkup(config, vcl)]
    if as_json:
        rows = [
            {"check": one.check, "sign": one.sign.value, "text": one.text, "cure": one.cure or None} for one in found
        ]
        click.echo(json.dumps(rows, indent=2))
    else:
        for one in found:
            _print(one)
    if any(one.sign is Sign.WRONG for one in found):
        raise click.exceptions.Exit(EX_FAILED)


def _print(finding: Finding) -> None:
    click.echo(tables.printable(f"{finding.sign.value:7}  {finding.check}: {finding.text}", lines=False))
    if finding.cure:
        click.echo(tables.printable(f"{'':7}  repair: {finding.cure}", lines=False))
