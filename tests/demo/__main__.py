"""`make demo`: one reservation from vcld to a running machine, to an image, and to another machine from that image.

Real parts: RabbitMQ, MariaDB with VCL's tables, three ESXi hosts (a vSphere API server), dhcpd with guests that ask for
their addresses, `esxprov serve`, and a Perl process that uses the shim as vcld's child does. Ends with `demo: ok`, and
exit status 0, only if all that it claims is true.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

from esxprov.tables import table
from tests.demo.chronicle import CallStory, Chronicle
from tests.demo.story import Story, Wrong, expect
from tests.testbed.bed import Bed, Plan
from tests.testbed.tap import Tap
from tests.testbed.vsphere import TestbedError

TASK_MS = 400
BOOT_MS = 1500


def summary(stories: list[CallStory]) -> str:
    """The table of all loads."""
    rows = []
    for story in stories:
        if story.call != "load":
            continue
        seconds = {step: f"{taken:.2f}" for step, taken in story.seconds().items()}
        host, _, why = story.messages.get("place", "").removeprefix("chose ").partition(": ")
        rows.append(
            {
                "reservation": story.reservation,
                "computer": story.computer,
                "host": host,
                "ip": story.result.get("private_ip"),
                **seconds,
                "why": why,
            }
        )
    steps = [column for column in rows[0] if column != "why"] if rows else []
    return table(rows, [*steps, "why"])


def main() -> int:
    """Returns the exit status."""
    directory = Path(tempfile.mkdtemp(prefix="esxprov-demo-"))
    began = time.monotonic()
    chronicle = Chronicle()
    chronicle.say("demo", "starting RabbitMQ, MariaDB, dhcpd and three ESXi hosts")
    try:
        with Bed(directory, Plan(task_ms=TASK_MS, boot_ms=BOOT_MS)) as bed:
            if bed.lan.reason:
                chronicle.say("demo", f"no network namespaces here ({bed.lan.reason}): dhcpd's file is written for it")
            tap = Tap(bed.rabbitmq, chronicle.heard)
            upgraded = bed.esxprov("db", "upgrade")
            expect("the exit status of 'esxprov db upgrade'", (upgraded.returncode, upgraded.stderr), (0, ""))
            bed.make_site()
            service = bed.service()
            chronicle.say("demo", f"esxprov serve runs, process {service.pid}")
            Story(bed, chronicle.say).tell()
            stories = chronicle.wait_until_told()
            service.stop()
            tap.close()
            print(f"\n{summary(stories)}\n")
    except (Wrong, TestbedError, AssertionError) as error:
        print(f"\ndemo: {error}\nThe logs are in {directory}.", file=sys.stderr)
        return 1
    shutil.rmtree(directory)
    print(f"demo: ok ({time.monotonic() - began:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
