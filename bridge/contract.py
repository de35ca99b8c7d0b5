"""The table of calls, the error codes and the load states: everything both sides must agree on besides the envelope.

`<call>` is the Perl sub's own name. The Perl half of this table is
`bridge/perl/lib/VCL/Module/Provisioning/esxprov/Contract.pm`; a test holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Lane(StrEnum):
    """Which queue, and so which thread pool, a call waits in."""

    SLOW = "slow"
    FAST = "fast"


class Kind(StrEnum):
    """`command` changes the world and is journalled; `query` is answered and forgotten; `control` is about the
    service itself.
    """

    COMMAND = "command"
    QUERY = "query"
    CONTROL = "control"


class Phase(StrEnum):
    """The three messages of a conversation: one request, any number of progress notes, exactly one end."""

    REQUESTED = "requested"
    PROGRESSED = "progressed"
    FINISHED = "finished"


class Outcome(StrEnum):
    """How a call ended."""

    OK = "ok"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Call:
    """One row of the table.

    `deadline_s` is the default time from publish to reply. `replaces` tells that a newer event of this call makes an
    older, unfinished one for the same computer pointless (a new load, or an unload, of a computer whose load still
    runs). `replaceable` is false for work that must not be thrown away: a capture holds a student's changes.
    """

    name: str
    lane: Lane
    kind: Kind
    deadline_s: int
    replaces: bool = False
    replaceable: bool = False


_MINUTE = 60
_HOUR = 60 * _MINUTE


def _slow(name: str, deadline_s: int, *, replaces: bool = False, replaceable: bool = False) -> Call:
    return Call(name, Lane.SLOW, Kind.COMMAND, deadline_s, replaces, replaceable)


def _fast(name: str, kind: Kind, deadline_s: int) -> Call:
    return Call(name, Lane.FAST, kind, deadline_s)


CALLS: dict[str, Call] = {
    call.name: call
    for call in (
        _slow("load", 60 * _MINUTE, replaces=True, replaceable=True),
        _slow("unload", 15 * _MINUTE, replaces=True, replaceable=True),
        _slow("capture", 4 * _HOUR),
        _slow("retrieve_image", 2 * _HOUR, replaceable=True),
        _slow("post_maintenance_action", 15 * _MINUTE, replaces=True, replaceable=True),
        _fast("node_status", Kind.QUERY, 60),
        _fast("does_image_exist", Kind.QUERY, 60),
        _fast("get_image_size", Kind.QUERY, 60),
        _fast("power_status", Kind.QUERY, 60),
        _fast("power_on", Kind.COMMAND, 5 * _MINUTE),
        _fast("power_off", Kind.COMMAND, 5 * _MINUTE),
        _fast("power_reset", Kind.COMMAND, 5 * _MINUTE),
        _fast("place", Kind.QUERY, 10),
        _fast("capacity", Kind.QUERY, 10),
        _fast("cancel", Kind.CONTROL, 10),
        _fast("ping", Kind.CONTROL, 10),
    )
}

ERROR_CODES: frozenset[str] = frozenset(
    {
        "invalid_event",
        "unsupported_version",
        "image_not_found",
        "image_exists",
        "vm_not_found",
        "no_capacity",
        "host_unavailable",
        "datastore_full",
        "vsphere_fault",
        "vsphere_auth",
        "ip_not_seen",
        "conflict",
        "deadline_exceeded",
        "cancelled",
        "internal",
    }
)

LOADSTATES: frozenset[str] = frozenset({"startload", "transfervm", "vmsetupconfig", "startvm", "info"})
"""What may stand in a progress note's `loadstate`: seeded names of VCL's computerloadstate; anything else is written
as `info`.
"""

VERSION = 1
"""The major version of every message type. A breaking change is a new one, served beside the old for one release."""

PROGRESS_INTERVAL_S = 30
"""A running call is never silent for longer than this."""

SILENCE_S = 120
"""After this long without any message the caller publishes the same event again ("are you there?")."""

GRACE_S = 30
"""How long after its deadline a caller still waits for the reply, then it cancels."""


def message_type(call: str, phase: Phase) -> str:
    """`vcl.load.requested.v1` for ("load", Phase.REQUESTED)."""
    return f"vcl.{call}.{phase.value}.v{VERSION}"
