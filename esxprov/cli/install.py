"""Files for the installation, out of the package."""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

import click


@click.command("sample-config")
def sample_config() -> None:
    """Print a commented esxprov.conf."""
    click.echo(shared_file("esxprov.conf"), nl=False)


@click.command("unit-file")
@click.option("--leases", is_flag=True, help="For `esxprov leases publish`, on the machine of the DHCP server.")
def unit_file(leases: bool) -> None:
    """Print a systemd unit that runs this very program."""
    name = "esxprov-leases.service" if leases else "esxprov.service"
    click.echo(shared_file(name).replace("@esxprov@", str(Path(sys.argv[0]).resolve())), nl=False)


@click.command("vcl-rows")
def vcl_rows() -> None:
    """Print the SQL that tells VCL of the module."""
    from esxprov.install import vcl

    click.echo(vcl.as_sql(), nl=False)


@click.command("shim-path")
def shim_path() -> None:
    """Print the directory for vcld's PERL5LIB."""
    click.echo(str(resources.files("bridge").joinpath("perl", "lib")))


def shared_file(name: str) -> str:
    """The text of a file in the package's share directory."""
    return resources.files("esxprov").joinpath("share", name).read_text(encoding="utf-8")
