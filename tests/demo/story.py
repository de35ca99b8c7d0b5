"""The life of a reservation, told to a real service by a Perl process that has the shim; every part is checked."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from tests.testbed.audit import leftovers
from tests.testbed.bed import Bed
from tests.testbed.vcl_rows import ImageRows, ReservationRows

BASE = "vmwarelinux-base9-v3"
CAPTURED = "vmwarelinux-base9-v4"
_CHILD_S = 60
_GUEST_S = 10


class Wrong(Exception):
    """Something is not as the story says; one sentence."""


def expect(what: str, found: Any, wanted: Any) -> None:
    """Raises Wrong unless they are equal."""
    if found != wanted:
        raise Wrong(f"{what} is {found!r}, expected {wanted!r}")


class Story:
    """One reservation on a bed with a site, and another from its capture. `say(who, what)` is told as it happens."""

    def __init__(self, bed: Bed, say: Callable[[str, str], object]) -> None:
        self._bed = bed
        self._say = say
        self._rows = bed.rows()
        self._site = bed.site

    def tell(self) -> None:
        """From the first reservation to the last unload. Raises Wrong."""
        first = self._reserve("slot1", self._site.images[BASE])
        self._bring_up(first, "slot1", BASE)
        captured = self._capture(first)
        self._take_down(first, "slot1")
        second = self._reserve("slot2", captured)
        self._bring_up(second, "slot2", CAPTURED)
        self._take_down(second, "slot2")
        expect("the warnings in vcld's log", self._bed.complaints(), [])

    def _reserve(self, computer: str, image: ImageRows) -> ReservationRows:
        made = self._rows.reservation(self._site.computers[computer], image, self._site.node_id)
        self._say("VCL's web page", f"reservation {made.reservation_id}: {image.name} on {computer}")
        return made

    def _bring_up(self, reservation: ReservationRows, computer: str, image: str) -> None:
        """State `new`: vcld looks at the computer, finds that it must be loaded, and loads it."""
        told = self._child(reservation, "node_status", "does_image_exist", "load", "power_status", state="new")
        expect("node_status of a computer that has no VM", told["node_status"], "RELOAD")
        expect(f"does_image_exist({image})", told["does_image_exist"], 1)
        expect("load", told["load"], 1)
        expect("power_status", told["power_status"], "on")
        address = self._column(computer, "privateIPaddress")
        found = self._guest_address(computer, address)
        expect(f"the address that the guest on {computer} has got from dhcpd", found, address)
        self._say("the guest", f"{computer} has the address {address}, and VCL's database knows it")

    def _capture(self, reservation: ReservationRows) -> ImageRows:
        """State `image`: the web page has pointed the reservation at a new revision of its image."""
        base = self._site.images[BASE]
        captured = self._rows.revision(base.image_id, CAPTURED, 4, production=0)
        self._rows.execute(
            "UPDATE reservation SET imagerevisionid = %s WHERE id = %s",
            captured.revision_id,
            reservation.reservation_id,
        )
        self._say("VCL's web page", f"make revision 4 of the image: {CAPTURED}")
        told = self._child(reservation, "does_image_exist", "capture", "get_image_size", state="image")
        expect(f"does_image_exist({CAPTURED}) before the capture", told["does_image_exist"], 0)
        expect("capture", told["capture"], 1)
        expect("get_image_size in MB", 1 <= (told["get_image_size"] or 0) <= 65535, True)
        made = sorted(path.name for path in (self._bed.store / "golden" / CAPTURED).iterdir())
        parts = [f"{CAPTURED}{end}" for end in ("-flat.vmdk", ".vmdk", ".vmx")]
        expect("the new image", made, ["esxprov.json", *parts])
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
            self._say("vcld", f"{answer['call']} returned {answer['result']} after {answer['seconds']:.2f} s")
        error = process.stderr.read()
        expect("the exit status of vcld's child", (process.wait(_CHILD_S), error), (0, ""))
        return said

    def _column(self, computer: str, column: str) -> Any:
        return self._rows.value(f"SELECT {column} FROM computer WHERE id = %s", self._site.computers[computer])

    def _guest_address(self, computer: str, expected: str) -> str | None:
        """What the guest itself says, as soon as it has: dhcpd writes its lease down before it answers."""
        deadline = time.monotonic() + _GUEST_S
        while True:
            notes = [json.loads(line) for line in self._bed.lan.guests_log.read_text().splitlines()]
            bound = [note["ip"] for note in notes if (note["vm"], note["did"]) == (computer, "bound")]
            if bound[-1:] == [expected] or time.monotonic() > deadline:
                return bound[-1] if bound else None
            time.sleep(0.01)
