"""Installing on a management node, and files for those who would rather do it by hand."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from esxprov.cli import pages
from esxprov.cli.setup import EX_CONFIG, EX_FAILED, EX_UNAVAILABLE, Failure, Setup, setup
from esxprov.errors import ConfigurationError, DependencyUnavailable
from esxprov.install import shipped

if TYPE_CHECKING:
    from esxprov.database import Database
    from esxprov.install.actions import Action
    from esxprov.install.plan import Place
    from esxprov.install.run import Outcome

_root = click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=Path("/"),
    help="Install below this directory, as for an image of a node.",
)
_vcl = click.option(
    "--vcl",
    type=click.Path(path_type=Path),
    default=Path("/usr/local/vcl"),
    show_default=True,
    help="Where VCL's management node code is.",
)
_copy = click.option("--copy/--link", "copied", help="Copy the shim, or (the default) link to that of this package.")
_database = click.option(
    "--database/--no-database", "with_database", default=True, help="VCL's database too (the default), or files only."
)
_dry_run = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")


@click.command("install")
@_root
@_vcl
@_copy
@_database
@_dry_run
@setup
def install(setup: Setup, root: Path, vcl: Path, copied: bool, with_database: bool, dry_run: bool) -> None:
    """Put everything in its place on a management node.

    Shim, unit file, configuration with new passwords, spool, tables, VCL's rows, man page and completion. Can be
    repeated at any time, as after an upgrade; your esxprov.conf and passwords stay as they are. If anything is
    impossible, nothing is done. Each line is + done, = was so, ! impossible.
    """
    from esxprov.install import run
    from esxprov.install.plan import what_is_left

    place, actions = _plan(setup, root, vcl, copied, with_database)
    before = list(run.install(actions, dry_run=True))
    if dry_run or any(one.problem for one in before):
        _say(before, _NOTHING)
        return
    _say(run.install(actions), _HALF)
    click.echo(f"\n{what_is_left(place)}")


@click.command("uninstall")
@_root
@_vcl
@_database
@_dry_run
@setup
def uninstall(setup: Setup, root: Path, vcl: Path, with_database: bool, dry_run: bool) -> None:
    """Take away what `esxprov install` has put.

    Configuration, passwords and tables stay, and directories that are not empty. Refused while a computer has the
    provisioning engine. Stop the service before. Each line is - taken away, = stays, ! impossible.
    """
    from esxprov.install import run

    _, actions = _plan(setup, root, vcl, None, with_database)
    before = list(run.uninstall(actions, dry_run=True))
    if dry_run or any(one.problem for one in before):
        _say(before, _NOTHING)
        return
    _say(run.uninstall(actions), _HALF)


def _plan(setup: Setup, root: Path, vcl: Path, copied: bool | None, with_database: bool) -> tuple[Place, list[Action]]:
    from esxprov.install.plan import Place, actions
    from esxprov.install.system import system

    place = Place(root, system(root), vcl, copied, pages.for_install())
    database: Database | None = setup.database_below(root) if with_database else None
    return place, actions(place, database)


_NOTHING = "nothing was done, for what the lines with ! say"
_HALF = "not completed, for what the line with ! says: put that right and run it again"


def _say(outcomes: Iterable[Outcome], failed: str) -> None:
    """Print what came of each action; the first problem is how the command ends."""
    problems = []
    for outcome in outcomes:
        click.echo(str(outcome))
        if outcome.problem is not None:
            problems.append(outcome.problem)
    if not problems:
        return
    code = EX_FAILED
    if isinstance(problems[0], ConfigurationError | DependencyUnavailable):
        code = EX_CONFIG if isinstance(problems[0], ConfigurationError) else EX_UNAVAILABLE
    as_root = "" if os.geteuid() == 0 else "; are you root?" if isinstance(problems[0], PermissionError) else ""
    raise Failure(f"{failed}{as_root}", code)


@click.command("sample-config")
def sample_config() -> None:
    """Print a commented esxprov.conf."""
    click.echo(shipped.text("esxprov.conf"), nl=False)


@click.command("unit-file")
@click.option("--leases", is_flag=True, help="For `esxprov leases publish`, on the machine of the DHCP server.")
def unit_file(leases: bool) -> None:
    """Print a systemd unit that runs this very program."""
    click.echo(shipped.unit("esxprov-leases.service" if leases else "esxprov.service"), nl=False)


@click.command("vcl-rows")
def vcl_rows() -> None:
    """Print the SQL that tells VCL of the module."""
    from esxprov.install import vcl

    click.echo(vcl.as_sql(), nl=False)


@click.command("shim-path")
def shim_path() -> None:
    """Print the directory for vcld's PERL5LIB."""
    click.echo(str(shipped.shim()))
