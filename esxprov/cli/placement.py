"""Trying placement out: simulate, snapshot, replay-decision."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, TypeVar

import click

from esxprov import tables
from esxprov.cli.setup import Failure, Setup, as_json, setup
from esxprov.cli.world import live_world

T = TypeVar("T")

_READABLE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def placement() -> None:
    """Try placement out: on a trace, or on a decision of the past."""


@placement.command()
@click.option("--hosts", type=_READABLE, required=True, help="CSV: host,cpus,ram_mb")
@click.option(
    "--requests", type=_READABLE, required=True, help="CSV: time_s,duration_s,request,vm,cpus,ram_mb,max_per_host"
)
@click.option("--catalogue", type=_READABLE, help="CSV: cpus,ram_mb[,images]; sizes that are still to come.")
@click.option(
    "--policy",
    type=click.Choice(["pack", "spread"]),
    default="pack",
    show_default=True,
    help="Keep room for large VMs, or headroom on every host.",
)
@click.option(
    "--solver-ms",
    type=click.FloatRange(0, 3_600_000),
    default=100,
    show_default=True,
    help="The budget for an exact answer when a cluster is not placed at once.",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="One JSON line a request.")
@as_json
def simulate(
    hosts: Path, requests: Path, catalogue: Path | None, policy: str, solver_ms: float, out: Path, as_json: bool
) -> None:
    """Place a trace of requests on a farm, in virtual time.

    No database, no hypervisor: the same search as the service's, on hosts that may promise just what the file says.
    Rows with one `request` are a cluster, placed all or nothing. An empty `duration_s` stays for good, an empty
    `max_per_host` is no bound. Without a catalogue, sizes are learned from the requests as they come.

    The decisions go to --out, in the order of arrival, when all are made; a summary is printed.

    \b
    esxprov placement simulate --hosts blades.csv --requests term.csv --out decisions.jsonl
    """
    from esxprov.placement import exact, trace  # noqa: F401  (exact: not while a decision is timed)
    from esxprov.placement.simulate import Simulation
    from esxprov.placement.snapshot import Policy, Rules

    farm = _read(hosts, trace.hosts)
    if not farm:
        raise Failure(f"{hosts} has no host below its header: nothing could be placed")
    simulation = Simulation(
        farm,
        Rules(Policy(policy)),
        _read(catalogue, trace.catalogue) if catalogue else (),
        budget_s=solver_ms / 1000,
        clock_ns=time.perf_counter_ns,
    )
    arrivals = _read(requests, trace.arrivals)
    with _whole(out) as file:
        for decision in simulation.run(arrivals):
            file.write(json.dumps(decision, separators=(",", ":")))
            file.write("\n")
    found = simulation.summary.to_json()
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    width = max(map(len, found))
    for name, value in found.items():
        click.echo(f"{name.ljust(width)}  {'-' if value is None else value}")


@placement.command()
@click.option("--profile", metavar="NAME", help="The pool's VM host profile in VCL; needed if several.")
@setup
def snapshot(setup: Setup, profile: str | None) -> None:
    """Print the world of a pool as JSON, to decide on it later.

    \b
    esxprov placement snapshot > monday.json
    esxprov place --snapshot monday.json --image vmwarelinux-base9-v3 --count 30
    """
    from esxprov.plain import to_plain

    with live_world(setup, profile) as world:
        click.echo(json.dumps(to_plain(world), indent=1))


@placement.command("replay-decision")
@click.argument("event_id", metavar="EVENT")
@as_json
@setup
def replay_decision(setup: Setup, event_id: str, as_json: bool) -> None:
    """Decide again on the world of that day, and compare.

    The journal keeps what each load's placement was decided on. For each VM: the host then and today, and the reasons;
    then the hosts that refused it for another reason. Exit code 0 also if today's code decides otherwise.
    """
    from esxprov.history import History
    from esxprov.placement import again
    from esxprov.plain import NotPlain

    row = History(setup.database).show(event_id)
    if row is None:
        raise Failure(f"there is no event {event_id}: see 'esxprov events list'")
    if not row["decision"]:
        raise Failure(f"event {event_id} has no placement decision: only a load that reached its placement has one")
    try:
        found = again.compare(row["decision"])
    except (NotPlain, KeyError, TypeError) as error:
        raise Failure(f"the placement recorded with event {event_id} cannot be read: {error}") from error
    click.echo(json.dumps(found, indent=2) if as_json else tables.printable(_difference(found)))


def _difference(found: dict[str, Any]) -> str:
    lines = []
    for one in found["vms"]:
        then, now = one["host_then"] or "nowhere", one["host_now"] or "nowhere"
        same = then == now and one["reason_then"] == one["reason_now"]
        lines.append(f"{one['vm']}: {then}, {one['reason_then']}" + (", and the same today" if same else ""))
        if not same:
            lines.append(f"  today: {now}, {one['reason_now']}")
    lines += [
        f"refused {one['host']}: {one['then'] or 'not then'}; today: {one['now'] or 'not'}" for one in found["refused"]
    ]
    return "\n".join(lines)


def _read(path: Path, read: Callable[[Iterable[str], str], T]) -> T:
    from esxprov.placement.trace import TraceError

    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            return read(lines, str(path))
    except TraceError as error:
        raise Failure(str(error)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"{path} cannot be read as text: {error}") from error


@contextmanager
def _whole(path: Path) -> Iterator[TextIO]:
    """A file that appears when it is complete, or not at all."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            yield file
        unfinished.replace(path)
    except OSError as error:
        raise Failure(f"{path} cannot be written: {error}") from error
    finally:
        unfinished.unlink(missing_ok=True)
