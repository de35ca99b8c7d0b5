"""The line that our VMX writes into a VM's annotation, so that the VM says by itself whose it is.

A half-made VM is recognised by it, and adopted or removed, never duplicated.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LINE = re.compile(r"^esxprov event=(\S+) claim=(\S+) computer=(\d+)(?: reservation=(\d+))? image=(\S+)$", re.MULTILINE)

_IN_VMX = re.compile(r'^\s*annotation\s*=\s*"([^"\r\n]*)"', re.MULTILINE | re.IGNORECASE)
_ESCAPED = re.compile(r"\|([0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class Annotation:
    """Ids of the load that made the VM."""

    event_id: str
    claim_id: str
    computer_id: int
    reservation_id: int | None
    image: str

    def __str__(self) -> str:
        reservation = "" if self.reservation_id is None else f" reservation={self.reservation_id}"
        owner = f"event={self.event_id} claim={self.claim_id} computer={self.computer_id}{reservation}"
        return f"esxprov {owner} image={self.image}"


def read(text: str) -> Annotation | None:
    """Our line in a VM's annotation, None if it has none: the VM is not ours."""
    found = _LINE.search(text)
    if found is None:
        return None
    return Annotation(found[1], found[2], int(found[3]), int(found[4]) if found[4] else None, found[5])


def of_vmx(content: bytes) -> Annotation | None:
    """Our line in the annotation of a VMX file, which writes line ends and quotes as `|0A` and `|22`."""
    found = _IN_VMX.search(content.decode("utf-8", "replace"))
    return read(_ESCAPED.sub(lambda escaped: chr(int(escaped[1], 16)), found[1])) if found else None
