"""DHCP leases as the service sees them."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import click

from esxprov import tables
from esxprov.cli.setup import EX_UNAVAILABLE, Failure, Setup, as_json, setup
from esxprov.config import LEASE_SOURCES, LeaseFileConfig, LeasesConfig

if TYPE_CHECKING:
    from esxprov.model import Lease


def _mac(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    from esxprov.leases.parser import normal_mac

    found = normal_mac(value.replace("-", ":")) if value else None
    if value and found is None:
        raise click.BadParameter(f"{value!r} is not a MAC address like 00:50:56:01:00:1b")
    return found


def _nodes(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not re.match(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}\Z", value):
            raise click.BadParameter(f"{value!r} is not the short host name of a management node, like mn1")
    return values


of_mac = click.option("--mac", callback=_mac, help="Only this MAC address.")
of_file = click.option(
    "--file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Read this file, not the one in esxprov.conf (which is not needed then).",
)
in_format = click.option(
    "--format", "kind", type=click.Choice(LEASE_SOURCES), help="The server whose file --file names; dhcpd if not given."
)


@click.group()
def leases() -> None:
    """DHCP leases as the service sees them."""


@leases.command()
@of_mac
@click.option("--ip", help="Only this address.")
@of_file
@in_format
@as_json
@setup
def show(setup: Setup, mac: str | None, ip: str | None, file: Path | None, kind: str | None, as_json: bool) -> None:
    """Show the active leases in the DHCP server's file.

    Fixed addresses of `host` declarations are shown, too (state "static"). Times are UTC.
    """
    from esxprov.leases.sources import watching

    config = _config(setup, file, kind)
    found: list[Lease] = []
    with watching(config) as watchers:
        for one, watcher in zip(config.files, watchers, strict=True):
            if watcher.problem is not None:
                raise _unreadable(one.path, watcher.problem)
            found += watcher.active()
    rows = [
        _row(lease) for lease in found if (mac is None or lease.mac == mac) and (ip is None or _is_same(lease.ip, ip))
    ]
    rows.sort(key=lambda row: (ip_address(row["ip"]).version, ip_address(row["ip"])))
    columns = ["ip", "mac", "state", "fixed", "starts", "ends", "hostname"]
    tables.show(rows, columns, as_json=as_json, empty=f"no active lease in {_names(config)}")


@leases.command()
@of_mac
@of_file
@in_format
@as_json
@setup
def watch(setup: Setup, mac: str | None, file: Path | None, kind: str | None, as_json: bool) -> None:
    """Print a line for each lease as it becomes active.

    Ends with Ctrl-C. With --json each line is a JSON object.
    """
    from esxprov.leases.sources import watching

    config = _config(setup, file, kind)
    for one in config.files:
        try:
            one.path.open("rb").close()
        except OSError as error:
            raise _unreadable(one.path, error) from error
    fresh: SimpleQueue[Lease] = SimpleQueue()
    try:
        with watching(config, fresh.put):
            click.echo(f"watching {_names(config)}, Ctrl-C ends it", err=True)
            while True:
                lease = fresh.get()
                if mac is None or lease.mac == mac:
                    row = _row(lease)
                    click.echo(json.dumps(row) if as_json else tables.printable(_line(row)))
    except KeyboardInterrupt:
        return


@leases.command()
@click.option(
    "--node", "nodes", multiple=True, callback=_nodes, help="Only for this management node; may be given again."
)
@setup
def publish(setup: Setup, nodes: tuple[str, ...]) -> None:
    """Tell services elsewhere of fresh leases here.

    Runs until SIGTERM.

    For the machine of the DHCP server, where the service runs elsewhere with 'bus:' in its [leases] source. Needs of
    esxprov.conf only [leases] and [publisher], the broker and its user. Tells only of MAC addresses that a service
    waits for. Restart it at any time: what is still waited for is asked for again.
    """
    from esxprov import lease_bus

    setup.log_as_a_service()
    lease_bus.serve(setup.publisher_config, nodes)


@leases.command()
@as_json
@setup
def check(setup: Setup, as_json: bool) -> None:
    """Check whether fresh leases will be seen here.

    Says which line to change where not.

    Reads the lease file and dhcpd's configuration as [leases] names them, and tries whether events of the directory
    arrive, and whether OMAPI and the publishers on the bus answer. Exit code 1 if leases will be lost.
    """
    from esxprov.leases import check as checks
    from esxprov.leases.sources import omapi_of

    config = setup.config.leases
    omapi = omapi_of(config)
    found = [finding for file in config.files for finding in checks.of_file(file.path)]
    if config.conf is not None:
        found += checks.of_conf(config.conf, ends_old=omapi is not None)
    if omapi is not None:
        found.append(checks.of_omapi(omapi))
    if config.bus:
        from esxprov import lease_bus

        found += checks.of_bus(lease_bus.who_answers(setup.config))
    if as_json:
        rows = [
            {"what": one.what, "result": one.result, "change": one.cure or None, "serious": one.is_serious}
            for one in found
        ]
        click.echo(json.dumps(rows, indent=2))
    else:
        for one in found:
            verdict = "LOSES LEASES" if one.is_serious else "slow" if one.cure else "ok"
            click.echo(tables.printable(f"{verdict:12}  {one.what}: {one.result}"))
            if one.cure:
                click.echo(tables.printable(f"{'':12}  change: {one.cure}"))
    if any(one.is_serious for one in found):
        raise click.exceptions.Exit(1)


def _line(row: dict[str, Any]) -> str:
    return f"{row['starts'] or '-'}  {row['ip']:<15}  {row['mac']}  {row['hostname'] or ''}".rstrip()


def _config(setup: Setup, file: Path | None, kind: str | None) -> LeasesConfig:
    if file is not None:
        return LeasesConfig((LeaseFileConfig(kind or "dhcpd", file),))
    if kind is not None:
        raise click.UsageError("--format says what --file names; without --file [leases] source names both")
    config = setup.config.leases
    if not config.files:
        raise Failure("[leases] source names no file of this machine: ask where 'esxprov leases publish' runs")
    return config


def _names(config: LeasesConfig) -> str:
    return ", ".join(str(file.path) for file in config.files)


def _unreadable(path: Path, error: OSError) -> Failure:
    return Failure(
        f"the lease file {path} cannot be read ({error.strerror}): start the DHCP server, let this user read the "
        "file, or name the right one in [leases] source",
        EX_UNAVAILABLE,
    )


def _is_same(address: str, wanted: str) -> bool:
    return address == wanted.strip()


def _row(lease: Lease) -> dict[str, Any]:
    return {
        "ip": lease.ip,
        "mac": lease.mac,
        "state": lease.state,
        "starts": _utc(lease.starts),
        "ends": _utc(lease.ends),
        "hostname": lease.hostname,
        "fixed": lease.fixed,
    }


def _utc(seconds: int | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
