"""The command line: every command is a few lines around one function.

Exit codes: 0 ok, 1 failed, 2 usage, 69 a dependency is unavailable, 78 bad configuration.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from importlib import metadata, resources
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import click

from esxprov import config as configuration
from esxprov import logs, tables
from esxprov.errors import ConfigurationError, DependencyUnavailable, ProvisioningError

if TYPE_CHECKING:
    from bridge.envelope import Event
    from esxprov.database import Database
    from esxprov.model import Lease

EX_UNAVAILABLE = 69
EX_CONFIG = 78

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


class _Setup:
    """What the options before the command say; the configuration is read when a command needs it."""

    def __init__(self, conf: Path | None, overrides: tuple[str, ...], *, verbose: bool) -> None:
        self._conf = conf
        self._overrides = overrides
        logs.configure(verbose=verbose)

    @property
    def config(self) -> configuration.Config:
        return configuration.load(os.environ, self._overrides, path=self._conf)

    @property
    def database(self) -> Database:
        from esxprov.database import Database

        return Database(self.config.database)


setup = click.make_pass_decorator(_Setup)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
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

    First day: `esxprov check-config`, `esxprov db upgrade`, `esxprov hosts`, `esxprov serve`.
    A reservation hangs: `esxprov events list --computer ID`, then `esxprov events show EVENT`.
    """
    context.obj = _Setup(conf, overrides, verbose=verbose)


# --- running it ------------------------------------------------------------------------------------------------------


@commands.command()
@setup
def serve(setup: _Setup) -> None:
    """Run the service: answer vcld's calls until SIGTERM."""
    from esxprov import service

    service.serve(setup.config)


@commands.command("check-config")
@as_json
@setup
def check_config(setup: _Setup, as_json: bool) -> None:
    """Say what is wrong with the configuration, or what it means. Asks no server."""
    config = setup.config
    rows = [
        {
            "pool": pool.name,
            "profile": pool.profile,
            "endpoints": ", ".join(pool.endpoints),
            "disk": pool.disk.value,
            "cpu_ratio": pool.cpu_ratio,
            "ram_ratio": pool.ram_ratio,
            "reserved_ram_mb": pool.reserved_ram_mb,
        }
        for pool in config.pools.values()
    ]
    if not as_json:
        click.echo(
            f"{config.path} is good: node {config.service.management_node}, broker {config.broker.url}, "
            f"database {config.database.address}, leases {config.leases.path}"
        )
    tables.show(
        rows,
        ["pool", "profile", "endpoints", "disk", "cpu_ratio", "ram_ratio", "reserved_ram_mb"],
        as_json=as_json,
        empty="no [pool NAME] section: nothing can be placed yet",
    )


@commands.group()
def db() -> None:
    """Our tables in VCL's database (all named esxprov_...)."""


@db.command()
@setup
def upgrade(setup: _Setup) -> None:
    """Make the tables, or bring them up to date. Can be run again at any time."""
    from esxprov import schema

    done = schema.upgrade(setup.database)
    for migration in done:
        click.echo(f"applied {migration.version:04d} {migration.name}")
    if not done:
        click.echo("the tables are up to date")


@db.command()
@as_json
@setup
def status(setup: _Setup, as_json: bool) -> None:
    """Which migrations are applied; exit code 1 if any is missing."""
    from esxprov import schema

    known = schema.applied(setup.database)
    rows = [{"version": m.version, "name": m.name, "applied": m.version <= known} for m in schema.migrations()]
    tables.show(rows, ["version", "name", "applied"], as_json=as_json)
    if any(not row["applied"] for row in rows):
        sys.exit(1)


# --- looking and replaying -------------------------------------------------------------------------------------------


@commands.group()
def events() -> None:
    """The journal of commands."""


@events.command("list")
@click.option("--limit", default=50, show_default=True, help="How many, newest first.")
@click.option("--state", type=click.Choice(["running", "done", "cancelled"]), help="Only events in this state.")
@click.option("--computer", type=int, help="Only events of this computer (VCL's computer.id).")
@as_json
@setup
def events_list(setup: _Setup, limit: int, state: str | None, computer: int | None, as_json: bool) -> None:
    """The newest events, one line each."""
    from esxprov.history import History

    rows = History(setup.database).newest(limit=limit, state=state, computer=computer)
    columns = [
        "id",
        "call_name",
        "computer_id",
        "reservation_id",
        "state",
        "outcome",
        "step",
        "attempts",
        "received_at",
    ]
    tables.show(rows, columns, as_json=as_json, empty="no events")


@events.command("show")
@click.argument("event_id")
@setup
def events_show(setup: _Setup, event_id: str) -> None:
    """Everything the journal knows of one event, as JSON."""
    from esxprov.history import History

    row = History(setup.database).show(event_id)
    if row is None:
        raise click.ClickException(f"there is no event {event_id}: see 'esxprov events list'")
    click.echo(json.dumps(row, indent=2))


