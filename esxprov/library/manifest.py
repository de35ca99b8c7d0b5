"""The manifest beside an image's disk: where the image came from, who made it, and what its disk was like then."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

FILE = "esxprov.json"
VERSION = 2
"""Of version 1 there are images: it had neither sizes nor a checksum, and did not say for whom it was made."""


@dataclass(frozen=True, slots=True)
class Source:
    """What was copied: `path` is the disk's, `image` and `revision` name the image its VM was loaded from, "" and None
    if nobody knows.
    """

    path: str
    image: str = ""
    revision: int | None = None


@dataclass(frozen=True, slots=True)
class Maker:
    """For whom an image was made. VCL begins a capture anew with another event, but for the same revision."""

    event: str
    request_id: int = 0
    reservation_id: int = 0
    revision_id: int = 0

    def is_that_of(self, other: Maker) -> bool:
        """Whether both are about the same capture."""
        if self.event == other.event:
            return True
        mine = (self.request_id, self.reservation_id, self.revision_id)
        return all(mine) and mine == (other.request_id, other.reservation_id, other.revision_id)


@dataclass(frozen=True, slots=True)
class Manifest:
    """`purpose` is `capture`, or `stage` for an image that was brought from elsewhere. `allocated_mb` is what the disk
    occupied, None if its host could not tell. `descriptor_sha256` changes as soon as the disk is opened for writing.
    `made_at` is ISO 8601 with its offset.
    """

    image: str
    made_for: Maker
    source: Source
    purpose: str = "capture"
    computer: str = ""
    capacity_mb: int = 0
    allocated_mb: int | None = None
    adapter: str = ""
    create_type: str = ""
    thin: bool = False
    descriptor_sha256: str = ""
    made_at: str = ""

    def text(self) -> bytes:
        """The file."""
        return (json.dumps({"version": VERSION, **asdict(self)}, indent=1) + "\n").encode()


def read(content: bytes | None) -> Manifest | None:
    """The manifest in a file of any version; None if there is none that makes sense."""
    try:
        found = json.loads(content or b"")
        return _first(found) if found.get("version", 1) == 1 else _second(found)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _first(found: dict[str, Any]) -> Manifest:
    return Manifest(
        image=_text(found.get("image")),
        made_for=Maker(_text(found.get("event"))),
        source=Source(_text(found.get("source"))),
        computer=_text(found.get("computer", "")),
        capacity_mb=int(found.get("capacity_mb", 0)),
        adapter=_text(found.get("adapter", "")),
        made_at=_text(found.get("captured_at", "")),
    )


def _second(found: dict[str, Any]) -> Manifest:
    """A later version may say more, but says this, too."""
    fields = {name: found[name] for name in Manifest.__dataclass_fields__ if name in found}
    fields["made_for"] = Maker(**_known(Maker, found["made_for"]))
    fields["source"] = Source(**_known(Source, found["source"]))
    manifest = Manifest(**fields)
    _text(manifest.image)
    _text(manifest.made_for.event)
    return manifest


def _known(kind: Any, found: dict[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in kind.__dataclass_fields__ if name in found}


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
