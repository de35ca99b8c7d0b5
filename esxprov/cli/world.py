"""What the hypervisors say now, and what they would take: hosts, place, capacity."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from esxprov import tables
from esxprov.cli.setup import EX_FAILED, EX_UNAVAILABLE, Failure, Setup, as_json, setup

if TYPE_CHECKING:
    from esxprov.model import CatalogueImage
    from esxprov.placement.world import World
    from esxprov.ports import Tools

_UTC_MINUTE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\dZ")

_profile = click.option("--profile", metavar="NAME", help="The pool's VM host profile in VCL; needed if several.")
_snapshot = click.option(
    "--snapshot",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Ask nobody, use the world that `esxprov placement snapshot` wrote.",
)


@click.group(invoke_without_command=True)
@as_json
@setup
@click.pass_context
def hosts(context: click.Context, setup: Setup, as_json: bool) -> None:
    """Show every hypervisor: what it has, what it can still take.

    All endpoints of all pools are asked now. "free" is what is neither reserved, nor promised to a VM, nor used by one
    that is not ours; "refused" says why a host would not take even the smallest VM. Exit code 69 if none answers.
    """
    if context.invoked_subcommand is None:
        _show_hosts(setup, as_json=as_json)


@hosts.command()
@click.argument("host", nargs=-1)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@as_json
@setup
def recover(setup: Setup, host: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Bring back the VMs of hosts that have forgotten them.

    That is what a host does that boots from the network. The service does the same every 30 s for each host that it
    sees to have booted; this does it now, and says what became of each VM. A HOST that is named, as `esxprov hosts`
    calls it, is treated as if it had just booted: for VMs that somebody has unregistered. Exit code 1 if something is
    lost, or could not be done yet; 69 if no endpoint answers.

    \b
    esxprov hosts recover --dry-run
    esxprov hosts recover blade7.example.org
    """
    from esxprov import service
    from esxprov.placement.recover import Outcome

    setup.check_tables()
    found, silent = service.recover(setup.config, just_booted=host, dry_run=dry_run)
    rows = [
        {
            "computer": case.machine.name or f"computer {case.claim.computer_id}",
            "host": str(case.claim.host),
            "was": "on" if case.machine.is_on else "off",
            "outcome": case.outcome.value,
            "reason": case.reason,
        }
        for case in found.cases
    ]
    columns = ["computer", "host", "was", "outcome", "reason"]
    tables.show(rows, columns, as_json=as_json, empty="no host has come back with VMs of ours")
    for name in silent:
        click.echo(f"esxprov: {name} does not answer: of it nothing is known", err=True)
    if len(silent) == len({name for pool in setup.config.pools.values() for name in pool.endpoints}):
        raise click.exceptions.Exit(EX_UNAVAILABLE)
    if any(case.outcome in (Outcome.LOST, Outcome.WAIT) for case in found.cases):
        raise click.exceptions.Exit(EX_FAILED)


def _show_hosts(setup: Setup, *, as_json: bool) -> None:
    from esxprov.handlers.capacity import hosts_in
    from esxprov.handlers.world import world_of

    with live_tools(setup) as tools:
        rows = [
            row
            for pool in tools.pools.all()
            for row in hosts_in(world_of(tools, pool, tools.inventory.profile(pool.profile), datetime.now(UTC)))
        ]
    columns = ["pool", "host", "state", "ram_mb", "ram_free_mb", "cpus_free", "vms", "datastores", "refused"]
    tables.show(rows, columns, as_json=as_json, empty="no hosts: is there a [pool NAME] section?")
    if rows and all(row["state"] == "silent" for row in rows):
        raise click.exceptions.Exit(EX_UNAVAILABLE)


