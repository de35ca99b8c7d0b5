"""VCL's computer rows of the pools: slots plan, sync, prune, status."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from esxprov import tables
from esxprov.cli.setup import EX_FAILED, Setup, as_json, setup

if TYPE_CHECKING:
    from esxprov.slots.adopt import Candidate, GivenBack
    from esxprov.slots.plan import Change
    from esxprov.slots.sync import Outcome, Pruned, Slots

_pool = click.option("--pool", metavar="NAME", help="Only this pool; all with a [slots] section by default.")

_PAST = {
    "add": "added", "reuse": "reused", "change": "changed", "keep": "kept", "close": "closed", "remove": "removed"
}  # fmt: skip


@click.group()
def slots() -> None:
    """The computer rows of VCL, made of what the hosts have.

    \b
    What would be done:    esxprov slots plan
    Do it:                 esxprov slots sync
    Too many:              esxprov slots prune
    What users get:        esxprov slots status
    """


@slots.command()
@_pool
@as_json
@setup
def plan(setup: Setup, pool: str | None, as_json: bool) -> None:
    """Say what sync would do, and what hides slots from users.

    Changes nothing.
    """
    with _slots(setup) as ours:
        _tell([ours.plan(one) for one in ours.named(pool)], as_json=as_json, done=False)


@slots.command()
@_pool
@as_json
@setup
def sync(setup: Setup, pool: str | None, as_json: bool) -> None:
    """Make VCL's rows what the pools need. Run it again at any time.

    Each pool is one transaction. Only rows that sync made are changed; slots that are in use, loaded, failed or in an
    admin's maintenance are left as they are. Exit code 1 if something hides all slots of a pool.
    """
    with _slots(setup) as ours:
        _tell([ours.sync(one) for one in ours.named(pool)], as_json=as_json, done=True)


@slots.command()
@_pool
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@as_json
@setup
def prune(setup: Setup, pool: str | None, dry_run: bool, as_json: bool) -> None:
    """Remove slots of which there are too many.

    More than the hosts take, or all, if their pool is configured no more; and hosts that are gone. It is done in two
    turns, as somebody may be choosing one just now: the first makes them too small for every image, the second, a
    minute later, removes them. What is in use is left.
    """
    with _slots(setup) as ours:
        done = [ours.prune(name, dry_run=dry_run) for name in ours.to_prune(pool)]
    rows = [row for one in done for row in _pruned(one, dry_run=dry_run)]
    tables.show(
        rows, ["change", "what", "name", "detail"], as_json=as_json, empty="there is no slot and no host too many"
    )
    if not as_json and not dry_run and any(row["change"] == "closed" for row in rows):
        click.echo("run this again in a minute: then the closed ones are removed")


@slots.command()
@_pool
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option(
    "--undo-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write what the slots were; esxprov-adopt-TIME.json here by default.",
)
@click.option(
    "--undo",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Give the slots of such a file back, and do nothing else.",
)
@as_json
@setup
def adopt(
    setup: Setup, pool: str | None, dry_run: bool, undo_file: Path | None, undo: Path | None, as_json: bool
) -> None:
    """Take over slots that were made by hand on hosts of a pool.

    Those that are idle and whose VM is gone from its host. They get our engine and the pool's host, and the groups of
    [slots]; names and MAC addresses stay. Everything they were is in the undo file before it is changed.

    \b
    esxprov slots adopt --pool main --dry-run
    esxprov slots adopt --pool main --undo-file before.json
    esxprov slots adopt --undo before.json
    """
    if undo is not None and (dry_run or undo_file is not None or pool is not None):
        raise click.UsageError("--undo takes the file and nothing else")
    with _slots(setup) as ours:
        if undo is not None:
            rows = [_given_back(one) for one in ours.give_back(undo)]
        else:
            pools = ours.named(pool)
            if len(pools) > 1:
                raise click.UsageError("there are several pools with a [slots] section: name one by --pool")
            file = undo_file or Path(f"esxprov-adopt-{datetime.now():%Y%m%d-%H%M%S}.json")
            rows = [_adopted(one, dry_run=dry_run) for one in ours.adopt(pools[0], file, dry_run=dry_run)]
    done = [row for row in rows if row["change"] in ("adopted", "given back")]
    tables.show(
        rows, ["change", "slot", "state", "host", "why_not"], as_json=as_json, empty="there is no slot to adopt"
    )
    if done and undo is None and not as_json:
        click.echo(f"what they were is in {file}: 'esxprov slots adopt --undo {file}' gives them back")


@slots.command()
@_pool
@as_json
@setup
def status(setup: Setup, pool: str | None, as_json: bool) -> None:
    """Show what VCL's front end makes of each slot now.

    "shown" is offered, loaded (offered, too), in use, closed (too small for every image, before it is removed), hidden
    (by us), admin (in an admin's maintenance), or the state it is in. What still fits on the hosts is `esxprov
    capacity`'s to say.
    """
    from esxprov.slots.status import statuses

    database = setup.database
    found = [one for one in database.run(lambda cursor: list(statuses(cursor))) if pool in (None, one.pool)]
    rows = [asdict(one) for one in found]
    tables.show(
        rows,
        ["pool", "slot", "state", "host", "image", "ram_mb", "cpus", "shown", "problem"],
        as_json=as_json,
        empty="there is no slot of ours: run 'esxprov slots sync'",
    )
    if rows and not as_json:
        counts = Counter((one.pool, one.shown) for one in found)
        for name in sorted({one.pool for one in found}):
            words = [f"{count} {shown}" for (of, shown), count in sorted(counts.items()) if of == name]
            click.echo(f"pool {name}: {', '.join(words)}")


@contextmanager
def _slots(setup: Setup) -> Iterator[Slots]:
    from esxprov import service
    from esxprov.slots.sync import Slots

    database = setup.database
    config = setup.config
    with service.tools(config) as tools:
        try:
            yield Slots(database, tools, config.pools.values())
        finally:
            database.close()


def _tell(outcomes: list[Outcome], *, as_json: bool, done: bool) -> None:
    rows = [_row(outcome, change, done=done) for outcome in outcomes for change in outcome.plan.changes]
    shown = [row for row in rows if row["change"] not in ("keep", "kept")]
    warnings = [
        {"pool": outcome.plan.pool, "warning": text, "hides_all": hides_all}
        for outcome in outcomes
        for text, hides_all in _warned(outcome)
    ]
    if as_json:
        click.echo(json.dumps({"changes": rows, "warnings": warnings}, indent=2))
    else:
        if shown:
            click.echo(tables.table(shown, ["change", "what", "name", "macs", "detail"]))
        for outcome in outcomes:
            click.echo(_summary(outcome, done=done))
        for one in warnings:
            click.echo(tables.printable(f"warning: pool {one['pool']}: {one['warning']}", lines=False))
    if done and any(one["hides_all"] for one in warnings):
        raise click.exceptions.Exit(EX_FAILED)


def _pruned(one: Pruned, *, dry_run: bool) -> Iterator[dict[str, Any]]:
    for change in one.changes:
        kind = change.kind.value
        yield {
            "pool": one.pool,
            "change": kind if dry_run else _PAST[kind],
            "what": "slot",
            "name": change.hostname,
            "detail": change.detail,
        }
    for host in one.hosts:
        yield {
            "pool": one.pool,
            "change": "remove" if dry_run else "removed",
            "what": "pool host" if host.is_pool else "host",
            "name": host.name,
            "detail": "",
        }


def _adopted(one: Candidate, *, dry_run: bool) -> dict[str, Any]:
    return {
        "change": "left" if one.why_not else "adopt" if dry_run else "adopted",
        "computer_id": one.computer_id,
        "slot": one.hostname,
        "state": one.state,
        "host": one.host,
        "why_not": one.why_not,
    }


def _given_back(one: GivenBack) -> dict[str, Any]:
    return {
        "change": "left" if one.why_not else "given back",
        "computer_id": one.computer_id,
        "slot": one.hostname,
        "why_not": one.why_not,
    }


def _row(outcome: Outcome, change: Change, *, done: bool) -> dict[str, Any]:
    kind, detail = change.kind.value, change.detail
    if done:
        kind = _PAST[kind]
        if change in outcome.late:
            kind, detail = "kept", "somebody has taken it meanwhile"
        elif change in outcome.plan.surplus:
            kind = "kept"
    macs = [change.values.get(column) or "" for column in ("eth0macaddress", "eth1macaddress")]
    return {
        "pool": outcome.plan.pool,
        "change": kind,
        "what": {"slot": "slot", "host": "host", "pool": "pool host"}[change.what],
        "name": change.hostname,
        "macs": " ".join(filter(None, macs)),
        "detail": detail,
    }


def _warned(outcome: Outcome) -> Iterator[tuple[str, bool]]:
    for name in outcome.silent:
        yield f"{name} does not answer: its hosts count as they were when last seen", False
    for note in outcome.plan.notes:
        yield note, False
    for one in outcome.warnings:
        yield one.text, one.hides_all


def _summary(outcome: Outcome, *, done: bool) -> str:
    counts = Counter(_row(outcome, change, done=done)["change"] for change in outcome.plan.slots)
    kinds = ["add", "reuse", "change", "keep"]
    words = [f"{counts[name]} {name}" for name in (_PAST[kind] if done else kind for kind in kinds) if counts[name]]
    shape = outcome.plan.shape
    told = f"pool {outcome.plan.pool}: {len(outcome.plan.slots)} slots of {shape.ram_mb} MB and {shape.cpus} vCPUs"
    if words:
        told += f" ({', '.join(words)})"
    if counts["added"] or counts["reused"]:
        told += "; users who are logged in see new ones within 15 minutes"
    return told