@events.command("export")
@click.option("--since", type=click.DateTime(), help="Only events received at or after this time (UTC).")
@setup
def events_export(setup: _Setup, since: Any) -> None:
    """All events as JSON lines, oldest first: what `esxprov replay FILE` reads elsewhere."""
    from esxprov.history import History

    for row in History(setup.database).export(since=since):
        click.echo(json.dumps(row))


@commands.command()
@click.argument("what", metavar="EVENT_ID|FILE")
@click.option("--execute", is_flag=True, help="Publish it; without this only the plan is printed.")
@as_json
@setup
def replay(setup: _Setup, what: str, execute: bool, as_json: bool) -> None:
    """Do an event again, or print what doing it again would mean.

    WHAT is the id of an event in the journal, or a file: one event, or the JSON lines of `esxprov events export`. A
    replay is a new event with the original as its cause; its placement is decided again on the world of that day and
    compared.
    """
    from esxprov import replay as replaying

    found = replaying.find(what, setup.database)
    plans = [replaying.plan(row) for row in found]
    if as_json:
        click.echo(json.dumps(plans, indent=2))
    else:
        for plan in plans:
            click.echo(replaying.explain(plan))
    if not execute:
        click.echo("nothing was done; --execute does it", err=True)
        return
    failed = 0
    for row in found:
        reply = _follow(setup.config, replaying.again(row), quiet=as_json)
        failed += reply.data.get("outcome") != "ok"
    sys.exit(1 if failed else 0)


@commands.command()
@click.argument("name", metavar="CALL")
@click.option("--file", "file", type=click.File("rb"), required=True, help="The event, or just its data; - for stdin.")
@click.option("--follow/--no-follow", default=True, help="Wait for the reply and print progress (default).")
@as_json
@setup
def call(setup: _Setup, name: str, file: Any, follow: bool, as_json: bool) -> None:
    """Publish a call as vcld would, and follow it to its reply.

    The file holds a whole event like bridge/examples/vcl.load.requested.v1.json, or only its "data".
    """
    from esxprov import replay as replaying

    config = setup.config
    event = replaying.event_of(name, file.read(), config.service.management_node)
    if follow:
        reply = _follow(config, event, quiet=as_json)
        click.echo(json.dumps(reply.data, indent=2))
        sys.exit(0 if reply.data.get("outcome") == "ok" else 1)
    with _client(config) as client:
        client.send(event)
    click.echo(event.id)


def _client(config: configuration.Config) -> Any:
    from bridge.client import Client
    from esxprov.service import broker_parameters

    return Client(broker_parameters(config.cli), config.service.management_node)


def _follow(config: configuration.Config, event: Event, *, quiet: bool) -> Event:
    def progress(note: Event) -> None:
        if not quiet:
            data = note.data
            percent = f" {data['percent']} %" if "percent" in data else ""
            click.echo(f"  {data.get('step')}: {data.get('message')}{percent}", err=True)

    with _client(config) as client:
        reply: Event = client.call(event, on_progress=progress)
        return reply


@commands.group()
def dead() -> None:
    """Messages that were parked instead of obeyed."""


@dead.command("list")
@as_json
@setup
def dead_list(setup: _Setup, as_json: bool) -> None:
    """What is parked, and why."""
    with _client(setup.config) as client:
        rows = [letter.summary() for letter in client.dead_letters()]
    tables.show(rows, ["id", "type", "routing_key", "reason", "bytes"], as_json=as_json, empty="nothing is parked")


@dead.command("show")
@click.argument("message_id")
@setup
def dead_show(setup: _Setup, message_id: str) -> None:
    """The body of one parked message."""
    with _client(setup.config) as client:
        click.echo(_one(client.dead_letters(), message_id).body)


@dead.command("drop")
@click.argument("message_id")
@setup
def dead_drop(setup: _Setup, message_id: str) -> None:
    """Throw one parked message away."""
    with _client(setup.config) as client:
        client.drop_dead_letter(message_id)
    click.echo(f"dropped {message_id}")


def _one(letters: Iterable[Any], message_id: str) -> Any:
    for letter in letters:
        if letter.id == message_id:
            return letter
    raise click.ClickException(f"there is no parked message {message_id}: see 'esxprov dead list'")


# --- the world -------------------------------------------------------------------------------------------------------


@commands.command()
@as_json
@setup
def hosts(setup: _Setup, as_json: bool) -> None:
    """Every hypervisor of every pool, asked now: what it has, what is promised, what it can still take."""
    from esxprov import service

    with service.tools(setup.config) as tools:
        rows = service.host_table(setup.config, tools)
    columns = ["pool", "host", "state", "ram_mb", "ram_free_mb", "cpus_free", "vms", "datastores", "refused"]
    tables.show(rows, columns, as_json=as_json, empty="no hosts: is there a [pool NAME] section?")