@click.command()
@_profile
@click.option("--image", metavar="NAME", help="An image of VCL, by its name or title: it says how large the VM is.")
@click.option("--ram-mb", type=click.IntRange(4, 2**24), help="RAM of the VM, instead of an image.")
@click.option("--cpus", type=click.IntRange(1, 255), default=1, show_default=True, help="vCPUs, beside --ram-mb.")
@click.option(
    "--count", type=click.IntRange(1, 1000), default=1, show_default=True, help="How many such VMs, all or nothing."
)
@click.option("--max-per-host", type=click.IntRange(1, 1000), help="Not more than so many of them on one host.")
@click.option("--explain", is_flag=True, help="Say why not for each host, and which moves would make room.")
@_snapshot
@as_json
@setup
def place(
    setup: Setup,
    profile: str | None,
    image: str | None,
    ram_mb: int | None,
    cpus: int,
    count: int,
    max_per_host: int | None,
    explain: bool,
    file: Path | None,
    as_json: bool,
) -> None:
    """Say where such a VM would go now, and why nowhere else.

    The hosts are asked now; nothing is claimed. Exit code 1 if no host takes it, 69 if no host answers.

    \b
    esxprov place --image vmwarelinux-base9-v3 --count 30 --max-per-host 4
    esxprov place --ram-mb 4096 --cpus 2 --explain
    """
    from esxprov.handlers.where import where_in

    if (image is None) == (ram_mb is None):
        raise click.UsageError("name an --image, or else say --ram-mb")
    with _one_world(setup, profile, file) as world:
        wanted = _image(world, image, ram_mb or 0, cpus)
        answer = where_in(world, "cli", wanted, count, max_per_host, explain=explain)
    click.echo(json.dumps(answer, indent=2) if as_json else _explain(answer, explain=explain))
    if not answer["placements"]:
        nobody_answers = set(answer["refused"]) == set(answer["silent"])
        raise click.exceptions.Exit(EX_UNAVAILABLE if answer["silent"] and nobody_answers else EX_FAILED)


@click.command()
@_profile
@click.option("--at", metavar="TIME", help="Then, not now: 15:50, '2026-11-25 15:50', or ISO 8601 with an offset.")
@click.option("--n-plus-1", "n_plus_one", is_flag=True, help="Only so many that any one host may fail.")
@_snapshot
@as_json
@setup
def capacity(
    setup: Setup, profile: str | None, at: str | None, n_plus_one: bool, file: Path | None, as_json: bool
) -> None:
    """Say how many more VMs of each image fit, now or later.

    For a time to come, reservations that end until then are over, and those that VCL has booked have begun. Images are
    counted each for itself. Exit code 1 if no host takes anything, 69 if no host answers.

    \b
    esxprov capacity
    esxprov capacity --at 15:50 --n-plus-1
    """
    from esxprov.handlers.capacity import capacity_in

    with _worlds(setup, profile, file) as worlds:
        answers = [
            capacity_in(world, at=None if at is None else _moment(at, world.snapshot.at), n_plus_one=n_plus_one)
            for world in worlds
        ]
    if as_json:
        click.echo(json.dumps({"pools": answers}, indent=2))
    else:
        click.echo("\n\n".join(_table(answer) for answer in answers))
    problems = [_problem(answer) for answer in answers]
    for problem in filter(None, problems):
        click.echo(f"esxprov: {problem}", err=True)
    if all(problems):
        silent = all(answer["silent"] and _are_silent(answer) for answer in answers)
        raise click.exceptions.Exit(EX_UNAVAILABLE if silent else EX_FAILED)


# --- worlds ----------------------------------------------------------------------------------------------------------


@contextmanager
def live_tools(setup: Setup) -> Iterator[Tools]:
    """The world, for one command; our tables must be there."""
    from esxprov import service

    setup.check_tables()
    with service.tools(setup.config) as tools:
        yield tools


@contextmanager
def _worlds(setup: Setup, profile: str | None, file: Path | None) -> Iterator[Sequence[World]]:
    """The world of that pool, or of all pools."""
    from esxprov.handlers.world import world_now

    if file is not None:
        yield [saved_world(file)]
        return
    with live_tools(setup) as tools:
        pools: list[str | None] = [pool.name for pool in tools.pools.all()] if profile is None else [profile]
        yield [world_now(tools, pool, datetime.now(UTC)) for pool in pools or [None]]


@contextmanager
def _one_world(setup: Setup, profile: str | None, file: Path | None) -> Iterator[World]:
    if file is not None:
        yield saved_world(file)
        return
    with live_world(setup, profile) as world:
        yield world


@contextmanager
def live_world(setup: Setup, profile: str | None) -> Iterator[World]:
    """The world of the pool with that profile, or of the only one."""
    from esxprov.handlers.world import world_now

    with live_tools(setup) as tools:
        yield world_now(tools, profile, datetime.now(UTC))


