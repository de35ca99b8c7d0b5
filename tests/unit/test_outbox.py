from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bridge.message import BrokerUnavailable, Delivery, PublishOutcome
from esxprov.outbox import Outbox


def outbox(outcome: PublishOutcome) -> Outbox:
    """One whose broker says this to whatever is published."""
    broker = SimpleNamespace(publish=lambda *_, **__: outcome)
    return Outbox(cast(Any, broker), cast(Any, None), lambda: datetime.now(UTC))


DELIVERY = Delivery(b"nonsense", "mn1.load", redelivered=False, generation=1, tag=1)


def test_a_message_that_the_dead_queue_did_not_take_is_not_taken_for_parked() -> None:
    with pytest.raises(BrokerUnavailable, match=r"esxprov\.dead does not take it: NO_ROUTE"):
        outbox(PublishOutcome(False, "NO_ROUTE")).park(DELIVERY, "why")


def test_a_message_that_the_dead_queue_took_is_parked() -> None:
    outbox(PublishOutcome(True)).park(DELIVERY, "why")
