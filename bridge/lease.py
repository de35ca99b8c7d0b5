"""The talk about leases between a service and those who see them on other machines. vcld has no part in it.

A service asks `vcl.lease.requested.v1` when it is about to switch a VM on, and again every few seconds with the same
id. Who sees leases answers each time with `vcl.lease.progressed.v1`, what it sees instead, until the lease is there:
then with `vcl.lease.finished.v1`, and at once. All of it may get lost.
"""

from __future__ import annotations

import math
import re
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bridge.contract import Phase
from bridge.envelope import EnvelopeError, Event, decode

LEASE = "lease"
_CALLS = frozenset({LEASE})
_NODE = "urn:vcl:mn:"
_SOURCE = re.compile(_NODE + r"([A-Za-z0-9][A-Za-z0-9-]{0,62})\Z")
_LONGEST_AGE_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """The question: which address has `mac` got since `age_s` ago? An age, and no time, needs no equal clocks.

    `is_early`: it is asked before the VM is switched on, so all that is recorded from now on is new.
    """

    event: Event
    node: str
    mac: str
    age_s: float
    is_early: bool


@dataclass(frozen=True, slots=True)
class Seen:
    """An answer to the question `id`: the lease as plain data, None if there is none yet. `by` is who says so, `says`
    what it sees instead.
    """

    id: str
    by: str
    lease: dict[str, Any] | None
    says: str


def wanted(id: str, node: str, mac: str, age_s: float, now: datetime, *, is_early: bool = False) -> Event:
    """A question, or the same again."""
    data = {"mac": mac, "age_s": round(age_s, 3), "is_early": is_early}
    return Event(id, LEASE, Phase.REQUESTED, f"{_NODE}{node}", now, data)


def seen(question: Event, now: datetime, by: str, says: str, lease: dict[str, Any] | None) -> Event:
    """An answer."""
    phase = Phase.PROGRESSED if lease is None else Phase.FINISHED
    data = {"by": by, "says": says, **({"lease": lease} if lease is not None else {})}
    return Event(str(uuid.uuid4()), LEASE, phase, "urn:esxprov:leases", now, data, causationid=question.id)


def read_wanted(body: bytes) -> Wanted:
    """Raises EnvelopeError for what is no question."""
    event = decode(body, _CALLS)
    if event.phase is not Phase.REQUESTED:
        raise EnvelopeError("invalid_event", f"{event.type} is no question")
    source = _SOURCE.match(event.source)
    if source is None:
        raise EnvelopeError("invalid_event", "source names no management node")
    mac, age_s = event.data.get("mac"), event.data.get("age_s")
    if not isinstance(mac, str) or not 1 <= len(mac) <= 32:
        raise EnvelopeError("invalid_event", "data.mac is no MAC address")
    if isinstance(age_s, bool) or not isinstance(age_s, int | float) or not math.isfinite(age_s):
        raise EnvelopeError("invalid_event", "data.age_s is no number of seconds")
    is_early = event.data.get("is_early") is True
    return Wanted(event, source[1], mac, min(max(float(age_s), 0.0), _LONGEST_AGE_S), is_early)


def read_seen(body: bytes) -> Seen:
    """Raises EnvelopeError for what is no answer. The lease in it is only known to be an object."""
    event = decode(body, _CALLS)
    if event.phase is Phase.REQUESTED or event.causationid is None:
        raise EnvelopeError("invalid_event", f"{event.type} answers nothing")
    by, says, lease = event.data.get("by"), event.data.get("says"), event.data.get("lease")
    if not isinstance(by, str) or not isinstance(says, str):
        raise EnvelopeError("invalid_event", "data.by or data.says is no text")
    if isinstance(lease, dict) is not (event.phase is Phase.FINISHED):
        raise EnvelopeError("invalid_event", "data.lease is no object, or is one too early")
    return Seen(event.causationid, by, lease, says)
