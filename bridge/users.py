"""The broker's users, what each may do, and the commands that make them so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Permissions:
    """Regular expressions for what a user may do with queues and exchanges."""

    configure: str
    write: str
    read: str


def permissions(node: str) -> dict[str, Permissions]:
    """By user: the service, vcld, the command line, and who publishes leases. `node` is VCL's short host name."""
    replies = rf"^vcl\.reply\.{node}\."
    return {
        "esxprov": Permissions("^esxprov", r"^(esxprov.*|amq\.default)$", "^esxprov"),
        "vcld": Permissions(replies, "^esxprov$", replies),
        "esxprov-cli": Permissions(r"^esxprov\.cli\.", "^esxprov$", r"^(esxprov\.dead|esxprov\.cli\..*)$"),
        "esxprov-leases": Permissions(*[r"^esxprov\.leases"] * 3),
    }


def commands(node: str, password_files: Mapping[str, str]) -> Iterator[str]:
    """For a shell on the broker's machine: the users in `password_files`, each with the password in its file."""
    for user, may in permissions(node).items():
        if user in password_files:
            yield f"rabbitmqctl add_user {user} < {password_files[user]}"
            yield f"rabbitmqctl set_permissions {user} '{may.configure}' '{may.write}' '{may.read}'"
