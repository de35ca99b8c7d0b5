"""Calls as vcld would make them, published by the command line's user, on one computer of the bed's site."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bridge import envelope
from bridge.client import Client
from bridge.envelope import Event
from esxprov import config
from esxprov.broker import broker_parameters
from tests.testbed.bed import IMAGES, NODE, PROFILE, Bed

_EXAMPLE = Path(envelope.__file__).parent / "examples" / "vcl.load.requested.v1.json"
BASE = IMAGES[0]


@dataclass(frozen=True, slots=True)
class Slot:
    """A computer of the site. Each test has one of its own, so that none meets what another left."""

    number: int
    computer_id: int

    @property
    def name(self) -> str:
        return f"slot{self.number}"

    @property
    def reservation_id(self) -> int:
        """No row of VCL's has it."""
        return 5000 + self.number

    def data(self, *, image_name: str = BASE.name, state: str = "new", **changes: Any) -> dict[str, Any]:
        """What the shim would send; `changes` are merged into its sections: `image={"min_ram_mb": 4}`."""
        data: dict[str, Any] = json.loads(_EXAMPLE.read_text())["data"]
        ids = {"reservation_id": self.reservation_id, "request_id": self.reservation_id}
        data["reservation"] |= {**ids, "state": state, "cluster": []}
        data["computer"] |= {
            "id": self.computer_id, "name": self.name,
            "private_mac": f"00:50:56:01:00:{self.number:02x}", "public_mac": f"00:50:56:02:00:{self.number:02x}",
        }  # fmt: skip
        data["image"] |= {"name": image_name, "min_ram_mb": BASE.ram_mb, "min_cpus": BASE.cpus, "os": BASE.os}
        data["profile"] |= {"name": PROFILE, "datastore_path": "nfs1", "vm_path": "", "networks": ["Private", "Public"]}
        for section, fields in changes.items():
            data[section] |= fields
        return data

    def request(self, call: str, *, timeout_s: float | None = None, **data: Any) -> Event:
        """The event of a call."""
        key = f"computer/{self.computer_id}"
        return envelope.request(
            call, source=f"urn:vcl:mn:{NODE}", data=self.data(**data), now=datetime.now(UTC), subject=key,
            partitionkey=key, timeout_s=timeout_s,
        )  # fmt: skip


@contextmanager
def client(bed: Bed, **options: Any) -> Iterator[Client]:
    """The command line's way to the service."""
    loaded = config.load({}, path=bed.conf)
    with Client(broker_parameters(loaded.cli), NODE, **options) as made:
        yield made


class Following:
    """A call in the background; `notes` gets its progress as it comes."""

    def __init__(self, bed: Bed, event: Event) -> None:
        self.event = event
        self._notes: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._reply: queue.SimpleQueue[Event | Exception] = queue.SimpleQueue()
        threading.Thread(target=self._follow, args=(bed,), name="following", daemon=True).start()

    def wait_for_step(self, step: str, timeout_s: float = 20) -> None:
        """Until the service has told that it is at this step."""
        self._wait_for(lambda note: bool(note["step"] == step), f"did not come to step {step}", timeout_s)

    def wait_until_copying(self, timeout_s: float = 20) -> None:
        """Until the service has told how far a copy is: it has begun."""
        self._wait_for(
            lambda note: note["step"] in ("copy_disk", "stage") and note.get("percent") is not None,
            "copied nothing",
            timeout_s,
        )

    def wait_for_message(self, part: str, timeout_s: float = 20) -> None:
        """Until the service has told this."""
        self._wait_for(lambda note: part in note["message"], f"was not told {part!r}", timeout_s)

    def _wait_for(self, wanted: Callable[[dict[str, Any]], bool], otherwise: str, timeout_s: float) -> None:
        while True:
            try:
                if wanted(self._notes.get(timeout=timeout_s)):
                    return
            except queue.Empty:
                raise AssertionError(f"{self.event.call} {otherwise}") from None

    def reply(self, timeout_s: float = 40) -> dict[str, Any]:
        """The data of the reply."""
        try:
            answer = self._reply.get(timeout=timeout_s)
        except queue.Empty:
            raise AssertionError(f"no reply to {self.event.call} within {timeout_s} s") from None
        if isinstance(answer, Exception):
            raise answer
        return answer.data

    def _follow(self, bed: Bed) -> None:
        try:
            with client(bed) as calling:
                self._reply.put(calling.call(self.event, on_progress=lambda note: self._notes.put(note.data)))
        except Exception as error:
            self._reply.put(error)


def call(bed: Bed, event: Event, timeout_s: float = 60) -> dict[str, Any]:
    """The data of the reply to a call."""
    with client(bed, grace_s=0) as calling:
        return calling.call(event, timeout_s=timeout_s).data
