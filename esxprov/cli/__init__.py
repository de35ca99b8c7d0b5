"""The command line: every command is a few lines around one function.

Exit codes: 0 ok, 1 failed, 2 usage, 69 a dependency is unavailable, 78 bad configuration.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import click

from esxprov.cli import (
    calls,
    claims,
    dead,
    doctor,
    events,
    images,
    install,
    leases,
    pages,
    placement,
    running,
    slots,
    vcl,
    world,
)
from esxprov.cli.setup import Commands, Setup

__all__ = ["commands", "main"]


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 ok, 1 failed, 2 usage, 69 a server (broker, database, endpoint) is unavailable, 78 bad "
    "configuration.",
)
@click.version_option(metadata.version("esxprov"), prog_name="esxprov")
@click.option(
    "--conf", type=click.Path(path_type=Path, dir_okay=False), help="Read this file, not /etc/vcl/esxprov.conf."
)
@click.option(
    "--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override one setting; repeatable."
)
@click.option("-v", "--verbose", is_flag=True, help="Log what developers want to know, too.")
@click.pass_context
def commands(context: click.Context, conf: Path | None, overrides: tuple[str, ...], verbose: bool) -> None:
    """ESX provisioning for Apache VCL.

    \b
    The first day:          esxprov install --dry-run
                            esxprov check-config
                            esxprov db upgrade
                            esxprov doctor
                            esxprov hosts
                            esxprov serve
    A reservation hangs:    esxprov events list --reservation ID
                            esxprov events show EVENT
    No host takes a VM:     esxprov place --image NAME --explain
    How many still fit:     esxprov capacity
    VCL's computer rows:    esxprov slots plan
    A datastore is full:    esxprov images orphans
    """
    context.obj = Setup(conf, overrides, verbose=verbose)


for command in (
    running.serve,
    running.check_config,
    doctor.doctor,
    running.db,
    vcl.vcl,
    events.events,
    calls.replay,
    calls.call,
    dead.dead,
    world.hosts,
    world.place,
    world.capacity,
    claims.claims,
    images.images,
    placement.placement,
    leases.leases,
    install.install,
    install.uninstall,
    slots.slots,
    install.sample_config,
    install.unit_file,
    install.vcl_rows,
    install.shim_path,
    pages.completion,
    pages.man,
):
    commands.add_command(command)


def main() -> None:
    """The `esxprov` command."""
    commands(prog_name="esxprov")
