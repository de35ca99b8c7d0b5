"""What the hypervisors say now, and where a VM would go: hosts, place."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import click

from esxprov import tables
from esxprov.cli.setup import EX_FAILED, EX_UNAVAILABLE, Setup, as_json, setup


@click.command()
@as_json
@setup
def hosts(setup: Setup, as_json: bool) -> None:
    """Show every hypervisor: what it has, what it can still take.

    All endpoints of all pools are asked now. "free" is what is neither reserved, nor promised to a VM, nor used by one
    that is not ours; "refused" says why a host would not take even the smallest VM. Exit code 69 if none answers.
    """
    from esxprov import service

    config = setup.config
    setup.check_tables()
    with service.tools(config) as tools:
        rows = service.host_table(config, tools)
    columns = ["pool", "host", "state", "ram_mb", "ram_free_mb", "cpus_free", "vms", "datastores", "refused"]
    tables.show(rows, columns, as_json=as_json, empty="no hosts: is there a [pool NAME] section?")
    if rows and all(row["state"] == "silent" for row in rows):
        raise click.exceptions.Exit(EX_UNAVAILABLE)


@click.command()
@click.option("--profile", required=True, help="VCL's VM host profile: it names datastore and networks.")
@click.option("--ram-mb", type=click.IntRange(4, 2**24), required=True, help="RAM of the VM.")
@click.option("--cpus", type=click.IntRange(1, 255), default=1, show_default=True, help="vCPUs of the VM.")
@click.option(
    "--count", type=click.IntRange(1, 1000), default=1, show_default=True, help="How many such VMs, all or nothing."
)
@as_json
@setup
def place(setup: Setup, profile: str, ram_mb: int, cpus: int, count: int, as_json: bool) -> None:
    """Say where such a VM would go now, and why nowhere else.

    The hosts are asked now; nothing is claimed. Exit code 1 if no host takes it, 69 if no host answers.

    \b
    esxprov place --profile blades --ram-mb 4096 --cpus 2
    esxprov place --profile blades --ram-mb 2048 --count 30      # a class
    """
    from esxprov import service

    config = setup.config
    setup.check_tables()
    with service.tools(config) as tools:
        answer = service.where(config, tools, profile, ram_mb=ram_mb, cpus=cpus, count=count)
    click.echo(json.dumps(answer, indent=2) if as_json else _explain(answer))
    if not answer["placements"]:
        nobody_answers = set(answer["refused"]) == set(answer["silent"])
        raise click.exceptions.Exit(EX_UNAVAILABLE if answer["silent"] and nobody_answers else EX_FAILED)


def _explain(answer: dict[str, Any]) -> str:
    taken = Counter(placement["host"] for placement in answer["placements"])
    number = taken.total()
    lines = [f"{host}: {f'{count} of {number}' if number > 1 else answer['reason']}" for host, count in taken.items()]
    if not taken:
        lines.append(f"nowhere: {answer['reason']}")
    lines += [
        f"{'no more on' if host in taken else 'not'} {host}: {reason}" for host, reason in answer["refused"].items()
    ]
    return tables.printable("\n".join(lines))
