"""The capacity that is held, and putting it right by what the hypervisors have: claims."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from esxprov import tables
from esxprov.cli.setup import EX_FAILED, EX_UNAVAILABLE, Setup, as_json, setup

if TYPE_CHECKING:
    from esxprov.placement.books import Held
    from esxprov.placement.reconcile import Correction
    from esxprov.reconciler import Report


@click.group()
def claims() -> None:
    """The capacity that is held, and for whom.

    Every VM on its way or delivered has a claim, and so has every VM on our hosts that is not ours.
    """


@claims.command("list")
@click.option("--computer", "computer_id", type=int, help="Only of this computer, by VCL's id.")
@as_json
@setup
def list_(setup: Setup, computer_id: int | None, as_json: bool) -> None:
    """Show all claims, the oldest first.

    "lease s" is how long one on its way is still held without a sign of life; "event" what became of its load.
    """
    from esxprov.placement.claims import Claims

    held = Claims(setup.database).held()
    rows = [_row(one) for one in held if computer_id in (None, one.claim.computer_id)]
    columns = ["id", "state", "computer_id", "host", "ram_mb", "cpus", "pool", "age_s", "lease_s", "event"]
    tables.show(rows, columns, as_json=as_json, empty="nothing is claimed")


@claims.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--force", is_flag=True, help="Free claims however many they are: the VMs are really gone.")
@as_json
@setup
def reconcile(setup: Setup, dry_run: bool, force: bool, as_json: bool) -> None:
    """Put the claims right by what the hypervisors have now.

    The service does it every 30 s. It frees nothing if more than 5 % of the claims (and more than 3) would be freed at
    once, and says so in its log: see with --dry-run what it would free, and use --force if that is right. A delivered
    VM must be missed twice, half a minute apart, to be lost; only the service looks twice.

    Exit code 1 if claims were left because they are too many, 69 if no endpoint answers.
    """
    from esxprov import service

    config = setup.config
    setup.check_tables()
    report = service.reconcile(config, dry_run=dry_run, force=force)
    click.echo(json.dumps(_report(report), indent=2) if as_json else _told(report, dry_run=dry_run))
    if len(report.silent) == len({name for pool in config.pools.values() for name in pool.endpoints}):
        raise click.exceptions.Exit(EX_UNAVAILABLE)
    if report.plan.alarm is not None:
        raise click.exceptions.Exit(EX_FAILED)


def _row(one: Held) -> dict[str, Any]:
    claim = one.claim
    return {
        "id": claim.id,
        "state": claim.state.value,
        "computer_id": claim.computer_id or None,
        "reservation_id": claim.reservation_id or None,
        "host": str(claim.host),
        "ram_mb": claim.ram_mb,
        "cpus": claim.cpus,
        "disk_mb": claim.disk_mb,
        "datastore": claim.datastore,
        "pool": claim.pool,
        "group": claim.group,
        "event_id": claim.event_id or None,
        "event": one.event or None,
        "owner": one.owner,
        "age_s": one.age_s,
        "lease_s": None if one.lease_s is None else round(one.lease_s),
    }


def _report(report: Report) -> dict[str, Any]:
    return {
        "planned": [_correction(one) for one in report.plan.corrections],
        "done": [one.id for one in report.done],
        "repaired": [
            {"host": str(repair.host), "booked": list(repair.booked), "claimed": list(repair.claimed)}
            for repair in report.plan.repairs
        ],
        "alarm": report.plan.alarm,
        "silent": list(report.silent),
    }


def _correction(one: Correction) -> dict[str, Any]:
    return {
        "claim": one.id,
        "computer_id": one.before.computer_id if one.before else None,
        "state": one.after.state.value if one.after else "released",
        "host": str((one.after or one.before).host),  # type: ignore[union-attr]  # one of them is there
        "why": one.why,
    }


def _told(report: Report, *, dry_run: bool) -> str:
    lines = [
        f"{repair.host}: {repair.booked[0]} MB and {repair.booked[1]} vCPUs are booked, its claims are "
        f"{repair.claimed[0]} MB and {repair.claimed[1]}"
        for repair in report.plan.repairs
    ]
    for one in report.plan.corrections:
        state = one.after.state.value if one.after else "released"
        skipped = "" if dry_run or one in report.done else " (not done: it was changed meanwhile)"
        lines.append(f"claim {one.id}: {state}, because {one.why}{skipped}")
    lines += [f"{name} does not answer: nothing of it is freed" for name in report.silent]
    if report.plan.alarm is not None:
        lines.append(report.plan.alarm)
    return tables.printable("\n".join(lines or ["the claims are right"]))