@commands.command()
@click.option("--profile", required=True, help="VCL's VM host profile.")
@click.option("--ram-mb", type=int, required=True)
@click.option("--cpus", type=int, default=1, show_default=True)
@click.option("--count", type=int, default=1, show_default=True, help="How many such VMs, all or nothing.")
@as_json
@setup
def place(setup: _Setup, profile: str, ram_mb: int, cpus: int, count: int, as_json: bool) -> None:
    """Where such a VM would go now, and why nowhere else. Claims nothing."""
    from esxprov import service

    config = setup.config
    with service.tools(config) as tools:
        answer = service.where(config, tools, profile, ram_mb=ram_mb, cpus=cpus, count=count)
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    else:
        for placement in answer["placements"]:
            click.echo(f"{placement['host']}: {answer['reason']}")
        for host, reason in answer["refused"].items():
            click.echo(f"not {host}: {reason}")
    sys.exit(0 if answer["placements"] else 1)


@commands.group()
def leases() -> None:
    """DHCP leases as the service sees them."""


@leases.command("show")
@click.option("--mac", help="Only this MAC address.")
@click.option("--ip", help="Only this address.")
@click.option("--file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Read this file instead.")
@as_json
@setup
def leases_show(setup: _Setup, mac: str | None, ip: str | None, file: Path | None, as_json: bool) -> None:
    """The active leases in dhcpd's file."""
    from esxprov.leases.watcher import LeaseWatcher

    with LeaseWatcher(file) if file else LeaseWatcher(setup.config.leases.path, setup.config.leases.conf) as watcher:
        found = watcher.active()
    rows = [
        {
            "ip": lease.ip,
            "mac": lease.mac,
            "starts": lease.starts,
            "ends": lease.ends,
            "hostname": lease.hostname,
            "state": lease.state,
            "fixed": lease.fixed,
        }
        for lease in found
        if (mac is None or lease.mac == mac.lower()) and (ip is None or lease.ip == ip)
    ]
    tables.show(
        rows, ["ip", "mac", "starts", "ends", "hostname", "state", "fixed"], as_json=as_json, empty="no active leases"
    )


@leases.command("watch")
@click.option("--mac", help="Only this MAC address.")
@as_json
@setup
def leases_watch(setup: _Setup, mac: str | None, as_json: bool) -> None:
    """One line for each fresh lease, as it happens; ends with Ctrl-C."""
    from esxprov.leases.watcher import LeaseWatcher

    config = setup.config
    fresh: SimpleQueue[Lease] = SimpleQueue()
    with LeaseWatcher(config.leases.path, config.leases.conf, on_change=fresh.put):
        while True:
            lease = fresh.get()
            if mac is None or lease.mac == mac.lower():
                row = {"ip": lease.ip, "mac": lease.mac, "starts": lease.starts, "ends": lease.ends}
                click.echo(json.dumps(row) if as_json else f"{lease.ip}  {lease.mac}")


# --- files for the installation --------------------------------------------------------------------------------------


@commands.command("sample-config")
def sample_config() -> None:
    """A commented esxprov.conf."""
    click.echo(shared_file("esxprov.conf"), nl=False)


@commands.command("unit-file")
def unit_file() -> None:
    """A systemd unit that runs this very program."""
    click.echo(shared_file("esxprov.service").replace("@esxprov@", str(Path(sys.argv[0]).resolve())), nl=False)


@commands.command("vcl-rows")
def vcl_rows() -> None:
    """SQL that makes VCL know the provisioning module."""
    click.echo(shared_file("vcl_rows.sql"), nl=False)


@commands.command("shim-path")
def shim_path() -> None:
    """The directory that PERL5LIB must name, so that vcld finds the shim."""
    click.echo(str(resources.files("bridge").joinpath("perl", "lib")))


def shared_file(name: str) -> str:
    """The text of a file in the package's share directory."""
    return resources.files("esxprov").joinpath("share", name).read_text(encoding="utf-8")


def main() -> None:
    """The `esxprov` command."""
    try:
        commands(prog_name="esxprov")
    except ConfigurationError as error:
        _fail(str(error), EX_CONFIG)
    except DependencyUnavailable as error:
        _fail(str(error), EX_UNAVAILABLE)
    except ProvisioningError as error:
        _fail(error.message, EX_UNAVAILABLE if error.code == "host_unavailable" else 1)
    except BrokenPipeError:
        # `esxprov events export | head`: the reader has enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int) -> None:
    click.echo(f"esxprov: {message}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
