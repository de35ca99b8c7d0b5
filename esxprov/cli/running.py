"""Running the service, and what it needs before it can run: serve, check-config, db."""

from __future__ import annotations

import json
from typing import Any

import click

from esxprov import tables
from esxprov.cli.setup import EX_FAILED, Setup, as_json, setup
from esxprov.config import Config
from esxprov.settings import hidden


@click.command()
@setup
def serve(setup: Setup) -> None:
    """Run the service until SIGTERM.

    It answers vcld's calls for one management node, and logs one line per step and outcome to stderr. Several may run
    for one node; restart it at any time, the new process goes on where the old one stopped. It refuses to start
    without its tables: run `esxprov db upgrade` first.
    """
    from esxprov import service

    setup.log_as_a_service()
    service.serve(setup.config)


@click.command("check-config")
@as_json
@setup
def check_config(setup: Setup, as_json: bool) -> None:
    """Say what is wrong with the configuration, or what it means.

    By the service's own reading of it; then every setting in effect with who gave it: a line of the file, a variable,
    --set, VCL's vcld.conf, or the default. Secrets are not shown. Changes nothing and asks no server: `esxprov db
    status`, `esxprov hosts` and `esxprov call ping` do.
    """
    config = setup.config
    if as_json:
        click.echo(json.dumps(_meaning(config), indent=2))
        return
    click.echo(f"{config.path} is good")
    click.echo(
        tables.facts(
            {
                "node": config.service.management_node,
                "broker": config.broker.url,
                "vcld": config.vcld.url,
                "cli": config.cli.url,
                "database": f"{config.database.address}, user {config.database.user}",
                "leases": config.leases,
                "http": _http(config),
            }
        )
    )
    click.echo()
    endpoints = [{"endpoint": name, "url": hidden(one.url), "user": one.user} for name, one in config.endpoints.items()]
    tables.show(endpoints, ["endpoint", "url", "user"], as_json=False, empty="no [endpoint NAME] section")
    click.echo()
    tables.show(
        [{**pool, "endpoints": ", ".join(pool["endpoints"])} for pool in _pools(config)],
        ["pool", "profile", "endpoints", "disk", "cpu_ratio", "ram_ratio", "reserved_ram_mb"],
        as_json=False,
        empty="no [pool NAME] section: nothing can be placed yet",
    )
    click.echo()
    tables.show(_settings(config), ["setting", "value", "from"], as_json=False)


def _meaning(config: Config) -> dict[str, object]:
    return {
        "path": str(config.path),
        "node": config.service.management_node,
        "broker": config.broker.url,
        "vcld": config.vcld.url,
        "cli": config.cli.url,
        "database": config.database.address,
        "leases": str(config.leases),
        "http": _http(config),
        "endpoints": {name: hidden(one.url) for name, one in config.endpoints.items()},
        "pools": _pools(config),
        "settings": _settings(config),
    }


def _settings(config: Config) -> list[dict[str, str | None]]:
    return [{"setting": one.name, "value": one.text, "from": one.origin} for one in config.effective]


def _http(config: Config) -> str | None:
    if config.http is None:
        return None
    return f"{config.http.host} port {config.http.port}, {'with a token' if config.http.token else 'without a token'}"


def _pools(config: Config) -> list[dict[str, Any]]:
    return [
        {
            "pool": pool.name,
            "profile": pool.profile,
            "endpoints": list(pool.endpoints),
            "disk": pool.disk.value,
            "cpu_ratio": pool.cpu_ratio,
            "ram_ratio": pool.ram_ratio,
            "reserved_ram_mb": pool.reserved_ram_mb,
        }
        for pool in config.pools.values()
    ]


@click.group()
def db() -> None:
    """Our tables in VCL's database (esxprov_...)."""


@db.command()
@as_json
@setup
def upgrade(setup: Setup, as_json: bool) -> None:
    """Make the tables, or bring them up to date.

    Can be run again at any time; but end services of an older version before, as they do not know new tables. With
    --json: the migrations that were applied.
    """
    from esxprov import schema

    done = schema.upgrade(setup.any_database)
    if as_json:
        click.echo(json.dumps([{"version": migration.version, "name": migration.name} for migration in done], indent=2))
        return
    for migration in done:
        click.echo(f"applied {migration.version:04d} {migration.name}")
    if not done:
        click.echo("the tables are up to date")


@db.command()
@as_json
@setup
def status(setup: Setup, as_json: bool) -> None:
    """Show which migrations are applied.

    Exit code 1 if one is missing, 78 if the tables are newer than this program.
    """
    from esxprov import schema

    database = setup.any_database
    known = schema.applied(database)
    rows = [{"version": m.version, "name": m.name, "applied": m.version <= known} for m in schema.migrations()]
    tables.show(rows, ["version", "name", "applied"], as_json=as_json)
    if any(not row["applied"] for row in rows):
        click.echo("run 'esxprov db upgrade'", err=True)
        raise click.exceptions.Exit(EX_FAILED)
    schema.check(database)