def saved_world(path: Path) -> World:
    """The world that `esxprov placement snapshot` wrote."""
    from esxprov.placement.world import World
    from esxprov.plain import NotPlain

    try:
        return World.from_json(json.loads(path.read_text(encoding="utf-8")))
    except NotPlain as error:
        raise Failure(f"{path}: {error}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise Failure(f"{path} cannot be read as JSON: {error}") from error


def _image(world: World, name: str | None, ram_mb: int, cpus: int) -> CatalogueImage:
    from esxprov.handlers.world import image_named
    from esxprov.model import CatalogueImage

    if name is not None:
        return image_named(world.images, name)
    return CatalogueImage("any", "any", ram_mb, cpus)


def _moment(text: str, now: int) -> int:
    """A time to come, of what a person writes on this machine; a time of day is the next one."""
    from esxprov.handlers.capacity import moment

    here = datetime.fromtimestamp(now).astimezone()
    day = re.fullmatch(r"(\d{1,2}):(\d\d)", text)
    if day and int(day[1]) < 24 and int(day[2]) < 60:
        then = here.replace(hour=int(day[1]), minute=int(day[2]), second=0, microsecond=0)
        return int((then if then >= here else then + timedelta(days=1)).timestamp())
    try:
        then = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.UsageError(f"--at is {text!r}, expected a time like 15:50 or '2026-11-25 15:50'") from error
    return moment(then.astimezone().isoformat(), here)


# --- answers for people ----------------------------------------------------------------------------------------------


def _explain(answer: dict[str, Any], *, explain: bool) -> str:
    taken = Counter(placement["host"] for placement in answer["placements"])
    number = taken.total()
    lines = [f"{host}: {f'{count} of {number}' if number > 1 else answer['reason']}" for host, count in taken.items()]
    if not taken:
        lines.append(f"nowhere: {answer['reason']}")
        lines += [f"it would fit {local_times(help_)}" for help_ in answer["help"]]
        moves = [f"move {one['vm']} from {one['source']} to {one['target']}" for one in answer["suggestions"]]
        if moves:
            lines.append(f"it would fit if somebody did this: {', then '.join(moves)}")
    lines += [
        f"{'no more on' if host in taken else 'not'} {host}: {why['reason']}"
        for host, why in answer["refused"].items()
        if explain or why["rule"] == "silent"
    ]
    return tables.printable("\n".join(lines))


def local_times(text: str) -> str:
    """Times in a sentence as the clock on the wall shows them."""

    def local(found: re.Match[str]) -> str:
        then = datetime.fromisoformat(found[0]).astimezone()
        return f"{then:%H:%M}" if then.date() == datetime.now().astimezone().date() else f"{then:%Y-%m-%d %H:%M}"

    return _UTC_MINUTE.sub(local, text)


def _table(answer: dict[str, Any]) -> str:
    when = f" at {local_times(answer['at'])}" if answer["at"] else " now"
    safe = ", and any one host may fail" if answer["n_plus_one"] else ""
    rows = [
        {
            "image": name,
            "ram_mb": size["ram_mb"],
            "cpus": size["cpus"],
            "fits": size["fits"] if size["exact"] else f"{size['fits']} or more",
        }
        for size in answer["images"]
        for name in size["images"]
    ]
    room = answer["largest"]
    lines = [f"pool {answer['pool']}: what still fits{when}{safe}, each image for itself"]
    lines += [tables.table(rows, ["image", "ram_mb", "cpus", "fits"]) if rows else "VCL has no images"]
    lines += [f"the largest VM: {room['ram_mb']} MB with 1 vCPU, or {room['cpus']} vCPUs with little RAM"]
    lines += [
        f"overbooked: no host for {one['image']}, reservation {one['reservation'] or '-'}, "
        f"from {local_times(one['starts'])}"
        for one in answer["overbooked"]
    ]
    lines += [f"{row['host']} is left out: {row['refused']}" for row in answer["hosts"] if row["state"] == "silent"]
    return tables.printable("\n".join(lines))


def _problem(answer: dict[str, Any]) -> str | None:
    """Why nothing fits at all, None if something does."""
    rows = answer["hosts"]
    if any(row["refused"] is None for row in rows):
        return None
    pool = f"pool {answer['pool']}"
    if not rows:
        return f"{pool} has no host: see 'esxprov hosts'"
    reasons = sorted({row["refused"] for row in rows})
    if len(reasons) == 1:
        return f"no host of {pool} takes anything: {reasons[0]}"
    return f"no host of {pool} takes anything: " + "; ".join(f"{row['host']}: {row['refused']}" for row in rows)


def _are_silent(answer: dict[str, Any]) -> bool:
    return all(row["state"] == "silent" for row in answer["hosts"])
