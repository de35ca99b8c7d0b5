"""What each broker user needs to be allowed: the table of docs/install.md."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Permissions:
    """Regular expressions for the names of the queues and exchanges that a user may make, write to, and read from."""

    configure: str
    write: str
    read: str


def permissions(node: str) -> dict[str, Permissions]:
    """By what the user does, for the management node `node` (its short name): service, vcld, cli, leases."""
    replies = rf"^vcl\.reply\.{node}\."
    leases = r"^esxprov\.leases"
    return {
        "service": Permissions("^esxprov", r"^(esxprov.*|amq\.default)$", "^esxprov"),
        "vcld": Permissions(replies, "^esxprov$", replies),
        "cli": Permissions(r"^esxprov\.cli\.", "^esxprov$", r"^(esxprov\.dead|esxprov\.cli\..*)$"),
        "leases": Permissions(leases, leases, leases),
    }
