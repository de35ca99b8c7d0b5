"""Logging: one line per step and outcome on stderr, for journald; a filter adds the ids of the event at work."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from bridge.envelope import Event

_event: ContextVar[Event | None] = ContextVar("event", default=None)


@contextmanager
def about(event: Event) -> Iterator[None]:
    """Log lines written inside are about this event."""
    token = _event.set(event)
    try:
        yield
    finally:
        _event.reset(token)


class _Ids(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        event = _event.get()
        record.ids = f"[{event.id[:8]} {event.subject or event.correlationid or event.call}] " if event else ""
        return True


def configure(level: int) -> None:
    """Send what is at least this grave to stderr; DEBUG is for developers."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(ids)s%(message)s"))
    handler.addFilter(_Ids())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # pika tells every connection attempt at length; what an admin can act on is said by bridge.amqp.
    logging.getLogger("pika").setLevel(logging.CRITICAL)
