"""Names of exchange, queues and keys."""

from __future__ import annotations

import pytest

from bridge.contract import CALLS, Lane
from bridge.topology import (
    CLI_REPLY_PREFIX,
    DEAD,
    EXCHANGE,
    lane_queues,
    may_reply_to,
    own_reply_queue,
    reply_queue,
    routing_key,
    service_topology,
)


def test_every_call_reaches_exactly_the_queue_of_its_lane() -> None:
    for call in CALLS.values():
        takers = [queue.name for queue in lane_queues("mn1") if routing_key("mn1", call.name) in queue.bindings]
        assert takers == [f"esxprov.mn1.{call.lane.value}"]


def test_two_nodes_on_one_broker_share_no_key_and_no_lane() -> None:
    ours, theirs = lane_queues("mn1"), lane_queues("mn2")
    assert not {queue.name for queue in ours} & {queue.name for queue in theirs}
    assert not {key for queue in ours for key in queue.bindings} & {key for queue in theirs for key in queue.bindings}


def test_the_service_declares_its_lanes_and_the_dead_queue() -> None:
    topology = service_topology("mn1")
    assert topology.exchange == EXCHANGE
    assert [queue.name for queue in topology.queues] == [*(f"esxprov.mn1.{lane.value}" for lane in Lane), DEAD]


def test_quorum_is_for_the_lanes_and_not_for_the_dead_queue() -> None:
    kinds = {queue.name: queue.arguments["x-queue-type"] for queue in service_topology("mn1", "quorum").queues}
    assert kinds == {"esxprov.mn1.slow": "quorum", "esxprov.mn1.fast": "quorum", DEAD: "classic"}


def test_an_unknown_queue_type_is_refused() -> None:
    with pytest.raises(ValueError, match="lazy"):
        service_topology("mn1", "lazy")


def test_a_clients_reply_queue_goes_with_its_connection() -> None:
    topology = own_reply_queue("esxprov.cli.x")
    assert topology.exchange is None
    assert topology.queues[0].exclusive


@pytest.mark.parametrize(
    ("queue", "allowed"),
    [
        (reply_queue("mn1", 5678), True),
        (f"{CLI_REPLY_PREFIX}x", True),
        (DEAD, False),
        ("esxprov.mn1.slow", False),
        ("somebody.else", False),
        ("", False),
    ],
)
def test_replies_go_to_reply_queues_only(queue: str, allowed: bool) -> None:
    assert may_reply_to(queue) is allowed
