"""Exchange, queue and binding names, and what is declared. Nothing depends on the broker's version (3.10 ... 4.x)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bridge.contract import CALLS, Lane

EXCHANGE = "esxprov"
LEASES_EXCHANGE = "esxprov.leases"
DEAD = "esxprov.dead"
CLI_REPLY_PREFIX = "esxprov.cli."
VCLD_REPLY_PREFIX = "vcl.reply."
REPLY_EXPIRES_MS = 6 * 3600 * 1000
REPLY_MAX_LENGTH = 2000
QUEUE_TYPES = ("classic", "quorum")


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """One queue and the routing keys bound to it.

    It is durable, unless it is `exclusive`: then it belongs to one connection and goes with it.
    """

    name: str
    bindings: tuple[str, ...] = ()
    exclusive: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Topology:
    """What one side declares each time it connects.

    `exchange` is a durable topic exchange that all bindings refer to, None where only queues are declared.
    """

    exchange: str | None
    queues: tuple[QueueSpec, ...]


def routing_key(node: str, call: str) -> str:
    """`mn1.load`: several management nodes may share one broker."""
    return f"{node}.{call}"


def lane_queue(node: str, lane: Lane) -> str:
    """`esxprov.mn1.slow`."""
    return f"esxprov.{node}.{lane.value}"


def reply_queue(node: str, reservation_id: int) -> str:
    """`vcl.reply.mn1.5678`: declared by vcld, and by nobody else."""
    return f"{VCLD_REPLY_PREFIX}{node}.{reservation_id}"


def lane_queues(node: str, queue_type: str = "classic") -> tuple[QueueSpec, ...]:
    """The slow and the fast queue of one management node."""
    return tuple(
        QueueSpec(
            lane_queue(node, lane),
            tuple(routing_key(node, call.name) for call in CALLS.values() if call.lane is lane),
            arguments=_of_type(queue_type),
        )
        for lane in Lane
    )


def service_topology(node: str, queue_type: str = "classic") -> Topology:
    """All that the service of one management node declares. `queue_type` is one of QUEUE_TYPES, for the lanes.

    The dead queue is always a classic one: looking at it puts every message back, and a quorum queue of RabbitMQ 4
    throws a message away that was put back 20 times.
    """
    dead = QueueSpec(DEAD, arguments=_of_type("classic"))
    return Topology(EXCHANGE, (*lane_queues(node, queue_type), dead))


def lease_questions(node: str = "*") -> str:
    """`mn1.wanted`: what a node's service asks those who see leases; `*` binds to what all of them ask."""
    return f"{node}.wanted"


def lease_answers(node: str) -> str:
    """`mn1.seen`: what they answer it."""
    return f"{node}.seen"


def lease_topology(queue: str, *keys: str) -> Topology:
    """What each side of the talk about leases declares.

    It has an exchange of its own, so that who publishes leases need not be let near the commands. A queue lives as
    long as its connection: an answer is worth nothing later, and a question is asked again.
    """
    arguments = {**_of_type("classic"), "x-max-length": REPLY_MAX_LENGTH}
    return Topology(LEASES_EXCHANGE, (QueueSpec(queue, keys, exclusive=True, arguments=arguments),))


def lease_queue(name: str) -> str:
    """`esxprov.leases.mn1-...`: `name` must be of this process alone."""
    return f"{LEASES_EXCHANGE}.{name}"


def own_reply_queue(name: str) -> Topology:
    """A client's reply queue, which lives as long as its connection. The exchange is the service's to declare."""
    return Topology(None, (QueueSpec(name, exclusive=True, arguments=_of_type("classic")),))


def may_reply_to(queue: str) -> bool:
    """Replies leave through the default exchange, so a request must not be able to name any queue of the broker."""
    return queue.startswith((VCLD_REPLY_PREFIX, CLI_REPLY_PREFIX))


def _of_type(queue_type: str) -> dict[str, Any]:
    """Always said, because a virtual host may have another default; `classic` equals no argument since 3.8."""
    if queue_type not in QUEUE_TYPES:
        raise ValueError(f"queue type {queue_type!r} is not one of {', '.join(QUEUE_TYPES)}")
    return {"x-queue-type": queue_type}
