"""The test bed from the command line: `python -m tests.testbed up --dir D`, and `down --dir D`.

A keeper process owns the servers: they end with it, however it ends.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.testbed.bed import Bed, Plan
from tests.testbed.processes import Recorded
from tests.testbed.vsphere import TestbedError

_RECORD = "bed.json"
_FLAGS = {
    "vcenter": "one vCenter instead of standalone hosts",
    "linked": "VMs with a redo disk over the image's instead of a copy",
    "repository": "a second datastore where images are kept",
    "empty": "no rows of a site in VCL's tables",
}


def up(options: argparse.Namespace) -> None:
    """Start a keeper, wait until its bed serves, and say what runs where."""
    directory: Path = options.dir.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    running = _record(directory)
    if running is not None and _keeper(running).is_alive():
        raise TestbedError(f"A test bed runs in {directory} already: end it with down --dir {directory}.")
    command = [sys.executable, "-m", "tests.testbed", "keep", "--dir", str(directory)]
    command += [f"--{name}" for name in _FLAGS if getattr(options, name)]
    with (directory / "keeper.log").open("wb") as log:
        keeper = subprocess.Popen(
            [*command, "--task-ms", str(options.task_ms), "--boot-ms", str(options.boot_ms)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    assert keeper.stdout is not None
    with keeper.stdout:
        said = keeper.stdout.readline()
    if not said:
        keeper.wait()
        raise TestbedError((directory / "keeper.log").read_text().strip().splitlines()[-1])
    bed = json.loads(said)
    if options.json:
        print(json.dumps(bed, indent=2))
        return
    for server in bed["servers"]:
        print(f"{server['name']:<10} {server['where']:<58} pid {server['pid']}")
    print(f"\nexport ESXPROV_CONF={bed['conf']}")


def keep(options: argparse.Namespace) -> None:
    """The keeper: start a bed, tell of it in one line, and end it at SIGTERM."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: ended.set())
    directory: Path = options.dir
    plan = Plan(
        vcenter=options.vcenter,
        task_ms=options.task_ms,
        boot_ms=options.boot_ms,
        disk="linked" if options.linked else "copy",
        repository=options.repository,
    )
    with Bed(directory, plan) as bed:
        if not options.empty:
            bed.make_site()
        told = _described(bed)
        (directory / _RECORD).write_text(json.dumps(told))
        print(json.dumps(told), flush=True)
        ended.wait()


def down(options: argparse.Namespace) -> None:
    """End the keeper, and with it all its servers."""
    directory: Path = options.dir.resolve()
    running = _record(directory)
    if running is None:
        raise TestbedError(f"No test bed was started in {directory}.")
    _keeper(running).end(timeout_s=30)
    (directory / _RECORD).unlink(missing_ok=True)
    print(f"ended the test bed in {directory}; its logs are there")


def _described(bed: Bed) -> dict[str, Any]:
    where = {
        "rabbitmq": f"amqp://{bed.rabbitmq.host}:{bed.rabbitmq.port}/",
        "mariadb": f"{bed.mariadb.host}:{bed.mariadb.port}, {bed.mariadb.socket}",
        "lan": f"{bed.lan.mode}, {bed.lan.leases}",
        **{name: endpoint.url for name, endpoint in bed.endpoints.items()},
    }
    servers = [{"name": name, "where": where.get(name, "-"), "pid": pid} for name, pid in bed.processes.items()]
    return {"conf": str(bed.conf), "keeper": asdict(Recorded.of("keeper", os.getpid())), "servers": servers}


def _record(directory: Path) -> dict[str, Any] | None:
    """What a keeper has told of its bed, None if there is none."""
    try:
        told: dict[str, Any] = json.loads((directory / _RECORD).read_text())
    except FileNotFoundError:
        return None
    return told


def _keeper(told: dict[str, Any]) -> Recorded:
    return Recorded(**told["keeper"])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.testbed", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="up|down|keep")
    for verb, work in (("up", up), ("keep", keep), ("down", down)):
        options = verbs.add_parser(verb, description=work.__doc__, help=work.__doc__)
        options.set_defaults(work=work)
        options.add_argument("--dir", type=Path, required=True, metavar="D", help="the bed's directory")
        if verb != "down":
            for name, help_ in _FLAGS.items():
                options.add_argument(f"--{name}", action="store_true", help=help_)
            options.add_argument("--task-ms", type=int, default=0, help="what each vSphere task takes")
            options.add_argument("--boot-ms", type=int, default=0, help="from power-on to a guest's first packet")
        if verb == "up":
            options.add_argument("--json", action="store_true", help="say it in JSON")
    chosen = parser.parse_args()
    try:
        chosen.work(chosen)
    except TestbedError as error:
        sys.exit(f"testbed: {error}")


if __name__ == "__main__":
    main()
