"""`make demo`: one reservation from vcld to a running machine, to an image, and to another machine from that image.

Real parts: RabbitMQ, MariaDB with VCL's tables, three ESXi hosts (a vSphere API server), dhcpd with guests that ask for
their addresses, `esxprov serve`, and a Perl process that uses the shim as vcld's child does. Ends with `demo: ok`, and
exit status 0, only if all that it claims is true.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from esxprov.tables import table
from tests.demo.chronicle import CallStory, Chronicle
from tests.testbed.audit import leftovers
from tests.testbed.bed import Bed, Plan, Site
from tests.testbed.tap import Tap
from tests.testbed.vcl_rows import ImageRows, ReservationRows
from tests.testbed.vsphere import TestbedError

BASE = "vmwarelinux-base9-v3"
CAPTURED = "vmwarelinux-base9-v4"
TASK_MS = 400
BOOT_MS = 1500
_CHILD_S = 60


class Wrong(Exception):
    """Something that the demo claims is not so; one sentence."""


def expect(what: str, found: Any, wanted: Any) -> None:
    """Raises Wrong unless they are equal."""
    if found != wanted:
        raise Wrong(f"{what} is {found!r}, expected {wanted!r}")


class Demo:
    """The story; every part of it is checked as it is told."""

    def __init__(self, bed: Bed, chronicle: Chronicle) -> None:
        self._bed = bed
        self._chronicle = chronicle
        self._rows = bed.rows()
        self._site: Site = bed.make_site()

    def tell(self) -> None:
        first = self._reserve("slot1", self._site.images[BASE])
        self._bring_up(first, "slot1", BASE)
        captured = self._capture(first)
        self._take_down(first, "slot1")
        second = self._reserve("slot2", captured)
        self._bring_up(second, "slot2", CAPTURED)
        self._take_down(second, "slot2")

    def _reserve(self, computer: str, image: ImageRows) -> ReservationRows:
        made = self._rows.reservation(self._site.computers[computer], image, self._site.node_id)
        self._chronicle.say("VCL's web page", f"reservation {made.reservation_id}: {image.name} on {computer}")
        return made

    def _bring_up(self, reservation: ReservationRows, computer: str, image: str) -> None:
        """State `new`: vcld looks at the computer, finds that it must be loaded, and loads it."""
        told = self._child(reservation, "node_status", "does_image_exist", "load", "power_status", state="new")
        expect("node_status of a computer that has no VM", told["node_status"], "RELOAD")
        expect(f"does_image_exist({image})", told["does_image_exist"], 1)
        expect("load", told["load"], 1)
        expect("power_status", told["power_status"], "on")
        address = self._column(computer, "privateIPaddress")
        expect(f"the address that the guest on {computer} has got from dhcpd", self._guest_address(computer), address)
        self._chronicle.say("the guest", f"{computer} has the address {address}, and VCL's database knows it")

    def _capture(self, reservation: ReservationRows) -> ImageRows:
        """State `image`: the web page has pointed the reservation at a new revision of its image."""
        base = self._site.images[BASE]
        captured = self._rows.revision(base.image_id, CAPTURED, 4, production=0)
        self._rows.execute(
            "UPDATE reservation SET imagerevisionid = %s WHERE id = %s",
            captured.revision_id,
            reservation.reservation_id,
        )
        self._chronicle.say("VCL's web page", f"make revision 4 of the image: {CAPTURED}")
        told = self._child(reservation, "does_image_exist", "capture", "get_image_size", state="image")
        expect(f"does_image_exist({CAPTURED}) before the capture", told["does_image_exist"], 0)
        expect("capture", told["capture"], 1)
        expect("get_image_size in MB", 1 <= (told["get_image_size"] or 0) <= 65535, True)
        made = sorted(path.name for path in (self._bed.store / "golden" / CAPTURED).iterdir())
        expect("the new image", made, ["esxprov.json", f"{CAPTURED}-flat.vmdk", f"{CAPTURED}.vmdk"])
        return captured

    def _take_down(self, reservation: ReservationRows, computer: str) -> None:
        """State `deleted`: nothing of the machine stays."""
        expect("unload", self._child(reservation, "unload", state="deleted")["unload"], 1)
        expect(f"the address of {computer} in VCL's database", self._column(computer, "privateIPaddress"), None)
        expect(f"what is left of {computer}", leftovers(self._bed), [])

    def _child(self, reservation: ReservationRows, *calls: str, state: str) -> dict[str, Any]:
        """Call -> what it returned, in a process of its own as each state of vcld is one."""
        process = self._bed.vcld_child(reservation.reservation_id, *calls, state=state)
        said: dict[str, Any] = {}
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            answer = json.loads(line)
            said[answer["call"]] = answer["result"]
            self._chronicle.say("vcld", f"{answer['call']} returned {answer['result']} after {answer['seconds']:.2f} s")
        error = process.stderr.read()
        expect("the exit status of vcld's child", (process.wait(_CHILD_S), error), (0, ""))
        return said

    def _column(self, computer: str, column: str) -> Any:
        return self._rows.value(f"SELECT {column} FROM computer WHERE id = %s", self._site.computers[computer])

    def _guest_address(self, computer: str) -> str | None:
        """What the guest itself says."""
        notes = [json.loads(line) for line in self._bed.lan.guests_log.read_text().splitlines()]
        return next((note["ip"] for note in reversed(notes) if (note["vm"], note["did"]) == (computer, "bound")), None)


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
            demo = Demo(bed, chronicle)
            service = bed.service()
            chronicle.say("demo", f"esxprov serve runs, process {service.pid}")
            demo.tell()
            stories = chronicle.wait_until_told()
            service.stop()
            tap.close()
            warnings = [line for line in _lines(bed.directory / "vcld.log") if line.startswith(("WARNING", "CRITICAL"))]
            expect("the shim's complaints", warnings, [])
            print(f"\n{summary(stories)}\n")
    except (Wrong, TestbedError, AssertionError) as error:
        print(f"\ndemo: {error}\nThe logs are in {directory}.", file=sys.stderr)
        return 1
    shutil.rmtree(directory)
    print(f"demo: ok ({time.monotonic() - began:.0f} s)")
    return 0


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


if __name__ == "__main__":
    sys.exit(main())
