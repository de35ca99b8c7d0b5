"""What VCL's own tables know of us."""

from __future__ import annotations

import click

from esxprov import tables
from esxprov.cli.setup import Setup, as_json, setup

dry_run = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")


@click.group()
def vcl() -> None:
    """Rows in VCL's own tables, by which it knows us."""


@vcl.command()
@dry_run
@as_json
@setup
def register(setup: Setup, dry_run: bool, as_json: bool) -> None:
    """Let VCL know module and provisioning engine esxprov.

    All or nothing, and does nothing the second time. `esxprov vcl-rows` prints the same as SQL.
    """
    from esxprov.install import vcl as rows

    steps = rows.registered(setup.vcl_database) if dry_run else rows.register(setup.vcl_database)
    done = "would be added" if dry_run else "added"
    _show([{"row": step.what, "change": "is there" if step.was_there else done} for step in steps], as_json)


@vcl.command()
@dry_run
@as_json
@setup
def unregister(setup: Setup, dry_run: bool, as_json: bool) -> None:
    """Take module and provisioning engine away again.

    Refused while a computer has the engine, also a deleted one: VCL keeps its row.
    """
    from esxprov.install import vcl as rows

    steps = rows.unregister(setup.vcl_database, dry_run=dry_run)
    done = "would be deleted" if dry_run else "deleted"
    _show([{"row": step.what, "change": done if step.was_there else "is not there"} for step in steps], as_json)


def _show(rows: list[dict[str, str]], as_json: bool) -> None:
    tables.show(rows, ["row", "change"], as_json=as_json)
